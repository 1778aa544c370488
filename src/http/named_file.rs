//! Files named by an operator: gateway.yaml, keys, certificates, key sets.
//!
//! They are read whole, by threads that others wait for. So only finite files are read: regular
//! ones up to [`MAX_BYTES`]. A named pipe would block the reader until somebody writes, and a
//! device may never end; both are refused by name before they are opened.

use std::{
    fs::{self, FileType, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// Far larger than any key, certificate or configuration.
pub const MAX_BYTES: u64 = 16 << 20;

/// The content of the file, or an error that says what is there instead. Follows symbolic links.
/// Waits only for the disk.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    refuse_unless_regular(fs::metadata(path)?.file_type())?;
    // The file may have been replaced since: open without waiting, and check again.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    refuse_unless_regular(metadata.file_type())?;
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may be growing, and some file systems report a size of 0.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(too_large()) } else { Ok(bytes) }
}

fn refuse_unless_regular(kind: FileType) -> io::Result<()> {
    let other = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {other}, not a file")))
}

fn too_large() -> io::Error {
    let said = format!("it is larger than {} MiB", MAX_BYTES >> 20);
    io::Error::new(ErrorKind::FileTooLarge, said)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn a_file_is_read_whole_and_nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let told = |path: &Path| read(path).unwrap_err().to_string();
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read(&at("link")).unwrap(), b"text");
        assert_eq!(told(folder.path()), "it is a folder, not a file");
        assert_eq!(told(Path::new("/dev/zero")), "it is a device, not a file");
        let _listener = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(told(&at("socket")), "it is a socket, not a file");
        // Opening this in the usual way waits for a writer that never comes.
        let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(pipe.success());
        assert_eq!(told(&at("pipe")), "it is a pipe, not a file");
        File::create(at("sparse")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(told(&at("sparse")), "it is larger than 16 MiB");
        File::create(at("largest")).unwrap().set_len(MAX_BYTES).unwrap();
        assert_eq!(read(&at("largest")).unwrap().len() as u64, MAX_BYTES);
        assert_eq!(read(&at("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_has_no_length_and_an_end_is_read() {
        assert!(!read(Path::new("/proc/self/status")).unwrap().is_empty());
    }
}

//! Real files that lose whatever was not synced when the program is killed.
//!
//! A plain kill -9 cannot reveal a missing sync, because the page cache survives it. Here unsynced
//! writes and names stay in the memory of the process until their sync, so a kill acts like a power
//! cut: synced data is in the real files, and of the rest only what leaked, as an operating system
//! may write back a page or a name at any time. For tests, and for debug builds that ask for it
//! with `SLUICE_TEST_STORAGE`.

mod file;
mod names;

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use self::{file::LossyFile, names::Names};
use super::{File, Lock, Real, Space, Storage};

/// Unsynced files are kept in a directory of this name plus the process ID.
const HIDDEN: &str = ".lossy-";

/// Whether the environment asks for it. Read once.
///
/// # Panics
///
/// If the variable has another value.
pub(super) fn is_asked_for() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| match std::env::var("SLUICE_TEST_STORAGE").as_deref() {
        Ok("lossy") => true,
        Err(_) | Ok("" | "real") => false,
        Ok(other) => panic!("SLUICE_TEST_STORAGE: there is no storage `{other}`"),
    })
}

/// The files below one directory; loses what was not synced.
#[derive(Debug)]
pub struct Lossy {
    real: Arc<Real>,
    names: Mutex<Names>,
}

// === impl Lossy ===

impl Lossy {
    /// The directory at `root`.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let real = Arc::new(Real::open(root)?);
        let hidden = PathBuf::from(format!("{HIDDEN}{}", std::process::id()));
        wipe(&real, &hidden)?;
        real.create_dir(&hidden)?;
        let names = Mutex::new(Names::new(Arc::clone(&real), hidden));
        Ok(Self { real, names })
    }

    fn open_file(&self, path: &Path, is_read_only: bool) -> io::Result<Box<dyn File>> {
        let inode = self.names.lock().open(path)?;
        Ok(Box::new(LossyFile::new(inode, is_read_only)))
    }
}

impl Storage for Lossy {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let inode = self.names.lock().create(path)?;
        Ok(Box::new(LossyFile::new(inode, false)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open_file(path, false)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open_file(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.names.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names.lock().remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.names.lock().create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.names.lock().remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = self.names.lock().list(path)?;
        names.retain(|name| !name.starts_with(HIDDEN));
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.names.lock().sync(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.real.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let lock = self.real.lock(path)?;
        if lock.is_some() {
            // No other process is alive here: what they had not synced is lost for good.
            let own = self.names.lock().hidden().to_owned();
            for name in self.real.list(Path::new(""))? {
                if name.starts_with(HIDDEN) && own != Path::new(&name) {
                    wipe(&self.real, Path::new(&name))?;
                }
            }
        }
        Ok(lock)
    }
}

fn wipe(real: &Real, dir: &Path) -> io::Result<()> {
    let names = match real.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    for name in names {
        real.remove(&dir.join(name))?;
    }
    real.remove_dir(dir)
}

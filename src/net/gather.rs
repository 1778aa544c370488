//! Joins small slices: a plain send costs the kernel less than a vectored one.

use std::{io::IoSlice, mem::MaybeUninit};

use tokio::io::ReadBuf;

/// The most that is copied: a head and a small body.
const SMALL: usize = 4096;

/// Passes the bytes of `bufs` to `write` as one slice, copied if there are several. `None`, without
/// a write, if they are too large for that.
pub(super) fn write_small<T>(bufs: &[IoSlice<'_>], write: impl FnOnce(&[u8]) -> T) -> Option<T> {
    if let [one] = bufs {
        return Some(write(one));
    }
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > SMALL {
        return None;
    }
    let mut room = [MaybeUninit::uninit(); SMALL];
    let mut whole = ReadBuf::uninit(&mut room);
    for buf in bufs {
        whole.put_slice(buf);
    }
    Some(write(whole.filled()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bufs: &[&[u8]]) -> Option<Vec<u8>> {
        let bufs: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        write_small(&bufs, <[u8]>::to_vec)
    }

    #[test]
    fn small_slices_are_written_as_one_in_their_order() {
        assert_eq!(written(&[b"head", b"", b"body"]).unwrap(), b"headbody");
        let half = [b'x'; SMALL / 2];
        assert_eq!(written(&[&half, &half]).unwrap(), [b'x'; SMALL]);
        assert_eq!(written(&[&half, &half, b"y"]), None);
    }

    #[test]
    fn a_single_slice_is_not_copied_whatever_its_size() {
        let large = [b'x'; SMALL + 1];
        let same = write_small(&[IoSlice::new(&large)], |bytes| bytes.as_ptr() == large.as_ptr());
        assert_eq!(same, Some(true));
    }
}

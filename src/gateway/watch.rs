//! Detects changed files by polling: the ways in which configuration and certificate files are
//! replaced (editors, symlinked volumes, renames) sometimes escape every other kind of watching.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, interval};

/// How often files are checked.
const EVERY: Duration = Duration::from_millis(100);
/// How long a file must be unchanged, so that a half-written one is not read.
const STILL: Duration = Duration::from_millis(200);

/// Distinguishes contents of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

/// The watched files.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    taken: Vec<Option<Stamp>>,
    changed: Option<(Vec<Option<Stamp>>, Instant)>,
}

// === impl Files ===

impl Files {
    /// Watches these files for changes from now on.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let taken = paths.iter().map(|path| Stamp::of(path)).collect();
        Self { paths, taken, changed: None }
    }

    /// Watches `paths` instead; for files watched before, relative to the state last reported.
    pub(super) fn follow(&mut self, paths: Vec<PathBuf>) {
        let known = |path: &PathBuf| self.paths.iter().position(|known| known == path);
        let taken = |path: &PathBuf| match known(path) {
            Some(at) => self.taken[at].clone(),
            None => Stamp::of(path),
        };
        self.taken = paths.iter().map(taken).collect();
        self.paths = paths;
        self.changed = None;
    }

    /// Completes when one of them differs from its last reported state and has been unchanged for a
    /// moment. Cancel-safe: what it has seen so far is kept.
    pub(super) async fn changed(&mut self) {
        let mut tick = interval(EVERY);
        loop {
            tick.tick().await;
            if self.look(Instant::now()) {
                return;
            }
        }
    }

    fn look(&mut self, now: Instant) -> bool {
        let seen: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        if seen == self.taken {
            self.changed = None;
            return false;
        }
        match &self.changed {
            Some((before, since)) if *before == seen => {
                if now.duration_since(*since) < STILL {
                    return false;
                }
                self.taken = seen;
                self.changed = None;
                true
            }
            _ => {
                self.changed = Some((seen, now));
                false
            }
        }
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_it_is_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut files = Files::new(vec![path.clone()]);
        let start = Instant::now();
        assert!(!files.look(start));
        fs::write(&path, "two!").unwrap();
        assert!(!files.look(start));
        fs::write(&path, "three").unwrap();
        assert!(!files.look(start + STILL), "it was written again");
        assert!(files.look(start + STILL * 2));
        assert!(!files.look(start + STILL * 3), "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_nobody_took_is_not_lost_when_others_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&path, "one").unwrap();
        let mut files = Files::new(vec![path.clone()]);
        fs::write(&path, "three").unwrap();
        fs::write(&other, "one").unwrap();
        files.follow(vec![path, other.clone()]);
        let start = Instant::now();
        assert!(!files.look(start));
        assert!(files.look(start + STILL), "it changed before it was read again");
        fs::write(&other, "three").unwrap();
        assert!(!files.look(start + STILL * 2));
        assert!(files.look(start + STILL * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_goes_and_comes_back_the_same_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("file"), folder.path().join("aside"));
        fs::write(&path, "one").unwrap();
        let mut files = Files::new(vec![path.clone()]);
        let start = Instant::now();
        fs::rename(&path, &aside).unwrap();
        assert!(!files.look(start));
        fs::rename(&aside, &path).unwrap();
        assert!(!files.look(start + STILL));
        assert!(!files.look(start + STILL * 2));
    }
}

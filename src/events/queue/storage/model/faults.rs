//! Which calls fail, and how.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

/// A call of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Op {
    Create,
    Write,
    Sync,
    Allocate,
    Truncate,
    Rename,
    Remove,
    CreateDir,
    RemoveDir,
    SyncDir,
    /// The last two change nothing and are not counted.
    Open,
    Read,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Go,
    /// It does some of its work or none, and then fails.
    Fail(Fault),
    /// It does its work in the cache, and the machine dies in it.
    Die,
}

/// A test's plan, and the calls so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    trace: Vec<(Op, PathBuf)>,
    at: BTreeMap<u64, Fault>,
    /// Skips this many calls of a kind, and fails the next.
    nth: Vec<(Op, u64, Fault)>,
    every: Vec<(Op, Fault)>,
    stop_at: Option<u64>,
    is_stopped: bool,
}

// === impl Op ===

impl Op {
    fn is_counted(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }
}

// === impl Fault ===

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Io => Errno::IO.into(),
            Self::NoSpace => Errno::NOSPC.into(),
        }
    }
}

// === impl Faults ===

impl Faults {
    /// Records a call and decides its outcome.
    pub(super) fn judge(&mut self, op: Op, path: &Path) -> io::Result<Verdict> {
        if self.is_stopped {
            return Err(off());
        }
        let number = self.trace.len() as u64;
        if op.is_counted() {
            self.trace.push((op, path.to_owned()));
            if self.stop_at.is_some_and(|stop| number >= stop) {
                self.is_stopped = true;
                return Ok(Verdict::Die);
            }
            if let Some(fault) = self.at.remove(&number) {
                return Ok(Verdict::Fail(fault));
            }
        }
        if let Some((_, fault)) = self.every.iter().find(|(kind, _)| *kind == op) {
            return Ok(Verdict::Fail(*fault));
        }
        let mut hit = None;
        self.nth.retain_mut(|(kind, wait, fault)| {
            if *kind != op {
                return true;
            }
            if *wait == 0 {
                hit = Some(*fault);
                return false;
            }
            *wait -= 1;
            true
        });
        Ok(hit.map_or(Verdict::Go, Verdict::Fail))
    }

    /// From now on everything fails, as on a machine without power.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(super) fn stop_at(&mut self, number: u64) {
        self.stop_at = Some(number);
    }

    pub(super) fn fail_at(&mut self, number: u64, fault: Fault) {
        self.at.insert(number, fault);
    }

    pub(super) fn fail_nth(&mut self, op: Op, nth: u64, fault: Fault) {
        self.nth.push((op, nth, fault));
    }

    pub(super) fn fail_every(&mut self, op: Op, fault: Fault) {
        self.every.push((op, fault));
    }

    pub(super) fn heal(&mut self) {
        self.at.clear();
        self.nth.clear();
        self.every.clear();
    }

    pub(super) fn trace(&self) -> &[(Op, PathBuf)] {
        &self.trace
    }
}

/// The error of a dead machine.
pub(super) fn off() -> io::Error {
    io::Error::other("the machine is off")
}

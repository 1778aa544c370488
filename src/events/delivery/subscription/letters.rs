//! The remaining dead letters: what is known of each without reading it.

use std::collections::BTreeMap;

use super::ending::{Failure, Reason};
use crate::events::queue::Offset;

/// Dead letters by offset in their log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letters {
    letters: BTreeMap<u64, LetterState>,
    bytes: u64,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterState {
    /// Why nobody took it; becomes [`Reason::MaybeSeen`] if a redrive ended so.
    pub reason: Reason,
    /// When it died.
    pub died: u64,
    /// Its size on disk.
    pub bytes: u32,
    /// How often it was redriven and failed again.
    pub redrives: u32,
    /// A compensating event follows: redriving it needs `force`.
    pub is_compensated: bool,
    /// How the last redrive failed.
    pub failure: Option<Box<Failure>>,
}

// === impl Letters ===

impl Letters {
    /// Their size on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// The dead letter at this offset.
    pub fn get(&self, letter: Offset) -> Option<&LetterState> {
        self.letters.get(&letter.0)
    }

    /// Those at or after `from`, by offset.
    pub fn from(&self, from: Offset) -> impl Iterator<Item = (Offset, &LetterState)> {
        self.letters.range(from.0..).map(|(&at, letter)| (Offset(at), letter))
    }

    /// No letter died after `now`: what says so was written by a clock that was ahead, and would
    /// outlast its age by as much.
    pub(super) fn correct(&mut self, now: u64) {
        for letter in self.letters.values_mut() {
            letter.died = letter.died.min(now);
        }
    }

    /// Adds one.
    pub(super) fn insert(&mut self, at: Offset, letter: LetterState) {
        self.bytes += u64::from(letter.bytes);
        if let Some(old) = self.letters.insert(at.0, letter) {
            self.bytes -= u64::from(old.bytes);
        }
    }

    pub(super) fn remove(&mut self, at: Offset) -> Option<LetterState> {
        let letter = self.letters.remove(&at.0)?;
        self.bytes -= u64::from(letter.bytes);
        Some(letter)
    }

    pub(super) fn get_mut(&mut self, at: Offset) -> Option<&mut LetterState> {
        self.letters.get_mut(&at.0)
    }
}

impl FromIterator<(Offset, LetterState)> for Letters {
    fn from_iter<I: IntoIterator<Item = (Offset, LetterState)>>(letters: I) -> Self {
        let mut all = Self::default();
        for (at, letter) in letters {
            all.insert(at, letter);
        }
        all
    }
}

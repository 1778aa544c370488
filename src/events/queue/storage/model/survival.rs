//! Which unsynced changes survive a crash.

use fastrand::Rng;

/// A power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// What survives.
    pub(crate) survivors: Survivors,
    /// Seed of every random choice.
    pub(crate) seed: u64,
    /// Whether a part of a file that was extended but not written shows the old contents of its
    /// blocks, from a removed file, as on a file system that does not order data before metadata.
    /// If not, it shows zeros.
    pub(crate) is_stale: bool,
}

/// Which unsynced changes survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Survivors {
    /// All of them, as when only the process dies.
    All,
    /// None of them.
    None,
    /// All up to a random one, which survives in part.
    Prefix,
    /// None before a random one, all from there on.
    Suffix,
    /// Changes of names, but no data: files have length 0.
    Names,
    /// Data, but no change of names.
    Data,
    /// Any of them: decided separately for each sector, length and name.
    Random,
}

/// The decisions for one crash.
#[derive(Debug)]
pub(super) struct Lots {
    survivors: Survivors,
    /// The number of the change where it turns, for `Prefix` and `Suffix`.
    turn: u64,
    pub(super) is_stale: bool,
    pub(super) rng: Rng,
}

// === impl Crash ===

impl Crash {
    pub(crate) fn new(survivors: Survivors, seed: u64) -> Self {
        Self { survivors, seed, is_stale: false }
    }

    /// Any of these ways, chosen by the seed.
    pub(crate) fn any(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let all = Survivors::ALL;
        // `Random` covers the most.
        let survivors = if rng.bool() { Survivors::Random } else { all[rng.usize(0..all.len())] };
        Self { survivors, seed, is_stale: rng.u8(0..4) == 0 }
    }
}

// === impl Survivors ===

impl Survivors {
    pub(crate) const ALL: [Self; 7] =
        [Self::All, Self::None, Self::Prefix, Self::Suffix, Self::Names, Self::Data, Self::Random];
}

// === impl Lots ===

impl Lots {
    /// `first..last`: the numbers of the unsynced changes and everything between.
    pub(super) fn new(crash: Crash, first: u64, last: u64) -> Self {
        let mut rng = Rng::with_seed(crash.seed);
        let turn = rng.u64(first..=last);
        Self { survivors: crash.survivors, turn, is_stale: crash.is_stale, rng }
    }

    /// Whether a change of names survives.
    pub(super) fn keeps_name(&mut self, number: u64) -> bool {
        match self.survivors {
            Survivors::All | Survivors::Names => true,
            Survivors::None | Survivors::Data => false,
            Survivors::Prefix => number < self.turn,
            Survivors::Suffix => number >= self.turn,
            Survivors::Random => self.rng.bool(),
        }
    }

    /// How many of a file's length changes took effect; `numbers` are their numbers.
    pub(super) fn lengths(&mut self, numbers: &[u64]) -> usize {
        let all = numbers.len();
        match self.survivors {
            Survivors::All | Survivors::Data | Survivors::Suffix => all,
            Survivors::None | Survivors::Names => 0,
            Survivors::Prefix => numbers.iter().filter(|number| **number <= self.turn).count(),
            Survivors::Random => match self.rng.u8(0..4) {
                0 => 0,
                1 => all,
                _ => self.rng.usize(0..=all),
            },
        }
    }

    /// How many of the writes to a sector took effect; `numbers` are their numbers.
    pub(super) fn writes(&mut self, numbers: &[u64]) -> usize {
        let all = numbers.len();
        match self.survivors {
            Survivors::All | Survivors::Data => all,
            Survivors::Prefix => {
                let before = numbers.iter().filter(|number| **number < self.turn).count();
                let is_hit = numbers.get(before) == Some(&self.turn);
                before + usize::from(is_hit && self.rng.bool())
            }
            Survivors::Suffix if numbers.last().is_some_and(|last| *last >= self.turn) => all,
            Survivors::None | Survivors::Names | Survivors::Suffix => 0,
            Survivors::Random => self.rng.usize(0..=all),
        }
    }

    /// Whether an extension of a file was only partly done.
    pub(super) fn tears_length(&mut self) -> bool {
        matches!(self.survivors, Survivors::Random | Survivors::Prefix) && self.rng.bool()
    }
}

//! The command line.

use clap::{Parser, ValueEnum};

/// An online store behind Sluice: a spike of 20 times what its services can do, an outage, a kill -9 and a replay,
/// and then who was charged, what was shipped and whether anything was lost, as the services and customers counted it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "store",
    bin_name = "cargo run --release --example store --",
    after_help = "\
Exit codes: 0 all invariants held, 1 one is broken (it is named), 2 it could not be run.

Examples:
  cargo run --release --example store
  cargo run --release --example store -- --seed 7 --keep
  cargo run --release --example store -- --break idempotency
  cargo run --example store -- --storage lossy
  cargo run --example store -- --storage lossy --break sync"
)]
pub(crate) struct Options {
    /// Who buys what, and when
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Leave everything running at the end, and say what to type
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where the gateway writes; `lossy` needs a debug build
    #[arg(long, value_enum, default_value_t)]
    pub(crate) storage: Storage,
    /// Break something on purpose, and see that it is found
    #[arg(long = "break", value_enum, value_name = "WHAT")]
    pub(crate) broken: Option<Break>,
}

/// What the gateway writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Storage {
    /// Files
    #[default]
    Real,
    /// Files that forget what was not synced when the gateway is killed, as in a power cut
    Lossy,
}

/// What may be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Break {
    /// The services do not know events again
    Dedup,
    /// The route has no `idempotency`
    Idempotency,
    /// The gateway acknowledges before the sync; needs --storage lossy
    Sync,
}

// === impl Break ===

impl Break {
    /// What to expect.
    pub(crate) fn warning(self) -> &'static str {
        match self {
            Self::Dedup => "broken on purpose: the services take each delivery for a new event",
            Self::Idempotency => "broken on purpose: the gateway does not know requests again",
            Self::Sync => "broken on purpose: the gateway acknowledges what is not on disk yet",
        }
    }
}

// === impl Options ===

impl Options {
    /// How often the gateway is killed, each time when a customer has just been told yes. What leaks to the disk by
    /// itself may hide a missing sync once.
    pub(crate) fn kills(&self) -> u32 {
        if self.broken == Some(Break::Sync) { 2 } else { 1 }
    }

    /// What cannot be asked of this build.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let is_lossy = self.storage == Storage::Lossy;
        if is_lossy && !cfg!(debug_assertions) {
            return Some("--storage lossy needs a debug build: cargo run --example store");
        }
        if self.broken == Some(Break::Sync) && !is_lossy {
            return Some("--break sync needs --storage lossy: files remember what was not synced");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_missing_sync_is_seen_on_lossy_files_only() {
        let options = |arguments: &[&str]| {
            Options::parse_from([&["store"], arguments].concat()).problem().is_some()
        };
        assert!(options(&["--break", "sync"]));
        assert!(!options(&["--break", "dedup", "--seed", "3"]));
        assert!(!options(&["--break", "sync", "--storage", "lossy"]));
    }
}

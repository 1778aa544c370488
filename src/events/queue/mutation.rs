//! Mistakes that the queue can be told to make, to verify that a test catches each.
//!
//! `SLUICE_TEST_MUTATION=drop-the-sync cargo test` must fail. The variable is read once, in test
//! and debug builds only; release builds have no such switch.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The bytes of a log are never synced.
    DropTheSync,
    /// A directory is never synced.
    DropTheDirectorySync,
    /// A publish succeeds before its bytes are synced.
    AcknowledgeBeforeTheSync,
    /// A wrong checksum is accepted.
    AcceptABadCrc,
    /// A duplicate is answered while its original is unsynced.
    AnswerADuplicateBeforeTheOriginalsSync,
    /// An event is settled before its copy among the dead letters is synced.
    SettleBeforeTheDeadLettersSync,
    /// An attempt is recorded after the delivery it counts.
    AttemptAfterDelivery,
    /// CHECKPOINT names an offset that is not synced.
    CheckpointAheadOfTheSync,
    /// Recovery serves what is past the proven-durable point from where it is, without copying it.
    NoCopyForward,
    /// A frame of another epoch is accepted.
    EpochIgnored,
    /// A request is forwarded before its intent is synced.
    IntentAfterForwarding,
    /// An idempotency key is free again after the upstream may have seen the request.
    KeyFreedOnClassB,
    /// A stored request is settled before its result is synced.
    ResultAfterSettlement,
}

#[cfg(any(test, debug_assertions))]
static CHOSEN: std::sync::OnceLock<Option<Mutation>> = std::sync::OnceLock::new();

/// Whether the queue makes this mistake.
///
/// # Panics
///
/// If the variable names no mutation.
#[cfg(any(test, debug_assertions))]
pub fn is(mutation: Mutation) -> bool {
    #[cfg(test)]
    if let Some(applied) = APPLIED.get() {
        return applied == mutation;
    }
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("SLUICE_TEST_MUTATION").ok()?;
        let found = Mutation::ALL.into_iter().find(|mutation| mutation.name() == name);
        assert!(found.is_some(), "SLUICE_TEST_MUTATION: there is no mutation `{name}`");
        found
    }) == Some(mutation)
}

/// Never, in a release build.
#[cfg(not(any(test, debug_assertions)))]
#[inline]
pub const fn is(_: Mutation) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static APPLIED: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Makes the mistake on this thread while `work` runs, instead of the variable's.
#[cfg(test)]
pub(crate) fn with<T>(mutation: Mutation, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            APPLIED.set(None);
        }
    }
    APPLIED.set(Some(mutation));
    let _reset = Reset;
    work()
}

// === impl Mutation ===

#[cfg(any(test, debug_assertions))]
impl Mutation {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::DropTheSync,
        Self::DropTheDirectorySync,
        Self::AcknowledgeBeforeTheSync,
        Self::AcceptABadCrc,
        Self::AnswerADuplicateBeforeTheOriginalsSync,
        Self::SettleBeforeTheDeadLettersSync,
        Self::AttemptAfterDelivery,
        Self::CheckpointAheadOfTheSync,
        Self::NoCopyForward,
        Self::EpochIgnored,
        Self::IntentAfterForwarding,
        Self::KeyFreedOnClassB,
        Self::ResultAfterSettlement,
    ];

    /// Its name in the variable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DropTheSync => "drop-the-sync",
            Self::DropTheDirectorySync => "drop-the-directory-sync",
            Self::AcknowledgeBeforeTheSync => "acknowledge-before-the-sync",
            Self::AcceptABadCrc => "accept-a-bad-crc",
            Self::AnswerADuplicateBeforeTheOriginalsSync => {
                "answer-a-duplicate-before-the-originals-sync"
            }
            Self::SettleBeforeTheDeadLettersSync => "settle-before-the-dead-letters-sync",
            Self::AttemptAfterDelivery => "attempt-after-delivery",
            Self::CheckpointAheadOfTheSync => "checkpoint-ahead-of-the-sync",
            Self::NoCopyForward => "no-copy-forward",
            Self::EpochIgnored => "epoch-ignored",
            Self::IntentAfterForwarding => "intent-after-forwarding",
            Self::KeyFreedOnClassB => "key-freed-on-class-b",
            Self::ResultAfterSettlement => "result-after-settlement",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_mutation_has_its_name() {
        let names: HashSet<_> = Mutation::ALL.into_iter().map(Mutation::name).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
    }

    #[test]
    fn a_mutation_lasts_as_long_as_the_work() {
        with(Mutation::NoCopyForward, || {
            assert!(is(Mutation::NoCopyForward));
            assert!(!is(Mutation::DropTheSync));
        });
        assert_eq!(APPLIED.get(), None);
    }
}

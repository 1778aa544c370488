//! Whether a failed attempt may be followed by another. Pure: a total function of what happened.

use crate::error::{Kind, RetryClass};

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same request, once more.
    Again,
    /// The failure is the answer.
    Stop,
}

/// Judges a failure of `kind` after `tried` attempts of at most `attempts`.
///
/// Only class A, whose request never left, is tried again, and that whatever the method: an upstream
/// cannot have acted on what it never got (semantics 4).
pub fn judge(kind: &Kind, tried: u32, attempts: u32) -> Verdict {
    match kind.retry_class() {
        RetryClass::NotSent if tried < attempts => Verdict::Again,
        RetryClass::NotSent | RetryClass::MaybeSeen | RetryClass::Final => Verdict::Stop,
    }
}

//! The one normalised request target: matched, authorised, limited, logged and forwarded.

/// A normalised request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: Box<str>,
}

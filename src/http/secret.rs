//! A value that must not appear in any output.

use std::fmt;

/// A secret: `Debug` and `Display` print `[redacted]`, and there is no serialiser.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

// === impl Secret ===

impl Secret {
    /// Keeps `value` out of every output.
    pub fn new(value: impl Into<Box<[u8]>>) -> Self {
        Self(value.into())
    }

    /// The bytes themselves, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

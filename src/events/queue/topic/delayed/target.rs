//! What delayed events are moved to.

use crate::events::queue::{
    log::{Log, Permit, Purpose, Refused},
    topic::Topic,
};

/// Where delayed events go.
pub trait Target {
    /// Its log.
    fn log(&self) -> &Log;

    /// Room for what was accepted already, at once or not at all.
    fn permit(&self, bytes: u64) -> Result<Permit, Refused>;
}

// === impl Target ===

impl Target for Topic {
    fn log(&self) -> &Log {
        self.log()
    }

    fn permit(&self, bytes: u64) -> Result<Permit, Refused> {
        self.permit(Purpose::Accepted, bytes)
    }
}

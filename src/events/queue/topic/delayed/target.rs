//! Where delayed events are moved to.

use crate::events::queue::{
    log::{Log, Permit, Purpose, Refused},
    topic::Topic,
};

/// Receives delayed events that are due.
pub trait Target {
    /// Its log.
    fn log(&self) -> &Log;

    /// Room on behalf of events already accepted. Never waits.
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

//! Drain.

/// The open connections of one worker. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Connections {}

// === impl Connections ===

impl Connections {
    /// No connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every connection, and each that comes later, to end in an orderly way: idle ones now,
    /// others with the response they owe. Idempotent.
    pub fn drain(&self) {}

    /// Whether [`Connections::drain`] was called.
    pub fn is_draining(&self) -> bool {
        false
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        0
    }

    /// Closes the connection of this listener that has been idle for longest. `false`: none is idle.
    pub fn close_oldest_idle(&self, listener: &str) -> bool {
        let _ = listener;
        false
    }

    /// Completes once none is open. Cancel-safe.
    pub async fn drained(&self) {}
}

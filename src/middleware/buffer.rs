//! The only reader of whole request bodies.

/// Whether and how much of a body is read before the request goes on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes read into memory; 413 above, nothing sent. `None`: the body streams.
    pub bytes: Option<u64>,
}

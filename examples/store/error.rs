//! Why the story could not be told to its end. A broken invariant is not one of these.

use std::io;

use crate::http::Lost;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Files, sockets, processes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The admin listener is silent.
    #[error("the gateway gives no answer")]
    Lost(#[from] Lost),
    /// In words.
    #[error("{0}")]
    Setup(String),
}

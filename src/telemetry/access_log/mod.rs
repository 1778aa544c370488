//! The access log: one line per request, written off the request path.
//!
//! [`mod@line`] is what a line says, [`writer`] how it gets out.

mod allowance;
pub mod line;
pub mod writer;

pub use self::{
    line::Line,
    writer::{AccessLog, Opened, Sink},
};

//! The access log: one line per request, written off the request path.
//!
//! [`mod@line`] formats a line, [`writer`] writes it out.

mod allowance;
pub mod line;
pub mod writer;

pub use self::{
    line::Line,
    writer::{AccessLog, Opened, Sink},
};

//! Sockets, as far as the sides of the gateway have them in common.

pub mod abort;
mod gather;
pub mod socket;

pub use self::{abort::Abort, socket::Socket};

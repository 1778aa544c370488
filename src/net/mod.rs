//! Sockets, as far as the sides of the gateway have them in common.

pub mod abort;
mod gather;
pub mod outbox;
pub mod post;
pub mod socket;

pub use self::{abort::Abort, post::Post, socket::Socket};

//! From a log to its consumers: what each subscription has settled, is delivering, and still owes.

pub mod dead_letter;
mod encoding;
pub mod journal;
pub mod lease;
pub mod push;
pub mod replay;
pub mod runner;
pub mod side_log;
pub mod snapshot;
pub mod subscription;

pub use self::encoding::Malformed;

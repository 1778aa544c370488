//! The durable log.

pub mod id;
pub mod storage;

pub use self::id::{LogId, Offset, StoreId};

//! The durable log.

pub mod codec;
pub mod gauges;
pub mod id;
pub mod log;
pub mod mutation;
pub mod pool;
pub mod storage;
pub mod time;

pub use self::id::{LogId, Offset, StoreId};

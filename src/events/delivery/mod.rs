//! From a log to its consumers: what each subscription has settled, is delivering, and still owes.

pub mod subscription;

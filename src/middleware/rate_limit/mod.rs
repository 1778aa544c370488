//! Limits how many requests each client may make: named token buckets, by address before `auth` and
//! by principal after it.
//!
//! [`layer`] is the step of the stack. [`key`] says whose bucket a request draws from, [`gcra`] is
//! the arithmetic of one bucket, [`store`] keeps the buckets of a policy, [`charge`](mod@charge)
//! charges several policies together or not at all, and [`policy`] is what survives a reload.

pub mod charge;
pub mod gcra;
pub mod key;
pub mod layer;
pub mod policy;
pub mod store;

pub use self::{
    key::Key,
    layer::{Limits, RateLimit, RateLimitLayer},
    policy::{Mode, Policy, Settings},
};

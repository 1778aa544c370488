//! How many requests each client may make: named token buckets, by address before `auth` and by
//! principal after it.
//!
//! [`gcra`] is what one bucket says, [`store`] keeps the buckets of a policy, [`key`] says whose
//! bucket it is, [`charge`](mod@charge) charges several policies together or not at all, [`policy`]
//! is what lives on across reloads, [`layer`] puts it into the stack.

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

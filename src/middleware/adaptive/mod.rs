//! `adaptive_concurrency`: finds out from response times how many attempts an upstream can handle
//! at once.
//!
//! [`gradient`] is the pure algorithm, [`limiter`] the state that all workers share, [`layer`] the
//! step of the stack.

pub mod gradient;
pub mod layer;
pub mod limiter;

pub use self::{
    gradient::Settings,
    layer::{Adaptive, AdaptiveLayer},
    limiter::Limiter,
};

//! `adaptive_concurrency`: how many attempts an upstream can take at once, found out from how long it
//! takes over them.
//!
//! [`gradient`] is the algorithm, [`limiter`] what all workers share, [`layer`] puts it into the stack.

pub mod gradient;
pub mod layer;
pub mod limiter;

pub use self::{
    gradient::Settings,
    layer::{Adaptive, AdaptiveLayer},
    limiter::Limiter,
};

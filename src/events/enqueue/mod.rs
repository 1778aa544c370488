//! Requests that are stored instead of sent (`enqueue`) or because they could not be sent
//! (`spill`), and how their clients learn the result.
//!
//! The rules of [`crate::events::ingress`] apply:
//!
//! - **Room first**: a request that cannot be stored is refused and leaves nothing behind.
//! - **Never twice**: only a request that was certainly not sent is spilled.
//! - **Run to the end**: a 202 means that the request is on disk. A request that may be spilled
//!   continues when its client leaves.
//!
//! [`layer`] and [`status`] are the steps of the stack; [`enqueuer`] stores the requests of one
//! route, and [`requests`] is the store's side of it. The rest is pure: [`settings`] (what a route
//! asks for), `making` (builds the stored request), `prefer` (reads `Prefer`), `patience` (counts
//! waiting clients), `spilling` (what may be spilled), [`order`] (keeps a request from overtaking a
//! spilled one with the same key) and `answer` (what clients are told).

mod answer;
pub mod enqueuer;
pub mod layer;
mod making;
pub mod order;
mod patience;
mod prefer;
pub mod requests;
pub mod settings;
mod spilling;
pub mod status;

pub use self::{
    enqueuer::Enqueuer,
    layer::{Enqueue, EnqueueLayer},
    requests::Requests,
    settings::Settings,
    status::{RequestStatus, RequestStatusLayer},
};

#[cfg(test)]
mod tests;

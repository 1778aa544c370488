//! Requests that are stored instead of sent, or because they could not be: `enqueue` and `spill`, and what
//! their clients ask for afterwards.
//!
//! The rules of [`crate::events::ingress`] hold: **room first** (what cannot be stored is refused with
//! nothing stored, or, where it was to be spilled, with what kept it from being sent), **never twice**
//! (only what certainly was not sent is spilled), **run to the end** (whoever has a 202 has it from the
//! disk; a request that may be spilled goes on when its client leaves).
//!
//! [`settings`] is what a route asks for, `making` makes the stored request of a request, `prefer` reads
//! what a client prefers, `patience` counts who waits, `spilling` says what may be spilled, [`order`] keeps the requests of a key from
//! overtaking those that were spilled, `answer` is what clients are told; all of these are pure.
//! [`requests`] is what the store has for it, [`enqueuer`] stores the requests of one route, [`layer`] and
//! [`status`] are the steps of the stack.

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

//! Publishes events about requests, in the mode that the route asks for.
//!
//! Three rules, whose types are in [`crate::events::ingress`]:
//!
//! - **Room first**: permits for all events, in their topics and in the records of requests, are
//!   taken before anything is sent. If one is refused, the client gets a 503 and nothing was sent.
//! - **Never twice**: see [`crate::http::Outcome`].
//! - **Run to the end**: from the first durable write on, the exchange is a task of the worker's
//!   drained spawner; its client only waits for it.
//!
//! [`layer`] is the step of the stack. `plan` reserves room for the exchange, `run` carries it out,
//! `follow` decides which events follow from its result.
//! The rest is pure, or nearly so: [`settings`] (what a route asks for), `making` (builds events
//! from a request and its answer), `redact` (removes sensitive values), `peek` (reads an answer
//! without taking it from the client).

mod follow;
mod keyed;
pub mod layer;
mod making;
mod peek;
mod plan;
pub mod redact;
mod run;
pub mod settings;
mod spans;

pub use self::{
    layer::{Publish, PublishLayer, Publisher},
    settings::Settings,
};

#[cfg(test)]
mod tests;

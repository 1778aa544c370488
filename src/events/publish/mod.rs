//! Events of requests: what a route publishes, in the mode it asks for.
//!
//! Three rules, whose types are in [`crate::events::ingress`]: **room first** (the permits of all events,
//! in their topics and in the records of requests, are taken before anything is sent; without them 503
//! and nothing was), **never twice** ([`crate::http::Outcome`]), **run to the end** (from the first
//! durable write the exchange is a task of the worker's drained spawner, and its client only waits for
//! it).
//!
//! [`settings`] is what a route asks for, `making` makes events of a request and its answer, `redact`
//! keeps out of them what is nobody's business, `peek` reads an answer without taking it from its client;
//! all of these are pure or nearly so. `plan` is an exchange with room for all of it, `run` carries it
//! out, [`layer`] is the step of the stack.

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

//! The second flow, from an event that is stored to the consumer that takes it.
//!
//! [`event`] is a CloudEvent and its rules; [`api`] takes events in and hands them out over HTTP, by
//! what [`facade`] offers; [`publish`] makes them of requests, [`enqueue`] stores requests instead of
//! sending them ([`request`]), and [`ingress`] remembers what is owed because of each; [`delivery`]
//! brings them to subscribers. [`queue`] is the durable log: it knows neither requests nor configuration.
//! [`wire`] is how events stand in HTTP messages.

pub mod api;
pub mod delivery;
pub mod enqueue;
pub mod event;
pub mod facade;
pub mod ingress;
pub mod publish;
pub mod queue;
pub mod request;
pub mod settings;
pub mod store;
pub mod stored;
pub mod wire;

pub use self::{event::Event, facade::Events, settings::Settings, store::Store};

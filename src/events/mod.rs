//! The second flow: from an event that is stored to the consumer that takes it.
//!
//! Events enter through [`api`] (over HTTP) and [`publish`] (from requests); [`enqueue`] stores
//! whole requests instead of sending them. [`ingress`] records what each request still owes.
//! [`queue`] is the durable log, and knows neither requests nor configuration. [`delivery`] brings
//! events and stored requests to their consumers. [`store`] opens all of it and implements
//! [`facade`], the interface that [`api`] is built on.
//!
//! Shared types: [`event`] (a CloudEvent and its rules), [`wire`] (its form in HTTP messages),
//! [`stored`] (its form in a log), [`request`] (a stored request), [`settings`].

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

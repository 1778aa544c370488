//! The second flow, from an event that is stored to the consumer that takes it.
//!
//! [`queue`] is the durable log. It knows neither requests nor configuration.

pub mod delivery;
pub mod event;
pub mod facade;
pub mod queue;
pub mod settings;

pub use self::{event::Event, facade::Events, settings::Settings};

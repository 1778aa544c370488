//! How an event is pushed, and what its endpoint says to that. Pure: who sends is a
//! [`Sink`](crate::http::sink::Sink), who decides is the subscription.

mod answer;
mod parcel;

pub use self::{
    answer::{Heard, hear},
    parcel::{Addressed, parcel},
};

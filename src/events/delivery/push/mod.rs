//! How an event or a stored request is pushed, and what its endpoint says to that. Pure: who sends is a
//! [`Sink`](crate::http::sink::Sink), who decides is the subscription.

mod answer;
mod parcel;
mod request;

pub use self::{
    answer::{Heard, hear},
    parcel::{Addressed, parcel},
    request::{Judged, ended, errand, judge},
};

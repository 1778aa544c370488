//! Builds the request for a pushed event or a stored request, and judges the endpoint's answer.
//! Pure: a [`Sink`](crate::http::sink::Sink) sends it, the subscription decides what follows.

mod answer;
mod parcel;
mod request;

pub use self::{
    answer::{Heard, hear},
    parcel::{Addressed, parcel},
    request::{Judged, ended, errand, judge},
};

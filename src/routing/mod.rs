//! Finds the route of a request, and explains why other routes do not match.
//!
//! [`router`] is the step of the stack. It asks [`matcher`], the pure search, which finds
//! candidates through the index of the [`table`]. [`route`] declares what a route may match on,
//! [`precedence`] which of two matching routes wins, and [`explain`] tells the same story to a
//! person.

pub mod explain;
mod index;
pub mod matcher;
pub mod precedence;
pub mod route;
pub mod router;
pub mod table;
#[cfg(test)]
mod tests;

pub use self::{
    matcher::{Head, Match},
    route::Rule,
    router::{OwnPaths, RouteEntry, Router},
    table::Table,
};

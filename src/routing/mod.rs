//! Request to route: which rule takes it, and why the others do not.
//!
//! [`route`] says what a rule may ask for, [`precedence`] which of two rules goes first, [`table`]
//! holds all of them with an index to find candidates by; [`matcher`] is the pure search,
//! [`router`] the step of the stack that uses it; [`explain`] tells the same story to a person.

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

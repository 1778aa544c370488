//! Request to route: which rule takes it, and why the others do not.
//!
//! [`table`] documents the precedence; [`matcher`] is the pure search; [`route`] what a rule may
//! ask for; [`explain`] tells the same story to a person.

pub mod explain;
pub mod matcher;
pub mod route;
pub mod table;

pub use self::{route::Rule, table::Table};

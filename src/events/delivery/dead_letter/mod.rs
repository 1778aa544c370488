//! What nobody took: a log for each subscription that has any, made at first use.
//!
//! An entry is the event's own record with one field more, and its ID is its offset. Which entries are
//! left, and what became of redriven ones, is the subscription's state: nothing here changes an entry.

mod finding;
mod record;

pub use self::{
    finding::find,
    record::{Death, event, matches, reason, shown},
};

//! Dead letters: one log for each subscription that has any, created on first use.
//!
//! An entry is the event's own record plus one field; its ID is its offset. Entries never change
//! here: which of them remain, and what became of redriven ones, is part of the subscription's
//! state.

mod finding;
mod record;

pub use self::{
    finding::find,
    record::{Death, event, matches, reason, shown},
};

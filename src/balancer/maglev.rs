//! maglev

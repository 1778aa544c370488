//! The stream under hyper.

//! The real gateway against real sockets: one file per behaviour.

mod config;

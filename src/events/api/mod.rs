//! Events over HTTP: how they are written, and the endpoints that take and give them.
//!
//! [`wire`] is the CloudEvents HTTP binding and JSON format, pure.

pub mod wire;

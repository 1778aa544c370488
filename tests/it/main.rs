//! The real gateway against real sockets: one file per behaviour.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, spawns on its own runtime, and shares its harness with all files"
)]

mod harness;

mod auth;
mod bodies;
mod both_ways;
mod client_gone;
mod config;
mod drain;
mod early_answers;
mod edge;
mod enqueue;
mod enqueue_delivery;
mod errors;
mod failing_queue;
mod faults;
mod forward_auth;
mod forwarding;
mod health;
mod idempotency;
mod key_server;
mod kill_nine;
mod kill_nine_enqueue;
mod kill_nine_keys;
mod kill_nine_requests;
mod metrics;
mod mirror;
mod overload;
mod program;
mod publish;
mod publish_leavers;
mod push;
mod push_isolation;
mod queue_access;
mod queue_http;
mod queue_ingress;
mod queue_lock;
mod queue_lost;
mod queue_operate;
mod queue_sagas;
mod queue_stream;
mod queue_verify;
mod rate_limits;
mod reload;
mod retries;
mod retry_campaign;
mod retry_matrix;
mod routes;
mod slow_clients;
mod stored_requests;
mod tls;
mod tokens;
mod traces;
mod upgrades;
mod upstreams;

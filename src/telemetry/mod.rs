//! What operators see: logs, metrics, traces, the access log. Also the only two places that read
//! the wall clock ([`clock`]) and spawn tasks ([`task`]).

pub mod access_log;
pub mod clock;
pub mod exchange;
pub mod in_flight;
pub mod logging;
pub mod metrics;
pub mod task;
pub mod tracing;
pub mod wakes;

use std::path::PathBuf;

/// `telemetry`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `access_log`.
    pub access_log: AccessLogSettings,
    /// `log_level`.
    pub log_level: ::tracing::Level,
    /// `metrics.route_labels`: whether routes get their own labels.
    pub route_labels: bool,
    /// `tracing`.
    pub tracing: Option<tracing::Settings>,
}

/// `telemetry.access_log`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogSettings {
    /// Where lines are written.
    pub path: AccessLogPath,
    /// The share of requests that is logged, 0 to 1; our own failures are added, within a limit.
    pub sample: f64,
    /// Whether the query is logged too.
    pub query: bool,
    /// Query parameters whose values are never logged: they carry credentials.
    pub hidden: Box<[Box<str>]>,
}

/// Where access log lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogPath {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file, opened again on reload.
    File(PathBuf),
}

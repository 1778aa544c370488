//! The process's own log: for people on a terminal, for machines in a pipe.
//!
//! Goes to stderr, because stdout belongs to the access log. `log_level` applies to the gateway's
//! own messages; libraries log from `warn` on whatever it says: at `debug` they would drown it,
//! frame by frame.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use tokio::time::Instant;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{JsonFields, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::telemetry::clock;

/// Changes the level of the running log. Clones change the same one.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<Targets, tracing_subscriber::Registry>);

/// The wall time in the format of our other outputs.
struct Clock;

/// JSON whose `target` begins with the program's name, the one that users know, instead of the
/// library's.
struct Named<F>(F);

/// Quotes within a value are escaped: this is the field.
const LIBRARY: &str = concat!("\"target\":\"", env!("CARGO_PKG_NAME"));
const PROGRAM: &str = "\"target\":\"sluice";

/// Starts logging at `level`, for the whole process. Fails if there is a logger already.
pub fn init(level: Level) -> io::Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = if io::stderr().is_terminal() {
        registry.with(human(io::stderr)).try_init()
    } else {
        registry.with(json(io::stderr)).try_init()
    };
    started.map_err(io::Error::other)?;
    Ok(LogHandle(handle))
}

fn targets(level: Level) -> Targets {
    Targets::new()
        .with_target(env!("CARGO_PKG_NAME"), level)
        .with_default(LevelFilter::from_level(level.min(Level::WARN)))
}

fn human<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_timer(Clock)
        .with_target(false)
        .with_ansi(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_writer(writer)
}

fn json<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let format = tracing_subscriber::fmt::format()
        .json()
        .flatten_event(true)
        .with_timer(Clock)
        .with_current_span(false)
        .with_span_list(false);
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Named(format))
        .with_writer(writer)
}

// === impl LogHandle ===

impl LogHandle {
    /// Logs at `level` from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only if the subscriber is gone, and then there is no log to change.
        self.0.reload(targets(level)).unwrap_or_default();
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogHandle")
    }
}

// === impl Clock ===

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut time = Vec::with_capacity(24);
        clock::push_rfc3339(clock::unix(Instant::now()), &mut time);
        writer.write_str(str::from_utf8(&time).unwrap_or_default())
    }
}

// === impl Named ===

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(cx, Writer::new(&mut line), event)?;
        writer.write_str(&line.replacen(LIBRARY, PROGRAM, 1))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
        }
    }

    #[test]
    fn a_pipe_gets_one_json_object_per_event() {
        let out = Captured::default();
        let writer = out.clone();
        let log = tracing_subscriber::registry().with(json(move || writer.clone()));
        tracing::subscriber::with_default(log, || {
            tracing::info!(listener = "web", "listening \"here\"");
        });
        let line: serde_json::Value = serde_json::from_str(&out.take()).unwrap();
        assert_eq!(line["message"], "listening \"here\"");
        assert_eq!(line["listener"], "web");
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line["target"], "sluice::telemetry::logging::tests");
    }

    #[test]
    fn only_our_own_target_is_renamed() {
        let out = Captured::default();
        let writer = out.clone();
        let log = tracing_subscriber::registry().with(json(move || writer.clone()));
        let said = "\"target\":\"sluicegate";
        tracing::subscriber::with_default(log, || {
            tracing::warn!(target: "h2::sluicegate", said, "{said}");
        });
        let line: serde_json::Value = serde_json::from_str(&out.take()).unwrap();
        assert_eq!(line["target"], "h2::sluicegate");
        assert_eq!((line["message"].as_str(), line["said"].as_str()), (Some(said), Some(said)));
    }

    #[test]
    fn the_level_holds_for_our_words_and_can_be_changed() {
        let out = Captured::default();
        let writer = out.clone();
        let (filter, handle) = reload::Layer::new(targets(Level::INFO));
        let handle = LogHandle(handle);
        let log = tracing_subscriber::registry().with(filter).with(json(move || writer.clone()));
        tracing::subscriber::with_default(log, || {
            tracing::debug!("quiet");
            assert_eq!(out.take(), "");
            handle.set_level(Level::DEBUG);
            tracing::debug!("loud");
            assert!(out.take().contains("loud"));
            tracing::info!(target: "h2::frame", "library");
            assert_eq!(out.take(), "", "libraries are heard from warn on");
            tracing::warn!(target: "h2::frame", "library");
            assert!(out.take().contains("library"));
            handle.set_level(Level::ERROR);
            tracing::warn!(target: "h2::frame", "library");
            tracing::warn!("ours");
            assert_eq!(out.take(), "");
        });
    }
}

//! Measures how long a sampled request waits for its events, for their spans.

use tokio::time::Instant;
use uuid::Uuid;

use super::plan::Item;
use crate::{
    error::Error,
    http::Context,
    telemetry::tracing::{Publishing, Trace},
};

/// Events being published. `None`: the request is not sampled, and nothing is recorded.
#[derive(Debug)]
pub(super) struct Producing(Option<Vec<Publishing>>);

// === impl Producing ===

impl Producing {
    /// Publishing of `items` begins now.
    pub(super) fn begin<'a>(cx: &Context, items: impl Iterator<Item = &'a Item>) -> Self {
        if !cx.trace().is_some_and(Trace::is_sampled) {
            return Self(None);
        }
        let started = Instant::now();
        let publishing = |item: &Item| Publishing {
            number: item.number,
            topic: item.settings().topic.clone(),
            id: item.id,
            bytes: item.owed.record().body.len(),
            started,
            took: std::time::Duration::ZERO,
            reason: None,
        };
        Self(Some(items.map(publishing).collect()))
    }

    /// The events are stored, or in flight with nobody waiting; those not in `ids` may have failed
    /// with `error`.
    pub(super) fn end(self, cx: &Context, ids: &[Uuid], error: Option<&Error>) {
        let Some(mut all) = self.0 else { return };
        for publishing in &mut all {
            publishing.took = publishing.started.elapsed();
            if !ids.contains(&publishing.id) {
                publishing.reason = error.map(|error| error.kind().reason());
            }
        }
        cx.add_publishings(all);
    }
}

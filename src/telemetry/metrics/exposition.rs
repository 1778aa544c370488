//! Series that are counted elsewhere: collected for each scrape, stored nowhere.
//!
//! What no longer exists is not reported, so removed topics leave no series.

use std::collections::BTreeMap;

use super::{
    Desc,
    format::{Bound, Format},
    render::{Number, push, render_labels},
    table::DescKind,
};

/// The series of one scrape.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, (&'static Desc, Series)>,
}

/// By labels.
type Series = BTreeMap<Box<[Box<str>]>, Told>;

#[derive(Debug)]
enum Told {
    Number(f64),
    Buckets { buckets: Vec<(Option<f64>, u64)>, sum: f64 },
}

// === impl Exposition ===

impl Exposition {
    /// Without any series yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a counter or gauge with this `value`. Labels are in the order of the table.
    pub fn number(&mut self, desc: &'static Desc, labels: &[&str], value: f64) {
        debug_assert_ne!(desc.kind, DescKind::Histogram, "{} is a histogram", desc.name);
        self.tell(desc, labels, Told::Number(value));
    }

    /// Adds a histogram: how many values fell into each bucket by its upper bound (`None`: above
    /// all), and their sum. Bounds and sum are in the unit of the name.
    pub fn histogram(
        &mut self,
        desc: &'static Desc,
        labels: &[&str],
        buckets: impl IntoIterator<Item = (Option<f64>, u64)>,
        sum: f64,
    ) {
        debug_assert_eq!(desc.kind, DescKind::Histogram, "{} is no histogram", desc.name);
        let buckets = buckets.into_iter().collect();
        self.tell(desc, labels, Told::Buckets { buckets, sum });
    }

    fn tell(&mut self, desc: &'static Desc, labels: &[&str], told: Told) {
        debug_assert_eq!(desc.labels.len(), labels.len(), "{} has other labels", desc.name);
        let labels = labels.iter().map(|&label| label.into()).collect();
        let (_, series) = self.families.entry(desc.name).or_insert((desc, Series::new()));
        series.insert(labels, told);
    }

    /// The names of the metrics, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.families.keys().copied()
    }

    pub(super) fn desc(&self, name: &str) -> Option<&'static Desc> {
        self.families.get(name).map(|(desc, _)| *desc)
    }

    /// The series of one metric.
    pub(super) fn render(&self, out: &mut String, format: Format, name: &str) {
        let Some((desc, series)) = self.families.get(name) else { return };
        for (labels, told) in series {
            let labels = render_labels(desc.labels, labels);
            let open = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            match told {
                Told::Number(value) => {
                    push(out, format_args!("{name}{open} {}\n", Number(*value)));
                }
                Told::Buckets { buckets, sum } => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let mut below = 0;
                    for (bound, count) in buckets {
                        below += count;
                        let bound = Bound(format, bound.unwrap_or(f64::INFINITY));
                        let le = format_args!("{labels}{comma}le=\"{bound}\"").to_string();
                        push(out, format_args!("{name}_bucket{{{le}}} {below}\n"));
                    }
                    let sum = Number(*sum);
                    push(out, format_args!("{name}_sum{open} {sum}\n"));
                    push(out, format_args!("{name}_count{open} {below}\n"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Metrics, QUEUE_COMMIT_EVENTS, QUEUE_DROPPED, QUEUE_EVENTS};

    #[test]
    fn what_is_counted_here_and_there_is_one_family() {
        let metrics = Metrics::new();
        metrics.thread().counter(&QUEUE_DROPPED, &["orders", "unpublished"]).add(2);
        let mut told = Exposition::new();
        told.number(&QUEUE_DROPPED, &["orders", "expired"], 3.0);
        for format in [Format::Text, Format::OpenMetrics] {
            let text = metrics.render_as(format, &told);
            assert_eq!(text.matches("# TYPE sluice_queue_dropped").count(), 1, "{text}");
            for series in ["unpublished\"} 2", "expired\"} 3"] {
                assert!(text.contains(series), "{text}");
            }
        }
    }

    #[test]
    fn what_is_told_is_rendered() {
        let mut told = Exposition::new();
        told.number(&QUEUE_EVENTS, &["orders"], 3.0);
        told.number(&QUEUE_EVENTS, &["audit"], 0.0);
        let buckets = [(Some(1.0), 2), (Some(8.0), 0), (None, 1)];
        told.histogram(&QUEUE_COMMIT_EVENTS, &["orders"], buckets, 12.0);
        let text = Metrics::new().render_as(Format::Text, &told);
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "sluice_queue_commit_events_bucket{topic=\"orders\",le=\"1\"} 2",
                "sluice_queue_commit_events_bucket{topic=\"orders\",le=\"8\"} 2",
                "sluice_queue_commit_events_bucket{topic=\"orders\",le=\"+Inf\"} 3",
                "sluice_queue_commit_events_sum{topic=\"orders\"} 12",
                "sluice_queue_commit_events_count{topic=\"orders\"} 3",
                "sluice_queue_events{topic=\"audit\"} 0",
                "sluice_queue_events{topic=\"orders\"} 3",
            ]
        );
        assert!(text.contains("# TYPE sluice_queue_events gauge\n"));
        let text = Metrics::new().render_as(Format::OpenMetrics, &told);
        assert!(text.contains("_bucket{topic=\"orders\",le=\"8.0\"} 2\n"), "{text}");
        assert!(text.ends_with("sluice_queue_events{topic=\"orders\"} 3\n# EOF\n"), "{text}");
    }
}

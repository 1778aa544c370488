//! The two text formats of Prometheus, and which one a scraper wants. Pure.
//!
//! Samples have the same names and values in both. OpenMetrics 1.0.0 names a family of counters
//! without `_total`, writes bucket bounds as floating-point numbers, and ends with `# EOF`, so that
//! a truncated text is recognised.

use std::fmt;

use super::{
    Desc, METRICS,
    render::{Number, push},
    table::DescKind,
};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Text,
    /// `OpenMetrics`, version 1.0.0.
    OpenMetrics,
}

/// The upper bound of a bucket.
pub(super) struct Bound(pub(super) Format, pub(super) f64);

/// The weight of a type in `Accept`, in thousandths (RFC 9110, 12.4.2); `None`: it is not named.
type Weight = Option<u16>;

const NAME: &str = "application/openmetrics-text";

// === impl Format ===

impl Format {
    /// The format that the `Accept` fields of a scrape ask for: `OpenMetrics` if named in a version
    /// that we have, unless text is preferred.
    pub fn asked_for<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut text): (Weight, Weight) = (None, None);
        let ranges = accept.into_iter().flat_map(|value| value.split(','));
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1000, None);
            for parameter in parts {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                if name.eq_ignore_ascii_case("q") {
                    weight = thousandths(value);
                } else if name.eq_ignore_ascii_case("version") {
                    version = Some(value.trim_matches('"'));
                }
            }
            if name.eq_ignore_ascii_case(NAME) && version.is_none_or(|it| it == "1.0.0") {
                open_metrics = open_metrics.max(Some(weight));
            } else if name.eq_ignore_ascii_case("text/plain") {
                text = text.max(Some(weight));
            }
        }
        match open_metrics {
            Some(weight @ 1..) if Some(weight) >= text => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// Its `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes the lines above the series of a metric.
    pub(super) fn head(self, out: &mut String, desc: &Desc) {
        let (name, kind) = match (self, desc.kind) {
            (_, DescKind::Gauge) => (desc.name, "gauge"),
            (_, DescKind::Histogram) => (desc.name, "histogram"),
            (Self::Text, DescKind::Counter) => (desc.name, "counter"),
            (Self::OpenMetrics, DescKind::Counter) => match family(desc.name) {
                Some(family) => (family, "counter"),
                // Then it cannot be declared a counter, and its samples keep their name.
                None => (desc.name, "unknown"),
            },
        };
        push(out, format_args!("# HELP {name} {}\n", desc.help));
        push(out, format_args!("# TYPE {name} {kind}\n"));
    }

    /// Writes the end of the text.
    pub(super) fn end(self, out: &mut String) {
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
    }
}

/// The family name of the counter `name`, unless another metric has that name.
fn family(name: &str) -> Option<&str> {
    name.strip_suffix("_total").filter(|family| METRICS.iter().all(|other| other.name != *family))
}

/// `0.75` as 750; an invalid weight counts as 0.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.parse().ok().filter(|weight: &f64| (0.0..=1.0).contains(weight));
    let thousandths = (weight.unwrap_or(0.0) * 1000.0).round();
    (0..=1000).find(|whole| f64::from(*whole) >= thousandths).unwrap_or_default()
}

// === impl Bound ===

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(Format::OpenMetrics, bound) if bound.is_finite() => write!(f, "{bound:?}"),
            Self(_, bound) => Number(bound).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_are_for_who_asks_for_them() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            prometheus,
            newer,
            "application/openmetrics-text",
            "text/plain; q=0.5, Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.5",
        ] {
            assert_eq!(Format::asked_for([accept]), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/*",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=high",
            "application/openmetrics-text;q=0.4,text/plain;q=0.5",
            "application/openmetrics-text2",
        ] {
            assert_eq!(Format::asked_for([accept]), Format::Text, "{accept}");
        }
        let lines = ["text/plain;q=0.2", "application/openmetrics-text;q=0.3"];
        assert_eq!(Format::asked_for(lines), Format::OpenMetrics, "over all lines");
    }

    /// Checks the table against the rules of both formats, so that no metric breaks them.
    #[test]
    fn every_metric_has_a_family_of_its_own_and_a_sentence_without_escapes() {
        let mut families = std::collections::BTreeSet::new();
        for desc in METRICS {
            assert_eq!(
                desc.kind == DescKind::Counter,
                desc.name.ends_with("_total"),
                "{}",
                desc.name
            );
            assert!(!desc.help.contains(['"', '\\', '\n']), "{}", desc.help);
            let mut head = String::new();
            Format::OpenMetrics.head(&mut head, desc);
            let family = head.split(' ').nth(2).unwrap().to_owned();
            assert!(families.insert(family), "{head}");
        }
    }

    #[test]
    fn bounds_are_floating_point_numbers_in_open_metrics() {
        let bounds = [0.005, 1.0, 4096.0, f64::INFINITY];
        let told = |format| bounds.map(|bound| Bound(format, bound).to_string());
        assert_eq!(told(Format::Text), ["0.005", "1", "4096", "+Inf"]);
        assert_eq!(told(Format::OpenMetrics), ["0.005", "1.0", "4096.0", "+Inf"]);
    }
}

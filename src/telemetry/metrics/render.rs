//! Metrics as text.

use std::{
    fmt::{self, Write as _},
    sync::atomic::Ordering,
};

use super::{
    Buckets, Cell, DescKind, Family, RoutePart,
    format::{Bound, Format},
    values::BUCKETS_MICROS,
};

/// A value in the text format, which does not have Rust's `inf`.
pub(super) struct Number(pub(super) f64);

/// The value of a cell.
enum Value<'a> {
    Number(f64),
    Buckets(&'a Buckets),
}

// === impl Family ===

impl Family {
    pub(super) fn render(&self, out: &mut String, format: Format) {
        let mut series: Vec<_> = self.series.iter().collect();
        series.sort_unstable_by_key(|(labels, _)| *labels);
        for (labels, cells) in series {
            self.render_series((out, format), labels, cells.values());
        }
    }

    fn render_series<'a>(
        &self,
        (out, format): (&mut String, Format),
        labels: &[Box<str>],
        cells: impl Iterator<Item = &'a Cell>,
    ) {
        let (mut total, mut micros) = (0.0, 0);
        let mut counts = [0; BUCKETS_MICROS.len() + 1];
        for cell in cells {
            match cell.value() {
                Value::Number(number) => total += number,
                Value::Buckets(buckets) => {
                    micros += buckets.micros.load(Ordering::Relaxed);
                    for (sum, count) in counts.iter_mut().zip(&buckets.counts) {
                        *sum += count.load(Ordering::Relaxed);
                    }
                }
            }
        }
        let name = self.desc.name;
        let labels = render_labels(self.desc.labels, labels);
        if self.desc.kind != DescKind::Histogram {
            let open = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            push(out, format_args!("{name}{open} {}\n", Number(total)));
            return;
        }
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bucket, count) in counts.iter().enumerate() {
            below += count;
            let bound = BUCKETS_MICROS.get(bucket).map_or(f64::INFINITY, |&it| it as f64 / 1e6);
            let bound = Bound(format, bound);
            push(out, format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}\n"));
        }
        let open = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = micros as f64 / 1e6;
        push(out, format_args!("{name}_sum{open} {sum}\n{name}_count{open} {below}\n"));
    }
}

// === impl Cell ===

impl Cell {
    fn value(&self) -> Value<'_> {
        Value::Number(match self {
            Self::Counter(counter) => counter.get() as f64,
            Self::Gauge(gauge) => gauge.get(),
            Self::Histogram(histogram) => return Value::Buckets(&histogram.0),
            Self::Route(route, part) => match *part {
                RoutePart::Duration => return Value::Buckets(&route.duration),
                RoutePart::Status(class) => route.statuses[class].get() as f64,
                RoutePart::RequestBytes => route.request_bytes.get() as f64,
                RoutePart::ResponseBytes => route.response_bytes.get() as f64,
            },
        })
    }
}

// === impl Number ===

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value == f64::INFINITY => f.write_str("+Inf"),
            value if value == f64::NEG_INFINITY => f.write_str("-Inf"),
            value => value.fmt(f),
        }
    }
}

pub(super) fn render_labels(names: &[&str], values: &[Box<str>]) -> String {
    let mut out = String::new();
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        push(&mut out, format_args!("{comma}{name}=\"{value}\""));
    }
    out
}

pub(super) fn push(out: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    out.write_fmt(text).unwrap_or_default();
}

//! Every metric: its name, its labels, and the cells that count it.
//!
//! Each counting thread has its own [`Cells`], so that counting touches no memory that another
//! thread writes; a scrape adds up the cells of all threads. The same metric and labels always give
//! the same cell: counters survive a reload and never go back.

mod exposition;
mod format;
mod render;
mod table;
mod values;

pub use self::{
    exposition::Exposition,
    format::Format,
    table::*,
    values::{Buckets, Count, Counter, Gauge, Histogram, RouteCells, RouteMetrics},
};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use self::table::DescKind;

/// How many routes get their own label.
const MAX_ROUTES: usize = 2_000;
/// How many routes without one are distinguished, for the gauge that counts them.
const MAX_UNLABELLED: usize = 100_000;
/// The label of routes beyond [`MAX_ROUTES`].
const OTHER: &str = "other";
/// The label of every route if routes get none.
const ALL: &str = "all";
/// The label of requests without a route.
const UNROUTED: &str = "none";
/// The thread number of the registry's own cells; counting threads begin at 1.
const NO_THREAD: usize = 0;

/// All metrics of the process.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

#[derive(Debug)]
struct Registry {
    threads: usize,
    families: BTreeMap<&'static str, Family>,
    route_labels: bool,
    /// At most [`MAX_ROUTES`].
    labelled: HashSet<Box<str>>,
    /// At most [`MAX_UNLABELLED`]; beyond that the gauge stays the same.
    unlabelled: HashSet<Box<str>>,
}

#[derive(Debug)]
struct Family {
    desc: &'static Desc,
    series: HashMap<Box<[Box<str>]>, HashMap<usize, Cell>>,
}

#[derive(Clone, Debug)]
enum Cell {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    Route(RouteMetrics, RoutePart),
}

/// One of the cells of a route.
#[derive(Clone, Copy, Debug)]
enum RoutePart {
    Status(usize),
    Duration,
    RequestBytes,
    ResponseBytes,
}

/// The cells of one counting thread.
#[derive(Clone, Debug)]
pub struct Cells {
    metrics: Metrics,
    thread: usize,
}

// === impl Metrics ===

impl Metrics {
    /// Without any metric yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cells for one more thread.
    pub fn thread(&self) -> Cells {
        let mut registry = self.0.lock();
        registry.threads += 1;
        Cells { metrics: self.clone(), thread: registry.threads }
    }

    /// Whether routes requested from now on get their own labels; otherwise all of them are counted
    /// as `all`.
    pub fn set_route_labels(&self, route_labels: bool) {
        self.0.lock().route_labels = route_labels;
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.render_as(Format::Text, &Exposition::new())
    }

    /// All metrics, including those counted elsewhere.
    pub fn render_as(&self, format: Format, told: &Exposition) -> String {
        let registry = self.0.lock();
        let mut out = String::with_capacity(16 * 1024);
        let names: BTreeSet<_> = registry.families.keys().copied().chain(told.names()).collect();
        for name in names {
            let counted = registry.families.get(name);
            // A name that occurs in both must be one family: scrapers accept each name once.
            let Some(desc) = counted.map(|family| family.desc).or(told.desc(name)) else {
                continue;
            };
            format.head(&mut out, desc);
            if let Some(family) = counted {
                family.render(&mut out, format);
            }
            told.render(&mut out, format, name);
        }
        format.end(&mut out);
        out
    }
}

// === impl Cells ===

impl Cells {
    /// The counter with these labels, in the order of the table.
    pub fn counter(&self, desc: &'static Desc, labels: &[&str]) -> Counter {
        match self.cell(desc, labels, || Cell::Counter(Counter::default())) {
            Cell::Counter(counter) => counter,
            Cell::Gauge(_) | Cell::Histogram(_) | Cell::Route(..) => Counter::default(),
        }
    }

    /// The gauge with these labels, in the order of the table.
    pub fn gauge(&self, desc: &'static Desc, labels: &[&str]) -> Gauge {
        match self.cell(desc, labels, || Cell::Gauge(Gauge::default())) {
            Cell::Gauge(gauge) => gauge,
            Cell::Counter(_) | Cell::Histogram(_) | Cell::Route(..) => Gauge::default(),
        }
    }

    /// The histogram with these labels, in the order of the table.
    pub fn histogram(&self, desc: &'static Desc, labels: &[&str]) -> Histogram {
        match self.cell(desc, labels, || Cell::Histogram(Histogram::default())) {
            Cell::Histogram(histogram) => histogram,
            Cell::Counter(_) | Cell::Gauge(_) | Cell::Route(..) => Histogram::default(),
        }
    }

    /// The cells of the route with this name. Only the first 2,000 names of the process have their
    /// own; the others share those of `other`.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let mut registry = self.metrics.0.lock();
        let label = registry.route_label(name);
        registry.route(self.thread, label)
    }

    /// Like [`Cells::counter`], for a route: its label comes first, and is bounded like that of
    /// [`Cells::route`]. `None`: the route is unknown.
    pub fn route_counter(
        &self,
        desc: &'static Desc,
        route: Option<&str>,
        others: &[&str],
    ) -> Counter {
        debug_assert_eq!(desc.labels.first(), Some(&"route"), "{} is of no route", desc.name);
        let route = match route {
            Some(name) => self.metrics.0.lock().route_label(name),
            None => UNROUTED,
        };
        self.counter(desc, &[&[route], others].concat())
    }

    /// The cells of requests without a route.
    pub fn unrouted(&self) -> RouteMetrics {
        self.metrics.0.lock().route(self.thread, UNROUTED)
    }

    /// Drops the gauge with these labels, whose subject is gone. Counters never go back, and stay.
    pub fn forget_gauge(&self, desc: &'static Desc, labels: &[&str]) {
        debug_assert_eq!(desc.kind, DescKind::Gauge, "{} is no gauge", desc.name);
        let labels: Box<[Box<str>]> = labels.iter().map(|&label| label.into()).collect();
        if let Some(family) = self.metrics.0.lock().families.get_mut(desc.name) {
            family.series.remove(&labels);
        }
    }

    fn cell(&self, desc: &'static Desc, labels: &[&str], make: impl FnOnce() -> Cell) -> Cell {
        self.metrics.0.lock().cell(self.thread, desc, labels, make)
    }
}

// === impl Registry ===

impl Registry {
    fn cell(
        &mut self,
        thread: usize,
        desc: &'static Desc,
        labels: &[&str],
        make: impl FnOnce() -> Cell,
    ) -> Cell {
        debug_assert_eq!(desc.labels.len(), labels.len(), "{} has other labels", desc.name);
        let labels: Box<[Box<str>]> = labels.iter().map(|&label| label.into()).collect();
        let family = self
            .families
            .entry(desc.name)
            .or_insert_with(|| Family { desc, series: HashMap::new() });
        family.series.entry(labels).or_default().entry(thread).or_insert_with(make).clone()
    }

    /// The block of the route with this label: one, of which every series uses a part.
    fn route(&mut self, thread: usize, label: &str) -> RouteMetrics {
        let fresh = RouteMetrics::default();
        let mut part = |desc, labels: &[&str], part| {
            self.cell(thread, desc, labels, || Cell::Route(fresh.clone(), part))
        };
        let Cell::Route(route, _) = part(&REQUEST_DURATION, &[label], RoutePart::Duration) else {
            return fresh;
        };
        for (index, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            part(&REQUESTS, &[label, class], RoutePart::Status(index));
        }
        part(&REQUEST_BYTES, &[label], RoutePart::RequestBytes);
        part(&RESPONSE_BYTES, &[label], RoutePart::ResponseBytes);
        route
    }

    fn route_label<'a>(&mut self, name: &'a str) -> &'a str {
        if !self.route_labels {
            return ALL;
        }
        if self.labelled.contains(name) {
            return name;
        }
        if self.labelled.len() < MAX_ROUTES {
            self.labelled.insert(name.into());
            return name;
        }
        if self.unlabelled.len() < MAX_UNLABELLED && self.unlabelled.insert(name.into()) {
            let count = self.unlabelled.len() as f64;
            let make = || Cell::Gauge(Gauge::default());
            if let Cell::Gauge(gauge) = self.cell(NO_THREAD, &ROUTES_UNLABELLED, &[], make) {
                gauge.set(count);
            }
        }
        OTHER
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            threads: NO_THREAD,
            families: BTreeMap::new(),
            route_labels: true,
            labelled: HashSet::new(),
            unlabelled: HashSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(metrics: &Metrics, start: &str) -> Vec<String> {
        metrics.render().lines().filter(|it| it.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_counted_for_a_route_has_the_label_of_the_route() {
        let metrics = Metrics::new();
        let cells = metrics.thread();
        let count = |route| cells.route_counter(&STORED_REQUESTS, route, &["spilled"]).add(1);
        (0..MAX_ROUTES).for_each(|n| drop(cells.route(&n.to_string())));
        count(Some("7"));
        count(Some("one too many"));
        count(None);
        metrics.set_route_labels(false);
        count(Some("7"));
        let text = metrics.render();
        for route in ["7", "other", "none", "all"] {
            let line =
                format!("sluice_stored_requests_total{{route=\"{route}\",how=\"spilled\"}} 1");
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn a_scrape_adds_the_threads_up() {
        let metrics = Metrics::new();
        for n in 1..=3 {
            let cells = metrics.thread();
            cells.counter(&REFUSALS, &["ip-denied"]).add(n);
            cells.gauge(&CONNECTIONS_OPEN, &["web"]).set(0.5);
            cells.histogram(&REQUEST_DURATION, &["a"]).record(Duration::from_millis(n * 10));
        }
        assert_eq!(
            line(&metrics, "sluice_refusals"),
            ["sluice_refusals_total{reason=\"ip-denied\"} 6"]
        );
        assert_eq!(
            line(&metrics, "sluice_conn"),
            ["sluice_connections_open{listener=\"web\"} 1.5"]
        );
        assert_eq!(
            line(&metrics, "sluice_request_duration_seconds_sum"),
            ["sluice_request_duration_seconds_sum{route=\"a\"} 0.06"]
        );
    }

    #[test]
    fn asking_again_gives_the_same_cell() {
        let metrics = Metrics::new();
        let cells = metrics.thread();
        cells.counter(&CONFIG_RELOADS, &[]).add(1);
        cells.counter(&CONFIG_RELOADS, &[]).add(1);
        assert_eq!(cells.counter(&CONFIG_RELOADS, &[]).get(), 2);
        assert_eq!(line(&metrics, "sluice_config_reloads"), ["sluice_config_reloads_total 2"]);
    }

    #[test]
    fn a_route_is_one_block_that_shares_no_cache_line() {
        let metrics = Metrics::new();
        let cells = metrics.thread();
        let (one, again) = (cells.route("a"), cells.route("a"));
        assert!(Arc::ptr_eq(&one.0, &again.0));
        assert!(!Arc::ptr_eq(&one.0, &cells.route("b").0));
        assert!(!Arc::ptr_eq(&one.0, &metrics.thread().route("a").0));
        assert_eq!(align_of::<RouteCells>(), 128);
        one.request_bytes.add(3);
        one.response_bytes.add(4);
        one.statuses[4].add(5);
        for (series, value) in [
            ("sluice_request_bytes_total{route=\"a\"} ", "3"),
            ("sluice_response_bytes_total{route=\"a\"} ", "4"),
            ("sluice_requests_total{route=\"a\",status=\"5xx\"} ", "5"),
        ] {
            assert_eq!(line(&metrics, series), [format!("{series}{value}")]);
        }
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let metrics = Metrics::new();
        let histogram = metrics.thread().histogram(&REQUEST_DURATION, &["a"]);
        for micros in [500, 501, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let bucket = |bound: &str| {
            let start =
                format!("sluice_request_duration_seconds_bucket{{route=\"a\",le=\"{bound}\"}} ");
            line(&metrics, &start)[0][start.len()..].parse::<u64>().unwrap()
        };
        assert_eq!((bucket("0.0005"), bucket("0.001"), bucket("10"), bucket("+Inf")), (1, 2, 3, 4));
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::new();
        metrics.thread().counter(&REFUSALS, &["a\\b\"c\nd"]).add(1);
        assert_eq!(
            line(&metrics, "sluice_refusals"),
            ["sluice_refusals_total{reason=\"a\\\\b\\\"c\\nd\"} 1"]
        );
    }

    #[test]
    fn values_that_are_no_numbers_are_spelled_as_the_format_wants() {
        let metrics = Metrics::new();
        let gauge = metrics.thread().gauge(&CONFIG_LOADED, &[]);
        for (value, text) in
            [(f64::INFINITY, "+Inf"), (f64::NEG_INFINITY, "-Inf"), (f64::NAN, "NaN")]
        {
            gauge.set(value);
            assert_eq!(
                line(&metrics, "sluice_config_loaded"),
                [format!("sluice_config_loaded_timestamp_seconds {text}")]
            );
        }
    }

    #[test]
    fn the_first_2000_routes_get_labels_and_a_gauge_counts_the_others() {
        let metrics = Metrics::new();
        let cells = [metrics.thread(), metrics.thread()];
        for n in 0..MAX_ROUTES + 3 {
            for cells in &cells {
                cells.route(&format!("route-{n}")).statuses[1].add(1);
            }
        }
        let labelled = line(&metrics, "sluice_requests_total{")
            .iter()
            .filter(|it| it.contains("2xx") && it.contains("route-"))
            .count();
        assert_eq!(labelled, MAX_ROUTES);
        assert_eq!(
            line(&metrics, "sluice_requests_total{route=\"other\",status=\"2xx\"}"),
            ["sluice_requests_total{route=\"other\",status=\"2xx\"} 6"]
        );
        assert_eq!(line(&metrics, "sluice_routes_unlabelled"), ["sluice_routes_unlabelled 3"]);
        cells[0].route("route-7").statuses[1].add(1);
        let seventh = "sluice_requests_total{route=\"route-7\",status=\"2xx\"} ";
        assert_eq!(line(&metrics, seventh), [format!("{seventh}3")], "it keeps its label");
    }

    #[test]
    fn without_route_labels_all_routes_are_one() {
        let metrics = Metrics::new();
        metrics.set_route_labels(false);
        let cells = metrics.thread();
        cells.route("a").statuses[1].add(1);
        cells.route("b").statuses[1].add(1);
        assert_eq!(
            line(&metrics, "sluice_requests_total{route=\"all\",status=\"2xx\"}"),
            ["sluice_requests_total{route=\"all\",status=\"2xx\"} 2"]
        );
        assert!(!metrics.render().contains("route=\"a\""));
    }

    /// The rules of `promtool check metrics` and of every parser of the format.
    #[test]
    fn the_exposition_is_well_formed() {
        let metrics = Metrics::new();
        let cells = metrics.thread();
        let route = cells.route("a");
        route.duration.record(Duration::from_millis(3));
        route.statuses[1].add(1);
        cells.gauge(&CONNECTIONS_OPEN, &["web"]).set(1.0);
        cells.counter(&CONFIG_RELOADS, &[]).add(1);
        let text = metrics.render();
        assert!(text.ends_with('\n'));
        let mut families = HashSet::new();
        let mut current = None;
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()), "{name} comes once");
                assert!(!help.contains(['\\', '\n']));
                current = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(Some(name), current.as_deref(), "HELP, then TYPE, then samples");
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert!(name.starts_with("sluice_"));
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(sample.starts_with(current.as_deref().unwrap()));
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert_eq!(families.len(), 6);
    }
}

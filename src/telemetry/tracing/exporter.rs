//! Sends spans to the collector, in batches, from the control thread.
//!
//! Workers put the spans of finished requests into a bounded queue and never wait. One task takes
//! them out and sends batch after batch. A batch that cannot be sent is retried for a while, then
//! lost and counted, like spans that find the queue full meanwhile. A collector that is gone costs
//! one warning a minute, and the memory of the queue and two batches.
//!
//! The task ends with [`Exporter::finish`], which sends what is left within its time.

use std::{fmt, pin::pin, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Settings,
    otlp::{Client, Failure},
    queue::{self, Encoded, Envelope, SpanQueue, Waiting},
    resource,
    tracer::Tracer,
};
use crate::telemetry::{
    metrics::{Cells, Counter, SPANS_EXPORTED, SPANS_LOST},
    task,
};

/// Orders that can wait during an export.
const ORDERS: usize = 4;
/// The maximum number of requests in one batch, ...
const BATCH: usize = 256;
/// ... if their spans are smaller than this: well below the 4 MiB that gRPC servers accept.
const BATCH_BYTES: usize = 2 << 20;
/// How long a batch gathers.
const GATHER: Duration = Duration::from_secs(1);
/// How often to check whether it is full before that. Nobody is woken for a single request.
const LOOK: Duration = Duration::from_millis(50);
/// How often one batch is tried.
const TRIES: u32 = 5;
/// The pause before the second try; doubled each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause that a collector may ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The time between two warnings about the same problem.
const COMPLAINTS: Duration = Duration::from_mins(1);

/// Control's side of the exporter.
pub struct Exporter {
    queue: SpanQueue,
    orders: mpsc::Sender<Order>,
}

enum Order {
    /// Export to this collector from now on.
    Follow(Box<Settings>),
    /// Send what is left by then, and end.
    Finish(Instant, oneshot::Sender<()>),
}

/// The task's side.
struct Exporting {
    queue: Waiting,
    envelope: Envelope,
    client: Option<Client>,
    /// The batch being collected.
    batch: Vec<Encoded>,
    /// The batch being sent.
    pending: Option<Pending>,
    exported: Counter,
    failed: Counter,
    rejected: Counter,
    /// The time of the last warning, while the problem lasts.
    complained: Option<Instant>,
}

/// An encoded batch.
struct Pending {
    message: Bytes,
    spans: u64,
    tries: u32,
    not_before: Instant,
}

// === impl Exporter ===

impl Exporter {
    /// Starts the task on the current runtime; it exports nothing until it has a collector. `cells`
    /// are this thread's.
    pub fn start(cells: &Cells) -> Self {
        let (queue, out) = queue::bounded(queue::ENTRIES, queue::BYTES);
        let (orders, inbox) = mpsc::channel(ORDERS);
        let exporting = Exporting {
            queue: out,
            envelope: Envelope::new(&(&resource::detect()).into()),
            client: None,
            batch: Vec::new(),
            pending: None,
            exported: cells.counter(&SPANS_EXPORTED, &[]),
            failed: cells.counter(&SPANS_LOST, &["export-failed"]),
            rejected: cells.counter(&SPANS_LOST, &["rejected"]),
            complained: None,
        };
        task::spawn("spans", exporting.run(inbox));
        Self { queue, orders }
    }

    /// Exports with these settings from now on. Without any, what is queued still goes to the old
    /// collector.
    pub async fn follow(&self, settings: Option<&Settings>) {
        if let Some(settings) = settings {
            // The task only ends with its runtime or in `finish`.
            drop(self.orders.send(Order::Follow(Box::new(settings.clone()))).await);
        }
    }

    /// A tracer for a worker with these settings, if any. `cells` are the worker's.
    pub fn tracer(&self, settings: Option<&Settings>, cells: &Cells) -> Option<Tracer> {
        settings.map(|settings| Tracer::new(settings.sample, self.queue.clone(), cells))
    }

    /// Sends what is left, by this deadline; what is not sent is counted as lost. For the end of
    /// the process, when no request is in flight any more.
    pub async fn finish(self, deadline: Instant) {
        let (done, is_done) = oneshot::channel();
        if self.orders.send(Order::Finish(deadline, done)).await.is_ok() {
            // An error means that the task and everything in it is gone.
            drop(is_done.await);
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

// === impl Exporting ===

impl Exporting {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            // Biased: an order comes before more work.
            let is_over = tokio::select! {
                biased;
                order = orders.recv() => self.obey(order).await,
                () = self.due() => self.send_beside(&mut orders).await,
            };
            if is_over {
                return;
            }
        }
    }

    /// Obeys an order; `true` if that was the end.
    async fn obey(&mut self, order: Option<Order>) -> bool {
        match order {
            Some(Order::Follow(settings)) => {
                self.follow(*settings);
                false
            }
            Some(Order::Finish(deadline, done)) => {
                self.finish(deadline).await;
                // The caller may have left.
                done.send(()).unwrap_or_default();
                true
            }
            None => true,
        }
    }

    /// Sends what is pending. An order waits until the current export ends: if that were cancelled
    /// and sent again, the collector would have it twice.
    async fn send_beside(&mut self, orders: &mut mpsc::Receiver<Order>) -> bool {
        let order = {
            let mut sending = pin!(self.send());
            let order = tokio::select! {
                biased;
                () = &mut sending => return false,
                order = orders.recv() => order,
            };
            match &order {
                // After a timeout, what is left shows it.
                Some(Order::Finish(deadline, _)) => drop(timeout_at(*deadline, sending).await),
                Some(Order::Follow(_)) | None => sending.await,
            }
            order
        };
        self.obey(order).await
    }

    fn follow(&mut self, settings: Settings) {
        if self.client.as_ref().is_some_and(|client| client.fits(&settings)) {
            return;
        }
        let collector = settings.collector.to_string();
        match Client::new(settings) {
            Ok(client) => self.client = Some(client),
            Err(error) => tracing::error!(%collector, "spans cannot be exported: {error}"),
        }
        self.complained = None;
    }

    /// Waits until a batch is due. Cancel-safe: what it has received is in `self`.
    async fn due(&mut self) {
        if self.pending.is_none() {
            self.gather().await;
            self.encode();
        }
        if let Some(pending) = &self.pending {
            sleep_until(pending.not_before).await;
        }
    }

    async fn gather(&mut self) {
        if self.batch.is_empty() {
            match self.queue.next().await {
                Some(first) => self.batch.push(first),
                // All senders are gone: only an order can come now.
                None => return std::future::pending().await,
            }
        }
        self.take();
        let due = Instant::now() + GATHER;
        while !self.is_full() && Instant::now() < due {
            sleep(LOOK).await;
            self.take();
        }
    }

    fn is_full(&self) -> bool {
        let bytes: usize = self.batch.iter().map(Encoded::bytes).sum();
        self.batch.len() >= BATCH || bytes >= BATCH_BYTES
    }

    /// Fills the batch from the queue.
    fn take(&mut self) {
        while !self.is_full()
            && let Some(entry) = self.queue.take()
        {
            self.batch.push(entry);
        }
    }

    fn encode(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let spans = self.batch.iter().map(Encoded::spans).sum();
        let message = self.envelope.close(&self.batch);
        self.batch = Vec::new();
        self.pending = Some(Pending { message, spans, tries: 0, not_before: Instant::now() });
    }

    /// Tries once to send what is pending.
    async fn send(&mut self) {
        let (Some(pending), Some(client)) = (&mut self.pending, &mut self.client) else {
            return self.lose();
        };
        let failure = match client.export(&pending.message).await {
            Ok(rejected) => return self.sent(rejected),
            Err(failure) => failure,
        };
        pending.tries += 1;
        let after = match &failure {
            Failure::Refused(_) => None,
            Failure::Later { after, .. } => Some(after.unwrap_or_default()),
            Failure::Broken(_) => Some(Duration::ZERO),
        };
        let after = after.filter(|_| pending.tries < TRIES);
        if let Some(after) = after {
            let backoff = BACKOFF * 2_u32.pow(pending.tries - 1);
            pending.not_before = Instant::now() + backoff.max(after).min(MAX_BACKOFF);
        } else {
            self.lose();
        }
        self.complain(&failure);
    }

    fn sent(&mut self, rejected: u64) {
        let Some(pending) = self.pending.take() else { return };
        let rejected = rejected.min(pending.spans);
        self.exported.add(pending.spans - rejected);
        self.rejected.add(rejected);
        if self.complained.take().is_some() {
            tracing::info!(lost = self.failed.get(), "spans are exported again");
        }
    }

    /// Drops what is pending.
    fn lose(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.failed.add(pending.spans);
        }
    }

    fn complain(&mut self, failure: &Failure) {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAINTS) {
            self.complained = Some(now);
            tracing::warn!(lost = self.failed.get(), "spans cannot be exported: {failure}");
        }
    }

    /// Tries each batch once more, but stops at a failure: the next batch would fail too.
    async fn finish(&mut self, deadline: Instant) {
        let before = self.failed.get();
        loop {
            if self.pending.is_none() {
                self.take();
                self.encode();
            }
            if self.pending.is_none() {
                break;
            }
            // After a timeout, what is left shows it.
            drop(timeout_at(deadline, self.send()).await);
            if self.pending.is_some() || Instant::now() >= deadline {
                self.lose();
                self.give_up();
            }
        }
        let lost = self.failed.get() - before;
        if lost > 0 {
            tracing::warn!(lost, "the last spans are lost");
        }
    }

    fn give_up(&mut self) {
        while let Some(entry) = self.queue.take() {
            self.failed.add(entry.spans());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, Method, StatusCode, Version};

    use super::*;
    use crate::{
        http::{Context, Peer, peer::Address},
        telemetry::{
            metrics::Metrics,
            tracing::{Collector, Finished, Protocol},
        },
    };

    /// An address where nobody listens.
    async fn settings() -> Settings {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let collector =
            Collector { protocol: Protocol::Grpc, is_tls: false, host: "127.0.0.1".into(), port };
        Settings { sample: 1.0, collector, headers: Vec::new(), timeout: Duration::from_secs(10) }
    }

    fn request(tracer: &Tracer) {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), Method::GET, Version::HTTP_11);
        let trace = tracer.begin(&mut HeaderMap::new());
        let noted = trace.note(&HeaderMap::new()).unwrap();
        tracer.finish(&Finished {
            trace,
            cx,
            noted,
            target: None,
            status: Some(StatusCode::OK),
            took: Duration::ZERO,
            reason: None,
            is_broken_off: false,
        });
    }

    async fn started(metrics: &Metrics) -> (Exporter, Tracer) {
        let settings = settings().await;
        let cells = metrics.thread();
        let exporter = Exporter::start(&cells);
        exporter.follow(Some(&settings)).await;
        let tracer = exporter.tracer(Some(&settings), &cells).unwrap();
        (exporter, tracer)
    }

    fn lost(metrics: &Metrics, cause: &str) -> u64 {
        metrics.thread().counter(&SPANS_LOST, &[cause]);
        let rendered = metrics.render();
        let series = format!("sluice_spans_lost_total{{cause=\"{cause}\"}} ");
        let value = rendered.lines().find_map(|line| line.strip_prefix(&series));
        value.and_then(|value| value.parse().ok()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_tried_for_a_while_and_then_lost() {
        let metrics = Metrics::new();
        let (_exporter, tracer) = started(&metrics).await;
        let begun = Instant::now();
        for _ in 0..3 {
            request(&tracer);
        }
        while lost(&metrics, "export-failed") < 3 {
            sleep(Duration::from_millis(100)).await;
        }
        // The time to fill the batch, and 1 + 2 + 4 + 8 s between five tries.
        assert!(begun.elapsed() >= Duration::from_secs(16), "{:?}", begun.elapsed());
        assert_eq!(lost(&metrics, "export-failed"), 3);
        assert_eq!(lost(&metrics, "queue-full"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_the_queue_full_is_lost_at_once() {
        let metrics = Metrics::new();
        let (exporter, tracer) = started(&metrics).await;
        for _ in 0..queue::ENTRIES + 7 {
            request(&tracer);
        }
        assert_eq!(lost(&metrics, "queue-full"), 7);
        assert_eq!(lost(&metrics, "export-failed"), 0);
        // At the end no more batches are tried once the first has failed.
        exporter.finish(Instant::now() + Duration::from_mins(1)).await;
        assert_eq!(lost(&metrics, "export-failed"), queue::ENTRIES as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_collector_the_end_comes_at_once() {
        let exporter = Exporter::start(&Metrics::new().thread());
        let begun = Instant::now();
        exporter.finish(begun + Duration::from_mins(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

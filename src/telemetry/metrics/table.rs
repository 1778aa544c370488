//! The one table of metrics: names, labels and descriptions are defined only here.

/// One metric of the table below.
#[derive(Debug)]
pub struct Desc {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: DescKind,
    pub(super) labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DescKind {
    Counter,
    Gauge,
    Histogram,
}

// === impl Desc ===

impl Desc {
    /// Its exposed name; a histogram also has `_bucket`, `_sum` and `_count`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its labels, in order; a bucket also has `le`.
    pub fn labels(&self) -> &'static [&'static str] {
        self.labels
    }
}

macro_rules! table {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $($(#[$doc])* #[doc = $help]
        pub static $id: Desc = Desc {
            name: $name, help: $help, kind: DescKind::$kind, labels: &[$($label),*],
        };)*

        /// All metrics.
        pub static METRICS: &[&Desc] = &[$(&$id),*];
    };
}

table! {
    REQUESTS = Counter "sluice_requests_total" ["route", "status"]
        "Requests answered, by route and class of status.";
    REQUEST_DURATION = Histogram "sluice_request_duration_seconds" ["route"]
        "From the request head to the end of the response body.";
    REQUEST_BYTES = Counter "sluice_request_bytes_total" ["route"]
        "Bytes of request bodies received.";
    RESPONSE_BYTES = Counter "sluice_response_bytes_total" ["route"]
        "Bytes of response bodies sent.";
    REFUSALS = Counter "sluice_refusals_total" ["reason"]
        "Requests that failed or were refused, by reason.";
    CONNECTIONS = Counter "sluice_connections_total" ["listener", "outcome"]
        "Downstream connections, by what became of them.";
    CONNECTIONS_OPEN = Gauge "sluice_connections_open" ["listener"]
        "Downstream connections that are open now.";
    FIELDS_DROPPED = Counter "sluice_fields_dropped_total" ["cause"]
        "Request fields removed at the edge.";
    ATTEMPTS = Counter "sluice_attempts_total" ["upstream", "outcome"]
        "Attempts sent to an upstream, by class of status or reason of failure.";
    UPSTREAM_CONNECTIONS = Counter "sluice_upstream_connections_total" ["upstream", "outcome"]
        "Upstream connections: opened, failed, reused, closed while idle.";
    POOL_RACES = Counter "sluice_pool_races_total" ["upstream"]
        "Kept-alive connections an upstream closed as a request was written to them.";
    RATE_LIMIT_DECISIONS = Counter "sluice_rate_limit_decisions_total" ["policy", "decision"]
        "What rate limits said to requests: admitted, denied, shadow-denied.";
    RATE_LIMIT_OVERFLOW = Counter "sluice_rate_limit_overflow_total" ["policy"]
        "Decisions on the bucket that keys beyond `max_keys` share.";
    RATE_LIMIT_KEYS = Gauge "sluice_rate_limit_keys" ["policy"]
        "Keys a rate limit remembers.";
    RETRIES = Counter "sluice_retries_total" ["upstream", "reason"]
        "Attempts after the first, by what the one before failed with: a reason or a status.";
    RETRY_BUDGET_EXHAUSTED = Counter "sluice_retry_budget_exhausted_total" ["upstream"]
        "Retries that were not made because the upstream's budget was spent.";
    ENDPOINTS = Gauge "sluice_endpoints" ["upstream", "state"]
        "Endpoints of an upstream, by state: ready, down, ejected, breaker-open.";
    ENDPOINT_READY = Gauge "sluice_endpoint_ready" ["upstream", "endpoint"]
        "1 for an endpoint that is well, 0 while it is down, ejected or its breaker is open.";
    EJECTIONS = Counter "sluice_ejections_total" ["upstream", "endpoint"]
        "Endpoints put aside by outlier detection.";
    BREAKER_TRANSITIONS = Counter "sluice_breaker_transitions_total" ["upstream", "endpoint", "to"]
        "Circuit breakers that opened or closed.";
    HEALTH_TRANSITIONS = Counter "sluice_health_transitions_total" ["upstream", "endpoint", "to"]
        "Endpoints that health checks found up or down.";
    PANIC = Gauge "sluice_panic" ["upstream"]
        "1 while so few endpoints are healthy that health checks are ignored.";
    AUTH = Counter "sluice_auth_total" ["scheme", "outcome"]
        "Requests of routes with auth, by kind of credential and what became of it.";
    JWKS_FETCHES = Counter "sluice_jwks_fetches_total" ["issuer", "outcome"]
        "Key sets asked for, by what came of it.";
    JWKS_AGE = Gauge "sluice_jwks_age_seconds" ["issuer"]
        "Since the key set that serves was fetched; infinite when there is none.";
    CERTIFICATE_EXPIRY = Gauge "sluice_tls_certificate_expiry_timestamp_seconds" ["listener"]
        "When the first of the listener's certificates ends.";
    MIRRORED = Counter "sluice_mirrored_total" ["upstream", "outcome"]
        "Copies of requests: answered, failed, timeout, dropped (too many), not-in-memory.";
    ADAPTIVE_LIMIT = Gauge "sluice_adaptive_limit" ["upstream"]
        "Attempts an upstream may have under way, as its latency says.";
    ACCESS_LOG_LOST = Counter "sluice_access_log_lost_total" []
        "Access log lines dropped: the writer was behind, or the output failed.";
    SPANS_EXPORTED = Counter "sluice_spans_exported_total" []
        "Spans that the collector has taken.";
    SPANS_LOST = Counter "sluice_spans_lost_total" ["cause"]
        "Spans dropped: the queue was full, the export failed, or the collector rejected them.";
    CONFIG_RELOADS = Counter "sluice_config_reloads_total" []
        "Configurations taken over since the start.";
    CONFIG_RELOAD_FAILURES = Counter "sluice_config_reload_failures_total" []
        "Configurations refused since the start.";
    CONFIG_LOADED = Gauge "sluice_config_loaded_timestamp_seconds" []
        "When the running configuration was taken over.";
    ROUTES_UNLABELLED = Gauge "sluice_routes_unlabelled" []
        "Routes counted as `other`, because only the first 2,000 get labels.";
    STORED_REQUESTS = Counter "sluice_stored_requests_total" ["route", "how"]
        "Requests that were stored to be sent later, by how: enqueued, spilled.";
    STORED_REQUEST_ENDS = Counter "sluice_stored_request_ends_total" ["route", "end"]
        "Stored requests by how they ended: succeeded, failed, uncertain, expired, dead_lettered, lost.";
    QUEUE_EVENTS = Gauge "sluice_queue_events" ["topic"]
        "Events kept, an upper bound: gaps are counted as well.";
    QUEUE_BYTES = Gauge "sluice_queue_bytes" ["topic"]
        "Bytes kept on disk.";
    QUEUE_APPEND = Histogram "sluice_queue_append_seconds" ["topic"]
        "From the hand-over of an append to its acknowledgement.";
    QUEUE_SYNC = Histogram "sluice_queue_sync_seconds" ["topic"]
        "Duration of a sync to disk.";
    QUEUE_COMMIT_EVENTS = Histogram "sluice_queue_commit_events" ["topic"]
        "Events that share a sync.";
    QUEUE_REJECTED = Counter "sluice_queue_rejected_total" ["topic", "reason"]
        "Appends refused, by reason.";
    QUEUE_DISK_FREE = Gauge "sluice_queue_disk_free_bytes" []
        "Room on the disk that has the store.";
    QUEUE_OFFLINE = Gauge "sluice_queue_offline" ["topic"]
        "1 while the topic takes nothing, after damage or a failed sync.";
    QUEUE_CORRUPTION = Counter "sluice_queue_corruption_total" ["topic"]
        "Ranges of bad bytes found.";
    QUEUE_LOST = Counter "sluice_queue_lost_events_total" ["topic"]
        "Offsets lost to bad bytes, as far as is known.";
    QUEUE_RECOVERY = Gauge "sluice_queue_recovery_seconds" ["topic"]
        "How long the last opening took.";
    QUEUE_SCRUBBED = Gauge "sluice_queue_scrub_last_success_timestamp_seconds" ["topic"]
        "When all of it was last read back without a fault.";
    QUEUE_DROPPED = Counter "sluice_queue_dropped_total" ["topic", "reason"]
        "Events given up by a policy that allows it, by which.";
    QUEUE_DELAYED = Gauge "sluice_queue_delayed_events" ["topic"]
        "Events that wait for their time.";
    QUEUE_CLOCK_FROZEN = Gauge "sluice_queue_clock_frozen" ["topic"]
        "1 while what goes by the wall clock stands still, after a jump.";
    QUEUE_DEDUP_ENTRIES = Gauge "sluice_queue_dedup_entries" ["topic"]
        "Keys remembered to find duplicates by.";
    QUEUE_DEDUP_HITS = Counter "sluice_queue_dedup_hits_total" ["topic"]
        "Duplicates found.";
    QUEUE_DEDUP_WINDOW = Gauge "sluice_queue_dedup_window_seconds" ["topic"]
        "For how long a key is remembered now.";
    QUEUE_INGRESS_ENTRIES = Gauge "sluice_queue_ingress_entries" []
        "Requests with something on record that is not settled.";
    QUEUE_INGRESS_KEYS = Gauge "sluice_queue_ingress_keys" []
        "Idempotency keys that are remembered.";
    QUEUE_UNCERTAIN_KEYS = Gauge "sluice_queue_uncertain_keys" []
        "Idempotency keys that are held: an upstream may have acted, and nobody has said what became of it.";
    QUEUE_INGRESS_RESULTS = Gauge "sluice_queue_ingress_results" []
        "Stored requests that are being sent or whose result is kept.";
    QUEUE_INGRESS_UNREAD = Gauge "sluice_queue_ingress_unread" []
        "Places kept for stored requests of before the start that were not looked at yet.";
    QUEUE_INGRESS_BYTES = Gauge "sluice_queue_ingress_bytes" []
        "Bytes on disk of the records of requests.";
    QUEUE_UNCERTAIN = Counter "sluice_queue_uncertain_total" []
        "Requests that an upstream may have acted on, and nobody knows.";
    SUBSCRIPTION_LAG_EVENTS = Gauge "sluice_subscription_lag_events" ["subscription"]
        "Events not settled; an upper bound where only some types are taken.";
    SUBSCRIPTION_LAG_BYTES = Gauge "sluice_subscription_lag_bytes" ["subscription"]
        "Bytes on disk from the first event that is not settled.";
    SUBSCRIPTION_OLDEST_AGE = Gauge "sluice_subscription_oldest_age_seconds" ["subscription"]
        "Age of the oldest event that is not settled. The first to alert on.";
    SUBSCRIPTION_IN_FLIGHT = Gauge "sluice_subscription_in_flight" ["subscription"]
        "Events leased or being delivered.";
    SUBSCRIPTION_PARKED = Gauge "sluice_subscription_parked" ["subscription"]
        "Events held in memory: between two attempts, or behind another of their key.";
    SUBSCRIPTION_BLOCKED_KEYS = Gauge "sluice_subscription_blocked_keys" ["subscription"]
        "Keys that wait for `unblock`.";
    SUBSCRIPTION_SUSPECTS = Gauge "sluice_subscription_suspects" ["subscription"]
        "Events whose last two deliveries ended without a word.";
    SUBSCRIPTION_PAUSED = Gauge "sluice_subscription_paused" ["subscription"]
        "1 while it gives out nothing.";
    SUBSCRIPTION_DEAD_LETTERS = Gauge "sluice_subscription_dead_letters" ["subscription", "reason"]
        "Dead letters kept, by reason.";
    SUBSCRIPTION_DEAD_LETTERED = Counter "sluice_subscription_dead_letters_total" ["subscription", "reason"]
        "Events that became dead letters, by reason.";
    SUBSCRIPTION_DELIVERIES = Counter "sluice_subscription_deliveries_total" ["subscription", "outcome"]
        "Deliveries that ended: succeeded, failed, rejected, lapsed (without a word), released (not counted).";
    SUBSCRIPTION_ATTEMPTS = Histogram "sluice_subscription_attempts" ["subscription"]
        "Attempts that counted, of events that were taken or given up.";
    SUBSCRIPTION_DELIVERY = Histogram "sluice_subscription_delivery_seconds" ["subscription"]
        "From the beginning of a delivery to the consumer's or endpoint's answer.";
    SUBSCRIPTION_END_TO_END = Histogram "sluice_subscription_end_to_end_seconds" ["subscription"]
        "From publication to success, replays and redrives left out.";
    SUBSCRIPTION_CIRCUIT = Gauge "sluice_subscription_circuit_state" ["subscription"]
        "1 while only probes are sent to the endpoint, 0 while it is well. Of pushes alone.";
    SUBSCRIPTION_LOST = Counter "sluice_subscription_lost_events_total" ["subscription"]
        "Events dropped unsettled because their bytes are gone.";
    SUBSCRIPTION_DISCARDED = Counter "sluice_subscription_discarded_events_total" ["subscription"]
        "Events given up without a dead letter, by `then: discard` or by an operator.";
    SUBSCRIPTION_STOPPED_SAGAS = Counter "sluice_subscription_stopped_sagas_total" ["subscription"]
        "Events that nothing followed from: their saga is as deep as one may be, and has most likely lost its way.";
    TASKS_DETACHED = Gauge "sluice_tasks_detached" []
        "Requests that go on without their client.";
}

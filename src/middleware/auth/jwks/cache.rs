//! One issuer's keys from the network: fetched by control, read by every worker.
//!
//! Control owns the [`KeyCache`] and the one task that fetches; workers read what it has
//! [`Published`]. Only a request that finds no set, or not its key, takes the shared lock; it then
//! waits at most [`Timing::wait`](super::Timing), together with at most [`MAX_WAITING`] others.
//! Dropping the request only stops its wait, not the fetch.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Settings,
    machine::{Ask, Machine},
    source::{Failure, Fetched, Source},
};
use crate::{
    http::fetch::{Fetch, FetchError},
    middleware::auth::{
        algorithm::Algorithms,
        key_source::{Answer, KeySource, Missing, Published},
        keys::KeySet,
    },
    telemetry::{
        in_flight::Counter,
        metrics::{Cells, JWKS_AGE, JWKS_FETCHES},
        task,
    },
};

/// How many requests may wait for one issuer's keys; the rest are answered at once.
const MAX_WAITING: usize = 4096;

/// One issuer's keys, owned by control. Dropping it stops the fetching.
pub struct KeyCache {
    settings: Settings,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    cells: Cells,
}

/// What control, its task and the workers share.
struct Shared {
    issuer: Arc<str>,
    algorithms: Algorithms,
    machine: Mutex<Machine>,
    published: Published,
    /// Changes at the end of each fetch.
    ended: watch::Sender<Ended>,
    wake: Notify,
    waiting: Arc<Counter>,
    story: Mutex<Story>,
}

/// The workers' side.
struct Keys(Arc<Shared>);

/// How the latest fetch ended.
#[derive(Clone, Copy, Default)]
struct Ended {
    /// The set came from the issuer, not from a cache: a key that is not in it does not exist.
    is_proof: bool,
}

/// What control remembers about past fetches.
#[derive(Default)]
struct Story {
    document: Bytes,
    failure: Option<String>,
    has_served: bool,
}

// === impl KeyCache ===

impl KeyCache {
    /// Fetches the keys of an issuer, beginning at once. Call it on the control runtime.
    pub fn new(settings: Settings, fetch: Arc<dyn Fetch>, cells: &Cells) -> Self {
        let shared = Arc::new(Shared {
            issuer: settings.issuer.clone(),
            algorithms: settings.algorithms,
            machine: Mutex::new(Machine::new(settings.timing.clone(), Instant::now())),
            published: Published::default(),
            ended: watch::Sender::default(),
            wake: Notify::new(),
            waiting: Arc::default(),
            story: Mutex::default(),
        });
        // Aborted with the cache; it needs no other end.
        let following = follow(shared.clone(), settings.source.clone(), fetch, cells.clone());
        let task = task::spawn("key set", following);
        Self { settings, shared, task, cells: cells.clone() }
    }

    /// The settings: a reload that asks for the same set keeps the cache.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The source that workers read.
    pub fn source(&self) -> Arc<dyn KeySource> {
        Arc::new(Keys(self.shared.clone()))
    }

    /// Why there are no keys yet, for readiness if it waits for the first ones; `None` once there
    /// have been keys.
    pub fn lack(&self) -> Option<String> {
        let story = self.shared.story.lock();
        if story.has_served {
            return None;
        }
        let why = story.failure.as_deref().unwrap_or("it is being fetched");
        Some(format!("issuer `{}` has no key set yet: {why}", self.shared.issuer))
    }

    /// Updates the gauge of the set's age; without a set it is infinite.
    pub fn report(&self) {
        let fetched = self.shared.machine.lock().fetched();
        let age = fetched.map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64());
        self.cells.gauge(&JWKS_AGE, &[&self.shared.issuer]).set(age);
    }
}

impl Drop for KeyCache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache").field("issuer", &self.shared.issuer).finish_non_exhaustive()
    }
}

// === impl Keys ===

impl KeySource for Keys {
    fn published(&self) -> &Published {
        &self.0.published
    }

    fn missing(&self, kid: Option<&str>) -> Missing {
        // Before asking, so that no end of a fetch is missed.
        let ended = self.0.ended.subscribe();
        if let Some(answer) = self.0.ask(kid) {
            return Missing::Now(answer);
        }
        let Some(place) = self.0.waiting.try_enter(MAX_WAITING) else {
            return Missing::Now(self.0.lack());
        };
        let (shared, kid) = (self.0.clone(), kid.map(Box::<str>::from));
        Missing::Wait(Box::pin(async move {
            let _place = place;
            shared.wait(kid.as_deref(), ended).await
        }))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.0.issuer).finish()
    }
}

// === impl Shared ===

impl Shared {
    /// The answer about a key, or `None` if it comes with the end of a fetch.
    fn ask(&self, kid: Option<&str>) -> Option<Answer> {
        if self.serves(kid) {
            return Some(Answer::Published);
        }
        match self.machine.lock().ask(kid, Instant::now()) {
            Ask::Unknown => Some(Answer::Unknown),
            Ask::Unavailable => Some(Answer::Unavailable),
            Ask::Wait => {
                self.wake.notify_one();
                None
            }
        }
    }

    /// Waits for the end of the requested fetch, and of the next one if that proves nothing.
    async fn wait(&self, kid: Option<&str>, mut ended: watch::Receiver<Ended>) -> Answer {
        let deadline = Instant::now() + self.machine.lock().timing().wait;
        loop {
            // An error means that the cache is gone: nothing more will come.
            if !matches!(timeout_at(deadline, ended.changed()).await, Ok(Ok(()))) {
                return self.lack();
            }
            let Ended { is_proof } = *ended.borrow_and_update();
            if let Some(kid) = kid
                && is_proof
                && !self.serves(Some(kid))
            {
                self.machine.lock().missed(kid, Instant::now());
            }
            if let Some(answer) = self.ask(kid) {
                return answer;
            }
        }
    }

    /// Whether there is a set and, with a `kid`, whether the set has that key.
    fn serves(&self, kid: Option<&str>) -> bool {
        self.published.latest().is_some_and(|set| match kid {
            Some(kid) => set.keys().iter().any(|key| key.kid() == Some(kid)),
            None => true,
        })
    }

    /// The answer if nothing more can be found out.
    fn lack(&self) -> Answer {
        if self.published.latest().is_some() { Answer::Unknown } else { Answer::Unavailable }
    }

    fn parse(&self, document: &[u8]) -> Result<KeySet, Failure> {
        let set = KeySet::parse(document, self.algorithms)
            .map_err(|error| Failure::Invalid(error.to_string().into()))?;
        if set.keys().is_empty() {
            // One reason is enough to show what kind of keys these are.
            let reason = set.skipped().first().map_or("there is none", |skipped| skipped.reason);
            return Err(Failure::Empty(reason));
        }
        Ok(set)
    }

    /// Withdraws a set that is too old.
    fn expire(&self) {
        self.story.lock().document = Bytes::new();
        self.published.withdraw();
        tracing::error!(
            issuer = %self.issuer,
            "the last good key set is too old: its tokens are refused until a new one is here",
        );
    }

    fn succeeded(&self, set: KeySet, fetched: Fetched, is_past_caches: bool) {
        let now = Instant::now();
        let max_age = fetched.max_age;
        let (is_new, was_failing) = {
            let mut story = self.story.lock();
            story.has_served = true;
            let is_new = story.document != fetched.body;
            story.document = fetched.body;
            (is_new, story.failure.take().is_some())
        };
        // The same document does not count as a change, so what was verified with it stays valid.
        if is_new {
            self.published.publish(set);
        }
        // Last, so that a request that sees the fetch ended also finds its keys.
        self.machine.lock().succeeded(max_age, fastrand::f64(), now);
        if is_new || was_failing {
            tracing::info!(issuer = %self.issuer, is_new, "key set fetched");
        }
        self.ended.send_replace(Ended { is_proof: is_past_caches });
    }

    fn failed(&self, failure: &Failure, source: &Source) {
        let now = Instant::now();
        let (next, expires) = {
            let mut machine = self.machine.lock();
            machine.failed(fastrand::f64(), now);
            (machine.due().map(|at| at - now), machine.expires().map(|at| at - now))
        };
        let serving = match expires {
            Some(left) => format!("the last good set serves for {} more", hours(left)),
            None => "there is no set: its tokens are refused".to_owned(),
        };
        tracing::warn!(
            issuer = %self.issuer, %source, outcome = failure.outcome(), again_in = next.map(tracing::field::debug),
            "no new key set: {failure}; {}; {serving}", failure.help(),
        );
        self.story.lock().failure = Some(format!("{failure}; {}", failure.help()));
        self.ended.send_replace(Ended { is_proof: false });
    }
}

/// Fetches whenever the machine says so. Never completes.
async fn follow(shared: Arc<Shared>, source: Source, fetch: Arc<dyn Fetch>, cells: Cells) {
    loop {
        let due = shared.machine.lock().due();
        match due {
            // Time is up or somebody asks: either way the machine knows what to do.
            Some(due) => tokio::select! {
                () = sleep_until(due) => {}
                () = shared.wake.notified() => {}
            },
            None => shared.wake.notified().await,
        }
        let now = Instant::now();
        let (has_expired, begun, limit) = {
            let mut machine = shared.machine.lock();
            (machine.expire(now), machine.begin(now), machine.timing().fetch)
        };
        if has_expired {
            shared.expire();
        }
        let Some(is_past_caches) = begun else { continue };
        let deadline = now + limit;
        let fetching = source.fetch(&*fetch, is_past_caches, deadline);
        // Enforces the deadline on a fetch that does not keep to it by itself.
        let fetched = timeout_at(deadline, fetching)
            .await
            .unwrap_or(Err(Failure::Fetch(FetchError::Timeout)));
        let parsed = fetched.and_then(|fetched| Ok((shared.parse(&fetched.body)?, fetched)));
        let outcome = parsed.as_ref().map_or_else(Failure::outcome, |_| "ok");
        cells.counter(&JWKS_FETCHES, &[&shared.issuer, outcome]).add(1);
        match parsed {
            Ok((set, fetched)) => shared.succeeded(set, fetched, is_past_caches),
            Err(failure) => shared.failed(&failure, &source),
        }
    }
}

/// `23 h`, `59 min`.
fn hours(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    if minutes >= 120 { format!("{} h", minutes / 60) } else { format!("{minutes} min") }
}

//! `rate_limit`: how many requests each client may make.
//!
//! Touches the requests of routes that name policies; used twice in the stack. Before `auth` it
//! charges the policies whose key every request has, so that a flood pays for no signature check;
//! after it, those keyed by a claim or the principal. The first charge stays even if the second
//! layer denies. Refuses with 429 `rate-limited`, `Retry-After` and the problem type
//! `quota-exceeded`.
//!
//! Leaves `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) in the context;
//! `respond` adds them to whatever answer there is. Policies in shadow mode are left out. Counts
//! `sluice_rate_limit_decisions_total`. Requests are charged, not attempts: a retry costs nothing
//! more, and nothing is refunded when the client leaves.
//!
//! Costs per policy a hash and a lock held for less than a microsecond (`benches/rate_limit.rs`),
//! and two allocations for the fields; without policies a look at an `Option`.

use std::{
    future::{self, Ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    charge::{Keys, Outcome, Verdict, charge},
    gcra::Nanos,
    policy::{Mode, Policy},
};
use crate::{
    error::{Error, Exceeded, Kind},
    http::{
        Next, Request, Response,
        rate_limit_fields::{Left, RateLimitFields, Told},
        selector::Input,
    },
    telemetry::{
        clock,
        metrics::{Cells, Counter, RATE_LIMIT_DECISIONS, RATE_LIMIT_OVERFLOW},
    },
};

/// Makes [`RateLimit`]s; without limits they admit everybody.
#[derive(Clone, Debug)]
pub struct RateLimitLayer(Option<Arc<Limits>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    limits: Option<Arc<Limits>>,
    inner: S,
}

/// The policies of one route in one phase, with one worker's cells. Held in a worker's own `Arc`:
/// the policies inside are shared, but requests do not touch their reference counts.
#[derive(Debug)]
pub struct Limits {
    policies: Box<[Arc<Policy>]>,
    decisions: Box<[Decisions]>,
    /// Those not in shadow mode; `None` if all are.
    told: Option<Arc<Told>>,
}

/// One policy's counters on one worker.
#[derive(Debug)]
struct Decisions {
    admitted: Counter,
    denied: Counter,
    shadow_denied: Counter,
    overflow: Counter,
}

/// The time as buckets count it.
pub fn nanos(now: Instant) -> Nanos {
    let since = clock::elapsed(now).as_nanos();
    // Enough for five centuries.
    Nanos::from(u64::try_from(since).unwrap_or(u64::MAX / 2))
}

// === impl RateLimitLayer ===

impl RateLimitLayer {
    /// A layer with these limits; `None`: everybody is admitted.
    pub fn new(limits: Option<Limits>) -> Self {
        Self(limits.map(Arc::new))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { limits: self.0.clone(), inner }
    }
}

// === impl RateLimit ===

impl<S: Next> Service<Request> for RateLimit<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.limits.as_ref().map_or(Ok(()), |limits| limits.admit(&request)) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(error) => Either::Right(future::ready(Err(error))),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// The `policies` that apply in this phase: with `after_auth` those whose key needs a
    /// principal, otherwise all others. `None` if there are none.
    pub fn new<'a>(
        policies: impl Iterator<Item = &'a Arc<Policy>>,
        after_auth: bool,
        cells: &Cells,
    ) -> Option<Self> {
        let is_here = |policy: &&Arc<Policy>| policy.settings().key.needs_principal() == after_auth;
        let mut policies: Vec<_> = policies.filter(is_here).cloned().collect();
        // The order in which buckets are locked, on all routes and in all configurations.
        policies.sort_by_key(|policy| policy.store().id());
        policies.dedup_by_key(|policy| policy.store().id());
        (!policies.is_empty()).then(|| Self {
            decisions: policies.iter().map(|policy| Decisions::new(policy, cells)).collect(),
            told: told(&policies),
            policies: policies.into(),
        })
    }

    fn admit(&self, request: &Request) -> Result<(), Error> {
        let input = Input::new(&request.parts, &request.cx);
        let keys: Keys = self.policies.iter().map(|policy| policy.fingerprint(&input)).collect();
        let verdicts = charge(&self.policies, &keys, nanos(clock::tick()));
        self.tell(request, &verdicts);
        self.count(&verdicts);
        let waits = verdicts.iter().filter_map(Verdict::wait);
        match waits.max() {
            None => Ok(()),
            Some(retry_after) => {
                Err(Kind::RateLimited(Exceeded { retry_after, policies: self.violated(&verdicts) })
                    .into())
            }
        }
    }

    /// Leaves in the context how many more would pass, and in how many seconds each bucket is full.
    fn tell(&self, request: &Request, verdicts: &[Verdict]) {
        let Some(told) = &self.told else { return };
        let enforced = self.policies.iter().zip(verdicts).filter(|(policy, _)| policy.is_told());
        let left = enforced.map(|(policy, Verdict { standing, .. })| Left {
            remaining: standing.remaining,
            reset: policy.settings().seconds(standing.reset),
        });
        request.cx.add_rate_limit(RateLimitFields::new(told.clone(), left));
    }

    fn count(&self, verdicts: &[Verdict]) {
        let is_denied = verdicts.iter().any(|verdict| verdict.wait().is_some());
        for (decisions, verdict) in self.decisions.iter().zip(verdicts) {
            match verdict.outcome {
                Outcome::Denied { .. } => decisions.denied.add(1),
                Outcome::ShadowDenied => decisions.shadow_denied.add(1),
                Outcome::Admitted if !is_denied => decisions.admitted.add_alone(1),
                // Another policy denied: this one was not charged.
                Outcome::Admitted => {}
            }
            if verdict.is_overflow {
                decisions.overflow.add(1);
            }
        }
    }

    fn violated(&self, verdicts: &[Verdict]) -> Box<[Box<str>]> {
        let all = self.policies.iter().zip(verdicts);
        all.filter(|(_, verdict)| verdict.wait().is_some())
            .map(|(policy, _)| Box::from(&*policy.settings().name))
            .collect()
    }
}

fn told(policies: &[Arc<Policy>]) -> Option<Arc<Told>> {
    let told = policies.iter().filter(|policy| policy.is_told()).map(|policy| {
        let settings = policy.settings();
        let (burst, window) = (settings.limit.burst(), settings.window());
        (&*settings.name, format!("q={burst};w={window}"))
    });
    Told::new(told).map(Arc::new)
}

// === impl Policy ===

impl Policy {
    /// Whether clients are told: a limit that denies nothing would only slow them down.
    fn is_told(&self) -> bool {
        self.settings().mode == Mode::Enforce
    }
}

// === impl Verdict ===

impl Verdict {
    /// How long a denied request must wait.
    fn wait(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Denied { wait } => Some(wait),
            Outcome::Admitted | Outcome::ShadowDenied => None,
        }
    }
}

// === impl Decisions ===

impl Decisions {
    fn new(policy: &Policy, cells: &Cells) -> Self {
        let name = &policy.settings().name;
        let counter = |decision| cells.counter(&RATE_LIMIT_DECISIONS, &[name, decision]);
        Self {
            admitted: counter("admitted"),
            denied: counter("denied"),
            shadow_denied: counter("shadow-denied"),
            overflow: cells.counter(&RATE_LIMIT_OVERFLOW, &[name]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tokio::time::{advance, pause};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::{
            Body, ClientIp,
            selector::{Part, Selector},
        },
        middleware::{
            rate_limit::{Key, gcra, policy::Settings},
            testing::get,
        },
        telemetry::metrics::Metrics,
    };

    fn policy(name: &str, part: &str, burst: u32, mode: Mode) -> Arc<Policy> {
        let per = Duration::from_secs(1);
        let settings = Settings {
            name: name.into(),
            key: Key::new(Selector::new([Part::parse(part).unwrap()]), part),
            limit: gcra::limit(2, per, NonZeroU32::new(burst).unwrap()).unwrap(),
            count: 2,
            per,
            mode,
            max_keys: 1000,
        };
        Policy::new(settings, &[])
    }

    struct Setup {
        metrics: Metrics,
        layer: RateLimitLayer,
    }

    impl Setup {
        fn new(policies: &[Arc<Policy>]) -> Self {
            let metrics = Metrics::new();
            let limits = Limits::new(policies.iter(), false, &metrics.thread());
            Self { metrics, layer: RateLimitLayer::new(limits) }
        }

        async fn call(&self, client: &str) -> (Result<Response, Error>, Vec<RateLimitFields>) {
            let request = get("/");
            request.cx.set_client_ip(ClientIp::Ip(client.parse().unwrap()));
            let cx = request.cx.clone();
            let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
            let answer = self.layer.layer(inner).oneshot(request).await;
            (answer, cx.rate_limits().cloned().collect())
        }

        fn counted(&self, series: &str) -> u64 {
            let text = self.metrics.render();
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            value.map_or(0, |value| value.parse().unwrap())
        }
    }

    #[tokio::test]
    async fn a_denied_request_hears_when_to_come_back_and_which_policies_it_broke() {
        pause();
        let policies = [
            policy("per-client", "client_ip", 2, Mode::Enforce),
            policy("all", "method", 100, Mode::Enforce),
        ];
        let setup = Setup::new(&policies);
        for left in [1, 0] {
            let (answer, fields) = setup.call("192.0.2.1").await;
            assert!(answer.is_ok());
            assert_eq!(fields[0].policy(), "\"per-client\";q=2;w=1, \"all\";q=100;w=50");
            let state = format!("\"per-client\";r={left};t=1, \"all\";r={};t=1", 98 + left);
            assert_eq!(fields[0].state().to_str().unwrap(), state);
        }
        let (answer, fields) = setup.call("192.0.2.1").await;
        let error = answer.unwrap_err();
        let Kind::RateLimited(exceeded) = error.kind() else { panic!("{error}") };
        assert_eq!(exceeded.retry_after, Duration::from_millis(500));
        assert_eq!(*exceeded.policies, ["per-client".into()]);
        assert_eq!(fields[0].state(), "\"per-client\";r=0;t=1, \"all\";r=98;t=1", "uncharged");
        assert!(setup.call("192.0.2.2").await.0.is_ok(), "another client has its own");
        advance(Duration::from_millis(500)).await;
        assert!(setup.call("192.0.2.1").await.0.is_ok());

        let series = |policy, decision| {
            format!(
                "sluice_rate_limit_decisions_total{{policy=\"{policy}\",decision=\"{decision}\"}}"
            )
        };
        assert_eq!(setup.counted(&series("per-client", "admitted")), 4);
        assert_eq!(setup.counted(&series("per-client", "denied")), 1);
        assert_eq!(setup.counted(&series("all", "admitted")), 4);
        assert_eq!(setup.counted(&series("all", "denied")), 0);
    }

    #[tokio::test]
    async fn a_shadow_admits_counts_and_is_not_told() {
        let setup = Setup::new(&[policy("dry", "client_ip", 1, Mode::Shadow)]);
        for _ in 0..3 {
            let (answer, fields) = setup.call("192.0.2.1").await;
            assert!(answer.is_ok() && fields.is_empty());
        }
        let series = "sluice_rate_limit_decisions_total{policy=\"dry\",decision=\"shadow-denied\"}";
        assert_eq!(setup.counted(series), 2);
    }

    #[tokio::test]
    async fn each_phase_judges_its_own() {
        let policies = [
            policy("by-address", "client_ip", 1, Mode::Enforce),
            policy("by-user", "claim:sub", 1, Mode::Enforce),
            policy("by-principal", "principal", 1, Mode::Enforce),
        ];
        let cells = Metrics::new().thread();
        let names = |after_auth| -> Vec<String> {
            let limits = Limits::new(policies.iter(), after_auth, &cells).unwrap();
            limits.policies.iter().map(|policy| policy.settings().name.to_string()).collect()
        };
        assert_eq!(names(false), ["by-address"]);
        assert_eq!(names(true), ["by-user", "by-principal"]);
        assert!(Limits::new(policies[..1].iter(), true, &cells).is_none());
    }
}

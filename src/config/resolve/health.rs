//! `health_check`, `outlier`, `breaker`, `panic_threshold`, `slow_start`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::uri::PathAndQuery;

use super::Resolver;
use crate::{
    balancer::{
        Policy, Source, SourceAddress, breaker,
        health::{Check, Settings},
        outlier,
    },
    config::{
        file::{
            Upstream,
            health::{Breaker, HealthCheck, Outlier},
        },
        value::{Fault, Percent, StatusRange},
        written::{Placed, Written},
    },
    upstream::{self, Protocol},
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_FALL: u32 = 3;
const DEFAULT_RISE: u32 = 2;
/// The longest interval while the state is changing.
const CHANGING_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval while it is down; up to three times the interval.
const DOWN_INTERVAL: Duration = Duration::from_secs(15);
pub(super) const DEFAULT_PANIC_THRESHOLD: f64 = 0.5;
pub(super) const DEFAULT_SLOW_START: Duration = Duration::from_secs(30);

impl Resolver<'_> {
    pub(super) fn health_check(
        &mut self,
        written: &Placed<HealthCheck>,
        transport: &upstream::Settings,
    ) -> Arc<Settings> {
        let check = &written.value;
        let interval = self.positive(check.interval.as_ref(), DEFAULT_INTERVAL);
        Arc::new(Settings {
            check: self.check(written, transport).unwrap_or(Check::Tcp),
            interval,
            changing_interval: interval.min(CHANGING_INTERVAL),
            down_interval: DOWN_INTERVAL.min(interval.saturating_mul(3)),
            timeout: self.positive(check.timeout.as_ref(), DEFAULT_TIMEOUT),
            fall: self.at_least_one(check.fall.as_ref(), DEFAULT_FALL),
            rise: self.at_least_one(check.rise.as_ref(), DEFAULT_RISE),
        })
    }

    fn check(
        &mut self,
        written: &Placed<HealthCheck>,
        transport: &upstream::Settings,
    ) -> Option<Check> {
        let HealthCheck { path, grpc, tcp, expect, .. } = &written.value;
        let is_tcp = self.or(tcp.as_ref(), false);
        if let Some(expect) = expect.as_ref().and_then(|expect| expect.first())
            && path.is_none()
        {
            self.error(expect.place, Fault::new("`expect` is only for checks with `path`"));
        }
        match (path, grpc, is_tcp) {
            (Some(path), None, false) => {
                let is_path =
                    path.text.starts_with('/') && path.text.parse::<PathAndQuery>().is_ok();
                if !is_path {
                    let fault = Fault::new(format!("`{}` is not a path", path.text));
                    self.error(path.place, fault.help("a path starts with `/`: `/healthz`"));
                }
                let expect = self.expected(expect.as_deref());
                Some(Check::Http { path: path.text.as_str().into(), expect })
            }
            (None, Some(service), false) => {
                let is_h2 = match transport.protocol {
                    Protocol::H2 => true,
                    Protocol::Auto => transport.tls.is_some(),
                    Protocol::H1 => false,
                };
                if !is_h2 {
                    let fault = Fault::new("`grpc` needs HTTP/2");
                    self.error(service.place, fault.help("add `protocol: h2` to the upstream"));
                }
                Some(Check::Grpc { service: service.text.as_str().into() })
            }
            (None, None, true) => Some(Check::Tcp),
            (None, None, false) => {
                let fault = Fault::new("this health check does not say what to probe");
                let help = "write one of `path: /healthz`, `grpc: SERVICE`, `tcp: true`";
                self.error(written.place, fault.help(help));
                None
            }
            _ => {
                let fault = Fault::new("a health check has one of `path`, `grpc` and `tcp`");
                self.error(written.place, fault);
                None
            }
        }
    }

    fn expected(
        &mut self,
        written: Option<&[Written<StatusRange>]>,
    ) -> Vec<std::ops::RangeInclusive<u16>> {
        match written {
            None | Some([]) => vec![200..=299],
            Some(ranges) => ranges.iter().filter_map(|range| Some(self.value(range)?.0)).collect(),
        }
    }

    pub(super) fn outlier(&mut self, written: Option<&Outlier>) -> outlier::Settings {
        let default = outlier::Settings::default();
        let Some(outlier) = written else { return default };
        let base_ejection = self.positive(outlier.base_ejection.as_ref(), default.base_ejection);
        let max_ejection = self.longer(
            outlier.max_ejection.as_ref(),
            default.max_ejection,
            ("base_ejection", base_ejection),
        );
        let max_ejected = self.or(outlier.max_ejected.as_ref(), Percent(default.max_ejected));
        outlier::Settings {
            consecutive_failures: self
                .at_least_one(outlier.consecutive_failures.as_ref(), default.consecutive_failures),
            interval: self.positive(outlier.interval.as_ref(), default.interval),
            base_ejection,
            max_ejection,
            max_ejected: max_ejected.0,
        }
    }

    pub(super) fn breaker(&mut self, written: &Breaker) -> breaker::Settings {
        let default = breaker::Settings::default();
        let probe_after = self.positive(written.probe_after.as_ref(), default.probe_after);
        let max_wait =
            self.longer(written.max_wait.as_ref(), default.max_wait, ("probe_after", probe_after));
        let rate = self.or(written.success_rate.as_ref(), Percent(default.success_rate));
        breaker::Settings {
            consecutive_failures: self
                .at_least_one(written.consecutive_failures.as_ref(), default.consecutive_failures),
            success_rate: rate.0,
            window: self.positive(written.window.as_ref(), default.window),
            min_samples: self.at_least_one(written.min_samples.as_ref(), default.min_samples),
            probe_after,
            max_wait,
        }
    }

    /// Says of what is written that it cannot do anything.
    pub(super) fn warn_idle(&mut self, written: &Upstream, policy: &Policy, sources: &[Source]) {
        // How many there are at most, where that is known.
        let is_fixed = |source: &Source| match &source.address {
            SourceAddress::Unix(_) => true,
            SourceAddress::Host { host, .. } => host.parse::<IpAddr>().is_ok(),
            SourceAddress::Srv(_) => false,
        };
        let known = sources.iter().all(is_fixed).then_some(sources.len());
        if let Some(slow_start) = &written.slow_start
            && matches!(policy, Policy::Hash(_))
        {
            let fault = Fault::new("`slow_start` has no effect with `balance: { hash: .. }`");
            let help = "a value always goes to its endpoint, even to one that was just added";
            self.warn(slow_start.place, fault.help(help));
        }
        if let Some(outlier) = &written.outlier
            && known == Some(1)
        {
            let fault = Fault::new("`outlier` has no effect on this upstream");
            self.warn(outlier.place, fault.help("a single endpoint is never ejected"));
        }
        if let Some(threshold) = &written.panic_threshold {
            let fault = Fault::new("`panic_threshold` has no effect on this upstream");
            if written.health_check.is_none() {
                self.warn(
                    threshold.place,
                    fault.help(
                        "it says when to ignore health checks, and there is no `health_check`",
                    ),
                );
            } else if known.is_some_and(|known| known < 3) {
                self.warn(threshold.place, fault.help("it needs at least three endpoints"));
            }
        }
    }

    fn at_least_one(&mut self, written: Option<&Written<u32>>, default: u32) -> u32 {
        self.in_range(written, default, 1..=u32::MAX, |least| format!("at least {least}"))
    }

    /// A span that is not shorter than another one; where it is not written, at least as long.
    fn longer(
        &mut self,
        written: Option<&Written<Duration>>,
        default: Duration,
        (name, least): (&str, Duration),
    ) -> Duration {
        self.in_range(written, default.max(least), least..=Duration::MAX, |_| {
            format!("at least as long as `{name}`")
        })
    }
}

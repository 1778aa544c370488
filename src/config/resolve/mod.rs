//! Turns a [`File`] into a [`Config`]: references, ranges, rules across fields.
//!
//! Every problem is gathered. A wrong value is reported and replaced by its default so that
//! checking can go on; if anything was reported, the result is discarded.

mod actions;
mod api_keys;
mod auth;
mod enqueue;
mod events_api;
mod files;
mod health;
mod idempotency;
mod issuers;
mod limits;
mod listeners;
mod nothing;
mod policies;
mod publish;
mod push;
mod rate_limits;
mod reactions;
mod remote;
mod requests;
mod retry;
mod routes;
mod schemes;
mod subscriptions;
mod topics;
mod tracing;
mod traffic;
mod upstreams;

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::HeaderName;

use self::auth::Credentials;
use super::{
    Config, Loaded, Problems, Route,
    file::{self, File, LogLevel},
    parse,
    problem::{Problem, Severity, Source},
    shown,
    tree::Tree,
    value::{Fault, Percent, Value, Workers},
    written::{Place, Written},
};
use crate::{
    http::Cidrs,
    middleware::{self, edge},
    telemetry::{self, AccessLogPath, AccessLogSettings},
};

/// Tens of thousands of routes. More would be parsed for seconds, on the thread that reloads.
const MAX_BYTES: usize = 4 << 20;

/// Fields that say who the client is, on whatever route: verified claims, and what services of
/// `auth.forward` tell. Nobody else's word, also where another check of `any_of` lets a client in.
fn stripped(routes: &[Route], known: &Credentials) -> Vec<HeaderName> {
    let claims = routes.iter().flat_map(|route| &route.claims.headers).map(|(name, _)| name);
    let told = auth::told_by_services(routes).filter(|name| known.is_identity(name));
    let unique: BTreeSet<&str> = claims.chain(told).map(HeaderName::as_str).collect();
    unique.into_iter().filter_map(|name| name.parse().ok()).collect()
}

/// Where the run stands: what the configuration may refer to, and what was found wrong.
struct Resolver<'a> {
    base: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    found: Vec<Found>,
    /// Problems of other files.
    elsewhere: Vec<Problem>,
    watched: Vec<PathBuf>,
    /// Fields that carry API keys.
    key_fields: Vec<HeaderName>,
}

/// What routes refer to by name.
struct Named<'a> {
    upstreams: &'a mut upstreams::Upstreams,
    rate_limits: &'a mut rate_limits::RateLimits,
    credentials: &'a Credentials,
    flow: publish::Flow<'a>,
    /// `admin.allow_faults`.
    allow_faults: bool,
}

/// A problem, before its path and its source lines are looked up.
struct Found {
    severity: Severity,
    place: Place,
    path: Option<String>,
    fault: Fault,
}

/// The configuration in `text`; see [`parse`](fn@super::parse).
pub fn resolve(
    text: &str,
    name: &str,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Problems> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Problems(vec![Problem::of_file(name, message)]));
    }
    let source = Source::new(name, text);
    let (tree, file) =
        parse::parse::<File>(&source, text).map_err(|problem| Problems(vec![*problem]))?;
    let key_fields = api_key_fields(&file);
    let shown = Arc::new(shown::effective(&tree, &key_fields));
    let (found, elsewhere, watched) = (Vec::new(), Vec::new(), Vec::new());
    let mut resolver = Resolver { base, env, found, elsewhere, watched, key_fields };
    resolver.refuse_nothing(&tree);
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    let config = resolver.config(&file, hash.into(), shown);
    resolver.finish(config, &source, &tree)
}

/// The fields in which clients may send API keys: those that are written, and the customary one.
fn api_key_fields(file: &File) -> Vec<HeaderName> {
    let sets = file.api_keys.iter().flat_map(|sets| sets.iter());
    let written = sets.filter_map(|(_, set)| set.header.as_ref()?.text.parse().ok());
    written.chain([HeaderName::from_static("x-api-key")]).collect()
}

// === impl Resolver ===

impl Resolver<'_> {
    fn config(&mut self, file: &File, hash: Arc<str>, shown: Arc<serde_json::Value>) -> Config {
        let trusted_proxies = self.cidrs(&file.trusted_proxies);
        let none = file::Limits::default();
        let limits = self.limits(file.limits.as_ref().unwrap_or(&none));
        let admin = self.admin(file.admin.as_ref());
        let listeners = self.listeners(&file.listeners, &limits, &trusted_proxies);
        self.check_admin_address(file, &admin);
        let known = Credentials {
            issuers: self.issuers(file.issuers.as_ref()),
            api_keys: self.api_keys(file.api_keys.as_ref()),
        };
        self.check_principals(file);
        let mut upstreams =
            self.upstreams(file.upstreams.as_ref(), limits.connection.send_idle_timeout);
        let written_upstreams = upstreams.len();
        let mut rate_limits = self.rate_limits(file.rate_limits.as_ref());
        let allow_faults = file.admin.as_ref().and_then(|admin| admin.allow_faults.as_ref());
        let events = self.store(file, &mut upstreams);
        let flow = publish::Flow {
            topics: events.as_ref().map_or(&[], |events| &events.topics),
            subscriptions: events.as_ref().map_or(&[], |events| &events.subscriptions),
        };
        let mut named = Named {
            flow,
            upstreams: &mut upstreams,
            rate_limits: &mut rate_limits,
            allow_faults: self.or(allow_faults, false),
            credentials: &known,
        };
        let written_routes = file.routes.as_deref().unwrap_or_default();
        let routes = self.routes(written_routes, &limits, &mut named);
        self.warn_of_schemes(written_routes, &routes, &listeners, &trusted_proxies);
        let events_api = self.events_api(file, events.as_ref(), &limits, (&known, &mut upstreams));
        let retry_budgets = upstreams.retry_budgets();
        let auths = routes.iter().map(|route| route.auth.as_ref());
        let auths = auths.chain(events_api.iter().map(|api| api.auth.as_ref()));
        let auths: Vec<_> = auths.flatten().collect();
        self.warn_unused_credentials(file, &auths);
        self.warn_unasked_certificates(written_routes, &listeners);
        let upstreams = self.warn_unused(upstreams);
        let telemetry = self.telemetry(file.telemetry.as_ref(), &auths);
        Config {
            workers: self.or(file.workers.as_ref(), Workers(None)).0,
            listeners,
            admin,
            edge: edge::Settings { stripped: stripped(&routes, &known), trusted_proxies },
            rate_limits: self.warn_unused_limits(rate_limits),
            issuers: known.issuers,
            api_keys: known.api_keys,
            adaptive: self.adaptive_limits(file, upstreams.len()),
            upstreams,
            written_upstreams,
            retry_budgets,
            routes,
            events,
            events_api,
            telemetry,
            hash,
            shown,
        }
    }

    fn finish(self, config: Config, source: &Source<'_>, tree: &Tree) -> Result<Loaded, Problems> {
        // Beside errors a warning is noise: it may come from what stands in for a wrong value.
        let is_valid = self.elsewhere.is_empty()
            && self.found.iter().all(|found| found.severity == Severity::Warning);
        let mut problems: Vec<_> = self
            .found
            .into_iter()
            .filter(|found| is_valid || found.severity == Severity::Error)
            .map(|Found { severity, place, path, fault }| {
                let path = path
                    .or_else(|| tree.path_of(place))
                    .or_else(|| tree.path_of_key(place))
                    .unwrap_or_default();
                source.problem(severity, place, path, &fault)
            })
            .collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.extend(self.elsewhere);
        if is_valid {
            Ok(Loaded { config, warnings: problems, watched: self.watched })
        } else {
            Err(Problems(problems))
        }
    }

    fn telemetry(
        &mut self,
        telemetry: Option<&file::Telemetry>,
        auths: &[&middleware::auth::Settings],
    ) -> telemetry::Settings {
        let none = file::Telemetry::default();
        let telemetry = telemetry.unwrap_or(&none);
        let no_log = file::AccessLog::default();
        let log = telemetry.access_log.as_ref().unwrap_or(&no_log);
        let path = match log.path.as_ref().map(|path| path.text.as_str()) {
            None | Some("stdout") => AccessLogPath::Stdout,
            Some("off") => AccessLogPath::Off,
            Some(path) => AccessLogPath::File(self.base.join(path)),
        };
        if let Some(format) = &log.format {
            self.value(format);
        }
        let log_level = match self.or(telemetry.log_level.as_ref(), LogLevel::Info) {
            LogLevel::Error => ::tracing::Level::ERROR,
            LogLevel::Warn => ::tracing::Level::WARN,
            LogLevel::Info => ::tracing::Level::INFO,
            LogLevel::Debug => ::tracing::Level::DEBUG,
            LogLevel::Trace => ::tracing::Level::TRACE,
        };
        let labels = telemetry.metrics.as_ref().and_then(|metrics| metrics.route_labels.as_ref());
        telemetry::Settings {
            access_log: AccessLogSettings {
                path,
                sample: self.or(log.sample.as_ref(), Percent(1.0)).0,
                query: self.or(log.query.as_ref(), false),
                hidden: auth::token_parameters(auths.iter().copied()),
            },
            log_level,
            route_labels: self.or(labels, true),
            tracing: telemetry.tracing.as_ref().and_then(|tracing| self.tracing(tracing)),
        }
    }

    fn cidrs(&mut self, written: &[Written<ipnet::IpNet>]) -> Cidrs {
        Cidrs::new(written.iter().filter_map(|network| self.value(network)).collect::<Vec<_>>())
    }

    /// The value, or a problem.
    fn value<T: Value>(&mut self, written: &Written<T>) -> Option<T> {
        self.checked(written.place, T::parse(&written.text))
    }

    /// The value, or a problem at this place.
    fn checked<T>(&mut self, place: Place, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.error(place, fault)).ok()
    }

    /// The value, or its default; also after a problem.
    fn or<T: Value>(&mut self, written: Option<&Written<T>>, default: T) -> T {
        written.and_then(|written| self.value(written)).unwrap_or(default)
    }

    /// As [`Resolver::or`], and more than nothing.
    fn positive(&mut self, written: Option<&Written<Duration>>, default: Duration) -> Duration {
        self.in_range(written, default, Duration::from_millis(1)..=Duration::MAX, |duration| {
            format!("at least {}ms", duration.as_millis())
        })
    }

    /// As [`Resolver::or`], and at least one.
    fn count(&mut self, written: Option<&Written<usize>>, default: usize) -> usize {
        self.in_range(written, default, 1..=usize::MAX, |least| format!("at least {least}"))
    }

    /// As [`Resolver::or`], and between these two; `tell` words the one that was passed.
    fn in_range<T: Value + PartialOrd>(
        &mut self,
        written: Option<&Written<T>>,
        default: T,
        range: RangeInclusive<T>,
        tell: impl FnOnce(&T) -> String,
    ) -> T {
        let Some((value, written)) = written.and_then(|w| Some((self.value(w)?, w))) else {
            return default;
        };
        let (bound, direction) = if value < *range.start() {
            (range.start(), "small")
        } else if value > *range.end() {
            (range.end(), "large")
        } else {
            return value;
        };
        let fault = Fault::new(format!("`{}` is too {direction}", written.text)).help(tell(bound));
        self.error(written.place, fault);
        default
    }

    fn error(&mut self, place: Place, fault: Fault) {
        self.found.push(Found { severity: Severity::Error, place, path: None, fault });
    }

    fn warn(&mut self, place: Place, fault: Fault) {
        self.found.push(Found { severity: Severity::Warning, place, path: None, fault });
    }
}

//! `subscriptions`.

use std::{sync::Arc, time::Duration};

use super::{Resolver, upstreams::Upstreams};
use crate::{
    config::{
        file::{File, events},
        value::{ByteSize, Fault, Rate, Text, Timestamp, Value as _, did_you_mean},
        written::{OneOrMany, Placed, Written},
    },
    events::settings::{
        DeadLetters, Limits, Order, Retry, StartAt, Subscription, Then, Topic, TypePattern,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1024 * 1024;
/// Steps of a schedule of one's own.
const MAX_STEPS: usize = 100;
/// Types of one subscription.
const MAX_TYPES: usize = 100;

impl Resolver<'_> {
    pub(super) fn subscriptions(
        &mut self,
        file: &File,
        topics: &[Topic],
        upstreams: &mut Upstreams,
    ) -> Vec<Subscription> {
        let written = file.subscriptions.as_deref().unwrap_or_default();
        self.unique_names("subscriptions", written.iter().map(|it| &it.value.name));
        let each = written.iter().filter_map(|it| self.subscription(it, topics, upstreams));
        let all: Vec<_> = each.collect();
        self.warn_of_loops(written, &all);
        self.check_requests(written, topics);
        all
    }

    fn subscription(
        &mut self,
        placed: &Placed<events::Subscription>,
        topics: &[Topic],
        upstreams: &mut Upstreams,
    ) -> Option<Subscription> {
        let written = &placed.value;
        let name = self.value(&written.name);
        let topic = topic_named(&written.topic.text, topics);
        let topic = self.checked(written.topic.place, topic);
        let own = Subscription::new("", "");
        let (dead_letter, then) = self.end(written);
        let (on_success, on_exhausted) = self.reactions(written, topics);
        let lease = written.lease.as_ref();
        let push = written.push.as_ref();
        match (push, lease) {
            (Some(_), Some(lease)) => {
                let fault = Fault::new("`lease` has no effect with `push`");
                self.warn(lease.place, fault.help("use `push.timeout`"));
            }
            (None, _) => self.warn_pace(written.limits.as_ref()),
            (Some(_), None) => {}
        }
        let settings = Subscription {
            types: self.types(written.types.as_ref()),
            from: self.start_at(written.from.as_ref()),
            push: push.and_then(|push| self.push(push, upstreams)),
            lease: self
                .in_range(lease, own.lease, SECOND..=12 * HOUR, |_| "from 1s to 12h".to_owned()),
            is_pinning: self.or(written.pin.as_ref(), own.is_pinning),
            order: match self.or(written.order.as_ref(), events::Order::Key) {
                events::Order::Key => Order::Key,
                events::Order::None => Order::None,
                events::Order::Partition => Order::Partition,
            },
            retry: self.delivery_retry(written.retry.as_ref()),
            limits: self.delivery_limits(written.limits.as_ref()),
            dead_letter,
            then,
            on_success,
            on_exhausted,
            ..own
        };
        Some(Subscription { name: name?.0, topic: topic?, ..settings })
    }

    fn types(&mut self, placed: Option<&Placed<Vec<Written<Text>>>>) -> Vec<TypePattern> {
        let Some(Placed { value: written, place }) = placed else { return Vec::new() };
        if written.is_empty() {
            let fault =
                Fault::new("the list is empty").help("to receive every type, remove `types`");
            self.error(*place, fault);
        }
        if written.len() > MAX_TYPES {
            let fault = Fault::new("there are too many types").help(format!("at most {MAX_TYPES}"));
            self.error(written[MAX_TYPES].place, fault);
        }
        for pattern in written {
            let text = &pattern.text;
            let inside = text.strip_suffix('*').unwrap_or(text);
            let fault = if text.is_empty() || text.len() > 256 {
                Some(
                    Fault::new("this is not a valid type")
                        .help("up to 256 bytes, such as `order.created` or `order.*`"),
                )
            } else if inside.contains('*') {
                let fault = Fault::new(format!("`{text}` has a `*` that is not at its end"));
                Some(fault.help("`*` is only allowed at the end, where it matches anything"))
            } else {
                None
            };
            if let Some(fault) = fault {
                self.error(pattern.place, fault);
            }
        }
        written.iter().map(|pattern| TypePattern::parse(&pattern.text)).collect()
    }

    fn start_at(&mut self, written: Option<&Written<Text>>) -> StartAt {
        let Some(written) = written else { return StartAt::Latest };
        let words = ["earliest", "latest"];
        let parsed = match written.text.as_str() {
            "earliest" => Ok(StartAt::Earliest),
            "latest" => Ok(StartAt::Latest),
            text => Timestamp::parse(text)
                .map(|Timestamp(since)| {
                    StartAt::Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
                })
                .map_err(|fault| {
                    let help =
                        "write `earliest`, `latest`, or a time such as `2027-01-31T12:00:00Z`";
                    fault.help(did_you_mean(text, words).unwrap_or_else(|| help.to_owned()))
                }),
        };
        self.checked(written.place, parsed).unwrap_or_default()
    }

    fn delivery_retry(&mut self, written: Option<&events::DeliveryRetry>) -> Retry {
        let Some(written) = written else { return Retry::service() };
        let own = written
            .schedule
            .as_ref()
            .and_then(|schedule| self.schedule(schedule))
            .unwrap_or_else(Retry::service);
        let attempts = written.max_attempts.as_ref();
        Retry {
            max_attempts: self
                .in_range(attempts, own.max_attempts, 1..=10_000, |_| "from 1 to 10000".to_owned()),
            max_age: self.in_range(
                written.max_age.as_ref(),
                own.max_age,
                SECOND..=365 * DAY,
                |_| "from 1s to 365d".to_owned(),
            ),
            schedule: own.schedule,
        }
    }

    /// A schedule with what its attempts and their time are where nothing else is said.
    fn schedule(&mut self, placed: &Placed<OneOrMany<Written<Text>>>) -> Option<Retry> {
        let Placed { value: written, place } = placed;
        let names = ["service", "standard"];
        let help = "write `service`, `standard`, or a list of durations";
        if written.0.is_empty() {
            self.error(*place, Fault::new("the list is empty").help(help));
        }
        if let [one] = written.0.as_slice() {
            match one.text.as_str() {
                "service" => return Some(Retry::service()),
                "standard" => return Some(Retry::standard()),
                text => {
                    if let Some(help) = did_you_mean(text, names) {
                        let fault = Fault::new(format!("`{text}` is not a schedule")).help(help);
                        self.error(one.place, fault);
                        return None;
                    }
                }
            }
        }
        let mut steps = Vec::new();
        for step in written {
            let parsed = Duration::parse(&step.text).map_err(|fault| fault.help(help));
            steps.extend(self.checked(step.place, parsed));
        }
        if let Some(extra) = written.0.get(MAX_STEPS) {
            let fault = Fault::new("this schedule is too long");
            self.error(extra.place, fault.help(format!("at most {MAX_STEPS} durations")));
        }
        if steps.is_empty() {
            return None;
        }
        // With room for jitter and the attempts themselves.
        let all: Duration =
            steps.iter().fold(Duration::ZERO, |sum, step| sum.saturating_add(*step));
        let max_age = all.saturating_mul(2).max(DAY).min(365 * DAY);
        let max_attempts = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        Some(Retry { schedule: steps, max_attempts, max_age })
    }

    fn warn_pace(&mut self, written: Option<&events::DeliveryLimits>) {
        let Some(written) = written else { return };
        let concurrency = written.concurrency.as_ref().map(|it| it.place);
        let rate = written.rate.as_ref().map(|it| it.place);
        for place in [concurrency, rate].into_iter().flatten() {
            let fault = Fault::new(
                "this has no effect without `push`: consumers that receive set their own pace",
            );
            self.warn(place, fault);
        }
    }

    fn delivery_limits(&mut self, written: Option<&events::DeliveryLimits>) -> Limits {
        let own = Limits::default();
        let Some(written) = written else { return own };
        let concurrency = written.concurrency.as_ref();
        let rate: Option<Rate> = written.rate.as_ref().and_then(|rate| self.value(rate));
        let in_flight = written.in_flight.as_ref();
        let parked = written.parked.as_ref();
        Limits {
            concurrency: self.in_range(concurrency, own.concurrency, 1..=10_000, |_| {
                "from 1 to 10000".to_owned()
            }),
            rate: rate.map(|Rate { count, per }| count as f64 / per.as_secs_f64()),
            in_flight: self
                .in_range(in_flight, own.in_flight, 1..=100_000, |_| "from 1 to 100000".to_owned()),
            parked: self
                .in_range(parked, own.parked, 1..=1_000_000, |_| "from 1 to 1000000".to_owned()),
        }
    }

    /// What becomes of an event that nobody took.
    fn end(&mut self, written: &events::Subscription) -> (Option<DeadLetters>, Then) {
        let exhausted = written.on_exhausted.as_ref().and_then(|it| it.then.as_ref());
        let block = written.dead_letter.as_ref();
        let inner = block.and_then(|block| block.value.then.as_ref());
        let enabled = block.and_then(|block| block.value.enabled.as_ref());
        let is_enabled = self.or(enabled, true);
        if let (Some(inner), Some(_)) = (inner, exhausted) {
            let fault = Fault::new("`then` is written here and in `on_exhausted`")
                .help("remove one of them");
            self.error(inner.place, fault);
        }
        let then = match inner.or(exhausted) {
            Some(word) => self.value(word).map(|then| (then, word.place)),
            None => None,
        };
        match (is_enabled, then) {
            (false, Some((events::Then::DeadLetter, place))) => {
                let fault = Fault::new("`then: dead_letter` needs dead letters, which are off");
                self.error(place, fault.help("write `discard` or `block_key`, or `enabled: true`"));
            }
            (false, None) => {
                if let Some(enabled) = enabled {
                    let fault = Fault::new(
                        "`enabled: false` needs `then`, for events that have used up their attempts",
                    );
                    self.error(
                        enabled.place,
                        fault.help("add `then: discard` or `then: block_key`"),
                    );
                }
            }
            (true, Some((events::Then::Discard | events::Then::BlockKey, place)))
                if inner.is_some() =>
            {
                let fault = Fault::new("`then` has no effect here while dead letters are on");
                let help = "add `enabled: false`, or move it to `on_exhausted: { then: .. }`";
                self.error(place, fault.help(help));
            }
            (true | false, _) => {}
        }
        let then = match then.map(|(then, _)| then) {
            None | Some(events::Then::DeadLetter) => Then::DeadLetter,
            Some(events::Then::Discard) => Then::Discard,
            Some(events::Then::BlockKey) => Then::BlockKey,
        };
        (self.letters(block.map(|block| &block.value), is_enabled), then)
    }

    /// How long and how much the dead letters are kept, if they are.
    fn letters(
        &mut self,
        written: Option<&events::DeadLetters>,
        is_enabled: bool,
    ) -> Option<DeadLetters> {
        let own = DeadLetters::default();
        let age = written.and_then(|it| it.max_age.as_ref());
        let bytes = written.and_then(|it| it.max_bytes.as_ref());
        let kept = DeadLetters {
            max_age: self
                .in_range(age, own.max_age, SECOND..=Duration::MAX, |_| "at least 1s".to_owned()),
            max_bytes: self
                .in_range(
                    bytes,
                    ByteSize(own.max_bytes),
                    ByteSize(MIB)..=ByteSize(u64::MAX),
                    |_| "at least 1MiB".to_owned(),
                )
                .0,
        };
        let unused = age.map(|age| age.place).or(bytes.map(|bytes| bytes.place));
        if let (false, Some(place)) = (is_enabled, unused) {
            self.warn(place, Fault::new("this has no effect with `enabled: false`"));
        }
        is_enabled.then_some(kept)
    }
}

/// The topic of this name.
pub(super) fn topic_named(name: &str, topics: &[Topic]) -> Result<Arc<str>, Fault> {
    if let Some(topic) = topics.iter().find(|topic| *topic.name == *name) {
        return Ok(topic.name.clone());
    }
    let help = did_you_mean(name, topics.iter().map(|topic| &*topic.name));
    let help = help.or_else(|| topics.is_empty().then(|| "there are no `topics`".to_owned()));
    Err(Fault { message: format!("no topic named `{name}`"), help })
}

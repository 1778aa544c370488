//! `queue` and `topics`.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use super::{Found, Resolver, upstreams::Upstreams};
use crate::{
    config::{
        file::{File, queue},
        problem::Severity,
        value::{ByteSize, Fault, LogName, Name, Percent, Text, Value as _},
        written::{Entries, Place, Placed, Written},
    },
    events::settings::{Dedup, Disk, Durability, Ingress, OnFull, Recovery, Settings, Topic},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// A partition costs memory in every subscription.
const MAX_PARTITIONS: u32 = 1024;
/// What a record can hold.
const MAX_EVENT: u64 = 16 * MIB;
/// A topic's oldest bytes go a segment at a time.
const SEGMENT: u64 = 64 * MIB;

impl Resolver<'_> {
    /// Everything about the store; `None` without topics and `idempotency`.
    pub(super) fn store(&mut self, file: &File, upstreams: &mut Upstreams) -> Option<Settings> {
        let topics = file.topics.as_ref().filter(|topics| !topics.0.is_empty());
        let queue = file.queue.as_ref();
        let routes = file.routes.iter().flatten();
        let has_keys = routes.into_iter().any(|route| route.value.idempotency.is_some());
        if let (None, Some(queue), false) = (topics, queue, has_keys) {
            let fault = Fault::new("`queue` has no effect without `topics` or `idempotency`");
            self.warn(queue.place, fault.help("add a topic: `topics: { orders: {} }`"));
        }
        let none = queue::Queue::default();
        let mut settings = self.queue(queue.map_or(&none, |queue| &queue.value));
        settings.topics = self.topics(topics, settings.durability);
        self.check_buffer(queue, topics, &settings);
        settings.subscriptions = self.subscriptions(file, &settings.topics, upstreams);
        (topics.is_some() || has_keys).then_some(settings)
    }

    fn queue(&mut self, written: &queue::Queue) -> Settings {
        let own = Settings::new(self.base.join("data"));
        let dir = written.dir.as_ref();
        if let Some(dir) = dir.filter(|dir| dir.text.is_empty()) {
            self.error(
                dir.place,
                Fault::new("`dir` is empty").help("write a directory, such as `./data`"),
            );
        }
        let body_buffer = self.in_range(
            written.body_buffer.as_ref(),
            ByteSize(256 * MIB),
            ByteSize(MIB)..=ByteSize(64 * GIB),
            |_| "from 1MiB to 64GiB".to_owned(),
        );
        let range = ByteSize(MIB)..=ByteSize(16 * GIB);
        let publish_buffer = self.in_range(
            written.publish_buffer.as_ref(),
            ByteSize(own.publish_buffer),
            range,
            |_| "from 1MiB to 16GiB".to_owned(),
        );
        let durability = written.durability.as_ref();
        Settings {
            dir: dir.map_or(own.dir.clone(), |dir| self.base.join(PathBuf::from(&dir.text))),
            instance: written.instance.as_ref().and_then(|instance| self.instance(instance)),
            is_required: self.or(written.required.as_ref(), own.is_required),
            publish_buffer: publish_buffer.0,
            body_buffer: body_buffer.0,
            lock_wait: self.in_range(
                written.lock_wait.as_ref(),
                own.lock_wait,
                Duration::ZERO..=24 * HOUR,
                |_| "at most 24h".to_owned(),
            ),
            ingress: self.ingress(written.ingress.as_ref()),
            durability: self.durability(durability, own.durability),
            os_interval: self.in_range(
                written.os_interval.as_ref(),
                own.os_interval,
                Duration::from_millis(1)..=10 * SECOND,
                |_| "from 1ms to 10s".to_owned(),
            ),
            disk: self.disk(written.disk.as_ref()),
            recovery: match self.or(written.recovery.as_ref(), queue::Recovery::Strict) {
                queue::Recovery::Strict => Recovery::Strict,
                queue::Recovery::Quarantine => Recovery::Quarantine,
            },
            ..own
        }
    }

    fn instance(&mut self, written: &Written<Text>) -> Option<Arc<str>> {
        if written.text == "auto" {
            return None;
        }
        let named = Name::parse(&written.text);
        self.checked(written.place, named.map_err(|fault| fault.help("write `auto` or a name")))
            .map(|name| name.0)
    }

    fn ingress(&mut self, written: Option<&queue::Ingress>) -> Ingress {
        let own = Ingress::default();
        let Some(written) = written else { return own };
        let entries = written.max_entries.as_ref();
        let bytes = ByteSize(2 * SEGMENT)..=ByteSize(1024 * GIB);
        Ingress {
            max_entries: self.in_range(entries, own.max_entries, 1_000..=100_000_000, |_| {
                "from 1000 to 100000000".to_owned()
            }),
            max_bytes: self
                .in_range(written.max_bytes.as_ref(), ByteSize(own.max_bytes), bytes, |_| {
                    "from 128MiB to 1TiB".to_owned()
                })
                .0,
        }
    }

    fn disk(&mut self, written: Option<&queue::Disk>) -> Disk {
        let own = Disk::default();
        let Some(written) = written else { return own };
        let low_water = self.or(written.low_water.as_ref(), Percent(own.low_water)).0;
        if let Some(written) = written.low_water.as_ref().filter(|_| low_water > 0.9) {
            let fault = Fault::new(format!("`{}` is too large", written.text));
            self.error(written.place, fault.help("at most 90%"));
        }
        let reserve = ByteSize(4 * MIB)..=ByteSize(GIB);
        Disk {
            low_water,
            min_free: self.or(written.min_free.as_ref(), ByteSize(own.min_free)).0,
            reserve: self
                .in_range(written.reserve.as_ref(), ByteSize(own.reserve), reserve, |_| {
                    "from 4MiB to 1GiB".to_owned()
                })
                .0,
        }
    }

    fn durability(
        &mut self,
        written: Option<&Written<queue::Durability>>,
        default: Durability,
    ) -> Durability {
        let Some(written) = written else { return default };
        match self.value(written) {
            None => default,
            Some(queue::Durability::Durable) => Durability::Durable,
            Some(queue::Durability::Os) => Durability::Os,
            Some(queue::Durability::Memory) => {
                let fault =
                    Fault::new("with `memory`, acknowledged events are lost when the process ends");
                self.warn(written.place, fault.help("to keep them, write `durable` or `os`"));
                Durability::Memory
            }
        }
    }

    fn topics(
        &mut self,
        written: Option<&Entries<LogName, Placed<queue::Topic>>>,
        durability: Durability,
    ) -> Vec<Topic> {
        let mut topics = Vec::new();
        for (name, topic) in written.into_iter().flat_map(Entries::iter) {
            let parsed = self.value(name);
            let topic = self.topic(&name.text, &topic.value, durability);
            // A topic under a bad name is kept: what refers to it is not wrong as well.
            topics.push(Topic {
                name: parsed.map_or_else(|| name.text.as_str().into(), |name| name.0),
                ..topic
            });
        }
        let mut adopted: HashMap<&str, Place> = HashMap::new();
        for (name, topic) in written.into_iter().flat_map(Entries::iter) {
            let Some(from) = &topic.value.renamed_from else { continue };
            let fault = if from.text == name.text {
                Some(
                    Fault::new("a topic cannot be renamed from its own name")
                        .help("remove this line"),
                )
            } else if topics.iter().any(|topic| *topic.name == *from.text) {
                let fault = Fault::new(format!("`{}` is still a topic in this file", from.text));
                Some(fault.help("remove that topic or this line"))
            } else {
                adopted.insert(&from.text, from.place).map(|first| {
                    Fault::new(format!("two topics are renamed from `{}`", from.text))
                        .help(format!("the first is on line {}", first.line))
                })
            };
            self.found.extend(fault.map(|fault| Found {
                severity: Severity::Error,
                place: from.place,
                path: None,
                fault,
            }));
        }
        topics
    }

    fn topic(&mut self, name: &str, written: &queue::Topic, durability: Durability) -> Topic {
        let own = Topic::new(name);
        if let Some(backend) = &written.backend {
            self.value(backend);
            self.warn(backend.place, Fault::new("`backend` is reserved and has no effect"));
        }
        let max_event_bytes = self.in_range(
            written.max_event_bytes.as_ref(),
            ByteSize(own.max_event_bytes),
            ByteSize(KIB)..=ByteSize(MAX_EVENT),
            |_| "from 1KiB to 16MiB".to_owned(),
        );
        let (max_age, max_bytes) = self.retention(written.retention.as_ref(), &own);
        if max_bytes < max_event_bytes.0
            && let Some(bytes) = written.retention.as_ref().and_then(|it| it.max_bytes.as_ref())
        {
            let fault = Fault::new("this is smaller than the largest event");
            self.error(bytes.place, fault.help("write at least `max_event_bytes`"));
        }
        let oldest = written.backpressure.as_ref().map(|backpressure| &backpressure.oldest_age);
        let oldest = oldest.map(|age| {
            self.in_range(Some(age), HOUR, SECOND..=Duration::MAX, |_| "at least 1s".to_owned())
        });
        let on_full = match self.or(written.on_full.as_ref(), queue::OnFull::Reject) {
            queue::OnFull::Reject => OnFull::Reject,
            queue::OnFull::DropOldest => OnFull::DropOldest,
        };
        let partitions = written.partitions.as_ref();
        Topic {
            partitions: self.in_range(partitions, own.partitions, 1..=MAX_PARTITIONS, |_| {
                format!("from 1 to {MAX_PARTITIONS}")
            }),
            max_event_bytes: max_event_bytes.0,
            max_age,
            max_bytes,
            on_full,
            durability: self.durability(written.durability.as_ref(), durability),
            dedup: self.dedup(written.dedup.as_ref(), max_age),
            max_delayed: self.in_range(
                written.max_delayed.as_ref(),
                own.max_delayed,
                0..=10_000_000,
                |_| "at most 10000000".to_owned(),
            ),
            max_oldest_age: oldest,
            renamed_from: written
                .renamed_from
                .as_ref()
                .and_then(|from| self.value(from))
                .map(|name| name.0),
            ..own
        }
    }

    fn retention(&mut self, written: Option<&queue::Retention>, own: &Topic) -> (Duration, u64) {
        let Some(written) = written else { return (own.max_age, own.max_bytes) };
        let range = SECOND..=Duration::MAX;
        let max_age = self
            .in_range(written.max_age.as_ref(), own.max_age, range, |_| "at least 1s".to_owned());
        if let Some(age) = written.max_age.as_ref().filter(|_| max_age < HOUR) {
            let fault = Fault::new("this keeps events for less than an hour, for replays too");
            self.warn(age.place, fault.help("an outage of a consumer may last longer"));
        }
        let range = ByteSize(MIB)..=ByteSize(1024 * 1024 * GIB);
        let max_bytes =
            self.in_range(written.max_bytes.as_ref(), ByteSize(own.max_bytes), range, |_| {
                "from 1MiB to 1024TiB".to_owned()
            });
        if let Some(bytes) = written.max_bytes.as_ref().filter(|_| max_bytes.0 < 4 * SEGMENT) {
            let fault = Fault::new("this is small: events are deleted in segments of up to 64MiB");
            self.warn(bytes.place, fault.help("write at least 256MiB"));
        }
        (max_age, max_bytes.0)
    }

    fn dedup(&mut self, written: Option<&queue::Dedup>, max_age: Duration) -> Dedup {
        let own = Dedup::default();
        let Some(written) = written else { return own };
        let week = Duration::from_hours(7 * 24);
        let window =
            self.in_range(written.window.as_ref(), own.window, Duration::ZERO..=week, |_| {
                "at most 7d".to_owned()
            });
        if let Some(written) = written.window.as_ref().filter(|_| window > max_age) {
            let fault = Fault::new(
                "`window` is longer than `retention.max_age`, and keys are deleted with their events",
            );
            self.warn(written.place, fault.help("write at most `retention.max_age`"));
        }
        let entries = written.max_entries.as_ref();
        let max_entries = self.in_range(entries, own.max_entries, 0..=100_000_000, |_| {
            "at most 100000000".to_owned()
        });
        Dedup { window, max_entries }
    }

    /// An event that the buffer cannot hold would never get in.
    fn check_buffer(
        &mut self,
        queue: Option<&Placed<queue::Queue>>,
        topics: Option<&Entries<LogName, Placed<queue::Topic>>>,
        settings: &Settings,
    ) {
        let written = queue.and_then(|queue| queue.value.publish_buffer.as_ref());
        let largest = settings.topics.iter().zip(topics.into_iter().flat_map(Entries::iter));
        let Some((topic, (_, place))) = largest.max_by_key(|(topic, _)| topic.max_event_bytes)
        else {
            return;
        };
        if topic.max_event_bytes > settings.publish_buffer / 2 {
            let place = written.map_or(place.place, |written| written.place);
            let fault = Fault::new(format!(
                "the largest events of `{}` do not fit in `publish_buffer`",
                topic.name
            ));
            self.error(
                place,
                fault.help("it must be at least twice the largest `max_event_bytes`"),
            );
        }
    }
}

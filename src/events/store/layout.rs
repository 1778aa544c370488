//! Where the logs of a store are on disk: one place for opening them and for offline tools.

use std::path::{Path, PathBuf};

use crate::events::queue::{
    LogId,
    topic::{delayed, registry::Registry},
};

/// Snapshots of the delivery state, and the journal after them.
pub const STATE: &str = "state";
/// The journal of the delivery state.
pub(super) const JOURNAL: &str = "state/journal";
/// The file that reserves disk space for the journal.
pub const RESERVE: &str = "state/RESERVE";
/// The time to judge the clock by at the next start, while it is not trusted.
pub const CLOCK: &str = "state/CLOCK";
/// The names of the store's own files while they are written.
pub const UNFINISHED: [&str; 4] =
    ["META.new", "state/snapshot.new", "state/RESERVE.new", "state/CLOCK.new"];
/// Records of requests.
pub const INGRESS: &str = "ingress";
/// Dead letters, by subscription.
pub const LETTERS: &str = "dead-letters";
/// Parked events, by subscription.
pub(super) const PARKED: &str = "parked";

/// A log of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogAt {
    /// Its name for people.
    pub name: String,
    /// Its directory in the store's. Many are created on first use.
    pub dir: PathBuf,
    /// The ID in its files.
    pub id: LogId,
}

/// The journal of the delivery state.
pub fn journal(registry: &Registry) -> LogAt {
    LogAt { name: JOURNAL.to_owned(), dir: JOURNAL.into(), id: LogId(registry.store().0) }
}

/// The directories of a subscription's logs: dead letters, parked events.
pub fn dirs_of_subscription(id: LogId) -> Vec<PathBuf> {
    [LETTERS, PARKED].map(|kind| Path::new(kind).join(id.to_string())).to_vec()
}

/// Every log that is neither a topic's own nor the journal: delayed events, records of requests,
/// dead letters, parked events.
pub fn side_logs(registry: &Registry) -> Vec<LogAt> {
    let delayed = registry.topics().iter().map(|topic| {
        let (dir, id) = delayed::lies_at(&Registry::topic_dir(topic.id), topic.id);
        LogAt { name: format!("{}/delayed", topic.name), dir, id }
    });
    let ingress =
        LogAt { name: INGRESS.to_owned(), dir: INGRESS.into(), id: LogId(registry.store().0) };
    let of_subscriptions = registry.subscriptions().iter().flat_map(|it| {
        let kinds = [LETTERS, PARKED].into_iter().zip(dirs_of_subscription(it.id));
        kinds.map(|(kind, dir)| LogAt { name: format!("{kind}/{}", it.name), dir, id: it.id })
    });
    delayed.chain([ingress]).chain(of_subscriptions).collect()
}

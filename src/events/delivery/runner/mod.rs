//! Runs one subscription: a task that owns the state machine, and the handle through which everyone
//! else reaches it.
//!
//! Only the task decides. Blocking work runs elsewhere and reports back to it. A decision's entries
//! are in the journal before their effect: an attempt before its delivery, an outcome before its
//! dead letter, a settlement before the next event of its key.

mod actor;
mod concluding;
mod effects;
mod handle;
mod ledger;
mod operate;
mod polls;
mod pushes;
mod reading;
mod requests;
mod scanning;
mod shown;
mod succession;

use std::{fmt, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::{
    reading::KeyHash,
    shown::{Backlog, Letter, Status},
    succession::follower_id,
};

use self::actor::Actor;
use super::{
    lease::Tokens,
    side_log::SideLog,
    subscription::{Entry, Machine, Partition, State},
};
use crate::{
    events::{
        facade::Tally,
        ingress::Ingress,
        queue::{
            LogId,
            log::{Log, Permit, Reader, Refused},
            pool::Pool,
            topic::clock_guard::GuardedClock,
        },
        request::RequestIds,
        settings::Subscription as Settings,
    },
    http::sink::Sink,
    telemetry::task,
};

/// Commands that may wait for the task.
const COMMANDS: usize = 256;
/// Idle readers of one log that are kept open.
const SPARE: usize = 4;

/// A running subscription. Cheap to clone; its task ends on a stop or when the last handle is dropped.
#[derive(Clone)]
pub struct Subscription {
    commands: mpsc::Sender<Command>,
    surroundings: Arc<Surroundings>,
    tally: Arc<Tally>,
}

/// Something that the task runs between two of its own steps.
type Command = Box<dyn FnOnce(&mut Actor) + Send>;

/// What a subscription uses.
#[derive(Debug)]
pub struct Surroundings {
    /// Its ID on disk.
    pub id: Uuid,
    /// The clock.
    pub clock: GuardedClock,
    /// Threads for blocking work.
    pub pool: Pool,
    /// The journal of its steps.
    pub journal: Log,
    /// Makes its lease tokens.
    pub tokens: Tokens,
    /// The log it reads.
    pub topic: Shelf,
    /// Its dead letters.
    pub letters: Arc<SideLog>,
    /// Copies of events whose segments were deleted.
    pub parked: Arc<SideLog>,
    /// The name of this gateway.
    pub instance: Arc<str>,
    /// Topics to which following events are published.
    pub topics: Arc<dyn Topics>,
    /// Hashes keys.
    pub hash: Arc<dyn KeyHash>,
    /// Sends pushes.
    pub sink: Arc<dyn Sink>,
    /// Attempts and results of stored requests.
    pub ingress: Ingress,
    /// IDs of stored requests.
    pub ids: RequestIds,
}

/// The topics of the store, by name.
pub trait Topics: fmt::Debug + Send + Sync {
    /// The log of a topic, if it is configured and open.
    fn log(&self, topic: &str) -> Option<Log>;

    /// Room in a topic for an event that follows from an accepted one.
    fn permit(&self, topic: &str, bytes: u64) -> Result<Permit, Refused>;

    /// All partitions of a topic, in every generation.
    fn partitions(&self, topic: &str) -> Vec<Partition>;
}

/// A log that may not be open (yet), with reusable readers. Clones share it.
#[derive(Clone)]
pub struct Shelf(Arc<Shelved>);

struct Shelved {
    id: LogId,
    log: RwLock<Option<Log>>,
    spare: Mutex<Vec<Reader>>,
}

// === impl Shelf ===

impl Shelf {
    /// For the log with this ID.
    pub fn new(id: LogId, log: Option<Log>) -> Self {
        Self(Arc::new(Shelved { id, log: RwLock::new(log), spare: Mutex::default() }))
    }

    /// The log's ID.
    pub fn id(&self) -> LogId {
        self.0.id
    }

    /// The log, if it is open.
    pub fn log(&self) -> Option<Log> {
        self.0.log.read().clone()
    }

    /// The log was opened or reopened.
    pub fn put(&self, log: Log) {
        self.0.spare.lock().clear();
        *self.0.log.write() = Some(log);
    }

    /// Reads with one of the readers. Blocks. `None` if the log is not open.
    pub fn read<T>(&self, read: impl FnOnce(&mut Reader) -> T) -> Option<T> {
        let spare = self.0.spare.lock().pop();
        let mut reader = match spare {
            Some(reader) => reader,
            None => self.log()?.reader(),
        };
        let result = read(&mut reader);
        let mut spare = self.0.spare.lock();
        if spare.len() < SPARE {
            spare.push(reader);
        }
        Some(result)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("id", &self.0.id).finish_non_exhaustive()
    }
}

// === impl Subscription ===

impl Subscription {
    /// Starts the task on the current runtime. A new subscription is at the beginning of its topic;
    /// [`Subscription::seek`] sets another start.
    pub fn start(surroundings: Surroundings, settings: Settings, machine: Machine) -> Self {
        let surroundings = Arc::new(surroundings);
        let (commands, asked) = mpsc::channel(COMMANDS);
        let tally = machine.tally().clone();
        let actor = Actor::new(surroundings.clone(), settings, machine);
        task::spawn("subscription", actor.run(asked));
        Self { commands, surroundings, tally }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.surroundings.id).finish_non_exhaustive()
    }
}

/// Where a subscription continues; the default is a new one that has read nothing.
#[derive(Debug, Default)]
pub struct Restored {
    /// Its state in a snapshot.
    pub state: State,
    /// The journal's entries after that.
    pub entries: Vec<Entry>,
}

// === impl Restored ===

impl Restored {
    /// The machine that continues there, with these settings and this number of partitions.
    pub fn machine(self, settings: &Settings, partitions: usize) -> Machine {
        let mut machine = Machine::restore(self.state, operate::rules(settings, partitions));
        for entry in &self.entries {
            machine.apply(entry);
        }
        machine
    }
}

#[cfg(test)]
mod tests;

//! The registry of a store's topics and subscriptions by name: META and LOCK.
//!
//! A topic or subscription gets its ID when it is first configured, and that is on disk before
//! anyone is told. One that is no longer configured remains, as an orphan, until it is dropped by
//! name or adopted under another. A change of the configuration is applied whole or not at all.

mod follow;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::time::Instant;
use uuid::{Builder, Uuid};

use self::follow::follow;
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{FORMAT_VERSION, FileError, HashKey, Meta, SubscriptionMeta, TopicMeta},
    storage::{Lock, Storage},
};

/// The file of the lock.
const LOCK: &str = "LOCK";
/// The file of the registry.
const META: &str = "META";
const UNFINISHED: &str = "META.new";
/// The directory of the topics' logs.
pub const TOPICS: &str = "topics";
/// Pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The registry of one store, and the lock that keeps other processes out of it.
#[derive(Debug)]
pub struct Registry {
    storage: Arc<dyn Storage>,
    meta: Meta,
    lock: Box<dyn Lock>,
}

/// The wanted state of a topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its partitions, at least one.
    pub partitions: u16,
    /// Its former name.
    pub renamed_from: Option<&'a str>,
}

/// The wanted state of a subscription.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The name of its topic, which must be configured.
    pub topic: &'a str,
}

/// Why a store cannot be opened or its registry cannot change. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Another process has it.
    #[error(
        "another process has the data directory open; stop it, give this one a `queue.dir` of its own, \
         or let it wait with `queue.lock_wait`"
    )]
    Locked,
    /// Written by a later version of the program.
    #[error("META: {0}")]
    Newer(String),
    /// The registry is damaged, so no topic's name can be trusted. No new one is created.
    #[error("META is damaged: {0}; put back a copy of it, nothing else has to be touched")]
    Damaged(FileError),
    /// There are topics but no registry.
    #[error("META is missing, and there are topics: put back a copy of it")]
    Missing,
    /// The store cannot be changed to this configuration.
    #[error("{0}")]
    Config(String),
    /// The disk failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

// === impl Registry ===

impl Registry {
    /// Takes the lock, waiting at most `lock_wait`, and reads or creates the registry. Blocks.
    pub fn open(storage: Arc<dyn Storage>, lock_wait: Duration) -> Result<Self, RegistryError> {
        let lock = lock(&*storage, lock_wait)?;
        let meta = match read_whole(&*storage, Path::new(META)).map_err(io("META is read"))? {
            Some(bytes) => Meta::decode(&bytes).map_err(|why| match why {
                FileError::Newer { .. } => RegistryError::Newer(why.to_string()),
                other => RegistryError::Damaged(other),
            })?,
            None => Self::first(&*storage)?,
        };
        if meta.format > FORMAT_VERSION {
            let found = meta.format;
            return Err(RegistryError::Newer(format!(
                "the store has format {found}, and this program knows up to {FORMAT_VERSION}: use a \
                 newer one"
            )));
        }
        Ok(Self { storage, meta, lock })
    }

    fn first(storage: &dyn Storage) -> Result<Meta, RegistryError> {
        make_dir(storage, Path::new(TOPICS))?;
        // Before META: after a crash, a registry without a directory for its topics is useless.
        storage.sync_dir(Path::new("")).map_err(io("the data directory is synced"))?;
        let topics = storage.list(Path::new(TOPICS)).map_err(io("topics are listed"))?;
        if !topics.is_empty() {
            return Err(RegistryError::Missing);
        }
        let store = StoreId(new_uuid()?);
        let mut key = [0; 16];
        fill(&mut key)?;
        let meta = Meta::new(store, HashKey(key));
        write(storage, &meta)?;
        Ok(meta)
    }

    /// Whether the locked directory still exists.
    pub fn is_there(&self) -> io::Result<bool> {
        self.lock.is_there()
    }

    /// The store's ID.
    pub fn store(&self) -> StoreId {
        self.meta.store
    }

    /// The version of its log files; one that this program writes.
    pub fn format(&self) -> u16 {
        self.meta.format
    }

    /// The secret key of the store's hashes.
    pub fn hash_key(&self) -> HashKey {
        self.meta.hash_key
    }

    /// All topics, including orphans, in order of creation.
    pub fn topics(&self) -> &[TopicMeta] {
        &self.meta.topics
    }

    /// All subscriptions, including orphans, in order of creation.
    pub fn subscriptions(&self) -> &[SubscriptionMeta] {
        &self.meta.subscriptions
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&TopicMeta> {
        self.meta.topics.iter().find(|topic| topic.name == name)
    }

    /// The subscription of this name.
    pub fn subscription(&self, name: &str) -> Option<&SubscriptionMeta> {
        self.meta.subscriptions.iter().find(|it| it.name == name)
    }

    /// The directory of a topic's log. It exists.
    pub fn topic_dir(id: LogId) -> PathBuf {
        Path::new(TOPICS).join(id.to_string())
    }

    /// Whether [`Registry::configure`] would succeed.
    pub fn check(
        &self,
        topics: &[TopicSpec<'_>],
        subscriptions: &[SubscriptionSpec<'_>],
    ) -> Result<(), RegistryError> {
        follow(&self.meta, topics, subscriptions).map(drop)
    }

    /// Applies a configuration: new names get an ID, missing ones become orphans, more partitions
    /// open a new generation. On disk when this returns. Blocks.
    ///
    /// [`RegistryError::Config`]: a topic would shrink, or a subscription has another topic.
    pub fn configure(
        &mut self,
        topics: &[TopicSpec<'_>],
        subscriptions: &[SubscriptionSpec<'_>],
    ) -> Result<(), RegistryError> {
        let meta = follow(&self.meta, topics, subscriptions)?;
        self.replace(meta)
    }

    /// Notes that all records of earlier generations lie below `opened`. Called once the writer has
    /// switched to this generation; without it readers take longer to be sure. Blocks.
    pub fn generation_opened(
        &mut self,
        topic: LogId,
        number: u16,
        opened: Offset,
    ) -> Result<(), RegistryError> {
        let mut meta = self.meta.clone();
        let topics = meta.topics.iter_mut().filter(|it| it.id == topic);
        let mut generations = topics.flat_map(|it| &mut it.generations);
        match generations.find(|it| it.number == number) {
            Some(generation) if generation.opened != opened => generation.opened = opened,
            _ => return Ok(()),
        }
        self.replace(meta)
    }

    /// Whether the store was open before: its own logs were created.
    pub fn is_used(&self) -> bool {
        self.meta.is_used
    }

    /// Notes that the store's own logs, the logs of these topics and the states of these
    /// subscriptions are on disk: if one is missing from now on, it was lost. Blocks.
    pub fn begun(
        &mut self,
        topics: &[LogId],
        subscriptions: &[LogId],
    ) -> Result<(), RegistryError> {
        let mut meta = self.meta.clone();
        meta.is_used = true;
        for topic in &mut meta.topics {
            topic.is_begun |= topics.contains(&topic.id);
        }
        for subscription in &mut meta.subscriptions {
            subscription.is_begun |= subscriptions.contains(&subscription.id);
        }
        self.replace(meta)
    }

    /// The ID of a topic that may be dropped: an orphan without readers.
    pub fn droppable_topic(&self, name: &str) -> Result<LogId, RegistryError> {
        let topic = self.topic(name).ok_or_else(|| unknown("topic", name))?;
        if !topic.is_orphaned {
            let message = format!(
                "topic `{name}` was configured when the gateway last ran: start it once without"
            );
            return Err(RegistryError::Config(message));
        }
        if let Some(reader) = self.meta.subscriptions.iter().find(|it| it.topic == topic.id) {
            let message =
                format!("subscription `{}` reads topic `{name}`: drop it first", reader.name);
            return Err(RegistryError::Config(message));
        }
        Ok(topic.id)
    }

    /// Forgets such a topic. The caller removes its files before: while the topic has a name, a
    /// drop that was interrupted can be repeated. Blocks.
    pub fn drop_topic(&mut self, name: &str) -> Result<(), RegistryError> {
        let id = self.droppable_topic(name)?;
        let mut meta = self.meta.clone();
        meta.topics.retain(|it| it.id != id);
        self.replace(meta)
    }

    /// The ID of a subscription that may be dropped: an orphan.
    pub fn droppable_subscription(&self, name: &str) -> Result<LogId, RegistryError> {
        let found = self.subscription(name).ok_or_else(|| unknown("subscription", name))?;
        if !found.is_orphaned {
            let message = format!(
                "subscription `{name}` was configured when the gateway last ran: start it once without"
            );
            return Err(RegistryError::Config(message));
        }
        Ok(found.id)
    }

    /// Forgets such a subscription. The caller removes its files before. Blocks.
    pub fn drop_subscription(&mut self, name: &str) -> Result<(), RegistryError> {
        let id = self.droppable_subscription(name)?;
        let mut meta = self.meta.clone();
        meta.subscriptions.retain(|it| it.id != id);
        self.replace(meta)
    }

    /// Directories first, so that what META names exists.
    fn replace(&mut self, meta: Meta) -> Result<(), RegistryError> {
        for topic in &meta.topics {
            let dir = Self::topic_dir(topic.id);
            if self.meta.topics.iter().all(|it| it.id != topic.id) {
                make_dir(&*self.storage, &dir)?;
            }
        }
        if meta != self.meta {
            let topics = Path::new(TOPICS);
            self.storage.sync_dir(topics).map_err(io("the directory of topics is synced"))?;
            write(&*self.storage, &meta)?;
            self.meta = meta;
        }
        Ok(())
    }
}

/// Whether another process has the store in `storage`. Tries the lock without waiting for it.
pub fn is_locked(storage: &dyn Storage) -> io::Result<bool> {
    Ok(storage.lock(Path::new(LOCK))?.is_none())
}

fn lock(storage: &dyn Storage, wait: Duration) -> Result<Box<dyn Lock>, RegistryError> {
    let until = Instant::now() + wait;
    loop {
        let lock = storage.lock(Path::new(LOCK)).map_err(io("LOCK is taken"))?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RegistryError::Locked);
        }
        thread::sleep(left.min(LOCK_PAUSE));
    }
}

/// New file, sync, rename, sync of the directory.
fn write(storage: &dyn Storage, meta: &Meta) -> Result<(), RegistryError> {
    let write = || {
        match storage.remove(Path::new(UNFINISHED)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let file = storage.create(Path::new(UNFINISHED))?;
        file.write_at(&meta.encode(), 0)?;
        file.sync()?;
        storage.rename(Path::new(UNFINISHED), Path::new(META))?;
        storage.sync_dir(Path::new(""))
    };
    write().map_err(io("META is written"))
}

fn make_dir(storage: &dyn Storage, path: &Path) -> Result<(), RegistryError> {
    storage.create_dir(path).map_err(io("a directory is made"))
}

/// `None` if it does not exist.
fn read_whole(storage: &dyn Storage, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open_read(path) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX).min(64 << 20);
    let mut bytes = vec![0; length];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

/// Random, version 4.
fn new_uuid() -> Result<Uuid, RegistryError> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}

fn fill(bytes: &mut [u8]) -> Result<(), RegistryError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| RegistryError::Io {
        action: "random bytes are drawn",
        source: io::Error::other("the system has none"),
    })
}

fn unknown(what: &str, name: &str) -> RegistryError {
    RegistryError::Config(format!("no {what} named `{name}`"))
}

fn io(action: &'static str) -> impl Fn(io::Error) -> RegistryError {
    move |source| RegistryError::Io { action, source }
}

#[cfg(test)]
mod tests;

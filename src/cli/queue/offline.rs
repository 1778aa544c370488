//! Commands on a store that no gateway has open.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde_json::json;

use crate::{
    cli, config,
    events::{
        queue::{
            LogId,
            log::{DiskSettings, DiskWatch, Place},
            storage::{self, Storage},
            topic::registry::{Registry, RegistryError},
        },
        store::layout,
    },
};

/// Which store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreAt {
    /// The store's directory; by default `queue.dir` of the configuration
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// `sluice queue drop`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue drop old-orders            a topic or subscription that is no longer configured

This deletes the topic's events, or the subscription's state and dead letters, for good.")]
pub(super) struct Drop {
    #[command(flatten)]
    store: StoreAt,
    /// The topic or subscription
    name: String,
}

/// `sluice queue upgrade`
#[derive(Debug, clap::Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    store: StoreAt,
}

/// A store that is locked while this lives.
pub(super) struct Stopped {
    pub(super) storage: Arc<dyn Storage>,
    disk: Arc<DiskWatch>,
    pub(super) registry: Registry,
    dir: PathBuf,
}

/// Removes a topic or subscription that is no longer configured.
pub(super) fn drop(args: &Drop, file: &Path, json: bool) -> ExitCode {
    let mut stopped = match Stopped::open(&args.store, file) {
        Ok(stopped) => stopped,
        Err(code) => return code,
    };
    let name = &args.name;
    if let Some(what) = stopped.configured(name, file) {
        let told = format!("{what} `{name}` is in {}: take it out first", file.display());
        return cli::failed(&told);
    }
    let (topic, subscription) = (stopped.registry.topic(name), stopped.registry.subscription(name));
    if topic.is_none() && subscription.is_none() {
        return cli::failed(&format!("the store has no topic or subscription named `{name}`"));
    }
    // They may share a name: then the one that is still configured is not meant.
    let is_topic = topic.is_some_and(|topic| topic.is_orphaned || subscription.is_none());
    let (what, dropped) = if is_topic {
        ("topic", drop_topic(&mut stopped, name))
    } else {
        ("subscription", drop_subscription(&mut stopped, name))
    };
    if let Err(error) = dropped {
        return cli::failed(&error);
    }
    let told = json!({ "dropped": name, "what": what });
    cli::print(&if json { format!("{told}\n") } else { format!("{what} `{name}` is gone\n") });
    ExitCode::SUCCESS
}

fn drop_topic(stopped: &mut Stopped, name: &str) -> Result<(), String> {
    let id = stopped.registry.droppable_topic(name).map_err(|error| error.to_string())?;
    stopped.remove(&Registry::topic_dir(id))?;
    stopped.registry.drop_topic(name).map_err(|error| error.to_string())
}

fn drop_subscription(stopped: &mut Stopped, name: &str) -> Result<(), String> {
    let id = stopped.registry.droppable_subscription(name).map_err(|error| error.to_string())?;
    for dir in layout::dirs_of_subscription(id) {
        stopped.remove(&dir)?;
    }
    stopped.registry.drop_subscription(name).map_err(|error| error.to_string())
}

/// Rewrites a store in the newest format.
pub(super) fn upgrade(args: &Upgrade, file: &Path, json: bool) -> ExitCode {
    match Stopped::open(&args.store, file) {
        Ok(stopped) => {
            // There is only one format so far: nothing older can need rewriting.
            let format = stopped.registry.format();
            let told = json!({ "format": format, "changed": false });
            let text = format!("the store has format {format}, the newest: nothing to do\n");
            cli::print(&if json { format!("{told}\n") } else { text });
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

// === impl Stopped ===

impl Stopped {
    pub(super) fn open(at: &StoreAt, file: &Path) -> Result<Self, ExitCode> {
        let dir = match &at.dir {
            Some(dir) => dir.clone(),
            None => match config::load(file) {
                Ok(loaded) => loaded.config.events.map(|events| events.dir).ok_or_else(|| {
                    cli::failed(&"the configuration has no `topics`; --dir names a store")
                })?,
                Err(problems) => return Err(cli::bad_configuration(&problems)),
            },
        };
        let shown = dir.display().to_string();
        // Opening a registry would create one.
        if !dir.join("META").is_file() {
            return Err(cli::failed(&format!("{shown} is no store: it has no META")));
        }
        let told = |error: &dyn std::fmt::Display| cli::failed(&format!("{shown}: {error}"));
        let storage = storage::open(&dir).map_err(|error| told(&error))?;
        let registry =
            Registry::open(storage.clone(), Duration::ZERO).map_err(|error| match error {
                // The other advice in the error does not apply here.
                RegistryError::Locked => told(&"a gateway that runs has it open: stop it first"),
                error => told(&error),
            })?;
        let room = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let disk = Arc::new(DiskWatch::new(storage.clone(), room));
        Ok(Self { storage, disk, registry, dir })
    }

    /// What the file of this store's gateway still configures with this name: the store itself only
    /// knows the last run of the gateway. Also `None` if there is no such file.
    fn configured(&self, name: &str, file: &Path) -> Option<&'static str> {
        let events = config::load(file).ok()?.config.events?;
        if std::fs::canonicalize(&events.dir).ok()? != std::fs::canonicalize(&self.dir).ok()? {
            return None;
        }
        let is_topic = events.topics.iter().any(|it| *it.name == *name);
        let is_subscription = events.subscriptions.iter().any(|it| *it.name == *name);
        // One of two with the same name may be dropped even if the other may not.
        let topic = self.registry.topic(name).map(|_| is_topic);
        let subscription = self.registry.subscription(name).map(|_| is_subscription);
        match (topic, subscription) {
            (Some(true), None | Some(true)) => Some("topic"),
            (None, Some(true)) => Some("subscription"),
            _ => None,
        }
    }

    /// Removes a directory with its content, durably. The registry still has its name, so the
    /// command can be repeated if it is interrupted here.
    fn remove(&self, dir: &Path) -> Result<(), String> {
        let folder = self.dir.join(dir);
        let removed = std::fs::remove_dir_all(&folder)
            .and_then(|()| dir.parent().map_or(Ok(()), |above| self.storage.sync_dir(above)));
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{} stays: {error}; do it again", folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Whether one of its directories contains anything.
    pub(super) fn has(&self, dir: &Path) -> bool {
        self.storage.list(dir).is_ok_and(|names| !names.is_empty())
    }

    pub(super) fn place(&self, dir: PathBuf, id: LogId) -> Place {
        Place {
            storage: self.storage.clone(),
            dir,
            store: self.registry.store(),
            id,
            disk: self.disk.clone(),
        }
    }
}

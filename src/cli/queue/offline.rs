//! What is done to a store that no gateway has open.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::table::{bytes, table};
use crate::{
    cli, config,
    events::queue::{
        LogId, Offset,
        log::{self, DiskSettings, DiskWatch, Place, Report},
        storage::{self, Storage},
        topic::registry::Registry,
    },
};

/// Which store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreAt {
    /// The store; by default `queue.dir` of the configuration
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// `sluice queue verify`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue verify                     every byte of every topic; changes nothing
  sluice queue verify --dir ./data --json
  sluice queue verify --repair            damage is copied aside, counted and accepted: topics open again

Exit codes: 0 all is as it was written, 1 damage, or the store is in use.")]
pub(super) struct Verify {
    #[command(flatten)]
    store: StoreAt,
    /// Copy damage aside and accept what is lost, so that topics open again
    #[arg(long)]
    repair: bool,
}

/// `sluice queue drop`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue drop old-orders            a topic or subscription that is no longer configured

Its events, or its state and dead letters, are gone for good.")]
pub(super) struct Drop {
    #[command(flatten)]
    store: StoreAt,
    /// What is no longer configured
    name: String,
}

/// `sluice queue upgrade`
#[derive(Debug, clap::Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    store: StoreAt,
}

/// A store that is locked as long as this lives.
struct Stopped {
    storage: Arc<dyn Storage>,
    disk: Arc<DiskWatch>,
    registry: Registry,
    dir: PathBuf,
}

/// What was found in a topic.
struct Topic {
    name: String,
    report: Result<Report, String>,
}

/// Reads all topics of a store, and repairs them if that is asked for. 1 if anything is not what was
/// written.
pub(super) fn verify(args: &Verify, file: &Path, json: bool) -> ExitCode {
    let stopped = match Stopped::open(&args.store, file) {
        Ok(stopped) => stopped,
        Err(code) => return code,
    };
    let topics = stopped.verified(args.repair);
    let is_sound = topics.iter().all(|it| it.report.as_ref().is_ok_and(Report::is_sound));
    cli::print(&if json { format!("{:#}\n", as_json(&topics)) } else { as_text(&topics) });
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Removes a topic or subscription that is no longer configured.
pub(super) fn drop(args: &Drop, file: &Path, json: bool) -> ExitCode {
    let mut stopped = match Stopped::open(&args.store, file) {
        Ok(stopped) => stopped,
        Err(code) => return code,
    };
    let name = &args.name;
    let (what, dropped) = if stopped.registry.topic(name).is_some() {
        ("topic", stopped.registry.drop_topic(name).map(Registry::topic_dir))
    } else {
        let dropped = stopped.registry.drop_subscription(name);
        ("subscription", dropped.map(|id| Path::new("dead-letters").join(id.to_string())))
    };
    let folder = match dropped {
        Ok(folder) => stopped.dir.join(folder),
        Err(error) => return cli::failed(&error),
    };
    // It is forgotten already: files that stay are nobody's.
    if let Err(error) = std::fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return cli::failed(&format!("{} stays: {error}", folder.display()));
    }
    let told = json!({ "dropped": name, "what": what });
    cli::print(&if json { format!("{told}\n") } else { format!("{what} `{name}` is gone\n") });
    ExitCode::SUCCESS
}

/// Writes a store in the newest format.
pub(super) fn upgrade(args: &Upgrade, file: &Path, json: bool) -> ExitCode {
    match Stopped::open(&args.store, file) {
        Ok(_) => {
            let format = crate::events::queue::codec::FORMAT_VERSION;
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
    fn open(at: &StoreAt, file: &Path) -> Result<Self, ExitCode> {
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
        // A registry would be made where there is none.
        if !dir.join("META").is_file() {
            return Err(cli::failed(&format!("{shown} is no store: it has no META")));
        }
        let told = |error: &dyn std::fmt::Display| cli::failed(&format!("{shown}: {error}"));
        let storage = storage::open(&dir).map_err(|error| told(&error))?;
        let registry =
            Registry::open(storage.clone(), Duration::ZERO).map_err(|error| told(&error))?;
        let room = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let disk = Arc::new(DiskWatch::new(storage.clone(), room));
        Ok(Self { storage, disk, registry, dir })
    }

    fn place(&self, id: LogId) -> Place {
        Place {
            storage: self.storage.clone(),
            dir: Registry::topic_dir(id),
            store: self.registry.store(),
            id,
            disk: self.disk.clone(),
        }
    }

    fn verified(&self, is_repair: bool) -> Vec<Topic> {
        let topic = |meta: &crate::events::queue::codec::TopicMeta| {
            let place = self.place(meta.id);
            let report = if is_repair {
                log::repair(&place, &log::Settings::default(), Offset::ZERO)
            } else {
                log::verify(&place, Offset::ZERO)
            };
            let report = report.map_err(|error| error.to_string());
            Topic { name: meta.name.clone(), report }
        };
        self.registry.topics().iter().map(topic).collect()
    }
}

fn as_json(topics: &[Topic]) -> Value {
    let topic = |it: &Topic| match &it.report {
        Err(error) => json!({ "topic": it.name, "error": error }),
        Ok(report) => {
            let damage = report.damage.iter().map(|it| {
                json!({
                    "from": it.range.start.0,
                    "to": it.range.end.0,
                    "lost": it.is_lost,
                    "accepted": it.is_accepted,
                    "what": it.what,
                })
            });
            json!({
                "topic": it.name,
                "sound": report.is_sound(),
                "files": report.files,
                "records": report.records,
                "bytes": report.bytes,
                "start": report.range.start.0,
                "end": report.range.end.0,
                "torn_bytes": report.torn_bytes,
                "damage": damage.collect::<Vec<_>>(),
                "derived": report.derived,
            })
        }
    };
    json!({ "topics": topics.iter().map(topic).collect::<Vec<_>>() })
}

fn as_text(topics: &[Topic]) -> String {
    let row = |it: &Topic| match &it.report {
        Err(error) => {
            let none = || "-".to_owned();
            vec![it.name.clone(), none(), none(), none(), format!("cannot be read: {error}")]
        }
        Ok(report) => {
            let state = match (report.is_sound(), report.torn_bytes) {
                (false, _) => "damaged".to_owned(),
                (true, 0) => "whole".to_owned(),
                (true, torn) => {
                    format!("whole; {torn} torn bytes at its end are cut when it opens")
                }
            };
            let (files, records) = (report.files.to_string(), report.records.to_string());
            vec![it.name.clone(), files, records, bytes(report.bytes), state]
        }
    };
    let rows: Vec<_> = topics.iter().map(row).collect();
    let mut out = table(&["TOPIC", "FILES", "RECORDS", "BYTES", "STATE"], &rows);
    for it in topics {
        for finding in it.report.iter().flat_map(|report| &report.damage) {
            let (from, to) = (finding.range.start, finding.range.end);
            let lost = if finding.is_lost { "lost" } else { "readable" };
            let accepted = if finding.is_accepted { ", accepted" } else { "" };
            let line = format!(
                "  {}: offsets {from} to {to}: {}: {lost}{accepted}\n",
                it.name, finding.what
            );
            out.push_str(&line);
        }
    }
    out
}

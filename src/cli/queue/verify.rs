//! `sluice queue verify`: every byte of a stopped store, and what can be mended of it.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    offline::{Stopped, StoreAt},
    table::{bytes, table},
};
use crate::{
    cli,
    events::{
        delivery::snapshot::{self, Examined, Loaded, Snapshot, SnapshotError},
        queue::{
            LogId, Offset,
            log::{self, OpenError, Place, Report},
            topic::registry::Registry,
        },
        store::{
            NotedClock, examine_clock,
            layout::{self, LogAt},
        },
    },
    telemetry::clock,
};

/// `sluice queue verify`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue verify                     every byte of the store; changes nothing
  sluice queue verify --dir ./data --json
  sluice queue verify --repair            damage is copied aside, counted and accepted: logs open again

Topics, delayed events, delivery state, records of requests, dead letters, and what the clock is judged by.

Exit codes: 0 all is as it was written, 1 damage, or the store is in use.")]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreAt,
    /// Copy damage aside and accept what is lost, so that logs open again
    #[arg(long)]
    repair: bool,
}

/// What was found in a store.
struct Found {
    topics: Vec<Part>,
    /// Journal, delayed events, records of requests, dead letters, parked events.
    logs: Vec<Part>,
    snapshots: Vec<Examined>,
    /// What the clock is judged by at the next start; `None`: by the newest record.
    clock: Option<NotedClock>,
    /// Why snapshots or the clock could not be looked at or mended.
    error: Option<String>,
}

/// What was found in a log.
struct Part {
    name: String,
    report: Result<Report, String>,
}

/// Reads a whole store, and repairs it if that is asked for. 1 if anything is not what was written.
pub(super) fn run(args: &Args, file: &Path, json: bool) -> ExitCode {
    let stopped = match Stopped::open(&args.store, file) {
        Ok(stopped) => stopped,
        Err(code) => return code,
    };
    let found = Found::in_store(&stopped, args.repair);
    cli::print(&if json { format!("{:#}\n", found.json()) } else { found.text() });
    if found.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// === impl Found ===

impl Found {
    fn in_store(stopped: &Stopped, is_repair: bool) -> Self {
        let part = |name: &str, dir: &Path, id: LogId, floor: Offset| {
            let place = stopped.place(dir.to_owned(), id);
            let report = looked_at(&place, floor, is_repair).map_err(|error| error.to_string());
            Part { name: name.to_owned(), report }
        };
        let registry = &stopped.registry;
        let topics = registry.topics().iter();
        let topics =
            topics.map(|it| part(&it.name, &Registry::topic_dir(it.id), it.id, Offset::ZERO));
        let mut found = Self {
            topics: topics.collect(),
            logs: Vec::new(),
            snapshots: Vec::new(),
            clock: None,
            error: None,
        };
        let (storage, dir, store) = (&*stopped.storage, Path::new(layout::STATE), registry.store());
        let loaded = match Snapshot::load(storage, dir, store) {
            Ok(loaded) => Some(loaded),
            // A store that was never open has no state.
            Err(_) if !stopped.has(dir) => None,
            Err(error) => {
                found.error = Some(error.to_string());
                None
            }
        };
        let floor = loaded.as_ref().map_or(Offset::ZERO, |loaded| loaded.snapshot.floor());
        let LogAt { name, dir: at, id } = layout::journal(registry);
        if stopped.has(&at) || floor > Offset::ZERO {
            found.logs.push(part(&name, &at, id, floor));
        }
        let sides = layout::side_logs(registry).into_iter().filter(|it| stopped.has(&it.dir));
        found.logs.extend(sides.map(|it| part(&it.name, &it.dir, it.id, Offset::ZERO)));
        if let (Some(loaded), true) = (loaded, is_repair) {
            let start =
                found.logs.first().and_then(|it| Some(it.report.as_ref().ok()?.range.start));
            let mended = mend_snapshots(stopped, loaded, start.unwrap_or_default());
            found.error = mended.err().map(|error| error.to_string());
        }
        match Snapshot::examine(storage, dir, store) {
            Ok(examined) => found.snapshots = examined,
            Err(_) if !stopped.has(dir) => {}
            Err(error) => found.error = found.error.or_else(|| Some(error.to_string())),
        }
        match clock_in(stopped, is_repair) {
            Ok(clock) => found.clock = clock,
            Err(error) => found.error = found.error.or_else(|| Some(error.to_string())),
        }
        found
    }

    fn is_sound(&self) -> bool {
        let mut parts = self.topics.iter().chain(&self.logs);
        parts.all(|it| it.report.as_ref().is_ok_and(Report::is_sound))
            && self.snapshots.iter().all(|it| it.error.is_none())
            && self.clock.is_none_or(|clock| clock.trusted.is_some())
            && self.error.is_none()
    }

    fn json(&self) -> Value {
        let parts = |kind: &str, parts: &[Part]| -> Vec<_> {
            parts.iter().map(|part| part.json(kind)).collect()
        };
        let snapshot = |it: &Examined| {
            json!({
                "file": format!("{}/{}", layout::STATE, it.name),
                "sound": it.error.is_none(),
                "subscriptions": it.sections,
                "bytes": it.bytes,
                "error": it.error,
            })
        };
        let mut told = json!({
            "topics": parts("topic", &self.topics),
            "logs": parts("log", &self.logs),
            "snapshots": self.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        });
        if let Some(clock) = &self.clock {
            told["clock"] = json!({
                "file": layout::CLOCK,
                "sound": clock.trusted.is_some(),
                "bytes": clock.bytes,
                "trusted_until": clock.trusted.map(moment),
                "help": help(*clock),
            });
        }
        if let Some(error) = &self.error {
            told["error"] = json!(error);
        }
        told
    }

    fn text(&self) -> String {
        let parts = || self.topics.iter().chain(&self.logs);
        let mut rows: Vec<_> = parts().map(Part::row).collect();
        rows.extend(self.snapshots.iter().map(|it| {
            let name = format!("{}/{}", layout::STATE, it.name);
            let state =
                it.error.as_ref().map_or("whole".to_owned(), |why| format!("damaged: {why}"));
            vec![name, "1".to_owned(), it.sections.to_string(), bytes(it.bytes), state]
        }));
        rows.extend(self.clock.map(|clock| {
            let state = if clock.trusted.is_some() { "whole" } else { "damaged" };
            let one = || "1".to_owned();
            vec![layout::CLOCK.to_owned(), one(), one(), bytes(clock.bytes), state.to_owned()]
        }));
        let mut out = table(&["LOG", "FILES", "RECORDS", "BYTES", "STATE"], &rows);
        parts().for_each(|part| out.push_str(&part.findings()));
        if let Some(clock) = self.clock {
            let line = format!("  {}: {}\n", layout::CLOCK, help(clock));
            out.push_str(&line);
        }
        if let Some(error) = &self.error {
            let line = format!("  {}: {error}\n", layout::STATE);
            out.push_str(&line);
        }
        out
    }
}

/// What the clock is judged by. Damage is set aside if that is asked for: the next start would go by the
/// newest record with it, too.
fn clock_in(stopped: &Stopped, is_repair: bool) -> io::Result<Option<NotedClock>> {
    let storage = &*stopped.storage;
    let found = examine_clock(storage)?;
    let name = Path::new(layout::CLOCK).file_name().and_then(OsStr::to_str);
    if is_repair && found.is_some_and(|it| it.trusted.is_none()) {
        snapshot::set_aside(storage, Path::new(layout::STATE), name)?;
        return Ok(None);
    }
    Ok(found)
}

/// What that means, and what to do.
fn help(clock: NotedClock) -> String {
    match clock.trusted {
        Some(at) => format!(
            "the system's clock was not trusted when the store was closed; it was at {}. See that it is right, \
             and say so once the gateway runs: `sluice queue confirm-clock`",
            moment(at)
        ),
        None => "damaged: the system's clock was not trusted when the store was closed, and since when is lost. \
                 See that it is right before the next start, which goes by it; --repair sets the file aside"
            .to_owned(),
    }
}

fn moment(millis: u64) -> String {
    clock::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

/// Sets damaged snapshots aside, if what is left and the journal from `start` on are the whole state.
fn mend_snapshots(stopped: &Stopped, loaded: Loaded, start: Offset) -> Result<(), SnapshotError> {
    let (storage, dir) = (&*stopped.storage, Path::new(layout::STATE));
    loaded.settle(storage, dir, start)?;
    // Older ones too: a newer one is whole.
    let examined = Snapshot::examine(storage, dir, stopped.registry.store())?;
    let damaged = examined.iter().filter(|it| it.error.is_some());
    Ok(snapshot::set_aside(storage, dir, damaged.map(|it| it.name.as_str()))?)
}

fn looked_at(place: &Place, floor: Offset, is_repair: bool) -> Result<Report, OpenError> {
    if is_repair {
        log::repair(place, &log::Settings::default(), floor)
    } else {
        log::verify(place, floor)
    }
}

// === impl Part ===

impl Part {
    fn json(&self, kind: &str) -> Value {
        let mut told = match &self.report {
            Err(error) => json!({ "sound": false, "error": error }),
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
        told[kind] = json!(self.name);
        told
    }

    fn row(&self) -> Vec<String> {
        let (files, records, size, state) = match &self.report {
            Err(error) => {
                let none = || "-".to_owned();
                (none(), none(), none(), format!("cannot be read: {error}"))
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
                (files, records, bytes(report.bytes), state)
            }
        };
        vec![self.name.clone(), files, records, size, state]
    }

    /// A line for each damage.
    fn findings(&self) -> String {
        let line = |finding: &log::Finding| {
            let (from, to) = (finding.range.start, finding.range.end);
            let lost = if finding.is_lost { "lost" } else { "readable" };
            let accepted = if finding.is_accepted { ", accepted" } else { "" };
            let (name, what) = (&self.name, &finding.what);
            format!("  {name}: offsets {from} to {to}: {what}: {lost}{accepted}\n")
        };
        self.report.iter().flat_map(|report| &report.damage).map(line).collect()
    }
}

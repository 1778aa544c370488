//! `sluice queue verify`: checks every byte of a stopped store, and repairs what it can.

mod looking;
mod part;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use self::part::Part;
use super::{
    offline::{Stopped, StoreAt},
    table::{bytes, table},
};
use crate::{
    cli,
    events::{
        delivery::snapshot::Examined,
        store::{Begun, Forgotten, NotedClock, layout},
    },
    telemetry::clock,
};

/// `sluice queue verify`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue verify                     read every byte; change nothing
  sluice queue verify --dir ./data --json
  sluice queue verify --repair            copy damage aside and accept it: logs open again

Verifies topics, delayed events, delivery state, records of requests, dead letters, and the record
of an untrusted clock.

Exit codes: 0 no damage, 1 damage, or the store is in use.")]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreAt,
    /// Copy damaged bytes aside and accept the loss, so that logs open again
    #[arg(long)]
    repair: bool,
}

/// The findings in a store.
struct Found {
    topics: Vec<Part>,
    /// Journal, delayed events, records of requests, dead letters, parked events.
    logs: Vec<Part>,
    snapshots: Vec<Examined>,
    /// Delivery state according to snapshot and journal; `None`: unknown.
    state: Option<Known>,
    /// What the clock is compared with at the next start; `None`: the newest record.
    clock: Option<NotedClock>,
    /// Why snapshots or the clock could not be checked or repaired.
    error: Option<String>,
}

/// The known delivery state.
struct Known {
    subscriptions: usize,
    forgotten: Forgotten,
    /// What this repair began anew.
    begun: Begun,
}

/// Reads a whole store, and repairs it if requested. 1 if anything differs from what was written.
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
    fn is_sound(&self) -> bool {
        let mut parts = self.topics.iter().chain(&self.logs);
        parts.all(Part::is_sound)
            && self.state.as_ref().is_none_or(|known| known.forgotten.is_nothing())
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
        if let Some(known) = &self.state {
            let Forgotten { lost, behind } = &known.forgotten;
            told["state"] = json!({
                "sound": known.forgotten.is_nothing(),
                "subscriptions": known.subscriptions,
                "lost": lost,
                "behind": behind,
                "begun": known.begun,
                "help": known.help(),
            });
        }
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
        rows.extend(self.state.as_ref().map(Known::row));
        let mut out = table(&["LOG", "FILES", "RECORDS", "BYTES", "STATE"], &rows);
        parts().for_each(|part| out.push_str(&part.findings()));
        self.state.iter().for_each(|known| out.push_str(&known.findings()));
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

// === impl Known ===

impl Known {
    fn row(&self) -> Vec<String> {
        let state = if self.forgotten.is_nothing() { "known" } else { "lost" };
        let none = || "-".to_owned();
        let count = self.subscriptions.to_string();
        vec!["subscriptions".to_owned(), none(), count, none(), state.to_owned()]
    }

    /// The advice for the operator.
    fn help(&self) -> Option<String> {
        let is_known = self.forgotten.is_nothing();
        (!is_known).then(|| {
            format!(
                "{}. No event is lost by that, but what was settled is not known: the gateway does not start \
                 before --repair goes on from what is known, and delivers events again that were settled since",
                self.forgotten
            )
        })
    }

    fn findings(&self) -> String {
        let begun = self.begun.iter().map(|(name, how)| format!("  {name}: {how}\n"));
        let help = self.help().map(|help| format!("  {help}\n"));
        help.into_iter().chain(begun).collect()
    }
}

/// What that means, and what to do about it.
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

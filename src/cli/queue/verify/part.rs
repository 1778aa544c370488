//! The findings in one log, and how they are shown.

use serde_json::{Value, json};

use crate::{
    cli::queue::table::bytes,
    events::queue::{
        Offset,
        log::{self, OpenError, Place, Report},
    },
};

/// The findings in a log.
pub(super) struct Part {
    name: String,
    pub(super) report: Result<Report, String>,
}

// === impl Part ===

impl Part {
    /// Checks a log, and repairs it if requested. `floor`: what its readers have seen.
    pub(super) fn of(
        name: &str,
        place: &Place,
        floor: Result<Offset, OpenError>,
        is_repair: bool,
    ) -> Self {
        let report = floor.and_then(|floor| looked_at(place, floor, is_repair));
        Self { name: name.to_owned(), report: report.map_err(|error| error.to_string()) }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.report.as_ref().is_ok_and(Report::is_sound)
    }

    pub(super) fn json(&self, kind: &str) -> Value {
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

    pub(super) fn row(&self) -> Vec<String> {
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

    /// One line per damage.
    pub(super) fn findings(&self) -> String {
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

fn looked_at(place: &Place, floor: Offset, is_repair: bool) -> Result<Report, OpenError> {
    if is_repair {
        log::repair(place, &log::Settings::default(), floor)
    } else {
        log::verify(place, floor)
    }
}

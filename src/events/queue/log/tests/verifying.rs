//! Verifying and repairing a log that nobody has open.

use std::path::Path;

use super::{
    super::*,
    Home,
    machine::{Driven, Ledger, settings},
    place,
};
use crate::events::queue::{
    Offset,
    storage::{Storage, model::Model},
};

fn stored(model: &Model) -> u64 {
    let mut ledger = Ledger::default();
    let settings = Settings { segment_bytes: 6 << 10, ..settings() };
    let driven = Driven::open(model, &settings).unwrap();
    for n in 0..14 {
        driven.append(&mut ledger, &[1 + n % 4, n % 2], true);
    }
    driven.shared.look_after(true, false);
    ledger.promised.len() as u64
}

#[test]
fn a_sound_log_is_found_sound_and_left_as_it_is() {
    let model = Model::new();
    let count = stored(&model);
    let model = model.restart();
    let place = place(std::sync::Arc::new(model.clone()));
    let report = verify(&place, Offset::ZERO).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.range.end), (count, Offset(count)));
    assert!(report.files >= 3 && report.derived.is_empty(), "{report:?}");
    assert_eq!(model.operations(), 0, "it wrote");
}

#[test]
fn a_repaired_log_opens_again_and_says_what_is_lost() {
    for index in 0..3 {
        let model = Model::new();
        let count = stored(&model);
        let logs: Vec<_> = model.files().into_iter().filter(|it| is_log(it)).collect();
        // In the header of the first frame, or of the file.
        model.flip(&logs[index], 4096 + 20, 1);
        model.flip(&logs[0], 20, 1);
        let place = place(std::sync::Arc::new(model.clone()));
        let report = verify(&place, Offset::ZERO).unwrap();
        assert!(!report.is_sound());
        let driven = Driven::open(&model, &settings()).unwrap();
        assert!(matches!(driven.log.status().state, State::Offline(_)));

        let repaired = repair(&place, &settings(), Offset::ZERO).unwrap();
        assert!(repaired.is_sound(), "{repaired:?}");
        let lost: u64 = repaired.damage.iter().filter(|it| it.is_lost).map(length).sum();
        assert!(lost > 0 && lost < 10, "{repaired:?}");
        let driven = Driven::open(&model, &settings()).unwrap();
        assert_eq!(driven.log.status().state, State::Serving, "file {index}");
        assert_eq!(driven.read().len() as u64, count - lost);
        assert_eq!(driven.log.durable(), Offset(count));
        assert!(!model.list(Path::new("log/quarantine")).unwrap().is_empty());
    }
}

#[test]
fn the_header_of_the_newest_file_is_repaired_at_once() {
    let model = Model::new();
    let count = stored(&model);
    let newest = model.files().into_iter().filter(|it| is_log(it)).max().unwrap();
    model.flip(&newest, 9, 1);
    let place = place(std::sync::Arc::new(model.clone()));
    assert!(!verify(&place, Offset::ZERO).unwrap().is_sound());

    let repaired = repair(&place, &settings(), Offset::ZERO).unwrap();
    assert!(repaired.is_sound(), "{repaired:?}");
    let driven = Driven::open(&model, &settings()).unwrap();
    assert_eq!(driven.log.status().state, State::Serving);
    assert_eq!(driven.read().len() as u64, count, "nothing is lost with a header");
}

#[test]
fn a_directory_that_has_the_name_of_a_leftover_is_named_before_it_is_in_the_way() {
    for name in ["spare.new", "CHECKPOINT.new", "00000000000000000099.idx"] {
        let home = Home::real();
        home.open().0.close();
        home.place.storage.create_dir(&home.place.path(name)).unwrap();
        let told = verify(&home.place, Offset::ZERO).unwrap_err().to_string();
        assert!(told.contains(&format!("log/{name}: it is a directory")), "{told}");
        let opened = Log::open(
            &home.writer,
            home.place.clone(),
            &home.settings,
            Offset::ZERO,
            Box::new(Plain),
        );
        assert_eq!(opened.unwrap_err().to_string(), told);
        home.place.storage.remove_dir(&home.place.path(name)).unwrap();
        assert!(verify(&home.place, Offset::ZERO).unwrap().is_sound());
        home.open();
    }
}

fn length(finding: &Finding) -> u64 {
    finding.range.end.since(finding.range.start)
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "log")
}

#[test]
fn a_scrub_finds_damage_and_notes_when_there_is_none() {
    let model = Model::new();
    stored(&model);
    let driven = Driven::open(&model, &settings()).unwrap();
    assert_eq!(scrub(&driven.log), 0);
    assert_eq!(driven.log.gauges().scrubbed_at.get(), 77);
    let logs: Vec<_> = model.files().into_iter().filter(|it| is_log(it)).collect();
    model.flip(&logs[1], 4096 + 20, 1);
    driven.log.gauges().scrubbed_at.set(0);
    assert_eq!(scrub(&driven.log), 1);
    assert_eq!(driven.log.gauges().corruption.get(), 1);
    assert_eq!(scrub(&driven.log), 1, "it is still there");
    assert_eq!(driven.log.gauges().corruption.get(), 1, "and counted once");
    assert_eq!(driven.log.gauges().scrubbed_at.get(), 0);
}

fn scrub(log: &Log) -> u64 {
    let mut round = Scrub::new(log);
    loop {
        if let Scrubbed::Done { findings } = round.step(77).unwrap() {
            return findings;
        }
    }
}

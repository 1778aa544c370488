//! Room, durability modes, and refusals.

use std::time::Duration;

use super::*;
use crate::events::queue::{
    log::Watch,
    storage::model::{Crash, Fault, Model, Op, Survivors},
};

#[test]
fn a_full_log_refuses_what_is_new_before_what_follows_from_what_it_accepted() {
    let mut home = Home::real();
    home.settings.max_bytes = Some(20_000);
    let (log, _) = home.open();
    while let Ok(permit) = log.permit(1_000) {
        log.append(permit, vec![draft(96)]).wait().unwrap();
    }
    let refused = log.permit(1_000).unwrap_err();
    assert_eq!(refused.reason, Reason::Full);
    assert!(refused.retry_after.is_some());
    let permit = log.permit_for(Purpose::Accepted, 1_000).unwrap();
    log.append(permit, vec![draft(97)]).wait().unwrap();
    assert!(log.permit_for(Purpose::Accepted, 5_000).is_err(), "a tenth more, and no more");
    assert_eq!(log.gauges().rejected.full.get(), 3);
}

#[test]
fn a_disk_that_is_low_takes_nothing_new_and_goes_on_by_itself() {
    let model = Model::new();
    model.set_capacity(100 << 20);
    let storage: Arc<dyn Storage> = Arc::new(model.clone());
    let mut home = Home::on(storage.clone());
    let disk = DiskSettings { low_water: 0.0, min_free: 1 << 30, reserve: 25 << 20 };
    home.place.disk = Arc::new(DiskWatch::new(storage, disk));
    let (log, _) = home.open();
    append(&log, [0]).wait().unwrap();
    model.set_free(40 << 20);
    home.place.disk.refresh().unwrap();
    assert_eq!(log.permit(100).unwrap_err().reason, Reason::DiskLow);
    let permit = log.permit_for(Purpose::Accepted, 300).unwrap();
    log.append(permit, vec![draft(1)]).wait().unwrap();
    assert_eq!(all(&log).len(), 2, "reading goes on");
    model.set_free(90 << 20);
    home.place.disk.refresh().unwrap();
    append(&log, [2]).wait().unwrap();
}

#[test]
fn what_can_never_fit_is_refused_as_such() {
    let mut home = Home::real();
    home.settings.buffer_bytes = 10_000;
    let (log, _) = home.open();
    assert_eq!(log.permit(20_000).unwrap_err().reason, Reason::TooLarge);
    let small = log.permit(10).unwrap();
    let refused = AppendError::Refused(Refused { reason: Reason::TooLarge, retry_after: None });
    assert_eq!(log.append(small, vec![draft(90)]).wait(), Err(refused), "more than its permit");
    let held = log.permit(9_000).unwrap();
    assert_eq!(log.permit(2_000).unwrap_err().reason, Reason::Full);
    drop(held);
    assert!(log.permit(2_000).is_ok());
}

#[test]
fn with_os_an_acknowledgement_comes_before_the_sync_and_reading_after_it() {
    let mut home = Home::real();
    home.settings.durability = Durability::Os;
    home.settings.os_interval = Duration::from_millis(30);
    let (log, _) = home.open();
    append(&log, [0]).wait().unwrap();
    let mut durable = log.subscribe_durable();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let seen = durable.wait_for(|durable| *durable == Offset(1));
        drop(tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap());
    });
    assert_eq!(all(&log), [(0, 0)]);
}

#[test]
fn with_memory_a_log_opens_whatever_is_left_of_it() {
    for seed in 0..10 {
        let model = Model::new();
        let mut home = Home::on(Arc::new(model.clone()));
        home.settings.durability = Durability::Memory;
        let (log, _) = home.open();
        for n in 0..20 {
            append(&log, [n]).wait().unwrap();
        }
        assert_eq!(all(&log).len(), 20, "read at once");
        let home = Home {
            settings: home.settings.clone(),
            ..Home::on(Arc::new(model.crash(Crash::new(Survivors::Random, seed))))
        };
        // A reader has seen all of it.
        let (log, opened) = home.open_at(Offset(20));
        assert_eq!(log.status().state, State::Serving);
        assert_eq!(opened.end, Offset(20), "offsets are not given out twice");
        let appended = append(&log, [20]).wait().unwrap();
        assert_eq!(appended[0].offset, Offset(20));
    }
}

#[test]
fn what_nobody_waits_for_is_told_of_however_it_ends() {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let later = |log: &Log, n| {
        let tell = tell.clone();
        let then: Then = Box::new(move |outcome| tell.send(outcome).unwrap());
        log.append_later(log.permit(200).unwrap(), vec![draft(n)], Later::IsTold(then)).unwrap();
    };
    let end = || told.recv_timeout(Duration::from_secs(30)).unwrap();
    let model = Model::new();
    let home = Home::on(Arc::new(model.clone()));
    let (log, _) = home.open();
    later(&log, 0);
    assert_eq!(end().unwrap()[0].offset, Offset(0), "of itself");
    later(&log, 1);
    append(&log, [2]).wait().unwrap();
    assert_eq!(end().unwrap()[0].offset, Offset(1), "with one that waits");
    model.fail_nth(Op::Sync, 0, Fault::Io);
    later(&log, 3);
    assert_eq!(end(), Err(AppendError::Unknown), "its sync has failed");
    assert!(log.is_offline());
    log.reopen().unwrap();
    later(&log, 4);
    log.close();
    assert!(end().is_ok(), "the log is closed behind it");
    log.reopen().unwrap();
    later(&log, 5);
    home.writer.stop();
    assert!(end().is_ok(), "the writer has written what it was given");
    later(&log, 6);
    assert_eq!(end(), Err(AppendError::Stopped));
}

#[test]
fn whoever_watches_is_told_of_a_failure_only_and_let_go_when_all_is_certain() {
    struct Watcher(std::sync::mpsc::SyncSender<Option<AppendError>>);

    impl Watch for Watcher {
        fn failed(&self, error: AppendError) {
            self.0.send(Some(error)).unwrap();
        }
    }

    impl Drop for Watcher {
        fn drop(&mut self) {
            self.0.send(None).unwrap();
        }
    }

    let (tell, told) = std::sync::mpsc::sync_channel(2);
    let later = |log: &Log, n| {
        let by = Arc::new(Watcher(tell.clone()));
        let later = Later::IsWatched { by, goes_on: n % 2 == 0 };
        log.append_later(log.permit(200).unwrap(), vec![draft(n)], later).unwrap();
    };
    let next = || told.recv_timeout(Duration::from_secs(30)).unwrap();
    let model = Model::new();
    let home = Home::on(Arc::new(model.clone()));
    let (log, _) = home.open();
    for n in 0..2 {
        later(&log, n);
        assert_eq!(next(), None);
        assert_eq!(log.durable(), Offset(n + 1), "let go before the sync");
    }
    model.fail_nth(Op::Sync, 0, Fault::Io);
    later(&log, 2);
    assert_eq!((next(), next()), (Some(AppendError::Unknown), None));
}

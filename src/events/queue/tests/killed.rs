//! Test 7 of the specification, for one log: a real process under load is killed, on real files and
//! on lossy ones, while a ledger outside records what it reported.
//!
//! The process is this test program, started again. Its publishers count up and report what was
//! acknowledged; a reader reports what was served. `SLUICE_CAMPAIGN` says how often it is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use ::bytes::Bytes;
use tokio::time::Instant;

use super::place;
use crate::events::queue::{
    Offset,
    codec::{Draft, Fields, Kind},
    log::{Log, Plain, Settings, State, Writer},
    storage::{Lossy, Real, Storage, model::campaign},
    time::SystemClock,
};

/// Where the process works; set for it only.
const DIR: &str = "SLUICE_TEST_KILLED_DIR";
const IS_LOSSY: &str = "SLUICE_TEST_KILLED_LOSSY";
const PUBLISHERS: u64 = 8;
/// The name of the process's work.
const NAME: &str = "events::queue::tests::killed::t7_the_process_that_is_killed";

/// What the ledger knows.
#[derive(Debug, Default)]
struct Ledger {
    /// By offset: publisher and number, acknowledged or served.
    told: BTreeMap<u64, (u64, u64)>,
    acknowledged: u64,
    served: u64,
}

/// The result of a campaign.
#[derive(Debug, Default)]
struct Score {
    cycles: u64,
    lost: u64,
    twice: u64,
    out_of_order: u64,
    recovered: u64,
    copied: u64,
    slowest: Duration,
}

fn storage(dir: &Path, is_lossy: bool) -> Arc<dyn Storage> {
    let storage: Arc<dyn Storage> = if is_lossy {
        Arc::new(Lossy::open(dir).unwrap())
    } else {
        Arc::new(Real::open(dir).unwrap())
    };
    // Held until the process ends; the previous one is gone.
    std::mem::forget(storage.lock(Path::new("LOCK")).unwrap().expect("nobody else is here"));
    storage
}

fn open(storage: Arc<dyn Storage>) -> (Writer, Log, u64) {
    let writer = Writer::spawn("killed", Arc::new(SystemClock)).unwrap();
    let settings = Settings {
        segment_bytes: 128 << 10,
        checkpoint: Duration::from_millis(30),
        ..Settings::default()
    };
    let place = place(storage);
    let opened = Log::open(&writer, place, &settings, Offset::ZERO, Box::new(Plain));
    let (log, opened) = opened.expect("opening after a kill");
    assert_eq!(log.status().state, State::Serving, "after a kill");
    (writer, log, opened.copied)
}

fn body(publisher: u64, number: u64) -> Bytes {
    let mut body = Vec::new();
    body.extend_from_slice(&publisher.to_le_bytes());
    body.extend_from_slice(&number.to_le_bytes());
    body.resize(16 + usize::try_from(number % 700).unwrap(), number.to_le_bytes()[0]);
    body.into()
}

fn parse(bytes: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (publisher, count) = (number(0), number(8));
    assert_eq!(bytes, &body(publisher, count)[..], "other bytes than were published");
    (publisher, count)
}

fn read_all(log: &Log) -> BTreeMap<u64, (u64, u64)> {
    let (mut reader, mut from) = (log.reader(), log.start());
    let mut found = BTreeMap::new();
    loop {
        let block = reader.read(from, 1 << 20).unwrap();
        if block.is_empty() {
            return found;
        }
        assert!(block.gaps().is_empty(), "a gap");
        found.extend(block.records().map(|(offset, record)| (offset.0, parse(record.body()))));
        from = block.next();
    }
}

/// Not a test: the work of the process that is killed.
#[test]
fn t7_the_process_that_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let storage = storage(Path::new(&dir), std::env::var(IS_LOSSY).is_ok());
    let (_writer, log, _) = open(storage);
    let mut next = BTreeMap::new();
    for (publisher, number) in read_all(&log).into_values() {
        next.insert(publisher, number + 1);
    }
    let told = log.clone();
    thread::spawn(move || tell_what_is_served(&told));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (log, first) = (log.clone(), next.get(&publisher).copied().unwrap_or(0));
            thread::spawn(move || publish(&log, publisher, first))
        })
        .collect();
    for publisher in publishers {
        publisher.join().unwrap();
    }
}

fn publish(log: &Log, publisher: u64, first: u64) {
    let mut number = first;
    loop {
        let count = 1 + number % 3;
        let drafts: Vec<Draft> = (number..number + count)
            .map(|number| Draft::new(Kind::Event, Fields::default(), body(publisher, number)))
            .collect();
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let Ok(permit) = log.permit(bytes) else { continue };
        let is_awaited = number % 11 != 10;
        let commit = if is_awaited {
            log.append(permit, drafts)
        } else {
            log.append_unwaited(permit, drafts)
        };
        let appended = commit.wait().unwrap();
        if is_awaited {
            let mut line = String::new();
            for (appended, number) in appended.iter().zip(number..) {
                let offset = appended.offset;
                writeln!(line, "acknowledged {offset} {publisher} {number}").unwrap();
            }
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
        number += count;
        if publisher == 0 && number % 60 < 3 {
            log.retire(Offset(log.durable().0.saturating_sub(400))).unwrap();
        }
    }
}

fn tell_what_is_served(log: &Log) {
    let (mut reader, mut from) = (log.reader(), log.start());
    loop {
        from = from.max(log.start());
        let Ok(block) = reader.read(from, 1 << 16) else { continue };
        if block.is_empty() {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        let mut line = String::new();
        for (offset, record) in block.records() {
            let (publisher, number) = parse(record.body());
            writeln!(line, "served {offset} {publisher} {number}").unwrap();
        }
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        from = block.next();
    }
}

fn start(dir: &Path, is_lossy: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture", "--test-threads", "1"]);
    command.env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::inherit());
    if is_lossy {
        command.env(IS_LOSSY, "1");
    }
    command.spawn().unwrap()
}

/// Collects what the process reports until it is dead.
fn listen(child: &mut Child) -> thread::JoinHandle<Vec<String>> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Only the last line may be torn.
    thread::spawn(move || lines.map_while(Result::ok).collect())
}

impl Ledger {
    fn take(&mut self, lines: &[String], score: &mut Score) {
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let [what @ ("acknowledged" | "served"), rest @ ..] = &words[..] else { continue };
            let numbers: Option<Vec<u64>> = rest.iter().map(|word| word.parse().ok()).collect();
            let Some([offset, publisher, number]) = numbers.as_deref() else { continue };
            match *what {
                "served" => self.served += 1,
                _ => self.acknowledged += 1,
            }
            let event = (*publisher, *number);
            if self.told.insert(*offset, event).is_some_and(|before| before != event) {
                score.twice += 1;
            }
        }
    }
}

impl Score {
    fn check(&mut self, ledger: &mut Ledger, log: &Log) {
        let found = read_all(log);
        let start = log.start().0;
        self.lost +=
            ledger.told.range(start..).filter(|(at, it)| found.get(at) != Some(it)).count() as u64;
        let events: BTreeSet<_> = found.values().collect();
        self.twice += (found.len() - events.len()) as u64;
        // Each publisher waited for each of its events, so its events have no hole.
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (publisher, number) in found.values() {
            let before = last.insert(*publisher, *number);
            self.out_of_order += u64::from(before.is_some_and(|before| *number != before + 1));
        }
        self.recovered += found.len() as u64;
        ledger.told = found;
    }
}

/// The kill may cut the last line short; it is then dropped.
fn whole(mut lines: Vec<String>) -> Vec<String> {
    lines.pop();
    lines
}

fn kill_and_look(is_lossy: bool, cycles: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let mut score = Score::default();
    for _ in 0..cycles {
        let mut child = start(dir.path(), is_lossy);
        let heard = listen(&mut child);
        thread::sleep(Duration::from_millis(fastrand::u64(20..250)));
        child.kill().unwrap();
        child.wait().unwrap();
        ledger.take(&whole(heard.join().unwrap()), &mut score);
        let since = Instant::now();
        let storage = unlocked(dir.path(), is_lossy);
        let (writer, log, copied) = open(storage);
        score.slowest = score.slowest.max(since.elapsed());
        score.copied += copied;
        score.cycles += 1;
        score.check(&mut ledger, &log);
        writer.stop();
    }
    println!(
        "{}: {} cycles, {} acknowledged, {} served, {} recovered ({} copied forward), {} lost, \
         {} duplicated, {} out of order, opened within {:?}",
        if is_lossy { "lossy" } else { "real" },
        score.cycles,
        ledger.acknowledged,
        ledger.served,
        score.recovered,
        score.copied,
        score.lost,
        score.twice,
        score.out_of_order,
        score.slowest
    );
    assert!(ledger.acknowledged > 0, "nothing was acknowledged");
    assert_eq!((score.lost, score.twice, score.out_of_order), (0, 0, 0));
}

/// As [`storage`], for a process that continues: releases the lock.
fn unlocked(dir: &Path, is_lossy: bool) -> Arc<dyn Storage> {
    let storage: Arc<dyn Storage> = if is_lossy {
        Arc::new(Lossy::open(dir).unwrap())
    } else {
        Arc::new(Real::open(dir).unwrap())
    };
    drop(storage.lock(Path::new("LOCK")).unwrap().expect("the process is dead"));
    storage
}

#[test]
fn t7_a_killed_process_loses_nothing_on_real_files() {
    kill_and_look(false, campaign(4));
}

#[test]
fn t7_a_killed_process_loses_nothing_where_unsynced_bytes_are_lost() {
    kill_and_look(true, campaign(6));
}

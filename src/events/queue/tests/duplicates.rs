//! A duplicate is acknowledged only once its original is stored (P7), and after any crash an
//! acknowledged duplicate exists exactly once.

use std::{collections::HashMap, ops::Range};

use ::bytes::Bytes;

use super::{draft, open_with, writer};
use crate::events::queue::{
    Offset,
    codec::{Draft, Record},
    log::{
        Appended, Commit, Learnt, Log, OpenError, Opened, Placement, Sequencer, Settings, State,
        Writer,
    },
    storage::model::{Crash, Fault, Model, Op, campaign},
    time::Now,
};

/// Remembers every body that was ever placed.
#[derive(Debug, Default)]
struct EveryBody {
    known: HashMap<Bytes, Offset>,
    /// Of the frame being built.
    pending: Vec<Bytes>,
}

impl Sequencer for EveryBody {
    fn place(&mut self, draft: &Draft, offset: Offset, _: Now) -> Placement {
        if let Some(offset) = self.known.get(&draft.body) {
            return Placement::Duplicate { offset: *offset, partition: 0, mismatch: false };
        }
        self.known.insert(draft.body.clone(), offset);
        self.pending.push(draft.body.clone());
        Placement::Append { generation: 0, partition: 0 }
    }

    fn commit(&mut self) {
        self.pending.clear();
    }

    fn rollback(&mut self) {
        for body in self.pending.drain(..) {
            self.known.remove(&body);
        }
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn since(&self, _: Now) -> u64 {
        0
    }

    fn learn_sealed(&mut self, _: u64, _: Range<Offset>, _: Option<&[u8]>) -> Learnt {
        Learnt::Wanting
    }

    fn learn(&mut self, record: &Record<'_>, offset: Offset) {
        self.known.insert(Bytes::copy_from_slice(record.body()), offset);
    }

    fn sealed(&mut self, _: u64, _: Range<Offset>) -> Option<Vec<u8>> {
        None
    }
}

fn open(writer: &Writer, model: &Model) -> Result<(Log, Opened), OpenError> {
    let settings = Settings { segment_bytes: 12 << 10, ..Settings::default() };
    open_with(writer, model, &settings, Box::new(EveryBody::default()))
}

fn publish(log: &Log, n: u64, is_awaited: bool) -> Option<Commit> {
    let draft = draft(n);
    let permit = log.permit(draft.encoded_bytes() as u64).ok()?;
    let drafts = vec![draft];
    Some(if is_awaited { log.append(permit, drafts) } else { log.append_unwaited(permit, drafts) })
}

fn bodies(log: &Log) -> HashMap<u64, Vec<u8>> {
    let mut found = HashMap::new();
    let (mut reader, mut from) = (log.reader(), log.start());
    loop {
        let block = reader.read(from, 1 << 20).unwrap();
        if block.is_empty() {
            return found;
        }
        found.extend(block.records().map(|(at, record)| (at.0, record.body().to_vec())));
        from = block.next();
    }
}

#[test]
fn a_duplicate_fails_with_its_original() {
    let writer = writer();
    let model = Model::new();
    let (log, _) = open(&writer, &model).unwrap();
    model.fail_nth(Op::Sync, 0, Fault::Io);
    publish(&log, 1, false).unwrap().wait().unwrap();
    // The sync fails, so neither the original nor the duplicate is known to be stored.
    let repeated = publish(&log, 1, true).map(Commit::wait);
    assert!(!matches!(repeated, Some(Ok(_))), "{repeated:?}");
}

#[test]
fn a_duplicate_names_its_original_after_any_crash() {
    let writer = writer();
    for seed in 0..campaign(60) {
        let mut lots = fastrand::Rng::with_seed(seed);
        let mut model = Model::new();
        // What was answered, by event.
        let mut answered: HashMap<u64, Appended> = HashMap::new();
        for life in 0..5 {
            model.stop_at(lots.u64(8..90));
            if let Ok((log, _)) = open(&writer, &model) {
                for _ in 0..60 {
                    let n = lots.u64(0..40);
                    let is_awaited = lots.u8(0..4) > 0;
                    let Some(commit) = publish(&log, n, is_awaited) else { break };
                    if !is_awaited {
                        continue;
                    }
                    let Ok(appended) = commit.wait() else { break };
                    if let Some(before) = answered.insert(n, appended[0]) {
                        assert_eq!(
                            appended[0].offset, before.offset,
                            "seed {seed}: {n} is there twice"
                        );
                        assert!(appended[0].duplicate.is_some(), "seed {seed}: {n} is new again");
                    }
                }
            }
            model = model.crash(Crash::any(seed * 10 + life));
        }
        let (log, _) = open(&writer, &model).unwrap();
        assert_eq!(log.status().state, State::Serving);
        let found = bodies(&log);
        for (n, appended) in &answered {
            let body = found.get(&appended.offset.0);
            assert_eq!(body.map(Vec::as_slice), Some(&draft(*n).body[..]), "seed {seed}: {n}");
        }
        let mut different: Vec<_> = found.values().collect();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), found.len(), "seed {seed}: one event is there twice");
    }
}

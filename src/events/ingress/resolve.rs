//! Brings orphans to their end: after a crash, and after a topic or the log itself refused records
//! for a while.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    handle::{Ingress, each},
    key_record::{self, Claim, KeyEnd},
    keys::Mark,
    record::{self, Entry, Found, Owed},
    state::{Id, Stage},
    target::{Target, Topics},
};
use crate::events::{
    event::Event,
    queue::{
        LogId, Offset,
        log::{AppendError, Log, Purpose, ReadError, Reason, Refused},
    },
    stored,
};

/// Exchanges resolved in one go.
const BATCH: usize = 256;

/// Why some of the work has to wait.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A log refuses records.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What one topic is owed.
#[derive(Default)]
struct Debt {
    /// No owed event lies below this offset.
    from: Option<Offset>,
    /// The same for the log of delayed events; `None` if none of these waits.
    waits: Option<Offset>,
    events: Vec<Event>,
    exchanges: HashSet<Id>,
}

// === impl Ingress ===

impl Ingress {
    /// Ends orphans: an intent without an answer becomes `<type>.uncertain`, and owed events that
    /// are missing from their topics are appended. Blocks.
    ///
    /// A topic that refuses does not hold up the others: the last error is returned, and what
    /// failed is tried again by the next call.
    pub fn resolve(&self, topics: &dyn Topics) -> Result<(), ResolveError> {
        if self.is_offline() {
            return Ok(());
        }
        let (mut after, mut outcome) = (None, self.resolve_attempts().map_err(ResolveError::from));
        loop {
            let orphans = self.0.state.lock().orphans(after, BATCH);
            let Some((last, _)) = orphans.last() else { return outcome };
            after = Some(*last);
            if let Err(error) = self.resolve_some(topics, &orphans) {
                outcome = Err(error);
            }
        }
    }

    fn resolve_some(
        &self,
        topics: &dyn Topics,
        orphans: &[(Id, Stage)],
    ) -> Result<(), ResolveError> {
        let mut debts: HashMap<LogId, Debt> = HashMap::new();
        for (id, stage) in orphans {
            if let Some((first, count)) = self.owing(*id, *stage)? {
                self.gather(*id, first, count, &mut debts)?;
            }
        }
        let (mut unpaid, mut outcome) = (HashSet::new(), Ok(()));
        for (topic, debt) in debts {
            let paid = if let Some(target) = topics.of_id(topic) {
                let waiting = debt.waits.and_then(|from| Some((topics.delayed(topic)?, from)));
                pay(&*target, waiting.as_ref(), &debt)
            } else {
                let count = debt.events.len();
                tracing::error!(%topic, count, "events owed by requests are lost: their topic was dropped");
                Ok(())
            };
            if let Err(error) = paid {
                unpaid.extend(debt.exchanges);
                outcome = Err(error);
            }
        }
        let mut state = self.0.state.lock();
        for (id, _) in orphans.iter().filter(|(id, _)| !unpaid.contains(id)) {
            state.end(*id);
        }
        outcome
    }

    /// Where the owed events of an exchange are; `None` if it owes none.
    fn owing(&self, id: Id, stage: Stage) -> Result<Option<(Offset, u16)>, ResolveError> {
        match stage {
            Stage::Owing { first, count } => Ok(Some((first, count))),
            Stage::Begun { at, intents } => self.give_up(id, at, intents).map(Some),
            Stage::InDoubt { at, intents } => match self.find_answer(at)? {
                Some(found) => Ok(Some(found)),
                None => self.give_up(id, at, intents).map(Some),
            },
            Stage::Beginning { .. } => Ok(None),
        }
    }

    /// Where the events of the exchange that began at `at` are (maybe none), if its answer was
    /// written.
    fn find_answer(&self, at: Offset) -> Result<Option<(Offset, u16)>, ReadError> {
        let (mut found, mut marked) = (None::<(Offset, u16)>, None);
        each(&self.0.log, at, |offset, entry| match (entry, &mut found) {
            (Entry::Answer { exchange, key }, _) if exchange == at => {
                found = Some((offset.plus(1), 0));
                marked = key.map(|said| (said.hash, said.mark, offset));
            }
            (Entry::Owed { exchange }, Some((_, count))) if exchange == at => {
                *count = count.saturating_add(1);
            }
            _ => {}
        })?;
        if let Some((hash, mark, offset)) = marked {
            self.0.keys.lock().mark(hash, mark, offset);
        }
        Ok(found)
    }

    /// Records that nobody knows what became of the exchange; its events say so.
    fn give_up(&self, id: Id, at: Offset, intents: u16) -> Result<(Offset, u16), ResolveError> {
        let found = self.read(at, intents)?;
        let uncertain = |it: Found| {
            let event = record::uncertain(it.event);
            Owed::new(it.topic, it.end, it.waits, event.borrowed())
        };
        let owed: Vec<_> = found.into_iter().map(uncertain).collect();
        let claim = self.claimed_at(at)?;
        let key = claim.map(|claim| (claim, &KeyEnd::Uncertain));
        let drafts = record::answer(at, true, &owed, key);
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let log = &self.0.log;
        let permit = log.permit_for(Purpose::Accepted, bytes).map_err(AppendError::from)?;
        let appended = log.append(permit, drafts).wait()?;
        self.0.uncertain.fetch_add(1, Relaxed);
        let written = appended.first().map_or(at, |first| first.offset);
        if let Some(claim) = claim {
            self.0.keys.lock().mark(claim.hash, Mark::Uncertain, written);
        }
        let first = written.plus(1);
        let count = u16::try_from(owed.len()).unwrap_or(u16::MAX);
        self.0.state.lock().set(id, Stage::Owing { first, count });
        Ok((first, count))
    }

    /// The key of the exchange that began at `at`, if it has one.
    fn claimed_at(&self, at: Offset) -> Result<Option<Claim>, ReadError> {
        let record = self.0.log.reader().get(at)?;
        Ok(record.and_then(|it| key_record::read_claim(&it.record()?)))
    }

    fn gather(
        &self,
        id: Id,
        first: Offset,
        count: u16,
        debts: &mut HashMap<LogId, Debt>,
    ) -> Result<(), ReadError> {
        for found in self.read(first, count)? {
            let debt = debts.entry(found.topic).or_default();
            let lower = |known: Option<Offset>, end| Some(known.map_or(end, |from| from.min(end)));
            debt.from = lower(debt.from, found.end);
            if let Some(end) = found.waits {
                debt.waits = lower(debt.waits, end);
            }
            debt.events.push(found.event);
            debt.exchanges.insert(id);
        }
        Ok(())
    }

    /// Reads `count` events from `first` on. A damaged one is logged and given up: it can never be
    /// read.
    fn read(&self, first: Offset, count: u16) -> Result<Vec<Found>, ReadError> {
        let mut reader = self.0.log.reader();
        let mut all = Vec::with_capacity(count.into());
        for index in 0..u64::from(count) {
            let offset = first.plus(index);
            match reader.get(offset) {
                Ok(record) => {
                    let found = record.and_then(|it| it.record().and_then(|it| record::found(&it)));
                    all.extend(found);
                }
                Err(ReadError::Damaged { .. } | ReadError::Retired { .. }) => {
                    tracing::error!(%offset, "an event owed by a request is damaged on disk and lost");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// Appends the events that are missing, to the log of delayed events if they have to wait. Blocks.
fn pay(
    target: &dyn Target,
    waiting: Option<&(Arc<dyn Target>, Offset)>,
    debt: &Debt,
) -> Result<(), ResolveError> {
    if debt.waits.is_some() != waiting.is_some() {
        return Err(closed());
    }
    let wanted: HashSet<&str> = debt.events.iter().map(|event| &*event.id).collect();
    let mut there = HashSet::new();
    // Look in the delayed log first: an event may move from there to the topic meanwhile, but never
    // back.
    if let Some((waiting, from)) = waiting {
        note_present(&waiting.log().ok_or_else(closed)?, *from, &wanted, &mut there)?;
    }
    let log = target.log().ok_or_else(closed)?;
    note_present(&log, debt.from.unwrap_or_default(), &wanted, &mut there)?;
    for event in debt.events.iter().filter(|event| !there.contains(&*event.id)) {
        let has_to_wait = event.not_before.is_some();
        let way = waiting.filter(|_| has_to_wait).map_or(target, |(way, _)| &**way);
        let draft = stored::draft(event.borrowed());
        let permit = way.permit(Purpose::Accepted, draft.encoded_bytes() as u64);
        let permit = permit.map_err(AppendError::from)?;
        way.append(permit, vec![draft]).map_err(AppendError::from)?.wait()?;
    }
    Ok(())
}

fn closed() -> ResolveError {
    ResolveError::Append(Refused::new(Reason::Offline).into())
}

/// Finds which of `wanted` are in a log from `from` on. Blocks.
fn note_present<'a>(
    log: &Log,
    from: Offset,
    wanted: &HashSet<&'a str>,
    there: &mut HashSet<&'a str>,
) -> Result<(), ReadError> {
    let noted = log.reader().find(from, |_, record| {
        there.extend(record.id().and_then(|id| wanted.get(id)));
        None::<()>
    });
    noted.map(drop)
}

//! A world around a machine: a log, dead letters, a journal that can lose its unsynced end, a clock.
//!
//! After each decision it checks what must always hold: the entries alone give the same state, and
//! a dead letter exists before its event is settled.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::*;
use crate::events::queue::{LogId, Offset};

pub(super) const P0: Partition = Partition { generation: 0, number: 0 };

/// An event of the topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) partition: Partition,
    pub(super) key: Option<u64>,
    pub(super) expires: Option<u64>,
    pub(super) is_wanted: bool,
}

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) now: u64,
    random: u64,
    pub(super) log: Vec<Stored>,
    /// Dead letters, with their origins.
    pub(super) letters: Vec<Letter>,
    /// Published followers.
    pub(super) published: Vec<(Place, Ending)>,
    /// Effects to carry out.
    pub(super) effects: Vec<Effect>,
    /// The journal since the snapshot.
    pub(super) journal: Vec<Entry>,
    pub(super) base: State,
    /// How many entries of `journal` are synced.
    pub(super) synced: usize,
    /// A machine that only applies the entries.
    shadow: Machine,
    /// Entries of the last decision.
    pub(super) last: Vec<Entry>,
    pub(super) acts_at_once: bool,
    pub(super) is_checked: bool,
}

pub(super) fn log_id(number: u128) -> LogId {
    LogId(Uuid::from_u128(number))
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let machine = Machine::new(settings.clone(), Offset::ZERO);
        let base = machine.snapshot();
        Self {
            shadow: Machine::restore(base.clone(), settings.clone()),
            machine,
            settings,
            now: 1_000_000,
            random: 1,
            log: Vec::new(),
            letters: Vec::new(),
            published: Vec::new(),
            effects: Vec::new(),
            journal: Vec::new(),
            base,
            synced: 0,
            last: Vec::new(),
            acts_at_once: true,
            is_checked: true,
        }
    }

    pub(super) fn moment(&mut self) -> Moment {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let target = |number, end: usize| Target { log: log_id(number), end: Offset(end as u64) };
        Moment {
            now: self.now,
            judged: self.now,
            random: self.random,
            targets: Targets {
                letters: target(2, self.letters.len()),
                success: target(3, self.published.len()),
                failure: target(4, self.published.len()),
            },
        }
    }

    /// Runs a decision, takes its output, reads ahead, and carries out effects.
    pub(super) fn decide<T>(
        &mut self,
        decision: impl FnOnce(&mut Machine, &Moment, &mut Output) -> T,
    ) -> T {
        self.last.clear();
        let moment = self.moment();
        let mut out = Output::default();
        let answer = decision(&mut self.machine, &moment, &mut out);
        self.take(out);
        self.read();
        if self.acts_at_once {
            self.act();
        }
        answer
    }

    pub(super) fn take(&mut self, out: Output) {
        for entry in out.entries {
            if let Entry::Settled { ending: Ending::DeadLettered(_), events, .. } = &entry {
                for place in events {
                    let is_there = self.letters.iter().any(|letter| letter.place == *place);
                    assert!(is_there, "settled before its dead letter: {place:?}");
                }
            }
            self.shadow.apply(&entry);
            self.last.push(entry.clone());
            self.journal.push(entry);
        }
        if self.is_checked {
            assert_eq!(self.shadow.snapshot(), self.machine.snapshot(), "entries make the state");
        }
        self.effects.extend(out.effects);
    }

    /// Reads while the machine wants more and there is some.
    pub(super) fn read(&mut self) {
        for _ in 0..100_000 {
            let scans = self.machine.scans().map(|scan| (self.end(&scan), scan));
            let mut scans = scans.filter(|(end, scan)| scan.from.0 < *end);
            let Some((end, scan)) = scans.next() else { return };
            drop(scans);
            let to = end.min(scan.from.0 + 7);
            let found: Vec<Found> = (scan.from.0..to).map(|at| self.found(&scan, at)).collect();
            let mut out = Output::default();
            self.machine.scanned(&scan, Offset(to), self.now, &found, &mut out);
            self.take(out);
        }
        panic!("reading without end");
    }

    /// The end of what can be read.
    fn end(&self, scan: &Scan) -> u64 {
        let end = match self.machine.jobs().find(|(lane, _)| *lane == scan.lane) {
            Some((_, Job { kind: JobKind::Redrive { .. }, .. })) => self.letters.len(),
            _ => self.log.len(),
        };
        scan.to.map_or(end as u64, |to| to.0.min(end as u64))
    }

    fn found(&self, scan: &Scan, at: u64) -> Found {
        let redriven = self
            .machine
            .jobs()
            .find(|(lane, _)| *lane == scan.lane)
            .is_some_and(|(_, job)| matches!(job.kind, JobKind::Redrive { .. }));
        let index = usize::try_from(at).unwrap();
        let (of, partition) = if redriven {
            let place = self.letters[index].place;
            let of = usize::try_from(self.origin(place).0).unwrap();
            (of, place.partition)
        } else {
            (index, self.log[index].partition)
        };
        let stored = self.log[of];
        Found {
            event: Added {
                partition,
                offset: Offset(at),
                key: stored.key,
                published: at,
                expires: stored.expires,
                bytes: 100,
            },
            is_wanted: stored.is_wanted,
        }
    }

    /// The offset in the topic of an event of any lane.
    pub(super) fn origin(&self, place: Place) -> Offset {
        let job = self.machine.jobs().find(|(lane, _)| *lane == place.lane);
        match job {
            Some((_, Job { kind: JobKind::Redrive { .. }, .. })) => {
                self.letters[usize::try_from(place.offset.0).unwrap()].place.offset
            }
            _ => place.offset,
        }
    }

    /// Carries out effects.
    pub(super) fn act(&mut self) {
        while !self.effects.is_empty() {
            let effect = self.effects.remove(0);
            // The journal is synced first.
            self.synced = self.journal.len();
            let moment = self.moment();
            let mut out = Output::default();
            match effect {
                Effect::DeadLetter(letter) => {
                    let from = usize::try_from(letter.target.end.0).unwrap();
                    let (place, reason) = (letter.place, letter.reason);
                    let known = (from..self.letters.len())
                        .find(|&at| letter.is_recovered && self.letters[at].place == place);
                    let at = known.unwrap_or_else(|| {
                        self.letters.push(letter);
                        self.letters.len() - 1
                    });
                    let there = (Offset(at as u64), 120);
                    self.machine.dead_lettered(&moment, place, reason, there, &mut out);
                }
                Effect::Conclude(it) => {
                    let of = (it.place, it.is_recovered);
                    self.machine.concluded(&moment, of, it.reason, &mut out);
                }
                Effect::Publish(publication) => {
                    let from = usize::try_from(publication.target.end.0).unwrap();
                    let follows = (publication.place, publication.ending);
                    let is_there =
                        publication.is_recovered && self.published[from..].contains(&follows);
                    if !is_there {
                        self.published.push(follows);
                    }
                    self.machine.published(&moment, publication.place, &mut out);
                }
            }
            self.take(out);
            self.read();
        }
    }

    /// Appends to the topic.
    pub(super) fn publish(&mut self, stored: Stored) -> Offset {
        self.log.push(stored);
        self.read();
        Offset(self.log.len() as u64 - 1)
    }

    pub(super) fn publish_keys(&mut self, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            let key = Some(key).filter(|&key| key != 0);
            self.publish(Stored { partition: P0, key, expires: None, is_wanted: true });
        }
    }

    pub(super) fn receive(&mut self, events: usize, lease: u64) -> Vec<Delivery> {
        self.decide(|machine, moment, out| {
            machine.receive(moment, &Ask { events, bytes: u64::MAX, lease }, out)
        })
    }

    pub(super) fn offsets(&mut self, events: usize, lease: u64) -> Vec<u64> {
        self.receive(events, lease).iter().map(|delivery| delivery.token.place.offset.0).collect()
    }

    pub(super) fn ack(&mut self, token: Token) -> TokenStatus {
        self.decide(|machine, moment, out| machine.ack_one(moment, token, None, out))
    }

    pub(super) fn nack(&mut self, token: Token) -> TokenStatus {
        self.decide(|machine, moment, out| machine.nack(moment, token, None, Some("no"), out))
    }

    pub(super) fn advance(&mut self, by: u64) {
        self.now += by;
        self.decide(Machine::tick);
    }

    /// The process dies, and the journal loses its unsynced entries from `keep` on.
    pub(super) fn crash(&mut self, keep: usize) {
        let keep = keep.clamp(self.synced, self.journal.len());
        self.journal.truncate(keep);
        self.synced = keep;
        let mut machine = Machine::restore(self.base.clone(), self.settings.clone());
        for entry in &self.journal {
            machine.apply(entry);
        }
        let mut again = Machine::restore(self.base.clone(), self.settings.clone());
        for entry in &self.journal {
            again.apply(entry);
        }
        let restored = Machine::restore(machine.snapshot(), self.settings.clone());
        assert_eq!(restored.snapshot(), machine.snapshot(), "a snapshot is the state");
        // Half of the time from a new snapshot.
        self.machine = if self.random & (1 << 40) == 0 { machine } else { restored };
        self.shadow = again;
        self.effects.clear();
        self.decide(Machine::recover);
    }

    /// Lets time pass until something happens.
    pub(super) fn wait(&mut self) -> bool {
        let now = self.now;
        let Some(at) = self.machine.wake_at(now) else { return false };
        self.now = self.now.max(at);
        self.decide(Machine::tick);
        true
    }

    /// Takes and settles everything, however long that takes.
    pub(super) fn drain(&mut self) {
        for _ in 0..200_000 {
            let deliveries = self.receive(100, 30_000);
            if deliveries.is_empty() {
                self.act();
                if !self.wait() && self.machine.ready() == 0 && self.machine.numbers().ending == 0 {
                    return;
                }
            }
            for delivery in deliveries {
                assert_eq!(self.ack(delivery.token), TokenStatus::Ok, "{delivery:?}");
            }
        }
        panic!("it does not come to an end: {:?}", self.machine.numbers());
    }

    /// Reasons of dead letters by their event.
    pub(super) fn dead(&self) -> BTreeMap<u64, Vec<Reason>> {
        let mut dead: BTreeMap<u64, Vec<Reason>> = BTreeMap::new();
        for letter in &self.letters {
            dead.entry(letter.place.offset.0).or_default().push(letter.reason);
        }
        dead
    }

    pub(super) fn floor(&self) -> u64 {
        self.machine.floor().0
    }
}

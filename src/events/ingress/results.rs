//! Stored requests in memory, from their first attempt on: a pure table over the records of the
//! ingress log; time is an argument.
//!
//! Invariant: **a request that may have been seen is known to be so**. An attempt that has begun
//! stays in the table until its result is recorded; nothing in flight is evicted for room or age. A
//! request that has ended is kept for its time, and never begins again by itself.

use std::collections::{BTreeSet, HashMap};

use crate::events::{
    queue::Offset,
    request::{Place, State},
};

/// An end is kept at least this long (milliseconds), even if nobody can ask for it any more: longer
/// than the attempt's owner takes to record it.
const SHORTEST: u64 = 3_600_000;

/// A request's state, as a record of the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) state: State,
    pub(super) attempts: u32,
    /// Its flow: 0, or a job's.
    pub(super) lane: u32,
    /// It may safely be seen twice.
    pub(super) may_repeat: bool,
    /// Until when its end can be asked for, in milliseconds since 1970.
    pub(super) until: u64,
}

/// A request in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) recorded: Recorded,
    /// Offset of its last record; for an attempt being written, a lower bound of it.
    pub(super) at: Offset,
    since: u64,
    /// Nobody owns its attempt any more.
    is_orphan: bool,
}

/// A request to begin an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The state once the attempt has begun, except its number.
    pub(super) recorded: Recorded,
    /// Send even if it may have been seen.
    pub(super) is_forced: bool,
    /// When an earlier attempt began that ended without a result.
    pub(super) left: Option<u64>,
}

/// The decision whether an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has begun; the state now, and the entry before.
    Begun { recorded: Recorded, before: Option<Entry> },
    /// Another attempt is in flight.
    Busy,
    /// The previous attempt may have been seen, and its result will never be known.
    Orphan(Recorded),
    /// There was an attempt that is forgotten here; the state to record for it.
    Unknown(Recorded),
    /// It has ended.
    Over(State),
    /// No place is left.
    Full,
}

/// Stored requests.
#[derive(Debug, Default)]
pub(super) struct Results {
    entries: HashMap<Place, Entry>,
    /// When each entry that does not run is forgotten.
    expiries: BTreeSet<(u64, Place)>,
    /// The records of those that run.
    running: BTreeSet<(Offset, Place)>,
    /// Older records (milliseconds) have no effect any more.
    longest: u64,
    /// Places of requests about to be stored.
    reserved: usize,
    /// Requests from before this process, not read yet: each may need a place.
    unread: usize,
}

/// Whether an attempt that began at `left` may have been forgotten by now.
pub(super) fn is_forgotten(left: u64, wall: u64) -> bool {
    wall.saturating_sub(left) >= SHORTEST
}

// === impl Results ===

impl Results {
    /// Places taken by known requests.
    pub(super) fn taken(&self) -> usize {
        self.entries.len() + self.reserved
    }

    /// Places not available to newcomers.
    pub(super) fn spoken_for(&self) -> usize {
        self.taken().saturating_add(self.unread)
    }

    /// Places reserved for requests not read yet.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    /// Announces records of earlier requests that may need a place.
    pub(super) fn inherit(&mut self, records: usize) {
        self.unread = self.unread.saturating_add(records);
    }

    /// This many of them were read, are settled, or are gone.
    pub(super) fn looked_at(&mut self, records: usize) {
        self.unread = self.unread.saturating_sub(records);
    }

    /// Reserves one more place.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    /// Frees a reserved place.
    pub(super) fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Turns a reserved place into the request's, unless an attempt has begun and already has one.
    pub(super) fn stored(&mut self, place: Place, until: u64, wall: u64) {
        self.release();
        self.keep_place(place, until, wall);
    }

    /// Gives the waiting request a place, unless it has one.
    pub(super) fn keep_place(&mut self, place: Place, until: u64, wall: u64) {
        if !self.entries.contains_key(&place) {
            let state = State::Queued;
            let recorded = Recorded { state, attempts: 0, lane: 0, may_repeat: false, until };
            self.record(place, recorded, Offset::ZERO, wall);
        }
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The request's entry, if there was an attempt.
    pub(super) fn get(&self, place: Place) -> Option<&Entry> {
        self.entries.get(&place)
    }

    /// Decides about an attempt at `place` whose record will not lie below `floor`. If it may
    /// begin, it has begun on return.
    ///
    /// A request that has ended begins again only for a job, once for each. One that may have been
    /// seen begins again only if the operator forces it.
    pub(super) fn begin(
        &mut self,
        place: Place,
        asked: Asked,
        (floor, wall): (Offset, u64),
    ) -> Verdict {
        let Asked { recorded: asked, is_forced, left } = asked;
        let before = self.entries.get(&place).copied();
        let is_forgotten = |left| is_forgotten(left, wall);
        // An entry that only reserves a place does not mean that there was an attempt.
        let is_unknown = before.is_none_or(|entry| !entry.recorded.is_known());
        if is_unknown && !asked.may_repeat && left.is_some_and(is_forgotten) {
            // The reserved place becomes the attempt's.
            self.put(place, Entry { recorded: asked, at: floor, since: wall, is_orphan: true });
            return Verdict::Unknown(asked);
        }
        if let Some(entry) = before {
            let known = entry.recorded;
            match known.state {
                State::Running if !entry.is_orphan => return Verdict::Busy,
                State::Running if !known.may_repeat => return Verdict::Orphan(known),
                State::Running | State::Queued => {}
                State::Uncertain if !is_forced => return Verdict::Over(State::Uncertain),
                ended if asked.lane == 0 || asked.lane == known.lane => {
                    return Verdict::Over(ended);
                }
                State::Succeeded | State::Failed | State::Uncertain | State::DeadLettered => {}
            }
        }
        let attempts = before.map_or(0, |entry| entry.recorded.attempts).saturating_add(1);
        let recorded = Recorded { state: State::Running, attempts, ..asked };
        self.put(place, Entry { recorded, at: floor, since: wall, is_orphan: false });
        Verdict::Begun { recorded, before }
    }

    /// The record of the attempt was written at `at`.
    pub(super) fn placed(&mut self, place: Place, at: Offset) {
        if let Some(entry) = self.entries.get(&place).copied() {
            self.put(place, Entry { at, ..entry });
        }
    }

    /// Restores the entry from before an attempt that was not written.
    pub(super) fn give_back(&mut self, place: Place, before: Option<Entry>) {
        match before {
            Some(entry) => self.put(place, entry),
            None => self.remove(place),
        }
    }

    /// The owner of the attempt is gone without a result.
    pub(super) fn abandon(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.is_orphan = entry.recorded.state == State::Running;
        }
    }

    /// The attempts that nobody owns.
    pub(super) fn orphans(&self) -> Vec<(Place, Recorded)> {
        let running = self.running.iter().filter_map(|(_, place)| {
            let entry = self.entries.get(place)?;
            entry.is_orphan.then_some((*place, entry.recorded))
        });
        running.collect()
    }

    /// A record of this state was written at `at`, at time `wall`.
    pub(super) fn record(&mut self, place: Place, recorded: Recorded, at: Offset, wall: u64) {
        self.put(place, Entry { recorded, at, since: wall, is_orphan: false });
    }

    /// Like [`Results::record`], for an orphan; `false` if it is none any more, or another attempt
    /// is.
    pub(super) fn record_orphan(
        &mut self,
        place: Place,
        recorded: Recorded,
        at: Offset,
        wall: u64,
    ) -> bool {
        let is_it = |entry: &Entry| entry.is_orphan && entry.recorded.attempts == recorded.attempts;
        let is_orphan = self.entries.get(&place).is_some_and(is_it);
        if is_orphan {
            self.record(place, recorded, at, wall);
        }
        is_orphan
    }

    /// Applies a record that is read back. Attempts that ran have no owner now. A late record, of
    /// an earlier attempt or after an end, has no effect.
    pub(super) fn replay(&mut self, place: Place, recorded: Recorded, at: Offset, wall: u64) {
        let is_orphan = recorded.state == State::Running;
        let known = self.entries.get(&place);
        // A request that was forgotten by then counts from 1 again.
        let known = known.filter(|known| known.expires().is_none_or(|expires| expires > wall));
        if known.is_some_and(|known| recorded.is_late(known.recorded)) {
            return;
        }
        self.put(place, Entry { recorded, at, since: wall, is_orphan });
    }

    /// Forgets entries that have expired at `now`.
    pub(super) fn sweep(&mut self, now: u64) {
        while let Some((_, place)) = self.expiries.first().copied().filter(|it| it.0 <= now) {
            self.remove(place);
        }
    }

    /// No record below this offset is needed for attempts that run.
    pub(super) fn low(&self) -> Option<Offset> {
        self.running.first().map(|(at, _)| *at)
    }

    /// Older records (milliseconds) are not needed, except for attempts that run.
    pub(super) fn longest(&self) -> u64 {
        self.longest
    }

    fn put(&mut self, place: Place, entry: Entry) {
        self.remove(place);
        let expires = entry.expires();
        self.longest = self.longest.max(expires.map_or(0, |it| it.saturating_sub(entry.since)));
        match expires {
            Some(expires) => self.expiries.insert((expires, place)),
            None => self.running.insert((entry.at, place)),
        };
        self.entries.insert(place, entry);
    }

    fn remove(&mut self, place: Place) {
        let Some(entry) = self.entries.remove(&place) else { return };
        match entry.expires() {
            Some(expires) => self.expiries.remove(&(expires, place)),
            None => self.running.remove(&(entry.at, place)),
        };
    }
}

// === impl Recorded ===

impl Recorded {
    /// Whether an attempt is known, so that a record exists.
    pub(super) fn is_known(self) -> bool {
        self.attempts > 0 || self.state != State::Queued
    }

    /// Whether it concerns an attempt that was over when `known` was recorded.
    fn is_late(self, known: Self) -> bool {
        let is_of_now = self.attempts == known.attempts;
        self.attempts < known.attempts
            || is_of_now && known.state.is_over() && !self.state.is_over()
    }
}

// === impl Entry ===

impl Entry {
    /// When it is forgotten; `None` while it runs.
    fn expires(&self) -> Option<u64> {
        let Recorded { state, until, .. } = self.recorded;
        (state != State::Running).then(|| until.max(self.since.saturating_add(SHORTEST)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::events::queue::LogId;

    const ENDS: [State; 4] =
        [State::Succeeded, State::Failed, State::Uncertain, State::DeadLettered];

    const UNTIL: u64 = SHORTEST + 100;

    fn place(offset: u64) -> Place {
        Place { topic: LogId(Uuid::from_u128(1)), offset: Offset(offset) }
    }

    fn asked(lane: u32, may_repeat: bool) -> Recorded {
        Recorded { state: State::Running, attempts: 0, lane, may_repeat, until: UNTIL }
    }

    /// As a job that is forced has it.
    fn forced(recorded: Recorded) -> Asked {
        Asked { recorded, is_forced: true, left: None }
    }

    fn begin(results: &mut Results, lane: u32) -> Verdict {
        results.begin(place(1), forced(asked(lane, false)), (Offset(0), 0))
    }

    fn number(verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Begun { recorded, .. } => recorded.attempts,
            other => panic!("{other:?}"),
        }
    }

    fn end(results: &mut Results, state: State, wall: u64) {
        let known = results.get(place(1)).unwrap().recorded;
        results.record(place(1), Recorded { state, ..known }, Offset(9), wall);
    }

    #[test]
    fn what_ended_begins_again_for_another_job_only() {
        for ending in ENDS {
            let mut results = Results::default();
            assert!(matches!(begin(&mut results, 0), Verdict::Begun { before: None, .. }));
            assert_eq!(begin(&mut results, 0), Verdict::Busy);
            assert_eq!(begin(&mut results, 3), Verdict::Busy);
            end(&mut results, State::Queued, 0);
            assert_eq!(number(begin(&mut results, 0)), 2);
            end(&mut results, ending, 0);
            assert_eq!(begin(&mut results, 0), Verdict::Over(ending));
            assert_eq!(number(begin(&mut results, 3)), 3);
            end(&mut results, ending, 0);
            assert_eq!(begin(&mut results, 3), Verdict::Over(ending), "once for each");
            assert_eq!(number(begin(&mut results, 4)), 4);
        }
    }

    #[test]
    fn what_may_have_been_seen_begins_again_by_force_only() {
        for ending in ENDS {
            let mut results = Results::default();
            begin(&mut results, 0);
            end(&mut results, ending, 0);
            let asked = Asked { is_forced: false, ..forced(asked(3, false)) };
            let verdict = results.begin(place(1), asked, (Offset(0), 0));
            match ending {
                State::Uncertain => assert_eq!(verdict, Verdict::Over(ending)),
                _ => assert_eq!(number(verdict), 2),
            }
        }
    }

    #[test]
    fn what_nobody_goes_on_with_is_not_begun_again_unless_it_does_no_harm() {
        let mut results = Results::default();
        begin(&mut results, 0);
        results.abandon(place(1));
        assert!(matches!(begin(&mut results, 0), Verdict::Orphan(_)));
        assert!(matches!(begin(&mut results, 3), Verdict::Orphan(_)), "not by a job either");
        assert_eq!(results.orphans().len(), 1);
        let known = results.get(place(1)).unwrap().recorded;
        let uncertain = Recorded { state: State::Uncertain, ..known };
        results.record_orphan(place(1), uncertain, Offset(5), 0);
        assert_eq!(
            (begin(&mut results, 0), results.orphans()),
            (Verdict::Over(State::Uncertain), vec![])
        );

        let harmless =
            |results: &mut Results| results.begin(place(2), forced(asked(0, true)), (Offset(0), 0));
        harmless(&mut results);
        results.abandon(place(2));
        assert_eq!(number(harmless(&mut results)), 2);
        let late = Recorded { state: State::Queued, attempts: 1, ..asked(0, true) };
        results.record_orphan(place(2), late, Offset(6), 0);
        let running = results.get(place(2)).unwrap().recorded;
        assert_eq!(running.state, State::Running, "somebody goes on with it again");
    }

    #[test]
    fn what_was_forgotten_and_left_before_is_not_begun() {
        let left = |may_repeat, left| {
            let mut results = Results::default();
            let now = (Offset(3), 2 * SHORTEST);
            {
                let asked = Asked { left: Some(left), ..forced(asked(0, may_repeat)) };
                (results.begin(place(1), asked, now), results.orphans())
            }
        };
        let unknown = asked(0, false);
        // What is not forgotten yet and is not there was never begun.
        for long_ago in [0, SHORTEST] {
            let orphan = vec![(place(1), unknown)];
            assert_eq!(left(false, long_ago), (Verdict::Unknown(unknown), orphan));
            assert_eq!(number(left(true, long_ago).0), 1);
        }
        assert_eq!(number(left(false, SHORTEST + 1).0), 1);
    }

    #[test]
    fn a_place_says_nothing_of_an_attempt_before() {
        let mut results = Results::default();
        let now = 2 * SHORTEST;
        results.keep_place(place(1), UNTIL, now);
        let asked = Asked { left: Some(SHORTEST), ..forced(asked(0, false)) };
        let verdict = results.begin(place(1), asked, (Offset(3), now));
        assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
        assert_eq!((results.orphans().len(), results.taken()), (1, 1));
    }

    #[test]
    fn what_was_not_looked_at_yet_may_need_a_place() {
        let mut results = Results::default();
        results.inherit(5);
        assert_eq!((results.taken(), results.spoken_for()), (0, 5));
        results.keep_place(place(1), UNTIL, 0);
        results.looked_at(3);
        assert_eq!((results.taken(), results.spoken_for()), (1, 3));
        results.looked_at(9);
        assert_eq!(results.spoken_for(), 1);
    }

    #[test]
    fn what_was_not_written_is_as_it_was() {
        let mut results = Results::default();
        let Verdict::Begun { before, .. } = begin(&mut results, 0) else { panic!() };
        results.give_back(place(1), before);
        assert_eq!((results.len(), results.low()), (0, None));
        begin(&mut results, 0);
        end(&mut results, State::Queued, 7);
        let waiting = results.get(place(1)).copied();
        let Verdict::Begun { before, .. } = begin(&mut results, 0) else { panic!() };
        results.give_back(place(1), before);
        assert_eq!(results.get(place(1)).copied(), waiting);
    }

    #[test]
    fn an_end_is_known_for_its_time_and_what_runs_for_as_long_as_it_runs() {
        let mut results = Results::default();
        begin(&mut results, 0);
        results.placed(place(1), Offset(4));
        results.sweep(u64::MAX);
        assert_eq!((results.low(), results.len()), (Some(Offset(4)), 1));
        end(&mut results, State::Succeeded, 50);
        assert_eq!(results.low(), None);
        results.sweep(UNTIL - 1);
        assert_eq!(results.len(), 1);
        results.sweep(UNTIL);
        assert_eq!((results.len(), results.longest()), (0, UNTIL - 50));
        begin(&mut results, 0);
        end(&mut results, State::Succeeded, UNTIL);
        results.sweep(UNTIL + SHORTEST - 1);
        assert_eq!(results.len(), 1, "nobody asks for it, and who made it may not have noted it");
    }

    #[test]
    fn a_record_of_an_attempt_before_says_nothing_of_the_one_after() {
        let mut results = Results::default();
        let said = |state, attempts| Recorded { state, attempts, ..asked(0, false) };
        results.replay(place(1), said(State::Running, 2), Offset(1), 0);
        results.replay(place(1), said(State::Queued, 1), Offset(2), 0);
        assert_eq!(results.orphans().len(), 1);
        results.replay(place(1), said(State::Queued, 2), Offset(3), 0);
        assert_eq!(results.orphans().len(), 0);
    }

    #[test]
    fn what_is_told_late_undoes_no_end() {
        let mut results = Results::default();
        let said = |state, attempts| Recorded { state, attempts, ..asked(0, true) };
        let mut read = |state, attempts, wall| {
            results.replay(place(1), said(state, attempts), Offset(1), wall);
            let known = results.get(place(1)).unwrap().recorded;
            (known.state, known.attempts)
        };
        read(State::Running, 1, 0);
        read(State::Running, 2, 0);
        let done = (State::Succeeded, 2);
        assert_eq!(read(State::Succeeded, 2, 0), done);
        assert_eq!(read(State::Queued, 1, 0), done, "by who found the first without an end");
        assert_eq!(read(State::Uncertain, 1, 0), done);
        assert_eq!(read(State::Queued, 2, 0), done);
        assert_eq!(read(State::Running, 3, 0), (State::Running, 3), "a job");
        assert_eq!(read(State::Uncertain, 3, 0), (State::Uncertain, 3));
        assert_eq!(read(State::Succeeded, 3, 0), (State::Succeeded, 3), "better known by then");
        assert_eq!(read(State::Running, 1, UNTIL), (State::Running, 1), "forgotten meanwhile");
    }

    #[test]
    fn who_found_an_orphan_says_nothing_of_the_next() {
        let mut results = Results::default();
        let harmless = forced(asked(0, true));
        for attempt in 1..3 {
            let verdict = results.begin(place(1), harmless, (Offset(0), 0));
            assert_eq!(number(verdict), attempt);
            results.abandon(place(1));
        }
        let late = Recorded { state: State::Queued, attempts: 1, ..asked(0, true) };
        assert!(!results.record_orphan(place(1), late, Offset(5), 0));
        assert_eq!(results.orphans().len(), 1);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin(u64, u32),
        End(u64, u8),
        Abandon(u64),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..5, 0_u32..3).prop_map(|(place, lane)| Step::Begin(place, lane)),
            (0_u64..5, 0_u8..5).prop_map(|(place, state)| Step::End(place, state)),
            (0_u64..5).prop_map(Step::Abandon),
            Just(Step::Sweep),
        ]
    }

    proptest! {
        #[test]
        fn a_table_read_again_knows_all_that_may_have_been_seen(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let (mut live, mut records, mut now) = (Results::default(), Vec::new(), 0);
            for step in steps {
                now += SHORTEST / 10;
                let end = Offset(records.len() as u64);
                match step {
                    Step::Begin(at, lane) => {
                        let before = live.get(place(at)).copied();
                        let verdict = live.begin(place(at), forced(asked(lane, false)), (end, now));
                        let Verdict::Begun { before: was, .. } = verdict else { continue };
                        prop_assert_eq!(was, before);
                        let recorded = live.get(place(at)).unwrap().recorded;
                        records.push((place(at), recorded, now));
                    }
                    Step::End(at, state) => {
                        let Some(entry) = live.get(place(at)).copied() else { continue };
                        if entry.recorded.state != State::Running { continue }
                        let ended = [State::Queued, ENDS[0], ENDS[1], ENDS[2], ENDS[3]];
                        let state = ended[usize::from(state)];
                        let recorded = Recorded { state, ..entry.recorded };
                        live.record(place(at), recorded, end, now);
                        records.push((place(at), recorded, now));
                    }
                    Step::Abandon(at) => live.abandon(place(at)),
                    Step::Sweep => live.sweep(now),
                }
            }
            live.sweep(now);
            // What is below is unlinked.
            let low = live.low().map_or(records.len(), |low| usize::try_from(low.0).unwrap());
            let old = records.iter().take_while(|(.., wall)| wall + live.longest() <= now).count();
            let mut read = Results::default();
            for (at, (place, recorded, wall)) in records.iter().enumerate().skip(low.min(old)) {
                read.replay(*place, *recorded, Offset(at as u64), *wall);
            }
            read.sweep(now);
            for (place, entry) in &live.entries {
                prop_assert_eq!(read.get(*place).map(|it| it.recorded), Some(entry.recorded));
            }
            prop_assert_eq!(read.len(), live.len());
            prop_assert_eq!(live.running.len() + live.expiries.len(), live.len());
            prop_assert_eq!(read.orphans().len(), read.running.len());
        }
    }
}

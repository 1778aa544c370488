//! The task of one subscription: takes commands, drives the state machine and its timers.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::{FuturesOrdered, FuturesUnordered},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    Command, Surroundings,
    concluding::Concluded,
    effects::{Buried, Followed},
    ledger::{Hole, Ledger, Until},
    polls::Polls,
    pushes::{Landed, Packed},
    reading::{Seen, Sieve, Stop},
    requests::{LINGER, PackedRequests},
};
use crate::events::{
    delivery::journal,
    delivery::subscription::{
        Effect, Entry, Machine, Moment, Output, Place, Scan, Target, Targets, Token,
    },
    facade::Refusal,
    queue::{
        Offset,
        log::Log,
        time::{Clock as _, Now},
        topic::clock_guard::jump,
    },
    settings::Subscription as Settings,
};

/// Pause before a failed operation is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Steps being journalled before the next decision waits for them.
const WRITES: usize = 256;

/// A step of the journal that several tasks wait for.
pub(super) type Step = Shared<BoxFuture<'static, Result<Option<Offset>, Hole>>>;

/// The task's state.
pub(super) struct Actor {
    pub(super) around: Arc<Surroundings>,
    pub(super) settings: Arc<Settings>,
    pub(super) machine: Machine,
    /// When the last decision was made.
    decided: Now,
    pub(super) ledger: Ledger,
    pub(super) polls: Polls,
    pub(super) sieve: Sieve,
    /// Steps being journalled, in order.
    writes: FuturesOrdered<Step>,
    /// The journal offset after the last written step.
    position: Offset,
    /// Work done elsewhere.
    pub(super) work: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) scanning: bool,
    /// Failed work is not tried again before this.
    pub(super) retry_at: Option<Instant>,
    /// Effects deferred because they failed.
    pub(super) deferred: Vec<Effect>,
    /// Finished pushes not yet journalled; at most as many as were in flight.
    pub(super) landed: VecDeque<Landed>,
    pub(super) durable: Option<watch::Receiver<Offset>>,
    /// Waits for a snapshot section.
    section: Option<oneshot::Sender<(Offset, Bytes)>>,
    /// No new push begins.
    pub(super) is_winding_down: bool,
    /// It is stopping; after this, in-flight work is not waited for.
    ends_at: Option<Instant>,
}

/// A result of work done elsewhere.
pub(super) enum Done {
    /// A log was scanned.
    Scanned(Scan, Option<Seen>),
    /// Deliveries that reached nobody.
    Abandoned(Vec<Token>),
    /// Events of deliveries cannot be read.
    Unreadable(Vec<(Token, Stop)>),
    /// A dead letter was appended, or failed to be.
    Buried(Buried),
    /// The end of a stored request was recorded, or failed to be.
    Concluded(Concluded),
    /// It was recorded that nothing is left of a stored request.
    Lost(Place),
    /// The follow-up event was appended, or failed to be.
    Followed(Followed),
    /// Events to push were read.
    Packed(Packed),
    /// Stored requests to send were read.
    PackedRequests(PackedRequests),
    /// A push has ended.
    Landed(Landed),
    /// A request was not sent; not to be tried at once.
    Unsent(Token),
    /// Nothing to report.
    Nothing,
}

// === impl Actor ===

impl Actor {
    pub(super) fn new(around: Arc<Surroundings>, settings: Settings, machine: Machine) -> Self {
        let sieve = Sieve::new(&settings, around.hash.clone());
        let ledger = Ledger::new(around.journal.clone(), around.id);
        Self {
            position: ledger.durable(),
            decided: around.clock.now(),
            around,
            settings: Arc::new(settings),
            machine,
            ledger,
            polls: Polls::default(),
            sieve,
            writes: FuturesOrdered::new(),
            work: FuturesUnordered::new(),
            scanning: false,
            retry_at: None,
            deferred: Vec::new(),
            landed: VecDeque::new(),
            durable: None,
            section: None,
            is_winding_down: false,
            ends_at: None,
        }
    }

    /// Runs until it is stopped, or no handle is left.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.recover();
        while self.ends_at.is_none() {
            if let Some(reply) = self.section.take() {
                self.settle_writes().await;
                let state = journal::encode_state(&self.machine.snapshot());
                drop(reply.send((self.position(), state)));
            }
            self.advance();
            let wake = self.wake();
            let may_take = self.writes.len() < WRITES;
            tokio::select! {
                command = commands.recv(), if may_take => match command {
                    Some(command) => command(&mut self),
                    None => break,
                },
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    self.written(written);
                }
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                () = advanced(&mut self.durable) => {}
                () = sleep_until(wake) => {}
            }
        }
        self.wind_down();
        let is_sending = self.upstream().is_some();
        let linger = if is_sending { LINGER } else { Duration::ZERO };
        let end = self.ends_at.unwrap_or_else(|| Instant::now() + linger);
        self.see_through(end).await;
        if !is_sending {
            // The next process sends it again.
            self.release_pushes();
        }
        self.settle_writes().await;
    }

    fn recover(&mut self) {
        let (moment, mut out) = self.begin();
        if let Some(by) = self.around.clock.moved_at_start() {
            // Nobody knows whether that much time really passed.
            self.machine.clock_moved(by, &mut out);
        }
        self.machine.recover(&moment, &mut out);
        let fingerprint = super::operate::fingerprint(&self.settings);
        let rules = self.machine.settings().clone();
        self.machine.configure(moment.now, rules, fingerprint, &mut out);
        drop(self.commit(out, Until::Synced));
    }

    /// Does everything that can be done now.
    fn advance(&mut self) {
        if !self.ledger.is_ready() {
            self.send_away();
            return;
        }
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            for effect in std::mem::take(&mut self.deferred) {
                self.start_effect(effect, None);
            }
        }
        self.decide(Until::Written, Machine::tick).ok();
        self.settle_landed();
        self.serve();
        self.push();
        self.read_ahead();
    }

    /// When to wake up without a command.
    fn wake(&mut self) -> Instant {
        let instant = Instant::now();
        if !self.ledger.is_ready() {
            return instant + AGAIN;
        }
        let now = self.around.clock.now().wall;
        let timer = self
            .machine
            .wake_at(now)
            .map(|at| instant + Duration::from_millis(at.saturating_sub(now).clamp(1, 60_000)));
        // An hour is as good as never.
        let never = instant + Duration::from_hours(1);
        let ends = [timer, self.polls.next_end(), self.retry_at];
        ends.into_iter().flatten().min().map_or(never, |at| at.min(never))
    }

    /// Lets the machine decide, and journals the decision. If refused, nothing was decided.
    pub(super) fn decide<T>(
        &mut self,
        until: Until,
        decision: impl FnOnce(&mut Machine, &Moment, &mut Output) -> T,
    ) -> Result<(T, Step), Refusal> {
        if !self.ledger.is_ready() {
            return Err(self.unready());
        }
        let (moment, mut out) = self.begin();
        let value = decision(&mut self.machine, &moment, &mut out);
        Ok((value, self.commit(out, until)))
    }

    pub(super) fn unready(&self) -> Refusal {
        if self.around.journal.is_offline() || self.ledger.has_hole() {
            return Refusal::unavailable("the delivery state cannot be written");
        }
        Refusal::Disk { retry_after: Duration::from_secs(5) }
    }

    /// Journals a step, and starts its effects.
    pub(super) fn commit(&mut self, out: Output, until: Until) -> Step {
        if out.entries.is_empty() && out.effects.is_empty() {
            return futures_util::future::ready(Ok(None)).boxed().shared();
        }
        out.entries.iter().for_each(|entry| self.tell(entry));
        let is_outcome = |entry: &Entry| matches!(entry, Entry::Outcome(_));
        let is_synced = !out.effects.is_empty() || out.entries.iter().any(is_outcome);
        let until = if is_synced { Until::Synced } else { until };
        let written = self.ledger.write(&out.entries, until).wait().boxed().shared();
        if !out.entries.is_empty() {
            self.writes.push_back(written.clone());
        }
        for effect in out.effects {
            self.start_effect(effect, Some(written.clone()));
        }
        written
    }

    fn written(&mut self, written: Result<Option<Offset>, Hole>) {
        if let Ok(Some(end)) = written {
            self.position = self.position.max(end);
        }
    }

    /// Waits until every step in flight was written, or failed.
    async fn settle_writes(&mut self) {
        while let Some(written) = self.writes.next().await {
            self.written(written);
        }
    }

    /// The journal offset that the machine's state covers; valid after [`Actor::settle_writes`].
    fn position(&self) -> Offset {
        let durable = self.ledger.durable();
        // The earlier position may be lost, and would never become durable.
        if self.ledger.is_opened_anew() { durable } else { self.position.max(durable) }
    }

    /// For a snapshot: the state, and where to continue in the journal.
    pub(super) fn section(&mut self, reply: oneshot::Sender<(Offset, Bytes)>) {
        self.section = Some(reply);
    }

    /// A snapshot covers everything up to now: a hole in the journal no longer matters.
    pub(super) fn mend(&mut self) {
        self.position = self.position();
        self.ledger.mend();
    }

    /// Whether no decision is possible before a snapshot.
    pub(super) fn has_hole(&self) -> bool {
        self.ledger.has_hole()
    }

    /// No new push begins, and consumers wait only briefly; everything else continues.
    pub(super) fn wind_down(&mut self) {
        self.is_winding_down = true;
        self.end_polls();
    }

    /// Ends the task once its steps are written and in-flight work has ended, or `patience` is
    /// over.
    pub(super) fn stop(&mut self, patience: Duration) {
        self.ends_at = Some(Instant::now() + patience);
    }

    pub(super) fn forget_durable(&mut self) {
        self.durable = None;
    }

    /// Starts a decision. If the clock has jumped since the last one, all timers are moved with it
    /// first, before anything relies on the new time.
    fn begin(&mut self) -> (Moment, Output) {
        let now = self.around.clock.now();
        let mut out = Output::default();
        if let Some(by) = jump(self.decided, now) {
            self.machine.clock_moved(by, &mut out);
        }
        self.decided = now;
        (self.moment(now.wall), out)
    }

    fn moment(&self, now: u64) -> Moment {
        let end = |log: Option<&Log>| log.map_or(Offset::ZERO, Log::durable);
        let reaction = |reaction: Option<&crate::events::settings::Reaction>| {
            let log = reaction.and_then(|reaction| self.around.topics.log(&reaction.topic));
            // The settings name the topic: the ID is for readers of the journal.
            Target { log: self.around.topic.id(), end: end(log.as_ref()) }
        };
        let letters = &self.around.letters;
        Moment {
            now,
            judged: self.around.clock.judge().wall,
            random: fastrand::u64(..),
            targets: Targets {
                letters: Target { log: letters.id(), end: end(letters.log().as_ref()) },
                success: reaction(self.settings.on_success.as_ref()),
                failure: reaction(self.settings.on_exhausted.as_ref()),
            },
        }
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Scanned(scan, seen) => self.scanned(&scan, seen),
            Done::Abandoned(tokens) => self.give_back(&tokens, Duration::ZERO),
            Done::Unreadable(events) => self.unreadable(events),
            Done::Buried(buried) => self.buried(buried),
            Done::Concluded(concluded) => self.concluded(concluded),
            Done::Lost(place) => self.lost_request(place),
            Done::Followed(followed) => self.followed(followed),
            Done::Packed(packed) => self.packed(packed),
            Done::PackedRequests(packed) => self.packed_requests(packed),
            Done::Landed(landed) => self.landed(landed),
            Done::Unsent(token) => self.give_back(&[token], AGAIN),
            Done::Nothing => {}
        }
    }

    /// Deliveries that reached nobody do not count; they are not repeated before `delay`.
    pub(super) fn give_back(&mut self, tokens: &[Token], delay: Duration) {
        let (moment, mut out) = self.begin();
        for token in tokens {
            self.machine.release(&moment, *token, super::operate::millis(delay), &mut out);
        }
        drop(self.commit(out, Until::Written));
    }
}

/// Completes when there is more to read; never, if there is nothing to watch.
async fn advanced(durable: &mut Option<watch::Receiver<Offset>>) {
    match durable {
        Some(watched) => {
            if watched.changed().await.is_err() {
                // The log was closed; another one may come.
                *durable = None;
            }
        }
        None => std::future::pending().await,
    }
}

//! The task of one subscription: what is told to it, what it tells, and the time.

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

/// What could not be done is tried again after so long.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Steps on their way into the journal before the next decision waits for them.
const WRITES: usize = 256;

/// A step that several wait for.
pub(super) type Step = Shared<BoxFuture<'static, Result<Option<Offset>, Hole>>>;

/// The task's state.
pub(super) struct Actor {
    pub(super) around: Arc<Surroundings>,
    pub(super) settings: Arc<Settings>,
    pub(super) machine: Machine,
    /// When anything was last decided.
    decided: Now,
    pub(super) ledger: Ledger,
    pub(super) polls: Polls,
    pub(super) sieve: Sieve,
    /// Steps on their way, in order.
    writes: FuturesOrdered<Step>,
    /// Where the last step that is written ends.
    position: Offset,
    /// What is done elsewhere.
    pub(super) work: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) scanning: bool,
    /// What failed is not tried again before.
    pub(super) retry_at: Option<Instant>,
    /// Effects that wait until what failed them is over.
    pub(super) deferred: Vec<Effect>,
    /// Pushes that are over and are not written yet: at most as many as are on their way.
    pub(super) landed: VecDeque<Landed>,
    pub(super) durable: Option<watch::Receiver<Offset>>,
    /// Who asked for a snapshot.
    section: Option<oneshot::Sender<(Offset, Bytes)>>,
    /// No delivery by push begins any more.
    pub(super) is_winding_down: bool,
    /// It is stopped, and nothing on its way is waited for after this.
    ends_at: Option<Instant>,
}

/// What was done elsewhere.
pub(super) enum Done {
    /// A log was looked through.
    Scanned(Scan, Option<Seen>),
    /// Deliveries reached nobody.
    Abandoned(Vec<Token>),
    /// Events of deliveries cannot be read.
    Unreadable(Vec<(Token, Stop)>),
    /// A dead letter was appended, or not.
    Buried(Buried),
    /// Who asks for a request was told that it was given up, or not.
    Concluded(Concluded),
    /// Who asks for a request was told that nothing is left of it.
    Lost(Place),
    /// What follows from an event was appended, or not.
    Followed(Followed),
    /// Events to be pushed were read.
    Packed(Packed),
    /// Requests to be sent were read.
    PackedRequests(PackedRequests),
    /// A push is over.
    Landed(Landed),
    /// A request was not sent; not again at once.
    Unsent(Token),
    /// Nothing to be told.
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

    /// Runs until it is stopped, or nobody has a handle any more.
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
            // Nobody knows whether so much time went by.
            self.machine.clock_moved(by, &mut out);
        }
        self.machine.recover(&moment, &mut out);
        let fingerprint = super::operate::fingerprint(&self.settings);
        let rules = self.machine.settings().clone();
        self.machine.configure(moment.now, rules, fingerprint, &mut out);
        drop(self.commit(out, Until::Synced));
    }

    /// Everything that can be done now.
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

    /// When there is something to do by itself.
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

    /// Lets the machine decide, and writes what it decided. Refused: nothing was decided.
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

    /// Writes a step, and starts what it asks for.
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

    /// Everything that is on its way into the journal has come there, or failed to.
    async fn settle_writes(&mut self) {
        while let Some(written) = self.writes.next().await {
            self.written(written);
        }
    }

    /// Where the journal goes on from what the machine is now; valid after [`Actor::settle_writes`].
    fn position(&self) -> Offset {
        let durable = self.ledger.durable();
        // What it stood behind before may be gone, and would never become durable.
        if self.ledger.is_opened_anew() { durable } else { self.position.max(durable) }
    }

    /// For a snapshot: its state, and where the journal goes on from that.
    pub(super) fn section(&mut self, reply: oneshot::Sender<(Offset, Bytes)>) {
        self.section = Some(reply);
    }

    /// A snapshot covers everything up to now: a hole in the journal does no harm any more.
    pub(super) fn mend(&mut self) {
        self.position = self.position();
        self.ledger.mend();
    }

    /// Whether a snapshot is needed before anything else can be decided.
    pub(super) fn has_hole(&self) -> bool {
        self.ledger.has_hole()
    }

    /// No delivery by push begins any more, and nobody waits long for events; all else goes on.
    pub(super) fn wind_down(&mut self) {
        self.is_winding_down = true;
        self.end_polls();
    }

    /// It ends once its steps are written, and what is on its way has ended or `patience` is over.
    pub(super) fn stop(&mut self, patience: Duration) {
        self.ends_at = Some(Instant::now() + patience);
    }

    pub(super) fn forget_durable(&mut self) {
        self.durable = None;
    }

    /// What a decision begins with. A clock that has jumped since the last one takes everything that is timed
    /// with it, before anything goes by what it says now.
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
            // Which topic it is, the settings say: the ID is for who reads the journal.
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

    /// Deliveries that reached nobody do not count; not again before `delay`.
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

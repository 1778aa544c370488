//! The writer thread: the only one that appends to and syncs its logs.
//!
//! While a sync runs, the next batch collects in the queue, so batches grow with the latency of the
//! disk and nothing else delays them. A commit that someone waits for is never put off; on a core
//! that is busy with other threads of the process, these run first and add to it. Appends
//! that nobody waits for collect briefly, are written together and synced soon after; outcomes are
//! reported then. The queue is bounded by the permits of what is in it.

use std::{
    io,
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::Duration,
    vec::Drain,
};

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::{
    batch::Item,
    commit::{Outcome, Waiter},
    error::{AppendError, Reason},
    open::OpenLog,
    permit::Permit,
    settings::Durability,
    told::{self, End, Untold},
    waiting::{Due, Next, Size, Waiting},
};
use crate::events::queue::{
    mutation::{self, Mutation},
    time::{Clock, Now},
};

/// How long appends that nobody waits for collect: long enough to combine those of many callers,
/// short enough that a killed process loses hardly more than what was in flight anyway.
const COLLECT: Duration = Duration::from_millis(1);

/// A writer thread, for any number of logs. Dropping the last handle stops it as [`Writer::stop`]
/// does, without waiting.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    _last: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(Arc<Queue>);

/// The queue between those who append and the thread.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting<Request>>,
    /// Signals that something arrived, or that the thread is to stop.
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The logs it serves; each keeps the writer's state until the thread ends.
    logs: Mutex<Vec<Weak<OpenLog>>>,
    pub(super) clock: Arc<dyn Clock>,
}

/// How soon an append is written and synced, and when its outcome is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// At once; reported when it is as durable as the mode says.
    Synced,
    /// Written at once and reported then; synced soon.
    Written,
    /// Written and synced soon, reported when it is as durable as the mode says. Sooner than
    /// `Later`, because work depends on it.
    Soon,
    /// As `Soon`, at the pace of appends that nobody waits for.
    Later,
}

/// One append.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shared: Arc<OpenLog>,
    pub(super) item: Item,
    pub(super) permit: Permit,
    pub(super) waiter: Waiter,
    pub(super) urgency: Urgency,
    pub(super) since: Instant,
}

/// The part of a batch that is for one log.
struct Group {
    shared: Arc<OpenLog>,
    /// The opening of the log in which it was written; none if it was not.
    life: Option<u64>,
    items: Vec<Item>,
    ends: Vec<End>,
}

/// A log with work left for later: a sync, or a CHECKPOINT.
struct Touched {
    shared: Arc<OpenLog>,
    /// Reported with the next sync, in log order.
    untold: Vec<Untold>,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread.
    pub fn spawn(name: impl Into<String>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::default(),
            logs: Mutex::default(),
            clock,
        });
        let served = queue.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || serve(&served))?;
        *queue.thread.lock() = Some(thread);
        Ok(Self { _last: Arc::new(StopOnDrop(queue.clone())), queue })
    }

    /// Writes and syncs the queue, writes CHECKPOINTs, and ends the thread. Blocks until that is
    /// done. Later appends end as [`AppendError::Stopped`].
    pub fn stop(&self) {
        self.queue.stop();
        let thread = self.queue.thread.lock().take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!(
                "a writer thread of the queue has panicked; please report this as a bug"
            );
        }
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

// === impl Queue ===

impl Queue {
    /// Adds a log to those the thread serves.
    pub(super) fn serves(&self, log: &Arc<OpenLog>) {
        let mut logs = self.logs.lock();
        logs.retain(|it| it.strong_count() > 0);
        logs.push(Arc::downgrade(log));
    }

    /// Hands an append to the thread.
    pub(super) fn submit(&self, request: Request) {
        let (size, due) = (request.size(), request.due());
        let pushed = self.waiting.lock().push(request, size, due);
        match pushed {
            Ok(is_asleep) => {
                if is_asleep {
                    self.wake.notify_one();
                }
            }
            Err(request) => request.end(Err(AppendError::Stopped)),
        }
    }

    /// Takes the next batch; empty when `until` has passed. Returns whether to stop, all being written.
    fn take(&self, batch: &mut Vec<Request>, until: Option<Instant>) -> bool {
        loop {
            // Whoever else is ready to run on this core goes first: a worker that was just told, or
            // that woke the thread with the first of its appends, has more for this batch. If there
            // is nobody, this returns at once.
            thread::yield_now();
            let mut waiting = self.waiting.lock();
            let now = Instant::now();
            match waiting.next(batch, now, until, Request::size) {
                Next::Batch => return false,
                Next::Stop => return true,
                Next::Sleep(None) => self.wake.wait(&mut waiting),
                Next::Sleep(Some(at)) => {
                    let span = at.saturating_duration_since(now);
                    self.wake.wait_for(&mut waiting, span);
                }
            }
        }
    }

    fn stop(&self) {
        self.waiting.lock().stop();
        self.wake.notify_one();
    }

    /// Closes the queue and tells those who wait.
    fn close(&self) {
        let left = self.waiting.lock().close();
        for request in left {
            request.end(Err(AppendError::Stopped));
        }
        for log in std::mem::take(&mut *self.logs.lock()) {
            if let Some(log) = log.upgrade() {
                log.end();
            }
        }
    }
}

// === impl Request ===

impl Request {
    fn size(&self) -> Size {
        Size { bytes: self.item.bytes, records: self.item.drafts.len() }
    }

    fn due(&self) -> Due {
        match self.urgency {
            Urgency::Synced | Urgency::Written => Due::Now,
            Urgency::Soon | Urgency::Later => Due::At(self.since + COLLECT),
        }
    }

    fn end(self, outcome: Outcome) {
        // Room first: whoever is woken may want it.
        drop(self.permit);
        self.waiter.complete(outcome);
    }
}

/// Closes the queue however the thread ends, a panic included.
struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn serve(queue: &Queue) {
    let _close = CloseOnDrop(queue);
    let mut batch = Vec::new();
    let mut touched: Vec<Touched> = Vec::new();
    // While unwaited appends keep coming the thread polls, so that none of them has to wake it.
    let mut again: Option<Instant> = None;
    loop {
        let due = touched.iter().filter_map(|it| it.shared.due());
        let is_over = queue.take(&mut batch, due.chain(again).min());
        let is_unhurried = !batch.is_empty() && batch.iter().all(|it| it.due() != Due::Now);
        again = is_unhurried.then(|| Instant::now() + COLLECT);
        commit(batch.drain(..), queue, &mut touched);
        let is_busy = !queue.waiting.lock().is_empty();
        touched.retain_mut(|it| it.look_after(is_over, is_busy));
        if is_over {
            return;
        }
    }
}

/// Writes a batch, syncs the logs where someone waits, and reports outcomes.
fn commit(batch: Drain<'_, Request>, queue: &Queue, touched: &mut Vec<Touched>) {
    let most = batch.len();
    let mut groups: Vec<Group> = Vec::new();
    for request in batch {
        let Request { shared, item, permit, waiter, urgency, since } = request;
        let known = groups.iter().position(|group| Arc::ptr_eq(&group.shared, &shared));
        let index = known.unwrap_or_else(|| {
            // Mostly there is one log; reserving for all in each of many would take their product.
            let room = if groups.is_empty() { most } else { 0 };
            let (items, ends) = (Vec::with_capacity(room), Vec::with_capacity(room));
            groups.push(Group { shared, life: None, items, ends });
            groups.len() - 1
        });
        groups[index].items.push(item);
        groups[index].ends.push(End { waiter, permit, urgency, since });
    }
    if groups.is_empty() {
        return;
    }
    let now = queue.clock.now();
    // All are written before the first sync: syncs of one disk are sequential.
    for group in &mut groups {
        group.write(now);
    }
    for group in groups {
        let known = touched.iter().position(|it| Arc::ptr_eq(&it.shared, &group.shared));
        let index = known.unwrap_or_else(|| {
            touched.push(Touched { shared: group.shared.clone(), untold: Vec::new() });
            touched.len() - 1
        });
        touched[index].finish(group);
    }
}

// === impl Group ===

impl Group {
    fn write(&mut self, now: Now) {
        let items = &mut self.items;
        let is_hurried = self.ends.iter().any(|end| end.urgency == Urgency::Soon);
        self.life = self.shared.with_core(|core| {
            core.write(items, now);
            if is_hurried {
                core.hurry();
            }
            core.life()
        });
    }
}

// === impl Touched ===

impl Touched {
    /// Syncs what was written, if somebody waits for that, and reports outcomes.
    fn finish(&mut self, group: Group) {
        let Group { shared, life, items, ends } = group;
        let is_durable = shared.settings.durability == Durability::Durable;
        let is_awaited = ends.iter().any(|end| end.urgency == Urgency::Synced);
        if is_durable && is_awaited && !mutation::is(Mutation::AcknowledgeBeforeTheSync) {
            // The outcomes show a failed sync.
            shared.with_core(|core| (life == Some(core.life())).then(|| core.sync().ok()));
        }
        let Some(life) = life else {
            // The log was not there to be written.
            let now = Instant::now();
            for end in ends {
                end.complete(Err(shared.refuse(Reason::Offline).into()), &shared, now);
            }
            return;
        };
        let mut now = Vec::with_capacity(items.len());
        for (item, end) in items.into_iter().zip(ends) {
            let it = Untold::new(item, end, life);
            let is_put_off = is_durable && it.is_put_off();
            if is_put_off { &mut self.untold } else { &mut now }.push(it);
        }
        // Those that waited longer go first, and before anybody may close the log: it is whole now.
        self.tell();
        told::tell(&shared, now, |_, _| true);
    }

    /// Reports what was synced meanwhile, or never will be.
    fn tell(&mut self) {
        // In log order: if the first has to wait, so do all.
        let Some(first) = self.untold.first() else { return };
        if self.shared.with_core(|core| first.is_settled(core)).unwrap_or(true) {
            let untold = std::mem::take(&mut self.untold);
            self.untold = told::tell(&self.shared, untold, Untold::is_settled);
        }
    }

    /// See [`OpenLog::look_after`].
    fn look_after(&mut self, at_once: bool, is_busy: bool) -> bool {
        let is_left = self.shared.look_after(at_once, is_busy);
        self.tell();
        is_left || !self.untold.is_empty()
    }
}

//! The thread that writes: the only one that appends to and syncs the logs it serves.
//!
//! While it waits for a sync the next batch collects in the queue, so a batch is as large as the disk is
//! slow, and no more is waited for. A commit that someone waits for is never put off. What nobody waits for
//! collects for a moment and is written together, and is synced soon after; whoever is to be told of it is
//! told then. The queue is bounded by the permits of what is in it.

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

/// What nobody waits for is written after so long: long enough for what comes from many to go into one write,
/// short enough that hardly more is lost with a killed process than was on its way anyway.
const COLLECT: Duration = Duration::from_millis(1);

/// A thread that writes, for any number of logs. When its last handle is dropped it stops as with
/// [`Writer::stop`], but nobody waits.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    _last: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(Arc<Queue>);

/// What waits to be written, for who brings it and the thread that takes it.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting<Request>>,
    /// Something is there, or the thread is to stop.
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Those it writes: each has what the thread works with, until that ends.
    logs: Mutex<Vec<Weak<OpenLog>>>,
    pub(super) clock: Arc<dyn Clock>,
}

/// How soon an append is written and synced, and what it takes for whoever made it to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// At once, and told when it is as durable as the mode says.
    Synced,
    /// At once, told when it is written, and synced soon.
    Written,
    /// Written and synced soon, told when it is as durable as the mode says: sooner than `Later`, for somebody
    /// goes on with it.
    Soon,
    /// As `Soon`, when all that nobody waits for is.
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

/// What the thread has of one log in a batch.
struct Group {
    shared: Arc<OpenLog>,
    /// Which opening of the log it was written in; none: it was not.
    life: Option<u64>,
    items: Vec<Item>,
    ends: Vec<End>,
}

/// A log in which something is left to do at some time: a sync, or a note of how far it is.
struct Touched {
    shared: Arc<OpenLog>,
    /// Told with the next sync, in the order of the log.
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

    /// Writes and syncs what is in the queue, notes how far the logs are, and ends the thread. Blocks
    /// until that is done. Later appends end as [`AppendError::Stopped`].
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
    /// One more log is written by the thread.
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

    /// The next batch; empty when `until` is over. Whether all is written and the thread is to stop.
    fn take(&self, batch: &mut Vec<Request>, until: Option<Instant>) -> bool {
        let mut waiting = self.waiting.lock();
        loop {
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

    /// Nothing more is taken, and what waits is told so.
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
        // Room first: who is woken may want it.
        drop(self.permit);
        self.waiter.complete(outcome);
    }
}

/// Closes the queue whatever ends the thread, a panic too.
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
    // While what nobody waits for comes all the time, it is looked for without anybody having to wake.
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

/// Writes a batch, syncs the logs in which someone waits, and tells them.
fn commit(batch: Drain<'_, Request>, queue: &Queue, touched: &mut Vec<Touched>) {
    let most = batch.len();
    let mut groups: Vec<Group> = Vec::new();
    for request in batch {
        let Request { shared, item, permit, waiter, urgency, since } = request;
        let known = groups.iter().position(|group| Arc::ptr_eq(&group.shared, &shared));
        let index = known.unwrap_or_else(|| {
            // One log mostly; room for all in each of many would be their product.
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
    // All are written before the first is synced: one disk's syncs are one after the other.
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
    /// Syncs what was written, if somebody waits for that, and tells whom it concerns.
    fn finish(&mut self, group: Group) {
        let Group { shared, life, items, ends } = group;
        let is_durable = shared.settings.durability == Durability::Durable;
        let is_awaited = ends.iter().any(|end| end.urgency == Urgency::Synced);
        if is_durable && is_awaited && !mutation::is(Mutation::AcknowledgeBeforeTheSync) {
            // What a failed sync comes to is in the outcomes.
            shared.with_core(|core| (life == Some(core.life())).then(|| core.sync().ok()));
        }
        let Some(life) = life else {
            // The log was not there to be written in.
            for end in ends {
                end.complete(Err(shared.refuse(Reason::Offline).into()), &shared);
            }
            return;
        };
        let mut now = Vec::with_capacity(items.len());
        for (item, end) in items.into_iter().zip(ends) {
            let it = Untold::new(item, end, life);
            let is_put_off = is_durable && it.is_put_off();
            if is_put_off { &mut self.untold } else { &mut now }.push(it);
        }
        // First those that have waited for longer, and before anybody may close the log: it is whole now.
        self.tell();
        told::tell(&shared, now, |_, _| true);
    }

    /// Tells of what has been synced meanwhile, or never will be.
    fn tell(&mut self) {
        // In the order of the log: if it is not time for the first, it is not for any.
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

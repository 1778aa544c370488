//! The thread that writes: the only one that appends to and syncs the logs it serves.
//!
//! While it waits for a sync the next batch collects in the queue, so a batch is as large as the disk is
//! slow, and no more is waited for. A commit that someone waits for is never put off; what nobody waits
//! for is synced soon. The queue is bounded by the permits of what is in it.

use std::{
    collections::VecDeque,
    io, mem,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
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
};
use crate::events::queue::{
    mutation::{self, Mutation},
    time::{Clock, Now},
};

/// A batch ends at so many bytes, ...
const BATCH_BYTES: usize = 1 << 20;
/// ... or at so many records.
const BATCH_RECORDS: usize = 4096;

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
    pub(super) clock: Arc<dyn Clock>,
}

/// What waits to be written, and whether the thread knows of it. All that is decided about waking and
/// sleeping is decided here, under one lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting<T> {
    requests: VecDeque<T>,
    is_stopped: bool,
    /// The thread sleeps: who brings something wakes it.
    is_asleep: bool,
}

/// What the thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write what is in the batch, if anything is, and see what is due.
    Batch,
    /// Nothing is left, and nothing will come.
    Stop,
    /// Sleep until someone wakes it.
    Sleep,
}

/// One append.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shared: Arc<OpenLog>,
    pub(super) item: Item,
    pub(super) permit: Permit,
    pub(super) waiter: Waiter,
    /// Whether it completes only when it is on disk.
    pub(super) is_awaited: bool,
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

/// The other half of a request.
struct End {
    waiter: Waiter,
    permit: Permit,
    is_awaited: bool,
    since: Instant,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread.
    pub fn spawn(name: impl Into<String>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::default(),
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
            tracing::error!("a writer of the queue has panicked");
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
    /// Hands an append to the thread.
    pub(super) fn submit(&self, request: Request) {
        let pushed = self.waiting.lock().push(request);
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
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match waiting.next(batch, left == Some(Duration::ZERO), Request::size) {
                Next::Batch => return false,
                Next::Stop => return true,
                Next::Sleep => match left {
                    None => self.wake.wait(&mut waiting),
                    Some(span) => drop(self.wake.wait_for(&mut waiting, span)),
                },
            }
        }
    }

    fn stop(&self) {
        self.waiting.lock().stop();
        self.wake.notify_one();
    }

    /// Nothing more is taken, and what waits is told so.
    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.stop();
        let left = mem::take(&mut waiting.requests);
        drop(waiting);
        for request in left {
            request.end(Err(AppendError::Stopped));
        }
    }
}

// === impl Waiting ===

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), is_stopped: false, is_asleep: false }
    }
}

impl<T> Waiting<T> {
    /// Adds a request; whether the thread is to be woken for it. Given back if no more is taken.
    pub(super) fn push(&mut self, request: T) -> Result<bool, T> {
        if self.is_stopped {
            return Err(request);
        }
        self.requests.push_back(request);
        // A thread that is awake looks again before it sleeps.
        Ok(mem::take(&mut self.is_asleep))
    }

    /// Takes the next batch, or says what to do instead. `size`: bytes and records of a request.
    pub(super) fn next(
        &mut self,
        batch: &mut Vec<T>,
        is_late: bool,
        size: impl Fn(&T) -> (usize, usize),
    ) -> Next {
        let (mut bytes, mut records) = (0, 0);
        while let Some(next) = self.requests.front() {
            let more = size(next);
            (bytes, records) = (bytes + more.0, records + more.1);
            if !batch.is_empty() && (bytes > BATCH_BYTES || records > BATCH_RECORDS) {
                break;
            }
            batch.extend(self.requests.pop_front());
        }
        self.is_asleep = batch.is_empty() && !is_late && !self.is_stopped;
        if self.is_asleep {
            Next::Sleep
        } else if batch.is_empty() && self.is_stopped {
            Next::Stop
        } else {
            Next::Batch
        }
    }

    /// No more is taken. The thread is to be woken.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }
}

// === impl Request ===

impl Request {
    /// Bytes and records.
    fn size(&self) -> (usize, usize) {
        (self.item.bytes, self.item.drafts.len())
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
    // Logs in which something is left to do at some time: a sync, or a note of how far they are.
    let mut touched: Vec<Arc<OpenLog>> = Vec::new();
    loop {
        let until = touched.iter().filter_map(|shared| shared.due()).min();
        let is_over = queue.take(&mut batch, until);
        commit(batch.drain(..), queue, &mut touched);
        let is_busy = !queue.waiting.lock().requests.is_empty();
        touched.retain(|shared| shared.look_after(is_over, is_busy));
        if is_over {
            return;
        }
    }
}

/// Writes a batch, syncs the logs in which someone waits, and tells them.
fn commit(batch: impl Iterator<Item = Request>, queue: &Queue, touched: &mut Vec<Arc<OpenLog>>) {
    let mut groups: Vec<Group> = Vec::new();
    for request in batch {
        let Request { shared, item, permit, waiter, is_awaited, since } = request;
        let known = groups.iter().position(|group| Arc::ptr_eq(&group.shared, &shared));
        let index = known.unwrap_or_else(|| {
            groups.push(Group { shared, life: None, items: Vec::new(), ends: Vec::new() });
            groups.len() - 1
        });
        groups[index].items.push(item);
        groups[index].ends.push(End { waiter, permit, is_awaited, since });
    }
    let now = queue.clock.now();
    // All are written before the first is synced: one disk's syncs are one after the other.
    for group in &mut groups {
        group.write(now);
    }
    for group in groups {
        if !touched.iter().any(|shared| Arc::ptr_eq(shared, &group.shared)) {
            touched.push(group.shared.clone());
        }
        group.finish();
    }
}

// === impl Group ===

impl Group {
    fn write(&mut self, now: Now) {
        let items = &mut self.items;
        self.life = self.shared.with_core(|core| {
            core.write(items, now);
            core.life()
        });
    }

    fn finish(self) {
        let Self { shared, life, mut items, ends } = self;
        let is_awaited = ends.iter().any(|end| end.is_awaited);
        let is_synced = shared.settings.durability == Durability::Durable
            && is_awaited
            && !mutation::is(Mutation::AcknowledgeBeforeTheSync);
        let is_written = life.is_some();
        let settled = shared.with_core(|core| {
            // Between writing and now it was opened again: what was written may be gone.
            if life != Some(core.life()) {
                return None;
            }
            if is_synced {
                // What a failed sync comes to is in the outcomes.
                core.sync().ok();
            }
            let settle = |(item, end): (&mut Item, &End)| core.settle(item, end.is_awaited);
            Some(items.iter_mut().zip(&ends).map(settle).collect::<Vec<_>>())
        });
        if let Some(settled) = settled.flatten() {
            for (end, outcome) in ends.into_iter().zip(settled) {
                end.complete(outcome, &shared);
            }
            return;
        }
        for end in ends {
            let outcome = if is_written {
                AppendError::Unknown
            } else {
                shared.refuse(Reason::Offline).into()
            };
            end.complete(Err(outcome), &shared);
        }
    }
}

// === impl End ===

impl End {
    fn complete(self, outcome: Outcome, shared: &OpenLog) {
        // Room first: who is woken may want it.
        drop(self.permit);
        if outcome.is_ok() && self.is_awaited {
            shared.gauges.append_micros.record_span(self.since.elapsed());
        }
        self.waiter.complete(outcome);
    }
}

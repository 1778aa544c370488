//! The queue in front of the writer, and when it is looked at. Pure: time is an argument.
//!
//! Appends that somebody waits for are taken at once. Others collect until the oldest is due or
//! they fill a batch. The thread is woken only for what is due before it would look anyway, so
//! submitting something that can wait mostly costs no system call.

use std::collections::VecDeque;

use tokio::time::Instant;

/// A batch ends at this many bytes, ...
const BATCH_BYTES: usize = 1 << 20;
/// ... or this many records.
const BATCH_RECORDS: usize = 4096;

/// What waits to be written, and whether the thread knows of it. All decisions about waking and
/// sleeping are made here, under one lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting<T> {
    requests: VecDeque<T>,
    size: Size,
    /// The earliest due time; none if the queue is empty.
    due: Option<Due>,
    is_stopped: bool,
    /// Set while the thread sleeps.
    asleep: Option<Asleep>,
}

/// Until when the thread sleeps; `None`: until it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asleep(Option<Instant>);

/// When a request is to be written, at the latest. Ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Due {
    /// Somebody waits.
    Now,
    /// Nobody waits.
    At(Instant),
}

/// What a request adds to a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Size {
    pub(super) bytes: usize,
    pub(super) records: usize,
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write the batch, if there is one, and see what else is due.
    Batch,
    /// Stop: the queue is empty and closed.
    Stop,
    /// Sleep until then, or until woken.
    Sleep(Option<Instant>),
}

// === impl Waiting ===

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            requests: VecDeque::new(),
            size: Size::default(),
            due: None,
            is_stopped: false,
            asleep: None,
        }
    }
}

impl<T> Waiting<T> {
    /// Adds a request. Returns whether to wake the thread, or the request if the queue is closed.
    pub(super) fn push(&mut self, request: T, size: Size, due: Due) -> Result<bool, T> {
        if self.is_stopped {
            return Err(request);
        }
        self.requests.push_back(request);
        self.size = self.size.and(size);
        let due = if self.size.fits() { due } else { Due::Now };
        let due = self.due.map_or(due, |earlier| earlier.min(due));
        self.due = Some(due);
        // A thread that is awake looks again before it sleeps.
        let is_early = self.asleep.is_some_and(|asleep| asleep.outlasts(due));
        if is_early {
            self.asleep = None;
        }
        Ok(is_early)
    }

    /// Takes the next batch, or says what to do instead. `also`: when other work is due.
    pub(super) fn next(
        &mut self,
        batch: &mut Vec<T>,
        now: Instant,
        also: Option<Instant>,
        size: impl Fn(&T) -> Size,
    ) -> Next {
        self.asleep = None;
        let is_late = also.is_some_and(|at| at <= now);
        let is_due = match self.due {
            Some(Due::Now) => true,
            // Together with other work that is due: one sync for both.
            Some(Due::At(at)) => at <= now || is_late || self.is_stopped,
            None => false,
        };
        if is_due {
            self.take(batch, size);
        }
        if self.is_stopped && !is_due {
            return Next::Stop;
        }
        if is_due || is_late {
            return Next::Batch;
        }
        let until = match self.due {
            Some(Due::At(at)) => also.map(|also| also.min(at)).or(Some(at)),
            _ => also,
        };
        self.asleep = Some(Asleep(until));
        Next::Sleep(until)
    }

    /// Takes as much as fits one batch, and at least one request.
    fn take(&mut self, batch: &mut Vec<T>, size: impl Fn(&T) -> Size) {
        let mut taken = Size::default();
        while let Some(next) = self.requests.front() {
            taken = taken.and(size(next));
            if !batch.is_empty() && !taken.fits() {
                break;
            }
            self.size = self.size.without(size(next));
            batch.extend(self.requests.pop_front());
        }
        // What remains exceeded one batch: it has waited long enough.
        self.due = (!self.requests.is_empty()).then_some(Due::Now);
    }

    /// Nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Closes the queue. The thread is to be woken.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Closes the queue, and gives back what is in it.
    pub(super) fn close(&mut self) -> VecDeque<T> {
        self.stop();
        (self.size, self.due) = (Size::default(), None);
        std::mem::take(&mut self.requests)
    }
}

// === impl Asleep ===

impl Asleep {
    /// Whether it would sleep past `due`.
    fn outlasts(self, due: Due) -> bool {
        match due {
            Due::Now => true,
            Due::At(at) => self.0.is_none_or(|until| at < until),
        }
    }
}

// === impl Size ===

impl Size {
    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, records: self.records + other.records }
    }

    fn without(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            records: self.records.saturating_sub(other.records),
        }
    }

    /// Whether it fits one batch.
    fn fits(self) -> bool {
        self.bytes <= BATCH_BYTES && self.records <= BATCH_RECORDS
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SMALL: Size = Size { bytes: 100, records: 1 };

    fn after(base: Instant, millis: u64) -> Instant {
        base + Duration::from_millis(millis)
    }

    fn next(waiting: &mut Waiting<u8>, now: Instant, also: Option<Instant>) -> (Next, Vec<u8>) {
        let mut batch = Vec::new();
        (waiting.next(&mut batch, now, also, |_| SMALL), batch)
    }

    #[test]
    fn what_nobody_waits_for_collects_until_the_oldest_is_due() {
        let (mut waiting, base) = (Waiting::default(), Instant::now());
        let at = |millis| after(base, millis);
        assert_eq!(next(&mut waiting, base, None).0, Next::Sleep(None));
        assert_eq!(waiting.push(1, SMALL, Due::At(at(3))), Ok(true), "it sleeps for ever");
        assert_eq!(next(&mut waiting, base, None).0, Next::Sleep(Some(at(3))));
        assert_eq!(waiting.push(2, SMALL, Due::At(at(4))), Ok(false), "it looks in time");
        assert_eq!(next(&mut waiting, at(2), None), (Next::Sleep(Some(at(3))), vec![]));
        assert_eq!(next(&mut waiting, at(3), None), (Next::Batch, vec![1, 2]));
        assert_eq!(next(&mut waiting, at(3), None).0, Next::Sleep(None));
    }

    #[test]
    fn what_somebody_waits_for_is_never_put_off_and_takes_the_rest_along() {
        let (mut waiting, base) = (Waiting::default(), Instant::now());
        assert_eq!(waiting.push(1, SMALL, Due::At(after(base, 9))), Ok(false), "it is awake");
        assert_eq!(next(&mut waiting, base, None).0, Next::Sleep(Some(after(base, 9))));
        assert_eq!(waiting.push(2, SMALL, Due::Now), Ok(true));
        assert_eq!(
            waiting.push(3, SMALL, Due::At(after(base, 1))),
            Ok(false),
            "it is woken already"
        );
        assert_eq!(next(&mut waiting, base, None), (Next::Batch, vec![1, 2, 3]));
    }

    #[test]
    fn what_else_is_to_be_done_ends_the_collecting() {
        let (mut waiting, base) = (Waiting::default(), Instant::now());
        let sync = after(base, 2);
        assert_eq!(next(&mut waiting, base, Some(sync)).0, Next::Sleep(Some(sync)));
        waiting.push(1, SMALL, Due::At(after(base, 9))).unwrap();
        assert_eq!(next(&mut waiting, base, Some(sync)).0, Next::Sleep(Some(sync)));
        assert_eq!(waiting.push(2, SMALL, Due::At(after(base, 5))), Ok(false));
        assert_eq!(next(&mut waiting, sync, Some(sync)), (Next::Batch, vec![1, 2]));
        assert_eq!(next(&mut waiting, sync, Some(sync)), (Next::Batch, vec![]));
    }

    #[test]
    fn a_full_batch_is_not_waited_for() {
        let base = Instant::now();
        let half = Size { bytes: BATCH_BYTES / 2, records: 1 };
        let many = Size { bytes: 1, records: BATCH_RECORDS / 2 };
        for size in [half, many] {
            let (mut waiting, mut batch) = (Waiting::default(), Vec::new());
            let due = Due::At(after(base, 9));
            assert_eq!(waiting.push(1, size, due), Ok(false));
            assert_eq!(waiting.push(2, size, due), Ok(false));
            assert_eq!(
                waiting.next(&mut batch, base, None, |_| size),
                Next::Sleep(Some(after(base, 9)))
            );
            assert_eq!(waiting.push(3, size, due), Ok(true), "one more than fits");
            assert_eq!(waiting.next(&mut batch, base, None, |_| size), Next::Batch);
            assert_eq!(batch, [1, 2]);
            batch.clear();
            assert_eq!(waiting.next(&mut batch, base, None, |_| size), Next::Batch, "at once");
            assert_eq!(batch, [3]);
            assert_eq!(waiting.next(&mut batch, base, None, |_| size), Next::Sleep(None));
        }
    }

    #[test]
    fn what_is_there_is_written_before_the_end() {
        let (mut waiting, base) = (Waiting::default(), Instant::now());
        waiting.push(1, SMALL, Due::At(after(base, 9))).unwrap();
        waiting.stop();
        assert_eq!(waiting.push(2, SMALL, Due::Now), Err(2));
        assert_eq!(next(&mut waiting, base, None), (Next::Batch, vec![1]));
        assert_eq!(next(&mut waiting, base, None).0, Next::Stop);
    }
}

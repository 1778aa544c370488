//! What is known of a log without asking its writer: how far it is readable, and its state.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{segment::Segment, status::State};
use crate::events::queue::Offset;

/// The part of an open log that its writer updates and readers look at.
#[derive(Debug)]
pub(super) struct View {
    start: AtomicU64,
    durable: watch::Sender<Offset>,
    segments: RwLock<Vec<Arc<Segment>>>,
    state: Mutex<State>,
    /// Number of recoveries.
    openings: AtomicU64,
    /// Relaxed: independent of the rest.
    sealed_bytes: AtomicU64,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            start: AtomicU64::new(0),
            durable: watch::Sender::new(Offset::ZERO),
            segments: RwLock::default(),
            state: Mutex::new(State::Serving),
            openings: AtomicU64::new(0),
            sealed_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn start(&self) -> Offset {
        // Relaxed: it only grows, and a missing file shows that a segment was retired.
        Offset(self.start.load(Ordering::Relaxed))
    }

    pub(super) fn set_start(&self, start: Offset) {
        self.start.store(start.0, Ordering::Relaxed);
    }

    pub(super) fn durable(&self) -> Offset {
        *self.durable.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Offset> {
        self.durable.subscribe()
    }

    /// Call it after the segment's extent is published: whoever sees the offset can read up to it.
    pub(super) fn set_durable(&self, durable: Offset) {
        self.durable.send_if_modified(|current| {
            let is_new = *current != durable;
            *current = durable;
            is_new
        });
    }

    /// The log was recovered and its end is set. Call it before it serves, for whoever finds it serving.
    pub(super) fn opened(&self) {
        self.openings.fetch_add(1, Ordering::Release);
    }

    /// Number of recoveries; `None` while it is offline.
    pub(super) fn opening(&self) -> Option<u64> {
        // The state first, because it is set last.
        (!self.is_offline()).then(|| self.openings.load(Ordering::Acquire))
    }

    pub(super) fn state(&self) -> State {
        self.state.lock().clone()
    }

    pub(super) fn set_state(&self, state: State) {
        *self.state.lock() = state;
    }

    pub(super) fn is_offline(&self) -> bool {
        matches!(*self.state.lock(), State::Offline(_))
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    pub(super) fn set_segments(&self, segments: Vec<Arc<Segment>>) {
        let mut own = self.segments.write();
        *own = segments;
        self.count(&own);
    }

    fn count(&self, segments: &[Arc<Segment>]) {
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        let bytes = sealed.iter().map(|it| it.extent().position).sum();
        self.sealed_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Adds the new active segment, which replaces a frameless one with the same base.
    pub(super) fn push(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write();
        segments.retain(|it| it.base() < segment.base());
        segments.push(segment);
        self.count(&segments);
    }

    /// Removes the sealed segments wholly below `below`, oldest first.
    pub(super) fn take_below(&self, below: Offset) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.write();
        let count = segments.windows(2).take_while(|pair| pair[1].base() <= below).count();
        let gone = segments.drain(..count).collect();
        self.count(&segments);
        gone
    }

    /// The base of the oldest segment that remains if those wholly below `below` are removed.
    pub(super) fn start_for(&self, below: Offset) -> Option<Offset> {
        let segments = self.segments.read();
        let kept = segments.iter().rev().find(|it| it.base() <= below).or(segments.first());
        kept.map(|it| it.base())
    }

    /// The segment that holds or would hold `offset`, or the first after it, with the base of its
    /// successor.
    pub(super) fn find(&self, offset: Offset) -> Option<(Arc<Segment>, Option<Offset>)> {
        let segments = self.segments.read();
        let after = segments.partition_point(|it| it.base() <= offset);
        let index = after.saturating_sub(1);
        let next = segments.get(index + 1).map(|it| it.base());
        segments.get(index).map(|it| (it.clone(), next))
    }

    /// Bytes used by all segments but the newest; counted when one comes or goes.
    pub(super) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes used by all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.read().iter().map(|it| it.extent().position).sum()
    }
}

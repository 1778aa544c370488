//! Live tails: the events of a topic that are on disk, in order from some position, then new ones
//! as they come.
//!
//! A tail reads the log until it has caught up; from then on it gets new events from memory
//! ([`Following`]), in pages that the tails of a topic share. Nothing waits for a slow tail: if it
//! lags for a while, until memory has dropped its position, it skips to the end and is told how
//! many events it missed. When the store winds down, a tail delivers what is there and ends: its
//! client reconnects to the next process.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

use super::{Store, topics::shown};
use crate::events::{
    facade::{Refusal, Tail, TailPage, Told},
    queue::{
        Offset,
        log::{Block, Following, Log, ReadError},
        pool::Pool,
    },
};

/// Maximum number of tails, for all topics: each topic with one keeps some frames in memory.
pub(super) const MAX_TAILS: usize = 32;
/// When to retry if all places are taken.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Maximum number of events in a page.
const PAGE: usize = 256;
/// Bytes read from the log at once.
const READ: usize = 256 << 10;
/// How long a tail that had caught up may lag before it skips to the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The latest page of a topic made from memory. All tails that have caught up want the same one.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Option<(Offset, TailPage)>>);

/// One tail.
struct Tailing {
    topic: Arc<str>,
    shared: Arc<Shared>,
    log: Log,
    following: Following,
    durable: watch::Receiver<Offset>,
    pool: Pool,
    /// The next offset.
    next: Offset,
    /// When there was last nothing more to read; `None` if it has not caught up yet.
    caught_up: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

// === impl Store ===

impl Store {
    pub(super) fn do_tail(&self, name: &str, from: Option<u64>) -> Result<Tail, Refusal> {
        let topic = self.find_topic(name)?;
        let log = topic.opened()?.log().clone();
        let full = |_| Refusal::Busy {
            detail: format!("{MAX_TAILS} live tails are open, and more are not kept"),
            retry_after: RETRY_AFTER,
        };
        let place = self.0.tails.clone().try_acquire_owned().map_err(full)?;
        let following = log.follow();
        let durable = log.subscribe_durable();
        // A position from before the topic was recreated may be above its end: it would wait for it.
        let end = log.durable();
        let next = from.map_or(end, |from| Offset(from).min(end));
        let tailing = Tailing {
            topic: topic.name(),
            shared: topic.shared_tails(),
            log,
            following,
            durable,
            pool: self.0.pool.clone(),
            next,
            caught_up: None,
            _place: place,
        };
        let winding_down = self.0.ending.is_winding_down.subscribe();
        let tailing = (tailing, winding_down);
        let pages = stream::try_unfold(tailing, |(mut tailing, mut winding_down)| async move {
            let page = tokio::select! {
                // What is there is delivered first.
                biased;
                page = tailing.page() => page?,
                // Fails if the store is dropped, which is an end as well.
                _ = winding_down.wait_for(|it| *it) => return Ok(None),
            };
            Ok(Some((page, (tailing, winding_down))))
        });
        Ok(Tail { next: next.0, pages: pages.boxed() })
    }
}

// === impl Tailing ===

impl Tailing {
    /// The next page, as soon as there is something to report. Cancel-safe.
    async fn page(&mut self) -> Result<TailPage, Refusal> {
        loop {
            if *self.durable.borrow_and_update() <= self.next {
                // Never an error: this holds a handle of the log.
                self.durable.changed().await.ok();
                self.caught_up = Some(Instant::now());
                continue;
            }
            // A tail that always has more must yield to others.
            tokio::task::yield_now().await;
            let page = match self.live() {
                Some(page) => page,
                None if self.is_slow() => self.skip(),
                None => self.read().await?,
            };
            self.next = Offset(page.next);
            if page.gap + page.skipped > 0 || !page.events.is_empty() {
                return Ok(page);
            }
        }
    }

    /// A page from memory.
    fn live(&self) -> Option<TailPage> {
        let mut made = self.shared.0.lock();
        if let Some((_, page)) = made.as_ref().filter(|(from, _)| *from == self.next) {
            return Some(page.clone());
        }
        let page = self.of(&self.following.read(self.next)?);
        *made = Some((self.next, page.clone()));
        Some(page)
    }

    /// Whether it has lagged for too long.
    fn is_slow(&self) -> bool {
        self.caught_up.is_some_and(|at| at.elapsed() > PATIENCE)
    }

    /// Skips to the end.
    fn skip(&mut self) -> TailPage {
        let end = self.log.durable();
        self.caught_up = Some(Instant::now());
        TailPage { next: end.0, skipped: end.since(self.next), ..TailPage::default() }
    }

    /// A page from the log.
    async fn read(&self) -> Result<TailPage, Refusal> {
        let (mut reader, from) = (self.log.reader(), self.next);
        let read = self.pool.run(move || reader.read(from, READ)).await;
        let read = read.map_err(|undone| Refusal::internal(undone.to_string()))?;
        match read {
            Ok(block) => Ok(self.of(&block)),
            Err(ReadError::Retired { start }) => {
                let gap = start.since(from);
                Ok(TailPage { next: start.0, gap, ..TailPage::default() })
            }
            Err(error) => Err(Refusal::unavailable(error.to_string())),
        }
    }

    fn of(&self, block: &Block) -> TailPage {
        let mut page = TailPage { next: block.next().0, ..TailPage::default() };
        let mut events = Vec::new();
        for (offset, record) in block.records() {
            if events.len() >= PAGE {
                page.next = offset.0;
                break;
            }
            let stored = shown(&self.topic, offset, &record, |part| block.slice(part));
            events.push(Told::new(stored));
        }
        page.events = events.into();
        let gaps = block.gaps().iter().filter(|gap| gap.start.0 < page.next);
        page.gap = gaps.map(|gap| gap.end.since(gap.start)).sum();
        page
    }
}

//! Small writes of one thread leave together.
//!
//! A send to a peer on the same machine wakes it if it sleeps, and that costs the poster several times
//! what the send does. A busy worker writes every few microseconds; a fast service, or a busy client,
//! has read that in less, and sleeps again. So what is posted waits here for what the worker writes in
//! the same round of its tasks: it leaves one right behind the other, and wakes the peer once.
//!
//! Post only what goes to peers on this machine: no others are woken by the send itself.
//!
//! Requests leave before answers: the services work on them while the clients are woken.
//!
//! Bounded: the task that empties the outbox is queued when the first post comes in, so it runs behind
//! what was queued at that moment; and [`MOST`] leave at once. A worker with nothing else to do sends
//! in the same turn. If that task ends, everything goes back to who posted it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// So many posts do not wait for more.
const MOST: usize = 64;

thread_local! {
    static OUTBOX: RefCell<Outbox> = const { RefCell::new(Outbox::closed()) };
}

/// A connection that has posted something.
pub trait Poster: fmt::Debug + Send + Sync {
    /// Sends what was posted, unless it was taken back. Returns a buffer that it does not need.
    fn send(&self) -> Vec<u8>;

    /// Leaves it to who posted to write it.
    fn give_back(&self);
}

/// Where something goes.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// A request.
    Service,
    /// An answer.
    Client,
}

/// Who has something to send.
struct Outbox {
    requests: VecDeque<Arc<dyn Poster>>,
    answers: VecDeque<Arc<dyn Poster>>,
    /// The task that empties it; `None`: nobody does.
    task: Option<Waker>,
    /// Empty buffers for what is posted, the latest last.
    spare: Vec<Vec<u8>>,
}

/// Closes the thread's outbox when its task ends.
struct CloseOnDrop;

/// Empties this thread's outbox for as long as it is polled. One task per thread.
pub async fn serve() {
    let _closing = CloseOnDrop;
    poll_fn(|cx| OUTBOX.with_borrow_mut(|outbox| outbox.poll(cx))).await;
}

/// Whether somebody empties this thread's outbox.
pub fn is_served() -> bool {
    OUTBOX.with_borrow(|outbox| outbox.task.is_some())
}

/// An empty buffer.
pub fn buffer() -> Vec<u8> {
    OUTBOX.with_borrow_mut(|outbox| outbox.spare.pop()).unwrap_or_default()
}

/// Lets `poster` send soon, or now.
pub fn post(to: To, poster: Arc<dyn Poster>) {
    OUTBOX.with_borrow_mut(|outbox| outbox.add(to, poster));
}

// === impl Outbox ===

impl Outbox {
    const fn closed() -> Self {
        Self { requests: VecDeque::new(), answers: VecDeque::new(), task: None, spare: Vec::new() }
    }

    fn len(&self) -> usize {
        self.requests.len() + self.answers.len()
    }

    fn add(&mut self, to: To, poster: Arc<dyn Poster>) {
        if self.len() == 0
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
        match to {
            To::Service => self.requests.push_back(poster),
            To::Client => self.answers.push_back(poster),
        }
        if self.len() >= MOST || self.task.is_none() {
            self.empty();
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.empty();
        Poll::Pending
    }

    fn empty(&mut self) {
        // One by one: if one panics, the others are still here.
        while let Some(poster) = self.requests.pop_front().or_else(|| self.answers.pop_front()) {
            let mut buffer = poster.send();
            if buffer.capacity() > 0 && self.spare.len() < MOST {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
    }
}

// === impl CloseOnDrop ===

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let left = OUTBOX.replace(Outbox::closed());
        left.requests.iter().chain(&left.answers).for_each(|poster| poster.give_back());
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::task::yield_now;

    use super::*;
    use crate::telemetry::task;

    /// Adds its name to a list when it sends, and gives a buffer away.
    #[derive(Debug)]
    struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Poster for Named {
        fn send(&self) -> Vec<u8> {
            self.1.lock().push(self.0);
            Vec::with_capacity(1)
        }

        fn give_back(&self) {
            self.1.lock().push("given back");
        }
    }

    fn posted(sent: &Arc<Mutex<Vec<&'static str>>>, to: To, name: &'static str) {
        post(to, Arc::new(Named(name, sent.clone())));
    }

    #[tokio::test]
    async fn a_round_leaves_at_its_end_requests_first() {
        let serving = task::spawn("outbox", serve());
        yield_now().await;
        let sent = Arc::default();
        posted(&sent, To::Client, "first answer");
        posted(&sent, To::Service, "first request");
        posted(&sent, To::Client, "second answer");
        posted(&sent, To::Service, "second request");
        assert_eq!(*sent.lock(), [""; 0]);
        yield_now().await;
        let expected = ["first request", "second request", "first answer", "second answer"];
        assert_eq!(*sent.lock(), expected);
        posted(&sent, To::Service, "third request");
        posted(&sent, To::Client, "third answer");
        serving.abort();
        serving.await.unwrap_err();
        assert_eq!(sent.lock()[4..], ["given back"; 2]);
        assert!(!is_served());
        posted(&sent, To::Client, "not held back");
        assert_eq!(sent.lock()[6..], ["not held back"]);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_so_are_the_buffers() {
        task::spawn("outbox", serve());
        yield_now().await;
        let sent = Arc::default();
        for count in 1..2 * MOST {
            posted(&sent, if count % 2 == 0 { To::Service } else { To::Client }, "");
            assert_eq!(sent.lock().len(), if count < MOST { 0 } else { MOST });
        }
        yield_now().await;
        assert_eq!(sent.lock().len(), 2 * MOST - 1);
        let kept = (0..2 * MOST).filter(|_| buffer().capacity() > 0).count();
        assert_eq!(kept, MOST);
    }
}

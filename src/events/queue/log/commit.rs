//! An append on its way: who made it waits, or has left.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::error::{AppendError, Refused};
use crate::events::queue::Offset;

/// Where one record of an append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position in the log.
    pub offset: Offset,
    /// Its partition.
    pub partition: u16,
    /// Set if it was there already: all this is about the one that was there.
    pub duplicate: Option<Duplicate>,
}

/// An event came a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Whether the bytes that came now differ from those stored.
    pub mismatch: bool,
}

/// Completes when the append is as durable as the log's mode says, with one item for each draft in
/// order, or when it failed. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "without it nobody learns whether the append succeeded"]
pub struct Commit(Inner);

#[derive(Debug)]
enum Inner {
    Waiting(oneshot::Receiver<Outcome>),
    Refused(Refused),
}

/// What becomes of an append.
pub(super) type Outcome = Result<Vec<Appended>, AppendError>;

/// The writer's end of a [`Commit`].
#[derive(Debug)]
pub(super) struct Waiter(oneshot::Sender<Outcome>);

impl Commit {
    /// One that the writer will complete.
    pub(super) fn pair() -> (Waiter, Self) {
        let (sender, receiver) = oneshot::channel();
        (Waiter(sender), Self(Inner::Waiting(receiver)))
    }

    /// One that has failed already.
    pub(super) fn refused(refused: Refused) -> Self {
        Self(Inner::Refused(refused))
    }

    /// Waits on a thread that may block: not one that runs tasks.
    pub fn wait(self) -> Result<Vec<Appended>, AppendError> {
        match self.0 {
            Inner::Waiting(receiver) => {
                receiver.blocking_recv().unwrap_or(Err(AppendError::Stopped))
            }
            Inner::Refused(refused) => Err(refused.into()),
        }
    }
}

impl Future for Commit {
    type Output = Result<Vec<Appended>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Waiting(receiver) => {
                let outcome = ready!(Pin::new(receiver).poll(cx));
                Poll::Ready(outcome.unwrap_or(Err(AppendError::Stopped)))
            }
            Inner::Refused(refused) => Poll::Ready(Err((*refused).into())),
        }
    }
}

impl Waiter {
    /// Tells whoever still waits.
    pub(super) fn complete(self, outcome: Outcome) {
        // Who has left does not want to know.
        drop(self.0.send(outcome));
    }
}

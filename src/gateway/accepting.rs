//! A worker's accept loop: from a socket to a connection that is served by a stack.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::OptionFuture};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    connection::{self, Handle},
    gateway::worker::{Resources, Terms},
    listener::{self, Accepted, Acceptor},
    telemetry::task,
};

/// A running accept loop. Dropping `stop` ends it; `stopped` resolves when it has.
pub(super) struct Accepting {
    pub(super) terms: Arc<Mutex<Terms>>,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) stopped: oneshot::Receiver<()>,
}

/// Starts an accept loop.
pub(super) fn accept<H: Handle>(
    mut acceptor: Acceptor,
    terms: Terms,
    handler: Arc<H>,
    resources: &Resources,
) -> Accepting {
    let name = terms.listener.name.clone();
    let terms = Arc::new(Mutex::new(terms));
    let (stop, mut is_stopped) = oneshot::channel();
    let (done, stopped) = oneshot::channel();
    let welcome = Welcome {
        terms: terms.clone(),
        outcomes: listener::Outcomes::new(&resources.cells, &name),
        ends: connection::Outcomes::new(&resources.cells, &name),
        handler,
        resources: resources.clone(),
    };
    task::spawn("accept", async move {
        loop {
            tokio::select! {
                accepted = acceptor.accept() => welcome.serve(accepted),
                _ = &mut is_stopped => break,
            }
        }
        match acceptor.close() {
            Ok(queued) => queued.into_iter().for_each(|accepted| welcome.serve(accepted)),
            Err(error) => tracing::warn!(%error, "closing a listener"),
        }
        drop::<oneshot::Sender<()>>(done);
    });
    Accepting { terms, stop, stopped }
}

/// Sets up and serves accepted connections.
struct Welcome<H> {
    terms: Arc<Mutex<Terms>>,
    outcomes: listener::Outcomes,
    ends: connection::Outcomes,
    handler: Arc<H>,
    resources: Resources,
}

// === impl Welcome ===

impl<H: Handle> Welcome<H> {
    fn serve(&self, accepted: Accepted) {
        let terms = self.terms.lock().clone();
        let connections = self.resources.connections.clone();
        let (outcomes, ends) = (self.outcomes.clone(), self.ends.clone());
        let shed = || connections.close_oldest_idle(&terms.listener.name);
        let Some(permit) = terms.limits.admit(&outcomes, shed) else { return };
        let handler = self.handler.clone();
        let begun = async move {
            let settings = &terms.listener;
            let tls = terms.tls.as_deref();
            let shaken = listener::handshake(accepted, permit, settings, tls, &outcomes).await;
            // A refusal was already counted and logged where it was decided.
            let (stream, peer) = shaken.ok()?;
            let protocol = connection::Protocol::of(&peer, settings.h1, settings.h2);
            let settings = terms.connection.clone();
            let peer = Arc::new(peer);
            Some(connection::serve(stream, protocol, peer, settings, handler, connections, ends))
        };
        self.resources.tasks.spawn("connection", in_turn(begun));
    }
}

/// Runs the future that `begun` returns, if any. A task keeps its size as long as it lives, so
/// `begun` is boxed; an async block would hold the second future twice, once returned and once
/// awaited.
fn in_turn<B, S>(begun: B) -> impl Future<Output = Option<()>> + Send
where
    B: Future<Output = Option<S>> + Send,
    S: Future<Output = ()> + Send,
{
    Box::pin(begun).map(OptionFuture::from).flatten()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use tokio::task::yield_now;

    use super::*;

    /// A large future that lives for a while.
    async fn large<const ROOM: usize>() {
        let room = [1_u8; ROOM];
        yield_now().await;
        black_box(room);
    }

    #[tokio::test]
    async fn a_connection_has_room_for_nothing_but_its_requests() {
        let served = large::<1000>();
        let size = size_of_val(&served);
        let connection = in_turn(async move {
            large::<8000>().await;
            Some(served)
        });
        let room = size_of_val(&connection);
        assert!(room <= size + 2 * size_of::<usize>(), "{room} bytes for {size}");
        assert_eq!(connection.await, Some(()));
        assert_eq!(in_turn(async { None::<std::future::Ready<()>> }).await, None, "refused");
    }
}

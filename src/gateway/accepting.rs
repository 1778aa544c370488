//! An accept loop of a worker: from a socket to a connection that is served by a stack.

use std::sync::Arc;

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

/// What an accept loop does with a connection.
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
        self.resources.tasks.spawn("connection", async move {
            let settings = &terms.listener;
            let tls = terms.tls.as_deref();
            // A refusal has been counted and logged where it was decided.
            let Ok((stream, peer)) =
                listener::handshake(accepted, permit, settings, tls, &outcomes).await
            else {
                return;
            };
            let protocol = connection::Protocol::of(&peer, settings.h1, settings.h2);
            connection::serve(
                stream,
                protocol,
                Arc::new(peer),
                terms.connection,
                handler,
                connections,
                ends,
            )
            .await;
        });
    }
}

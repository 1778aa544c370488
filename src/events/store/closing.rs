//! Closes a store in two steps: first nothing new begins, then in-flight work ends and everything
//! is on disk.

use std::time::Duration;

use futures_util::future::join_all;

use super::Store;
use crate::events::facade::Refusal;

// === impl Store ===

impl Store {
    /// Starts no more pushes, because the gateway is about to stop; whoever waits for events, or
    /// for a request that is not in flight, is answered at once. Until [`Store::shutdown`]
    /// everything else works, and what is in flight may end.
    pub async fn wind_down(&self) {
        self.0.ending.is_winding_down.send_replace(true);
        let readings = self.all_subscriptions();
        join_all(readings.iter().map(|reading| reading.subscription.wind_down())).await;
        self.0.ingress.wind_down();
    }

    /// Ends the subscriptions, takes a last snapshot, and closes the logs; everything answered is
    /// on disk. Leases outlive it. Pushes in flight are awaited for `patience`; of what remains
    /// then, a stored request is uncertain and an event is given back.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Refusal> {
        self.drain();
        self.0.ending.is_winding_down.send_replace(true);
        self.snapshot().await.ok();
        let readings = self.all_subscriptions();
        // Concurrently, so that none starts anything while another is awaited.
        join_all(readings.iter().map(|reading| reading.subscription.stop(patience))).await;
        let store = self.clone();
        self.block(move || store.close()).await
    }

    pub(super) fn close(&self) {
        for topic in self.all_topics() {
            topic.close();
        }
        for reading in self.all_subscriptions() {
            let around = reading.subscription.surroundings();
            for log in [around.letters.log(), around.parked.log()].into_iter().flatten() {
                log.close();
            }
        }
        self.0.letters_writer.stop();
        self.0.journal.close();
        self.0.ingress.log().close();
        self.0.state_writer.stop();
    }
}

//! Closes a store in two steps: first nothing new begins, then in-flight work ends and everything
//! is on disk.

use std::time::Duration;

use futures_util::future::join_all;

use super::Store;
use crate::events::facade::Refusal;

// === impl Store ===

impl Store {
    /// Begins no delivery by push any more: the gateway is about to stop, and who waits for one that has not
    /// begun, or for events, is told at once. Until [`Store::shutdown`] all else goes on, and what is under way
    /// may come to its end.
    pub async fn wind_down(&self) {
        self.0.ending.is_winding_down.send_replace(true);
        let readings = self.all_subscriptions();
        join_all(readings.iter().map(|reading| reading.subscription.wind_down())).await;
        self.0.ingress.wind_down();
    }

    /// Ends the subscriptions, takes a last snapshot, and closes the logs; what was answered is on disk.
    /// Leases outlive it. Pushes that are on their way are waited for as long as this: a stored request that is
    /// left then is uncertain, an event is given back.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Refusal> {
        self.drain();
        self.0.ending.is_winding_down.send_replace(true);
        self.snapshot().await.ok();
        let readings = self.all_subscriptions();
        // Together: none begins anything while another one is waited for.
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

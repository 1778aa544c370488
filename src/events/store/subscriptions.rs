//! Receives from subscriptions, moves them, and reports their status.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Reading, Store, topics::published_at};
use crate::events::{
    delivery::subscription::{self, Partition},
    facade::{
        Action, Blocked, Leased, Receive, Refusal, Seek, SubscriptionState, SubscriptionStatus,
        TokenItem, TokenResult, Unblock, Verb,
    },
    queue::Offset,
    settings::Target,
};

const SECOND: Duration = Duration::from_secs(1);

// === impl Reading ===

impl Reading {
    /// Refuses what can be done to events but not to stored requests.
    pub(super) fn check_takes_events(&self, why: &str) -> Result<(), Refusal> {
        let target = self.settings.push.as_ref().map(|push| &push.target);
        if let Some(Target::Upstream(_)) = target {
            let name = &self.settings.name;
            let detail = format!("subscription `{name}` delivers stored requests: {why}");
            return Err(Refusal::conflict(detail));
        }
        Ok(())
    }
}

// === impl Store ===

impl Store {
    pub(super) async fn do_receive(
        &self,
        name: &str,
        receive: Receive,
    ) -> Result<Vec<Leased>, Refusal> {
        let Reading { subscription, settings, is_orphaned, .. } = self.find_subscription(name)?;
        if settings.push.is_some() {
            let detail = format!("subscription `{name}` is pushed: nothing is to be received");
            return Err(Refusal::conflict(detail));
        }
        if is_orphaned {
            let detail = format!("subscription `{name}` is not configured any more");
            return Err(Refusal::conflict(detail));
        }
        let receive = Receive {
            max_events: receive.max_events.clamp(1, 500),
            wait: receive.wait.min(20 * SECOND),
            lease: receive.lease.map(|lease| lease.clamp(SECOND, 12 * 3_600 * SECOND)),
            ..receive
        };
        let received = subscription.receive(receive, settings.lease).await;
        received.map_err(|refusal| self.at_the_end(refusal))
    }

    pub(super) async fn do_settle(
        &self,
        name: &str,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Result<Vec<TokenResult>, Refusal> {
        let settled = self.find_subscription(name)?.subscription.settle(verb, items).await;
        settled.map_err(|refusal| self.at_the_end(refusal))
    }

    /// The refusal that a consumer sees: `Draining` once the store closes.
    fn at_the_end(&self, refusal: Refusal) -> Refusal {
        let is_over = self.0.ending.is_draining.load(Relaxed);
        match refusal {
            Refusal::Unavailable { may_exist: false, .. } if is_over => Refusal::Draining,
            refusal => refusal,
        }
    }

    pub(super) async fn show_subscription(
        &self,
        reading: Reading,
    ) -> Result<SubscriptionStatus, Refusal> {
        let shown = reading.subscription.status(reading.is_orphaned).await?;
        let mut status = shown.status;
        if let (Some(at), Ok(handle)) = (shown.oldest_at, reading.topic.opened()) {
            let log = handle.log().clone();
            let now = self.now();
            let oldest = self.block(move || published_at(&log, at)).await?;
            let age = oldest.map(|oldest| Duration::from_millis(now.saturating_sub(oldest)));
            status.oldest_age = age;
        }
        if reading.topic.is_offline() && status.state == SubscriptionState::Active {
            // Durable events are delivered nevertheless.
            tracing::trace!(subscription = %status.name, "its topic is offline");
        }
        Ok(status)
    }

    pub(super) async fn do_seek(&self, name: &str, to: Seek) -> Result<(), Refusal> {
        let reading = self.find_subscription(name)?;
        reading.check_takes_events("a seek would send them twice, or never")?;
        let log = reading.topic.opened()?.log().clone();
        let to = match to {
            Seek::Earliest => subscription::Seek::All(log.start()),
            Seek::Latest => subscription::Seek::All(log.durable()),
            Seek::Time(at) => {
                let found = self.block(move || log.offset_at(at)).await?;
                let found = found.map_err(|error| Refusal::unavailable(error.to_string()))?;
                subscription::Seek::All(found)
            }
            Seek::Offsets(offsets) => {
                let within = |offset: u64| Offset(offset).clamp(log.start(), log.durable());
                let known = reading.topic.partitions();
                let mut parts: Vec<(Partition, Offset)> = Vec::new();
                for (number, offset) in offsets {
                    let meant = known.iter().filter(|known| u32::from(known.number) == number);
                    let before = parts.len();
                    parts.extend(meant.map(|partition| (*partition, within(offset))));
                    if parts.len() == before {
                        return Err(Refusal::unknown("partition", number.to_string()));
                    }
                }
                subscription::Seek::Partitions(parts)
            }
        };
        reading.subscription.seek(to).await
    }

    pub(super) async fn do_unblock(&self, name: &str, unblock: Unblock) -> Result<(), Refusal> {
        let reading = self.find_subscription(name)?;
        if unblock.action == Action::Discard {
            reading.check_takes_events("who sent one is told what became of it: `dead_letter`")?;
        }
        let unknown = match &unblock.what {
            Blocked::Key(key) => {
                Refusal::unknown("blocked key", String::from_utf8_lossy(key).into_owned())
            }
            Blocked::Keyless => Refusal::NoneKeyless,
            Blocked::Partition(number) => Refusal::unknown("blocked partition", number.to_string()),
        };
        if reading.subscription.unblock(unblock).await? { Ok(()) } else { Err(unknown) }
    }
}

//! Given-up stored requests: whoever asks for one is told before it is settled.
//!
//! Requests that become dead letters are reported with those ([`super::effects`]). Here the others
//! are reported: discarded ones, undeliverable ones of a job, and those that are unreadable.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::{
    Surroundings,
    actor::{AGAIN, Actor, Done, Step},
    effects::{Undone, one, synced},
    ledger::Until,
    requests::{Loaded, due},
};
use crate::{
    events::{
        delivery::subscription::{Conclusion, Effect, Place, Reason},
        ingress::{Due, GivenUp},
        request::{self, State},
    },
    http::sink::End,
};

/// The result of reporting the end.
pub(super) struct Concluded {
    conclusion: Conclusion,
    /// Why it was given up, as known by then.
    result: Result<Reason, Undone>,
}

// === impl Actor ===

impl Actor {
    pub(super) fn conclude(&mut self, conclusion: Conclusion, written: Option<Step>) {
        let around = self.around.clone();
        let Conclusion { place, parked, reason, left, .. } = conclusion;
        let spot = self.spot_of(place, parked);
        let work = async move {
            let told = async {
                synced(written).await?;
                let loaded = one(&around, spot, Loaded::read).await?;
                given_up(&around, &loaded, (place, left), reason).await
            };
            Done::Concluded(Concluded { conclusion, result: told.await })
        };
        self.work.push(work.boxed());
    }

    pub(super) fn concluded(&mut self, Concluded { conclusion, result }: Concluded) {
        let Conclusion { place, parked, is_recovered, .. } = conclusion;
        let again = Effect::Conclude(Conclusion { is_recovered: true, ..conclusion });
        match result {
            Ok(reason) => {
                let decided = self.decide(Until::Written, |machine, moment, out| {
                    machine.concluded(moment, (place, is_recovered), reason, out);
                });
                if decided.is_err() {
                    self.defer(again);
                }
            }
            Err(undone) => self.undone((place, parked), (undone, is_recovered), again),
        }
    }

    /// Gives up an event that can no longer be read. Whoever asks for a request is told first.
    /// `false` if the loss cannot be recorded.
    pub(super) fn lose_event(&mut self, place: Place) -> bool {
        if self.upstream().is_none() || !place.lane.is_live() {
            return self.lost(place);
        }
        let (ingress, topic) = (self.around.ingress.clone(), self.around.topic.id());
        let sink = self.around.sink.clone();
        let request = request::Place { topic, offset: place.offset };
        let work = async move {
            let given_up = loop {
                match ingress.conclude_lost(request).await {
                    Ok(given_up) => break given_up,
                    Err(_) => sleep(AGAIN).await,
                }
            };
            if given_up.is_new {
                sink.hear(None, End::Lost);
            }
            Done::Lost(place)
        };
        self.work.push(work.boxed());
        true
    }

    /// The loss of a request was reported.
    pub(super) fn lost_request(&mut self, place: Place) {
        if !self.lost(place) {
            let again = sleep(AGAIN).map(move |()| Done::Lost(place));
            self.work.push(again.boxed());
        }
    }
}

/// Reports that a request was given up, and returns the reason as known by then: a request that may
/// have been seen counts as such, whatever the subscription knows.
pub(super) async fn given_up(
    around: &Arc<Surroundings>,
    loaded: &Loaded,
    (place, left): (Place, Option<u64>),
    reason: Reason,
) -> Result<Reason, Undone> {
    let Ok(request) = &loaded.request else { return Ok(reason) };
    let offset = loaded.origin.unwrap_or(place.offset);
    let due = Due { left, ..due(request, (around.topic.id(), offset), place.lane.0) };
    let concluded = around.ingress.conclude(due, reason == Reason::MaybeSeen).await;
    let GivenUp { state, is_new } = concluded.map_err(|error| Undone::Later(error.to_string()))?;
    let reason = if state == State::Uncertain { Reason::MaybeSeen } else { reason };
    if is_new {
        let end = match reason {
            Reason::MaybeSeen => End::Uncertain,
            Reason::Expired => End::Expired,
            Reason::AttemptsExhausted
            | Reason::Rejected
            | Reason::LeaseExpiredLimit
            | Reason::TooLarge => End::DeadLettered,
        };
        around.sink.hear(Some(&request.route), end);
    }
    Ok(reason)
}

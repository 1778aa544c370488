//! Pushes: reads what the machine delivers, has the sink send it, and reports back to the machine.
//!
//! The bodies of events that may go at once are read together while their attempts are written;
//! nothing is sent before its attempt is recorded. Each exchange then runs on its own, as many at a
//! time as the machine allows, and all end with the task: a slow endpoint delays only its own
//! subscription. Stored requests go another way, see [`super::requests`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;

use super::{
    Surroundings,
    actor::{AGAIN, Actor, Done, Step},
    ledger::Until,
    polls::{Spot, fetch},
    reading::{self, Got},
    requests,
};
use crate::{
    events::{
        delivery::{
            push::{Addressed, Heard, hear, parcel},
            subscription::{Answer, Circuit, Delivery, Entry, Hold, Output, Token},
        },
        event::Event,
        queue::{
            mutation::{self, Mutation},
            time::Clock as _,
        },
        settings::{ReactionData, Target},
    },
    http::sink::Sending,
};

/// Characters of an endpoint's error that are shown.
const MAX_COMPLAINT: usize = 160;
/// Bytes read of an answer that is not kept: enough for people, and to reuse most connections.
const SOME: usize = 4 << 10;
/// Bytes kept of an answer for the event that follows.
const ALL: usize = 64 << 10;
/// Pushes that start with one record.
const BATCH: usize = 64;

/// Events that were read for sending.
pub(super) struct Packed(Vec<(Delivery, Got<Event>)>);

/// A completed push.
pub(super) struct Landed {
    token: Token,
    heard: Heard,
}

/// The endpoint's state after a push.
#[derive(Debug, PartialEq, Eq)]
enum Impression {
    Well,
    /// It fails, for this reason.
    Fails(Arc<str>),
    /// Unknown: it was not asked.
    None,
}

// === impl Landed ===

impl Landed {
    pub(super) fn new(token: Token, heard: Heard) -> Self {
        Self { token, heard }
    }
}

// === impl Impression ===

impl Impression {
    /// After this answer, described in a line.
    fn of(answer: &Answer, said: Option<&str>) -> Self {
        let line = said.and_then(|said| said.lines().next()).unwrap_or_default();
        let why = match answer {
            Answer::Status { status: 200..=299, .. } | Answer::Final { .. } => return Self::Well,
            Answer::Status { status, .. } if line.is_empty() => format!("status {status}"),
            Answer::Status { status, .. } => format!("status {status}, {line}"),
            Answer::NotSent | Answer::Timeout | Answer::MaybeSeen => line.to_owned(),
            Answer::SeenBefore | Answer::TooLarge | Answer::Unfit => return Self::None,
        };
        // The sender decides how long an answer's text is.
        let why: String = why.chars().filter(|it| !it.is_control()).take(MAX_COMPLAINT).collect();
        Self::Fails(why.into())
    }
}

// === impl Actor ===

impl Actor {
    /// Starts all pushes that may start.
    pub(super) fn push(&mut self) {
        if self.settings.push.is_none() || self.is_winding_down {
            return;
        }
        loop {
            let decided = self.decide(Until::Written, |machine, moment, out| {
                let next = || machine.next_push(moment, out);
                std::iter::from_fn(next).take(BATCH).collect::<Vec<_>>()
            });
            let Ok((deliveries, written)) = decided else { return };
            if deliveries.is_empty() {
                return;
            }
            let spots = deliveries.iter().map(|delivery| self.spot(delivery)).collect();
            let around = self.around.clone();
            self.work.push(match self.upstream() {
                Some(_) => requests::pack(around, deliveries, spots, written).boxed(),
                None => pack(around, deliveries, spots, written).boxed(),
            });
        }
    }

    /// Sends events that were read.
    pub(super) fn packed(&mut self, Packed(events): Packed) {
        if self.is_winding_down {
            let tokens: Vec<_> = events.iter().map(|(delivery, _)| delivery.token).collect();
            return self.give_back(&tokens, Duration::ZERO);
        }
        let mut unreadable = Vec::new();
        for (delivery, event) in events {
            match event.map(|event| self.address(&delivery, &event)) {
                Ok(Some(sending)) => {
                    let (token, clock) = (delivery.token, self.around.clock.clone());
                    let work = async move {
                        let ending = sending.await;
                        let now = Duration::from_millis(clock.now().wall);
                        let heard = hear(ending, SystemTime::UNIX_EPOCH + now);
                        Done::Landed(Landed::new(token, heard))
                    };
                    self.work.push(work.boxed());
                }
                // The settings have changed. After a pause, because each attempt is recorded.
                Ok(None) => self.give_back(&[delivery.token], AGAIN),
                Err(stop) => unreadable.push((delivery.token, stop)),
            }
        }
        if !unreadable.is_empty() {
            self.unreadable(unreadable);
        }
    }

    /// The exchange that delivers an event under the current settings.
    fn address(&self, delivery: &Delivery, event: &Event) -> Option<Sending> {
        let push = self.settings.push.as_ref()?;
        let Target::Url(url) = &push.target else { return None };
        let next = self.settings.on_success.as_ref();
        let is_wanted = next
            .is_some_and(|next| matches!(next.data, ReactionData::Response | ReactionData::Both));
        let addressed = Addressed {
            subscription: self.settings.name.clone(),
            topic: self.settings.topic.clone(),
            place: delivery.token.place,
            attempt: delivery.token.attempt,
            max_answer: if is_wanted { ALL } else { SOME },
            now: Duration::from_millis(self.around.clock.now().wall),
        };
        Some(self.around.sink.send(parcel(event, url, push, &addressed)))
    }

    /// A push has ended; its result waits until it can be recorded.
    pub(super) fn landed(&mut self, landed: Landed) {
        self.landed.push_back(landed);
        self.settle_landed();
    }

    /// Reports the results of pushes to the machine, as soon as they can be recorded.
    pub(super) fn settle_landed(&mut self) {
        while self.ledger.is_ready() {
            let Some(Landed { token, heard }) = self.landed.pop_front() else { return };
            let Heard { answer, said, body } = heard;
            match Impression::of(&answer, said.as_deref()) {
                Impression::Well => self.machine.tally().set_failing(None),
                Impression::Fails(why) => self.machine.tally().set_failing(Some(why)),
                Impression::None => {}
            }
            let said = (said.as_deref(), body);
            let decided = self.decide(Until::Written, |machine, moment, out| {
                machine.pushed(moment, token, answer, said, out)
            });
            debug_assert!(decided.is_ok(), "there was room for it");
        }
    }

    /// Logs changes of an endpoint's state.
    pub(super) fn tell(&self, entry: &Entry) {
        let subscription = &self.settings.name;
        match entry {
            Entry::Held(Hold::Gone) => tracing::error!(
                %subscription,
                "the endpoint answered 410: nothing is sent to it any more and its backlog is kept, until \
                 `sluice queue resume`"
            ),
            Entry::Circuit(Circuit::Opened { .. }) => tracing::warn!(
                %subscription, last = self.machine.tally().failing().as_deref(),
                "the endpoint fails: one event at a time goes to see whether it is back"
            ),
            Entry::Circuit(Circuit::Closed) => {
                tracing::info!(%subscription, "the endpoint is back");
            }
            _ => {}
        }
    }

    /// Gives back pushes in flight, because the gateway stops and the events are not at fault. If
    /// that cannot be recorded, the next start finds them without a result.
    pub(super) fn release_pushes(&mut self) {
        self.settle_landed();
        if self.ledger.is_ready() {
            let mut out = Output::default();
            self.machine.release_pushes(&mut out);
            drop(self.commit(out, Until::Written));
        }
    }
}

/// Reads the events of deliveries while their attempts are written.
async fn pack(
    around: Arc<Surroundings>,
    deliveries: Vec<Delivery>,
    spots: Vec<Spot>,
    written: Step,
) -> Done {
    let events = fetch(&around, spots, reading::whole).await;
    if !mutation::is(Mutation::AttemptAfterDelivery) && written.await.is_err() {
        return Done::Abandoned(deliveries.iter().map(|delivery| delivery.token).collect());
    }
    Done::Packed(Packed(deliveries.into_iter().zip(events).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_a_line_and_a_success_takes_it_back() {
        let status = |status| Answer::Status { status, retry_after: None };
        let fails = |why: &str| Impression::Fails(why.into());
        assert_eq!(
            Impression::of(&status(500), Some("no\tdisk\nat all")),
            fails("status 500, nodisk")
        );
        assert_eq!(Impression::of(&status(301), None), fails("status 301"));
        assert_eq!(Impression::of(&Answer::NotSent, Some("refused")), fails("refused"));
        let long = fails(&"x".repeat(MAX_COMPLAINT));
        assert_eq!(Impression::of(&Answer::Timeout, Some(&"x".repeat(4000))), long);
        assert_eq!(Impression::of(&status(204), Some("thanks")), Impression::Well);
        assert_eq!(Impression::of(&Answer::TooLarge, None), Impression::None);
    }
}

//! Waiting consumers, and handing events to them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Shelf, Surroundings,
    actor::{AGAIN, Actor, Done, Step},
    ledger::Until,
    reading::{self, Got, Keep, Stop},
};
use crate::events::{
    delivery::subscription::{Ask, Delivery, LaneId, Place, Token},
    event::Event,
    facade::{Bound, Leased, Refusal},
    queue::{
        Offset,
        mutation::{self, Mutation},
    },
};

/// Maximum number of waiting consumers; more are told to retry.
const POLLS: usize = 1024;
/// How long new consumers wait once the gateway is about to stop: long enough to find ready events,
/// and to slow down a consumer that asks repeatedly.
const LAST: Duration = Duration::from_secs(1);

/// Waiting consumers, in order of arrival.
#[derive(Default)]
pub(super) struct Polls(VecDeque<Poll>);

/// A waiting consumer.
struct Poll {
    ask: Ask,
    until: Instant,
    reply: Reply,
}

/// Events being handed to a consumer.
struct Delivering {
    deliveries: Vec<Delivery>,
    spots: Vec<Spot>,
    reply: Reply,
}

/// Where an event's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    shelf: Which,
    at: Offset,
}

/// A log that events are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Topic,
    Letters,
    Parked,
}

type Reply = oneshot::Sender<Result<Vec<Leased>, Refusal>>;

// === impl Spot ===

impl Spot {
    /// A dead letter of the subscription.
    pub(super) fn letter(at: Offset) -> Self {
        Self { shelf: Which::Letters, at }
    }
}

// === impl Polls ===

impl Polls {
    /// When the first of them times out.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(|poll| poll.until).min()
    }

    /// Answers consumers whose wait is over, and forgets those that have left.
    fn expire(&mut self, now: Instant) {
        let mut kept = VecDeque::with_capacity(self.0.len());
        for poll in self.0.drain(..) {
            if poll.until <= now {
                drop(poll.reply.send(Ok(Vec::new())));
            } else if !poll.reply.is_closed() {
                kept.push_back(poll);
            }
        }
        self.0 = kept;
    }
}

// === impl Actor ===

impl Actor {
    /// Adds a consumer that asks for events, and waits until `until` for the first.
    pub(super) fn poll(&mut self, ask: Ask, until: Instant, reply: Reply) {
        if self.polls.0.len() >= POLLS {
            let retry_after = Duration::from_secs(1);
            drop(reply.send(Err(Refusal::Full { bound: Bound::Receives, retry_after })));
            return;
        }
        let until = if self.is_winding_down { until.min(Instant::now() + LAST) } else { until };
        self.polls.0.push_back(Poll { ask, until, reply });
        self.serve();
    }

    /// Gives events to waiting consumers.
    pub(super) fn serve(&mut self) {
        while let Some(poll) = self.polls.0.pop_front() {
            // Lease nothing to a consumer that has left.
            if poll.reply.is_closed() {
                continue;
            }
            let ask = poll.ask;
            let decided = self
                .decide(Until::Written, |machine, moment, out| machine.receive(moment, &ask, out));
            match decided {
                Err(refusal) => drop(poll.reply.send(Err(refusal))),
                Ok((deliveries, _)) if deliveries.is_empty() => {
                    self.polls.0.push_front(poll);
                    break;
                }
                Ok((deliveries, written)) => {
                    let spots = deliveries.iter().map(|delivery| self.spot(delivery)).collect();
                    let delivering = Delivering { deliveries, spots, reply: poll.reply };
                    let around = self.around.clone();
                    self.work.push(hand_over(around, delivering, written).boxed());
                }
            }
        }
        self.polls.expire(Instant::now());
    }

    /// Ends all waits with an empty answer, because the gateway is about to stop.
    pub(super) fn end_polls(&mut self) {
        for poll in self.polls.0.drain(..) {
            drop(poll.reply.send(Ok(Vec::new())));
        }
    }

    /// Nothing can be leased: tells all who wait.
    pub(super) fn send_away(&mut self) {
        for poll in std::mem::take(&mut self.polls.0) {
            drop(poll.reply.send(Err(self.unready())));
        }
    }

    /// The log that a lane reads.
    pub(super) fn shelf(&self, lane: LaneId) -> Shelf {
        if self.is_redrive(lane) {
            self.around.letters.shelf().clone()
        } else {
            self.around.topic.clone()
        }
    }

    pub(super) fn spot(&self, delivery: &Delivery) -> Spot {
        self.spot_of(delivery.token.place, delivery.parked)
    }

    /// Where an event's bytes are.
    pub(super) fn spot_of(&self, place: Place, parked: Option<Offset>) -> Spot {
        match parked {
            Some(at) => Spot { shelf: Which::Parked, at },
            None if self.is_redrive(place.lane) => Spot { shelf: Which::Letters, at: place.offset },
            None => Spot { shelf: Which::Topic, at: place.offset },
        }
    }

    fn is_redrive(&self, lane: LaneId) -> bool {
        !lane.is_live() && self.machine.jobs().any(|(id, job)| id == lane && job.is_redrive())
    }

    /// Gives back deliveries whose events cannot be read; their partitions stop.
    pub(super) fn unreadable(&mut self, events: Vec<(Token, Stop)>) {
        let tokens: Vec<Token> = events.iter().map(|(token, _)| *token).collect();
        // After a pause, because each attempt is recorded.
        self.give_back(&tokens, AGAIN);
        for (token, stop) in events {
            match stop {
                Stop::Gone => {
                    self.lose_event(token.place);
                }
                stop => self.stopped_at(token.place.lane, Some(&[token.place.partition]), &stop),
            }
        }
    }
}

/// Reads the events of deliveries while their attempts are written, and hands them over.
async fn hand_over(around: Arc<Surroundings>, delivering: Delivering, written: Step) -> Done {
    let Delivering { deliveries, spots, reply } = delivering;
    let events = fetch(&around, spots, reading::whole).await;
    let tokens = || deliveries.iter().map(|delivery| delivery.token).collect();
    if !mutation::is(Mutation::AttemptAfterDelivery) && written.await.is_err() {
        let refusal = Refusal::unavailable("the attempt cannot be written");
        drop(reply.send(Err(refusal)));
        return Done::Abandoned(tokens());
    }
    let mut leased = Vec::with_capacity(deliveries.len());
    let mut unreadable = Vec::new();
    // No event is handed over without the one before it in its key: giving that back includes it.
    let mut is_held_back = false;
    for (delivery, event) in deliveries.iter().zip(events) {
        is_held_back &= delivery.is_behind;
        match event {
            Ok(event) if !is_held_back => leased.push(lease(&around, delivery, event)),
            Ok(_) => {}
            Err(stop) => {
                unreadable.push((delivery.token, stop));
                is_held_back = true;
            }
        }
    }
    match reply.send(Ok(leased)) {
        Err(_) => Done::Abandoned(tokens()),
        Ok(()) if unreadable.is_empty() => Done::Nothing,
        Ok(()) => Done::Unreadable(unreadable),
    }
}

fn lease(around: &Surroundings, delivery: &Delivery, event: Event) -> Leased {
    let place = delivery.token.place;
    Leased {
        token: around.tokens.make(&delivery.token),
        expires: delivery.deadline.unwrap_or_default(),
        attempt: delivery.counted,
        partition: place.partition.number.into(),
        offset: place.offset.0,
        is_replay: !place.lane.is_live(),
        event,
    }
}

/// Reads events; one result for each.
pub(super) async fn fetch<T: Send + 'static>(
    around: &Surroundings,
    spots: Vec<Spot>,
    keep: Keep<T>,
) -> Vec<Got<T>> {
    let topic = (Which::Topic, around.topic.clone());
    let letters = (Which::Letters, around.letters.shelf().clone());
    let shelves = [topic, letters, (Which::Parked, around.parked.shelf().clone())];
    let count = spots.len();
    let missing = || Err(Stop::Failed("the log is not open".into()));
    let read = move || {
        let mut got: Vec<Option<Got<T>>> = spots.iter().map(|_| None).collect();
        for (which, shelf) in &shelves {
            let meant: Vec<usize> =
                (0..spots.len()).filter(|index| spots[*index].shelf == *which).collect();
            let offsets: Vec<Offset> = meant.iter().map(|index| spots[*index].at).collect();
            if offsets.is_empty() {
                continue;
            }
            let read =
                shelf.read(|reader| reading::fetch(reader, &offsets, keep)).unwrap_or_default();
            for (index, event) in meant.into_iter().zip(read) {
                got[index] = Some(event);
            }
        }
        got
    };
    let got = around.pool.run(read).await.unwrap_or_default();
    let mut got: Vec<Got<T>> = got.into_iter().map(|got| got.unwrap_or_else(missing)).collect();
    got.resize_with(count, missing);
    got
}

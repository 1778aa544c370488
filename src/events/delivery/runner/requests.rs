//! Stored requests: pushes of a subscription to an upstream.
//!
//! As with events, bodies are read together while attempts are journalled. Then each request goes its
//! own way ([`deliver`]): its attempt is recorded in the ingress log, it is sent, and its result is on
//! disk there before the machine learns it, and so before the request is settled. Writing the result
//! is retried as long as the process lives; after that the request is uncertain.
//!
//! No attempt in flight is given up: a stop waits for them as long as it was told to, and what
//! remains then is uncertain.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Surroundings,
    actor::{AGAIN, Actor, Done, Step},
    polls::{Spot, fetch},
    pushes::Landed,
    reading::Got,
};
use crate::{
    events::{
        delivery::{
            dead_letter::Death,
            push::{Addressed, Heard, Judged, ended, errand, judge},
            subscription::{Answer, Delivery, Token},
        },
        ingress::{Attempt, Begun, Due},
        queue::{
            LogId, Offset,
            codec::Record,
            mutation::{self, Mutation},
            time::Clock as _,
        },
        request::{MAX_ANSWER_BYTES, NotARequest, Place, State, StoredRequest},
        settings::{Push, Target},
    },
    http::{
        idempotency::StoredAnswer,
        is_repeatable,
        sink::{End, Parcel},
    },
    telemetry::task,
};

/// How long a subscription that is removed from a running gateway waits for requests in flight.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// Requests that were read for sending.
pub(super) struct PackedRequests(Vec<(Delivery, Got<Loaded>)>);

/// A record to be sent.
pub(super) struct Loaded {
    pub(super) request: Result<StoredRequest, NotARequest>,
    /// For a dead letter: the offset at which the request was stored.
    pub(super) origin: Option<Offset>,
}

// === impl Loaded ===

impl Loaded {
    pub(super) fn read(record: &Record<'_>) -> Self {
        Self {
            request: StoredRequest::read(record, Bytes::copy_from_slice),
            origin: Death::read(record).ok().map(|death| death.origin.offset),
        }
    }
}

/// A request, as the ingress log needs it.
pub(super) fn due(request: &StoredRequest, (topic, offset): (LogId, Offset), lane: u32) -> Due {
    Due {
        place: Place { topic, offset },
        lane,
        may_repeat: is_repeatable(&request.method) || request.may_redeliver,
        is_forced: false,
        until: request.status_until,
        left: None,
    }
}

// === impl Actor ===

impl Actor {
    /// The upstream that receives stored requests, if this subscription delivers them.
    pub(super) fn upstream(&self) -> Option<(&Push, &Arc<str>)> {
        let push = self.settings.push.as_ref()?;
        match &push.target {
            Target::Upstream(name) => Some((push, name)),
            Target::Url(_) => None,
        }
    }

    /// Sends requests that were read.
    pub(super) fn packed_requests(&mut self, PackedRequests(requests): PackedRequests) {
        if self.is_winding_down {
            let tokens: Vec<_> = requests.iter().map(|(delivery, _)| delivery.token).collect();
            return self.give_back(&tokens, Duration::ZERO);
        }
        let mut unreadable = Vec::new();
        for (delivery, loaded) in requests {
            match loaded {
                Ok(loaded) => self.send(&delivery, loaded),
                Err(stop) => unreadable.push((delivery.token, stop)),
            }
        }
        if !unreadable.is_empty() {
            self.unreadable(unreadable);
        }
    }

    fn send(&mut self, delivery: &Delivery, Loaded { request, origin }: Loaded) {
        let token = delivery.token;
        let Some((push, upstream)) = self.upstream() else {
            // The settings have changed. After a pause, because each attempt is recorded.
            return self.give_back(&[token], AGAIN);
        };
        let request = match request {
            Ok(request) => request,
            Err(not) => {
                let said = Some(not.to_string().into());
                let heard = Heard { answer: Answer::Unfit, said, body: None };
                return self.landed(Landed::new(token, heard));
            }
        };
        let offset = origin.unwrap_or(token.place.offset);
        let lane = token.place.lane;
        let due = Due {
            is_forced: self.machine.is_forced(lane),
            left: delivery.left,
            ..due(&request, (self.around.topic.id(), offset), lane.0)
        };
        let id = self.around.ids.text(&request.id(due.place, token.place.partition.number));
        let addressed = Addressed {
            subscription: self.settings.name.clone(),
            topic: self.settings.topic.clone(),
            place: token.place,
            attempt: token.attempt,
            max_answer: usize::try_from(MAX_ANSWER_BYTES).unwrap_or(usize::MAX),
            now: Duration::from_millis(self.around.clock.now().wall),
        };
        let way = (upstream.clone(), push.timeout);
        let route = request.route.clone();
        let parcel = errand(request, &id, way, addressed);
        self.work.push(deliver(self.around.clone(), (token, route), due, parcel).boxed());
    }

    /// Waits for everything in flight until `end`; call it after [`Actor::wind_down`].
    pub(super) async fn see_through(&mut self, end: Instant) {
        self.settle_landed();
        while let Ok(Some(done)) = timeout_at(end, self.work.next()).await {
            self.done(done);
        }
    }
}

/// Reads the requests of deliveries while their attempts are journalled.
pub(super) async fn pack(
    around: Arc<Surroundings>,
    deliveries: Vec<Delivery>,
    spots: Vec<Spot>,
    written: Step,
) -> Done {
    let requests = fetch(&around, spots, Loaded::read).await;
    if written.await.is_err() {
        return Done::Abandoned(deliveries.iter().map(|delivery| delivery.token).collect());
    }
    Done::PackedRequests(PackedRequests(deliveries.into_iter().zip(requests).collect()))
}

/// One attempt, from its record to the record of its result.
async fn deliver(
    around: Arc<Surroundings>,
    (token, route): (Token, Box<str>),
    due: Due,
    parcel: Parcel,
) -> Done {
    let hear = |state| {
        if let Some(end) = end(state) {
            around.sink.hear(Some(&route), end);
        }
    };
    let attempt = match around.ingress.attempt(due).await {
        Ok(Begun::Attempt(attempt)) => attempt,
        Ok(Begun::Over(state)) => {
            // It ended unreported, maybe before this process. A job's was reported before.
            if due.lane == 0 {
                hear(state);
            }
            return Done::Landed(Landed::new(token, ended(state)));
        }
        Ok(Begun::Busy) => return Done::Unsent(token),
        Err(error) => {
            let subscription = &parcel.subscription;
            tracing::debug!(%subscription, %error, "a stored request waits: its attempt is not on disk");
            return Done::Unsent(token);
        }
    };
    let ending = around.sink.send(parcel).await;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(around.clock.now().wall);
    let Judged { heard, end } = judge(ending, due.may_repeat, now);
    match end {
        None => attempt.give_back(),
        Some((state, answer)) if mutation::is(Mutation::ResultAfterSettlement) => {
            task::spawn("late result", write(attempt, state, answer));
        }
        Some((state, answer)) => {
            write(attempt, state, answer).await;
            hear(state);
        }
    }
    Done::Landed(Landed::new(token, heard))
}

/// The end that this state is, if it is final.
fn end(state: State) -> Option<End> {
    match state {
        State::Queued | State::Running => None,
        State::Succeeded => Some(End::Succeeded),
        State::Failed => Some(End::Failed),
        State::Uncertain => Some(End::Uncertain),
        State::DeadLettered => Some(End::DeadLettered),
    }
}

/// Writes how a request ended, however long that takes.
async fn write(mut attempt: Attempt, state: State, answer: Option<StoredAnswer>) {
    let mut is_told = false;
    while let Err(error) = attempt.end(state, answer.as_ref()).await {
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(%error, "the result of a stored request cannot be written; it is tried again");
        }
        sleep(AGAIN).await;
    }
}

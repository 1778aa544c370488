//! Stores the requests of one route; one [`Enqueuer`] for each worker and route.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::{
    answer::{self, About},
    making::{self, Origin},
    patience::Waits,
    prefer::Preference,
    requests::{Requests, Reserved},
    settings::{Settings, When},
};
use crate::{
    error::{Error, IdempotencyFault, Kind, QueueFault},
    events::{
        ingress::{Target, failed, refused},
        queue::{
            codec::Draft,
            log::{AppendError, Appended, Commit, Permit, Purpose, Reason, Refused},
        },
        request::{Place, SECRET_BYTES, State, Status, StoredRequest},
    },
    http::{Context, Request, Response},
    telemetry::{
        clock,
        metrics::{Cells, Counter, STORED_REQUESTS},
        task::Spawner,
    },
};

/// `Retry-After` when somebody has to intervene first.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// Applies the route's changes to the fields of an answer.
pub type Changes = Box<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// See the module's documentation.
pub struct Enqueuer {
    pub(super) settings: Settings,
    pub(super) route: Box<str>,
    /// `None`: the store or the topic of the route is not there.
    parts: Option<Parts>,
}

/// What it stores with.
pub(super) struct Parts {
    source: String,
    pub(super) target: Arc<dyn Target>,
    pub(super) requests: Requests,
    pub(super) tasks: Spawner,
    pub(super) changes: Changes,
    /// Clients waiting for a result.
    pub(super) waiting: Waits,
    /// Requests stored.
    count: Counter,
}

/// A request about to be stored, with its room reserved.
pub(super) struct Admitted {
    stored: StoredRequest,
    draft: Draft,
    permit: Permit,
    reserved: Reserved,
}

/// A request that is on disk.
pub(super) struct Kept {
    /// The text of its ID.
    id: String,
    pub(super) place: Place,
    time: u64,
    status_until: u64,
}

// === impl Enqueuer ===

impl Enqueuer {
    /// For a route without a store: `enqueue` refuses every request, `spill` stores none.
    pub fn unavailable(settings: &Settings, route: &str) -> Self {
        Self { settings: settings.clone(), route: route.into(), parts: None }
    }

    /// For the route of this name. Without its topic the result is [`Enqueuer::unavailable`].
    pub fn new(
        settings: &Settings,
        (instance, route): (&str, &str),
        requests: Requests,
        (tasks, cells): (Spawner, &Cells),
        changes: Changes,
    ) -> Self {
        let Some(target) = requests.topics().named(&settings.topic) else {
            tracing::error!(%route, topic = %settings.topic, "the topic that stores this route's requests is not there");
            return Self::unavailable(settings, route);
        };
        let source = format!("/sluice/{instance}/{route}");
        let waiting = Waits::default();
        let count = cells.route_counter(&STORED_REQUESTS, Some(route), &[settings.reason()]);
        let parts = Parts { source, target, requests, tasks, changes, waiting, count };
        Self { settings: settings.clone(), route: route.into(), parts: Some(parts) }
    }

    /// What it stores with, or why nothing is stored.
    pub(super) fn parts(&self) -> Result<&Parts, Error> {
        let fault = QueueFault::Unavailable(UNAVAILABLE);
        self.parts.as_ref().ok_or_else(|| Kind::Queue(fault).into())
    }

    /// The stored form of `request`.
    pub(super) fn stored(&self, request: &Request) -> Result<StoredRequest, Error> {
        let Parts { source, requests, .. } = self.parts()?;
        if !request.body.is_in_memory() {
            return Err(Error::new(Kind::Internal).with_detail("stored without its whole body"));
        }
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret)
            .map_err(|_| Error::new(Kind::Internal).with_detail("there is no chance to be had"))?;
        let now = clock::since_epoch(clock::now()).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let (route, hash_key) = (&*self.route, requests.hash_key());
        let origin = Origin { route, source, hash_key, secret, now };
        Ok(making::stored(&self.settings, origin, request))
    }

    /// Reserves room for it, or says why there is none.
    pub(super) fn admit(&self, stored: StoredRequest) -> Result<Admitted, Error> {
        let Parts { target, requests, .. } = self.parts()?;
        let draft = stored.draft();
        let bytes = draft.encoded_bytes() as u64;
        if bytes > target.max_event_bytes() || draft.check().is_err() {
            return Err(Kind::Queue(QueueFault::TooLarge).into());
        }
        if requests.results().is_offline() {
            // It would be stored, but could be neither sent nor reported on.
            return Err(refused(Refused::new(Reason::Offline)));
        }
        let permit = target.permit(Purpose::Publish, bytes).map_err(refused)?;
        let no_place = || refused(Refused::new(Reason::Full));
        let reserved = requests.reserve().ok_or_else(no_place)?;
        Ok(Admitted { stored, draft, permit, reserved })
    }

    /// Stores it. The append begins at once, even if the future is then dropped.
    pub(super) async fn store(&self, admitted: Admitted) -> Result<Kept, Error> {
        let Admitted { stored, draft, permit, reserved } = admitted;
        let parts = self.parts()?;
        let commit = parts.target.append(permit, vec![draft]).map_err(refused)?;
        parts.kept(stored, commit, reserved).await
    }

    /// Answers a stored request: at once, or after its client has waited for the result.
    pub(super) async fn answer(
        &self,
        kept: &Kept,
        preference: Preference,
        cx: &Context,
    ) -> Result<Response, Error> {
        let may_wait = matches!(self.settings.when, When::Always { may_wait: true });
        let Parts { requests, waiting, .. } = self.parts()?;
        let waits = preference.patience().filter(|_| may_wait).and_then(|_| waiting.enter());
        // Too many clients wait already: answer this one at once.
        let is_turned_away = preference.patience().is_some() && waits.is_none();
        let may_wait = may_wait && !is_turned_away;
        let applied = if may_wait { preference } else { preference.without_wait() };
        let results = requests.results();
        let mut status = Status::QUEUED;
        if let Some(patience) = applied.patience() {
            let deadline = Instant::now() + patience;
            status = watch(results, kept.place, deadline).await;
            if status.state.is_over()
                && let Some(response) = answer::answered(kept.about(), status.clone(), applied)
            {
                return Ok(response);
            }
        }
        cx.set_reason(self.settings.reason());
        Ok(answer::accepted(kept.about(), &status, applied))
    }
}

impl fmt::Debug for Enqueuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueuer").field("route", &self.route).finish_non_exhaustive()
    }
}

// === impl Parts ===

impl Parts {
    async fn kept(
        &self,
        stored: StoredRequest,
        commit: Commit,
        reserved: Reserved,
    ) -> Result<Kept, Error> {
        let appended = commit.await.map_err(|error| match error {
            AppendError::Unknown => unknown().with_detail(error.to_string()),
            AppendError::Refused(_) | AppendError::Stopped => failed(&error),
        })?;
        let Some(&Appended { offset, partition, duplicate }) = appended.first() else {
            return Err(Error::new(Kind::Internal).with_detail("nothing was appended"));
        };
        let place = Place { topic: self.target.id(), offset };
        let stored = match duplicate {
            None => {
                reserved.keep(place, stored.status_until);
                self.count.add(1);
                stored
            }
            Some(_) => self.first(&stored, place).await?,
        };
        Ok(Kept {
            id: self.requests.ids().text(&stored.id(place, partition)),
            place,
            time: stored.time,
            status_until: stored.status_until,
        })
    }

    /// The request that was first stored under this key, if it is the same one.
    async fn first(&self, again: &StoredRequest, place: Place) -> Result<StoredRequest, Error> {
        let read = self.requests.read(&*self.target, place.offset).await;
        let record = read.ok().and_then(Result::ok).flatten();
        let own = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
        let first = record.as_ref().and_then(|it| StoredRequest::read(&it.record()?, own).ok());
        // A request was stored under this key but cannot be read: nothing is certain about this
        // one.
        let first = first.ok_or_else(unknown)?;
        if !making::is_same(&first, again) {
            return Err(Kind::Idempotency(IdempotencyFault::Mismatch).into());
        }
        Ok(first)
    }
}

// === impl Kept ===

impl Kept {
    fn about(&self) -> About<'_> {
        About { id: &self.id, time: self.time, status_until: self.status_until }
    }
}

/// The request may be stored, or not.
fn unknown() -> Error {
    Kind::Queue(QueueFault::MaybeStored(UNAVAILABLE)).into()
}

/// Waits until the request is over, until `deadline`, or until this process stops sending it;
/// returns its status then.
pub(super) async fn watch(
    results: &dyn crate::events::request::Results,
    place: Place,
    deadline: Instant,
) -> Status {
    loop {
        // Subscribe before reading the status, so that no change is missed in between.
        let changed = results.changed(place);
        let status = results.status(place).await;
        let is_left = status.state == State::Queued && results.is_winding_down();
        if status.state.is_over() || is_left || timeout_at(deadline, changed).await.is_err() {
            return status;
        }
    }
}

//! One worker's access to a group: picks endpoints and reports outcomes.
//!
//! Each worker has its own set of holds, rebuilt by the first request that sees a new set, so that
//! workers share no reference count that a request changes. Noticing a new set costs one read of a
//! word that changes only then.

use std::{fmt, sync::Arc};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    balancer::{
        breaker::Probe,
        group::Shared,
        set::{Board, Choice, Lack, Seat, WorkerSet},
        standing::Outcome,
    },
    error::{Error, Kind, Result},
    http::Request,
    telemetry::metrics::{ATTEMPTS, Cells, Counter},
    upstream::{Flight, Local, Pools},
};

/// One worker's view of a group. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct GroupHandle(Arc<Handle>);

struct Handle {
    name: Arc<str>,
    shared: Arc<Shared>,
    pools: Arc<Pools>,
    attempts: Attempts,
    view: Mutex<View>,
}

/// The lock around it is this worker's own, so nobody waits for it.
struct View {
    published: watch::Receiver<Arc<Board>>,
    set: WorkerSet,
}

/// [`ATTEMPTS`] for one upstream on one worker.
struct Attempts {
    statuses: [Counter; 5],
    cells: Cells,
}

/// The result of a pick.
pub(crate) enum Picked {
    Endpoint(Flight, Ticket),
    /// A name is not resolved yet: wait for [`GroupHandle::resolved`].
    Pending,
    Refused(Kind),
}

/// A picked endpoint, to be told the outcome of the attempt. Dropped without one it says nothing
/// about the endpoint, but gives back the place of a probe.
pub(crate) struct Ticket {
    group: GroupHandle,
    seat: Arc<Seat>,
    probe: Option<Probe>,
    is_told: bool,
}

// === impl GroupHandle ===

impl GroupHandle {
    pub(super) fn new(shared: Arc<Shared>, pools: &Arc<Pools>) -> Self {
        let mut published = shared.board.subscribe();
        let board = published.borrow_and_update().clone();
        let set = worker_set(&shared, board, pools);
        Self(Arc::new(Handle {
            name: Arc::from(&*shared.settings.name),
            attempts: Attempts::new(pools.cells(), &shared.settings.name),
            view: Mutex::new(View { published, set }),
            pools: pools.clone(),
            shared,
        }))
    }

    /// The upstream's name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Picks an endpoint for `request`, which is counted there from now on.
    pub(crate) fn pick(&self, request: &Request, now: Instant) -> Picked {
        let handle = &*self.0;
        let shared = &*handle.shared;
        let mut view = handle.view.lock();
        if view.published.has_changed().unwrap_or(false) {
            let board = view.published.borrow_and_update().clone();
            if !view.set.follow(&board) {
                view.set = worker_set(shared, board, &handle.pools);
            }
        }
        let policy = &shared.settings.policy;
        let choice = request.cx.with_attempts(|tried| view.set.pick(policy, request, tried, now));
        if let Some(Choice { seat, probe }) = choice {
            let flight = seat.local.enter(shared.settings.max_in_flight);
            let ticket = Ticket { group: self.clone(), seat, probe, is_told: false };
            // The ticket takes the lock again when it gives back the place of a probe.
            drop(view);
            return flight.map_or(Picked::Refused(Kind::ConcurrencyFull), |flight| {
                Picked::Endpoint(flight, ticket)
            });
        }
        let Board { set, roster } = view.set.board();
        Picked::Refused(match set.lack {
            _ if !set.members.is_empty() => {
                let after = roster.retry_at.map_or(time::Duration::ZERO, |at| at - now);
                Kind::BreakerOpen(after.max(MIN_RETRY_AFTER))
            }
            Lack::Pending => return Picked::Pending,
            Lack::Unresolved => Kind::UpstreamDns,
            Lack::Nothing => Kind::UpstreamNone,
        })
    }

    /// Whether it has only one endpoint now.
    pub fn is_alone(&self) -> bool {
        self.0.shared.board.borrow().set.members.len() == 1
    }

    /// Waits until the first names are resolved, at most `connect_timeout`.
    pub(crate) async fn resolved(&self) -> Result<()> {
        let shared = &self.0.shared;
        let mut published = shared.board.subscribe();
        let settled = published
            .wait_for(|board| !board.set.members.is_empty() || board.set.lack != Lack::Pending);
        match time::timeout(shared.settings.transport.connect_timeout, settled).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::new(Kind::UpstreamDns).with_detail(&*self.0.name)),
        }
    }

    pub(crate) fn count_answer(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.0.attempts.statuses[class].add_alone(1);
    }

    pub(crate) fn count_failure(&self, reason: &'static str) {
        let attempts = &self.0.attempts;
        attempts.cells.counter(&ATTEMPTS, &[&self.0.name, reason]).add(1);
    }
}

/// The shortest `Retry-After` for an open breaker.
const MIN_RETRY_AFTER: time::Duration = time::Duration::from_secs(1);

fn worker_set(shared: &Shared, board: Arc<Board>, pools: &Arc<Pools>) -> WorkerSet {
    let Shared { transport, in_flight, generation, .. } = shared;
    WorkerSet::new(board, pools, transport, in_flight, *generation, Rng::new())
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Attempts ===

impl Attempts {
    fn new(cells: &Cells, upstream: &str) -> Self {
        let statuses = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|class| cells.counter(&ATTEMPTS, &[upstream, class]));
        Self { statuses, cells: cells.clone() }
    }
}

// === impl Ticket ===

impl Ticket {
    pub(crate) fn group(&self) -> &GroupHandle {
        &self.group
    }

    pub(crate) fn local(&self) -> &Arc<Local> {
        &self.seat.local
    }

    /// Reports the outcome. Only the first report counts.
    pub(crate) fn tell(&mut self, outcome: Outcome, now: Instant) {
        if !std::mem::replace(&mut self.is_told, true) {
            let shared = &self.group.0.shared;
            shared.observe(&self.seat.standing, outcome, self.probe, now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.probe.is_some() {
            self.tell(Outcome::Nothing, Instant::now());
        }
    }
}

//! Stored requests: one effect each, whatever happens.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{hostile::damage, *};
use crate::{
    events::{
        queue::{
            mutation::{self, Mutation},
            storage::model::{Crash, Fault, Model, Op, campaign},
        },
        request::{
            Fingerprint, Place as At, Results, SECRET_BYTES, State as Stands, Status, StoredRequest,
        },
        settings::{Format, Push, Target},
    },
    http::sink::{End, Ending, Parcel, Reply, Sending, Sink},
};

/// What an upstream does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It acts, and answers with this status.
    Answer(u16),
    /// It does nothing, and answers with this status and a Retry-After.
    Later(u16),
    /// Nothing reaches it.
    Nothing,
    /// It acts, but its answer never arrives.
    Silence,
    /// It acts, but answers late.
    Hang,
}

/// An upstream that counts effects.
#[derive(Debug, Default)]
struct Upstream {
    state: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    sent: Vec<Parcel>,
    /// By target.
    effects: BTreeMap<String, usize>,
    next: VecDeque<Does>,
    ends: Vec<&'static str>,
    is_free: bool,
}

impl Sink for Arc<Upstream> {
    fn send(&self, parcel: Parcel) -> Sending {
        let upstream = self.clone();
        Box::pin(async move {
            let does = {
                let mut seen = upstream.state.lock();
                let target = match &parcel.target {
                    crate::http::sink::Target::Upstream { target, .. } => target.to_string(),
                    crate::http::sink::Target::Url(url) => url.to_string(),
                };
                let does = seen.next.pop_front().unwrap_or(Does::Answer(200));
                if !matches!(does, Does::Nothing | Does::Later(_)) {
                    *seen.effects.entry(target).or_default() += 1;
                }
                seen.sent.push(parcel);
                does
            };
            upstream.changed.notify_waiters();
            let mut headers = HeaderMap::new();
            headers.insert("x-made", HeaderValue::from_static("7"));
            let status = match does {
                Does::Nothing => return Ending::NotSent("refused".into()),
                Does::Silence => return Ending::MaybeSeen("cut".into()),
                Does::Later(status) => {
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                    status
                }
                Does::Answer(status) => status,
                Does::Hang => {
                    loop {
                        let changed = upstream.changed.notified();
                        if upstream.state.lock().is_free {
                            break;
                        }
                        changed.await;
                    }
                    200
                }
            };
            let status = StatusCode::from_u16(status).unwrap();
            let body = Bytes::from_static(b"done");
            Ending::Answered(Reply { status, headers, body, is_whole: true })
        })
    }

    fn hear(&self, route: Option<&str>, end: End) {
        assert_eq!(route, (end != End::Lost).then_some("take-orders"));
        self.state.lock().ends.push(end.word());
    }
}

impl Upstream {
    fn does(&self, next: &[Does]) {
        self.state.lock().next.extend(next);
    }

    fn free(&self) {
        self.state.lock().is_free = true;
        self.changed.notify_waiters();
    }

    async fn sent(&self, count: usize) -> Vec<Parcel> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.state.lock().sent.len() >= count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("so much is sent");
        self.state.lock().sent.clone()
    }

    /// The reported ends, sorted.
    fn ends(&self) -> Vec<&'static str> {
        let mut ends = self.state.lock().ends.clone();
        ends.sort_unstable();
        ends
    }

    fn effects(&self, target: &str) -> usize {
        self.state.lock().effects.get(target).copied().unwrap_or(0)
    }
}

fn delivering(home: Home) -> (Home, Arc<Upstream>) {
    let upstream = Arc::new(Upstream::default());
    let mut home = Home { sink: Arc::new(upstream.clone()), ..home };
    home.settings.push = Some(Push {
        target: Target::Upstream("orders".into()),
        format: Format::Structured,
        timeout: Duration::from_secs(15),
        secrets: Vec::new(),
    });
    home.settings.retry.schedule = vec![Duration::ZERO, Duration::from_secs(1)];
    (home, upstream)
}

fn needs_force(letter: &super::super::Letter) -> bool {
    letter.reason == super::super::super::subscription::Reason::MaybeSeen
}

fn request(target: &str) -> StoredRequest {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut secret = [0; SECRET_BYTES];
    secret[..target.len().min(SECRET_BYTES)].copy_from_slice(target.as_bytes());
    StoredRequest {
        method: Method::POST,
        target: target.parse().unwrap(),
        headers,
        body: Bytes::from_static(b"{\"n\":1}"),
        key: None,
        dedup_key: None,
        route: "take-orders".into(),
        source: "/sluice/test/take-orders".into(),
        principal: Fingerprint::of(&HashKey([7; 16]), ""),
        secret,
        time: START.wall,
        status_until: START.wall + 86_400_000,
        may_redeliver: false,
        key_field: HeaderName::from_static("idempotency-key"),
    }
}

impl super::Running {
    /// Stores requests; the key is the first letter of the path.
    async fn store(&self, requests: &[StoredRequest]) -> bool {
        let drafts: Vec<_> = requests
            .iter()
            .map(|request| {
                let key = request.target.path()[1..2].to_owned();
                let mut draft = request.draft();
                draft.key = Some(key.clone().into());
                draft.partition = u16::from(key.as_bytes()[0] % 4);
                draft
            })
            .collect();
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let Ok(permit) = self.topic.permit(bytes) else { return false };
        self.topic.append(permit, drafts).await.is_ok()
    }

    async fn stands(&self, offset: u64) -> Status {
        let place = At { topic: LogId(Uuid::from_u128(11)), offset: Offset(offset) };
        Results::status(&self.ingress, place).await
    }

    /// The status of a request, once it has ended.
    async fn ended(&self, home: &Home, offset: u64) -> Status {
        for _ in 0..5_000 {
            let status = self.stands(offset).await;
            if status.state.is_over() {
                return status;
            }
            home.pass(self, 1).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = self.subscription.status(false).await.unwrap();
        panic!("{offset} does not end: {:?}, {status:?}", self.stands(offset).await);
    }

    async fn all_letters(&self) -> Vec<super::super::Letter> {
        let filter = facade::DeadLetterFilter::default();
        self.subscription.letters(None, filter, 10).await.unwrap()
    }

    /// Redrives dead letters; returns the job's result once it has ended.
    async fn redriven(&self, letters: Vec<Offset>, is_forced: bool) -> (u64, u64) {
        let lane = self.subscription.redrive(letters, None, is_forced).await.unwrap();
        for _ in 0..5_000 {
            let jobs = self.subscription.jobs().await.unwrap();
            let job = jobs.into_iter().find(|job| job.id.lane == lane.0).unwrap();
            if job.state != facade::JobState::Running {
                return (job.delivered, job.failed);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the job does not end");
    }

    async fn unsettled(&self) -> u64 {
        let status = self.subscription.status(false).await.unwrap().status;
        status.partitions.iter().map(|part| part.unsettled).sum()
    }

    async fn all_settled(&self, home: &Home) {
        self.settled_down().await;
        for _ in 0..5_000 {
            if self.unsettled().await == 0 {
                return;
            }
            home.pass(self, 1).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it does not settle");
    }
}

#[tokio::test]
async fn a_request_is_sent_as_it_was_stored_and_its_answer_is_kept() {
    let (home, upstream) = delivering(Home::real());
    let running = home.open();
    running.store(&[request("/a?x=1"), request("/a2")]).await;
    let status = running.ended(&home, 0).await;
    assert_eq!((status.state, status.attempts), (Stands::Succeeded, 1));
    let answer = status.answer.unwrap();
    assert_eq!((answer.status, answer.body), (StatusCode::OK, Some(Bytes::from_static(b"done"))));
    assert_eq!(answer.headers["x-made"], "7");
    running.all_settled(&home).await;
    let sent = upstream.sent(2).await;
    let stored = request("/a?x=1");
    assert_eq!((&sent[0].method, &sent[0].body), (&Method::POST, &stored.body));
    let target = crate::http::sink::Target::Upstream {
        name: "orders".into(),
        target: stored.target.clone(),
    };
    assert_eq!(sent[0].target, target);
    for (name, value) in &stored.headers {
        assert_eq!(sent[0].headers.get(name), Some(value));
    }
    let keys: Vec<_> = sent.iter().map(|it| it.headers["idempotency-key"].clone()).collect();
    assert_ne!(keys[0], keys[1], "{keys:?}");
    running.close().await;
}

#[tokio::test]
async fn what_was_not_done_is_sent_again_in_order_of_its_key_and_under_one_name() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Nothing, Does::Later(429), Does::Later(503), Does::Answer(422)]);
    let running = home.open();
    running.store(&[request("/a1"), request("/a2")]).await;
    let status = running.ended(&home, 0).await;
    assert_eq!((status.state, status.attempts), (Stands::Failed, 4));
    assert_eq!(status.answer.unwrap().status, 422);
    assert_eq!(running.ended(&home, 1).await.state, Stands::Succeeded);
    running.all_settled(&home).await;
    let sent = upstream.sent(5).await;
    let paths: Vec<_> = sent.iter().map(|it| format!("{:?}", it.target)).collect();
    assert!(
        paths[..4].iter().all(|it| it.contains("/a1")) && paths[4].contains("/a2"),
        "{paths:?}"
    );
    let keys: std::collections::BTreeSet<_> =
        sent[..4].iter().map(|it| it.headers["idempotency-key"].as_bytes().to_vec()).collect();
    assert_eq!(keys.len(), 1);
    assert!(running.letters_now().await.is_empty());
    running.close().await;
}

#[tokio::test]
async fn what_may_have_been_done_is_never_sent_again() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Silence, Does::Answer(502), Does::Answer(504), Does::Answer(500)]);
    let running = home.open();
    running.store(&[request("/a"), request("/b"), request("/c"), request("/d")]).await;
    let mut states = Vec::new();
    for offset in 0..4 {
        states.push(running.ended(&home, offset).await.state);
    }
    states.sort_by_key(|state| state.word());
    let uncertain = Stands::Uncertain;
    assert_eq!(states, [Stands::Failed, uncertain, uncertain, uncertain]);
    running.all_settled(&home).await;
    assert_eq!(running.letters(3).await.len(), 3);
    let filter = facade::DeadLetterFilter::default();
    let letters = running.subscription.letters(None, filter, 10).await.unwrap();
    assert!(letters.iter().all(needs_force), "it takes force to send it again");
    assert_eq!(upstream.ends(), ["failed", "uncertain", "uncertain", "uncertain"]);
    assert_eq!(upstream.sent(4).await.len(), 4);
    running.close().await;
}

#[tokio::test]
async fn what_does_no_harm_twice_is_sent_again() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Silence, Does::Answer(502), Does::Answer(200), Does::Silence]);
    let running = home.open();
    let safe = StoredRequest { method: Method::PUT, ..request("/a") };
    let honoured = StoredRequest { may_redeliver: true, ..request("/a2") };
    running.store(&[safe, honoured]).await;
    let status = running.ended(&home, 0).await;
    assert_eq!((status.state, status.attempts), (Stands::Succeeded, 3));
    let status = running.ended(&home, 1).await;
    assert_eq!((status.state, status.attempts), (Stands::Succeeded, 2));
    running.all_settled(&home).await;
    assert!(running.letters_now().await.is_empty());
    running.close().await;
}

#[tokio::test]
async fn what_has_all_its_attempts_is_dead_and_says_so() {
    let (mut home, upstream) = delivering(Home::real());
    home.settings.retry.max_attempts = 2;
    upstream.does(&[Does::Silence, Does::Silence]);
    let running = home.open();
    running.store(&[StoredRequest { method: Method::PUT, ..request("/a") }]).await;
    let status = running.ended(&home, 0).await;
    assert_eq!((status.state, status.attempts), (Stands::DeadLettered, 2));
    assert_eq!(running.letters(1).await.len(), 1);
    assert_eq!(upstream.ends(), ["dead_lettered"]);
    running.close().await;
}

#[tokio::test]
async fn what_is_too_old_is_dead_and_counted_as_that() {
    let (mut home, upstream) = delivering(Home::real());
    home.settings.retry.max_age = Duration::from_secs(2);
    upstream.does(&[Does::Silence; 9]);
    let running = home.open();
    running.store(&[StoredRequest { method: Method::PUT, ..request("/a") }]).await;
    assert_eq!(running.ended(&home, 0).await.state, Stands::DeadLettered);
    assert_eq!(running.letters(1).await.len(), 1);
    assert_eq!(upstream.ends(), ["expired"]);
    running.close().await;
}

#[tokio::test]
async fn what_cannot_be_read_any_more_is_over_and_counted_as_lost() {
    let model = Model::new();
    let home = Home { recovery: Recovery::Quarantine, ..Home::on(Arc::new(model.clone())) };
    let (home, upstream) = delivering(home);
    upstream.does(&[Does::Nothing]);
    let running = home.open();
    assert!(running.store(&[request("/a?damaged")]).await);
    // It waits to be sent again.
    upstream.sent(1).await;
    damage(&model, "/a?damaged");
    assert_eq!(running.ended(&home, 0).await.state, Stands::DeadLettered);
    running.all_settled(&home).await;
    assert_eq!((upstream.ends(), upstream.sent(1).await.len()), (vec!["lost"], 1));
    running.close().await;
}

#[tokio::test]
async fn a_death_in_mid_delivery_leaves_it_uncertain() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Hang, Does::Hang]);
    let running = home.open();
    running.store(&[request("/a"), StoredRequest { method: Method::GET, ..request("/b") }]).await;
    upstream.sent(2).await;
    // As a killed process: nothing is released.
    running.writer.stop();
    drop(running);

    let running = home.open();
    let states = (running.ended(&home, 0).await.state, running.ended(&home, 1).await.state);
    assert_eq!(states, (Stands::Uncertain, Stands::Succeeded));
    running.all_settled(&home).await;
    assert_eq!((upstream.effects("/a"), upstream.effects("/b")), (1, 2));
    assert_eq!(upstream.ends(), ["succeeded", "uncertain"]);
    assert_eq!(running.letters(1).await.len(), 1);
    running.close().await;
}

#[tokio::test]
async fn what_may_have_been_seen_by_a_probe_takes_force_to_be_sent_again() {
    let (mut home, upstream) = delivering(Home::real());
    home.settings.retry.max_attempts = 1;
    // One at a time: a request sent besides the seventh is not a probe.
    home.settings.limits.concurrency = 1;
    upstream.does(&[Does::Nothing; 7]);
    upstream.does(&[Does::Hang]);
    let running = home.open();
    running.store(&[request("/a"), request("/b"), request("/c")]).await;
    // The circuit opens, and the eighth is a probe.
    while upstream.state.lock().sent.len() < 8 {
        home.pass(&running, 1).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.writer.stop();
    drop(running);

    let running = home.open();
    running.all_settled(&home).await;
    let letters = running.all_letters().await;
    assert_eq!((letters.len(), letters.iter().filter(|it| needs_force(it)).count()), (1, 1));
    let sent = upstream.sent(10).await.len();
    // Even a caller that bypasses this check cannot have it sent.
    assert_eq!(running.redriven(vec![letters[0].id], false).await, (0, 1));
    assert_eq!(upstream.sent(sent).await.len(), sent);
    assert_eq!(running.redriven(vec![letters[0].id], true).await, (1, 0));
    assert_eq!(upstream.sent(sent).await.len(), sent + 1);
    running.close().await;
}

#[tokio::test]
async fn what_may_have_been_seen_and_blocks_its_key_is_not_sent_again_when_it_is_forgotten() {
    for dies in [true, false] {
        let (mut home, upstream) = delivering(Home::real());
        home.settings.then = crate::events::settings::Then::BlockKey;
        home.settings.dead_letter = None;
        home.settings.retry.max_attempts = 1;
        home.settings.limits.concurrency = 1;
        let mut running = home.open();
        upstream.does(&[Does::Nothing; 7]);
        upstream.does(if dies { &[Does::Hang] } else { &[Does::Silence] });
        running.store(&[request("/a"), request("/b"), request("/c")]).await;
        while upstream.state.lock().sent.len() < 8 {
            home.pass(&running, 1).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if dies {
            running.writer.stop();
            drop(running);
            running = home.open();
            // As the store does.
            let resolve = || running.ingress.resolve_attempts();
            std::thread::scope(|scope| scope.spawn(resolve).join()).unwrap().unwrap();
        }
        let mut blocked = None;
        for offset in 0..3 {
            if running.ended(&home, offset).await.state == Stands::Uncertain {
                blocked = Some(offset);
            }
        }
        let offset = blocked.expect("one is uncertain");
        let sent = upstream.sent(10).await.len();
        home.clock.advance(3 * 86_400_000);
        running.ingress.tidy().unwrap();
        assert_eq!(running.stands(offset).await.state, Stands::Queued, "it is forgotten");
        let key = ["a", "b", "c"][usize::try_from(offset).unwrap()];
        let what = facade::Blocked::Key(key.into());
        let unblock = facade::Unblock { what, action: facade::Action::Retry };
        while !running.subscription.unblock(unblock.clone()).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(running.ended(&home, offset).await.state, Stands::Uncertain, "{dies}");
        assert_eq!(upstream.sent(sent).await.len(), sent, "{dies}");
        running.close().await;
    }
}

#[tokio::test]
async fn what_is_discarded_says_so() {
    let (mut home, upstream) = delivering(Home::real());
    home.settings.then = crate::events::settings::Then::Discard;
    home.settings.retry.max_attempts = 2;
    upstream.does(&[Does::Silence, Does::Silence]);
    let running = home.open();
    running.store(&[StoredRequest { method: Method::PUT, ..request("/a") }]).await;
    let status = running.ended(&home, 0).await;
    assert_eq!((status.state, status.attempts), (Stands::DeadLettered, 2));
    running.all_settled(&home).await;
    assert!(running.letters_now().await.is_empty());
    assert_eq!(upstream.ends(), ["dead_lettered"]);
    running.close().await;
}

#[tokio::test]
async fn a_stop_waits_for_what_is_on_its_way() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Hang]);
    let running = home.open();
    running.store(&[request("/a"), request("/a2")]).await;
    upstream.sent(1).await;
    let freed = async {
        tokio::task::yield_now().await;
        upstream.free();
    };
    tokio::join!(running.close(), freed);
    let running = home.open();
    assert_eq!(running.stands(0).await.state, Stands::Succeeded);
    assert_eq!(running.ended(&home, 1).await.state, Stands::Succeeded);
    assert_eq!((upstream.effects("/a"), upstream.effects("/a2")), (1, 1));
    running.close().await;
}

#[tokio::test]
async fn an_upstream_that_answers_nothing_is_left_alone_before_it_costs_many() {
    let (mut home, upstream) = delivering(Home::real());
    home.settings.limits.concurrency = 1;
    upstream.does(&[Does::Silence; 7]);
    let running = home.open();
    let requests: Vec<_> = ('a'..='h').map(|key| request(&format!("/{key}"))).collect();
    running.store(&requests).await;
    upstream.sent(7).await;
    running.letters(7).await;
    running.settled_down().await;
    let tally = running.subscription.tally();
    assert!(tally.is_circuit_open.get());
    assert_eq!((upstream.sent(7).await.len(), running.unsettled().await), (7, 1));
    running.all_settled(&home).await;
    assert!(!tally.is_circuit_open.get());
    assert_eq!(upstream.sent(8).await.len(), 8);
    running.close().await;
}

#[tokio::test]
async fn what_a_death_has_left_uncertain_is_no_outage() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Hang; 9]);
    let running = home.open();
    let requests: Vec<_> = ('a'..='i').map(|key| request(&format!("/{key}"))).collect();
    running.store(&requests).await;
    upstream.sent(9).await;
    running.writer.stop();
    drop(running);

    let running = home.open();
    running.settled_down().await;
    home.pass(&running, 2).await;
    // No time passes, so none of them waits for a circuit.
    assert_eq!(running.letters(9).await.len(), 9);
    assert!(!running.subscription.tally().is_circuit_open.get(), "it was never asked");
    assert_eq!(upstream.sent(9).await.len(), 9);
    running.close().await;
}

#[tokio::test]
async fn an_answer_is_no_outage_whatever_it_says() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Answer(500); 9]);
    let running = home.open();
    let requests: Vec<_> = ('a'..='i').map(|key| request(&format!("/{key}"))).collect();
    running.store(&requests).await;
    running.all_settled(&home).await;
    assert!(!running.subscription.tally().is_circuit_open.get());
    for offset in 0..9 {
        assert_eq!(running.stands(offset).await.state, Stands::Failed);
    }
    running.close().await;
}

#[tokio::test]
async fn events_among_requests_are_passed_over() {
    let (home, upstream) = delivering(Home::real());
    let running = home.open();
    running.publish(&["a1"]).await;
    running.store(&[request("/a")]).await;
    assert_eq!(running.ended(&home, 1).await.state, Stands::Succeeded);
    running.all_settled(&home).await;
    assert_eq!(upstream.sent(1).await.len(), 1);
    running.close().await;
}

#[tokio::test]
async fn an_operator_sends_a_dead_letter_again_under_its_old_name() {
    let (home, upstream) = delivering(Home::real());
    upstream.does(&[Does::Silence, Does::Answer(201)]);
    let running = home.open();
    running.store(&[request("/a")]).await;
    running.letters(1).await;
    let filter = facade::DeadLetterFilter::default();
    let letters = running.subscription.letters(None, filter, 10).await.unwrap();
    running.subscription.redrive(vec![letters[0].id], None, true).await.unwrap();
    let sent = upstream.sent(2).await;
    assert_eq!(sent[0].headers["idempotency-key"], sent[1].headers["idempotency-key"]);
    for _ in 0..5_000 {
        if running.letters_now().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let status = running.stands(0).await;
    assert_eq!((status.state, status.attempts), (Stands::Succeeded, 2));
    running.close().await;
}

/// The ingress log cannot be synced when the answer arrives; returns how many events are settled.
async fn settle_without_a_result() -> u64 {
    let records = Model::new();
    let (home, upstream) = delivering(Home::real());
    let home = Home { records: Arc::new(records.clone()), ..home };
    upstream.does(&[Does::Hang]);
    let running = home.open();
    running.store(&[request("/a")]).await;
    upstream.sent(1).await;
    records.fail_nth(Op::Sync, 0, Fault::Io);
    upstream.free();
    while !running.ingress.is_offline() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..50 {
        running.settled_down().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    1 - running.unsettled().await
}

#[test]
fn a_request_is_not_settled_before_its_result_is_on_disk() {
    assert_eq!(runtime().block_on(settle_without_a_result()), 0);
    let caught = mutation::with(Mutation::ResultAfterSettlement, || {
        runtime().block_on(settle_without_a_result())
    });
    assert_eq!(caught, 1, "settling before the result's sync goes unnoticed");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const TARGETS: [&str; 5] = ["/a1", "/b1", "/a2", "/c1", "/d1"];

/// Requests reach each possible end. Returns how many were certainly stored.
async fn live(home: &Home, upstream: &Upstream) -> usize {
    let Some(running) = home.try_open() else { return 0 };
    upstream.does(&[Does::Later(429), Does::Silence, Does::Answer(404)]);
    if !running.store(&TARGETS.map(request)).await {
        return 0;
    }
    for _ in 0..40 {
        home.clock.advance(500);
        if running.subscription.status(false).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    running.writer.stop();
    TARGETS.len()
}

/// Runs until operation `stop`, then again on what the disk has.
fn crash_at(stop: u64, seed: u64) {
    let model = Model::new();
    model.stop_at(stop);
    let (home, upstream) = delivering(Home::on(Arc::new(model.clone())));
    let stored = runtime().block_on(live(&home, &upstream));
    let disk: Arc<dyn Storage> = Arc::new(model.crash(Crash::any(seed)));
    let home = Home { records: disk.clone(), storage: disk, ..home };
    upstream.state.lock().next.clear();
    runtime().block_on(async {
        let running = home.open();
        let count = usize::try_from(running.topic.durable().0).unwrap();
        assert!(count >= stored, "at {stop}: what was acknowledged is there");
        running.all_settled(&home).await;
        let mut uncertain = 0;
        for (offset, target) in TARGETS[..count].iter().enumerate() {
            let state = running.stands(offset as u64).await.state;
            let effects = upstream.effects(target);
            let case = format!("{target} at {stop}: {state:?}, {effects} effects");
            assert!(effects <= 1, "twice: {case}");
            match state {
                Stands::Succeeded | Stands::Failed => assert_eq!(effects, 1, "{case}"),
                Stands::Uncertain => uncertain += 1,
                _ => panic!("it has not ended: {case}"),
            }
        }
        assert_eq!(running.letters(uncertain).await.len(), uncertain, "at {stop}");
        running.close().await;
    });
}

#[test]
fn whatever_operation_is_the_last_a_request_has_one_effect_at_most_and_one_end() {
    let operations = {
        let model = Model::new();
        let (home, upstream) = delivering(Home::on(Arc::new(model.clone())));
        runtime().block_on(live(&home, &upstream));
        model.operations()
    };
    // In a campaign at every operation, `SLUICE_CAMPAIGN` times.
    let seeds = campaign(0);
    let step = if seeds == 0 { 7 } else { 1 };
    for seed in 0..seeds.max(1) {
        for stop in (seed..operations).step_by(step) {
            crash_at(stop, stop * 1_000 + seed);
        }
    }
}

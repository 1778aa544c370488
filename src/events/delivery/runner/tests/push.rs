//! Pushes through a scripted sink.

use std::collections::VecDeque;

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::{
    events::{
        queue::{
            mutation::{self, Mutation},
            storage::model::{Fault, Model, Op},
        },
        settings::{Format, Push, Target},
    },
    http::sink::{Ending, Parcel, Reply, Sending, Sink},
};

/// Answers by a script, and records what was sent.
#[derive(Debug, Default)]
pub(in crate::events::delivery::runner) struct Script {
    state: Mutex<Told>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Told {
    sent: Vec<Parcel>,
    /// The next answers; 200 when there are none.
    answers: VecDeque<u16>,
    /// Only this many answers are given; the others are held back.
    free: Option<usize>,
}

impl Sink for Arc<Script> {
    fn send(&self, parcel: Parcel) -> Sending {
        let script = self.clone();
        let (number, status) = {
            let mut told = script.state.lock();
            told.sent.push(parcel);
            let status = told.answers.pop_front().unwrap_or(200);
            (told.sent.len(), status)
        };
        script.changed.notify_waiters();
        Box::pin(async move {
            loop {
                let changed = script.changed.notified();
                if script.state.lock().free.is_none_or(|free| number <= free) {
                    break;
                }
                changed.await;
            }
            match status {
                0 => Ending::NotSent("nobody".into()),
                1 => Ending::MaybeSeen("silence".into()),
                status => Ending::Answered(Reply {
                    status: StatusCode::from_u16(status).unwrap(),
                    headers: HeaderMap::new(),
                    body: bytes::Bytes::from_static(b"said"),
                    is_whole: true,
                }),
            }
        })
    }
}

impl Script {
    /// Data and attempt of what was sent, once there are `count`.
    async fn sent(&self, count: usize) -> Vec<(String, String)> {
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
        let told = self.state.lock();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let shown = |parcel: &Parcel| {
            let data = String::from_utf8(parcel.body.to_vec()).unwrap();
            (data, text(&parcel.headers["sluice-attempt"]))
        };
        told.sent.iter().map(shown).collect()
    }

    fn answer(&self, answers: &[u16]) {
        self.state.lock().answers.extend(answers);
    }

    /// Gives only the first `free` answers; `None` for all.
    fn free(&self, free: Option<usize>) {
        self.state.lock().free = free;
        self.changed.notify_waiters();
    }
}

/// A home whose subscription pushes to a script.
fn pushing(home: Home) -> (Home, Arc<Script>) {
    let script = Arc::new(Script::default());
    let mut home = Home { sink: Arc::new(script.clone()), ..home };
    home.settings.push = Some(Push {
        target: Target::Url(http::Uri::from_static("http://receiver.test/events")),
        format: Format::Raw,
        timeout: Duration::from_secs(15),
        secrets: Vec::new(),
    });
    (home, script)
}

async fn settled(running: &super::Running, count: u64) {
    for _ in 0..20_000 {
        let status = running.subscription.status(false).await.unwrap().status;
        let lag: u64 = status.partitions.iter().map(|part| part.unsettled).sum();
        let scanned = status.partitions.iter().all(|part| part.scan >= count);
        if lag == 0 && scanned {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not settle");
}

#[tokio::test]
async fn events_are_pushed_in_order_of_their_key() {
    let (home, script) = pushing(Home::real());
    script.free(Some(0));
    let running = home.open();
    running.publish(&["a1", "a2", "b1"]).await;
    let sent = script.sent(2).await;
    let data: Vec<_> = sent.iter().map(|(data, _)| data.as_str()).collect();
    assert_eq!(data, ["data of a1", "data of b1"], "a2 waits for a1");
    script.free(None);
    assert_eq!(script.sent(3).await[2], ("data of a2".to_owned(), "1".to_owned()));
    settled(&running, 3).await;
    running.close().await;
}

#[tokio::test]
async fn a_stop_gives_back_what_is_on_its_way_and_a_death_counts_it() {
    let (home, script) = pushing(Home::real());
    script.free(Some(0));
    let running = home.open();
    running.publish(&["a1"]).await;
    script.sent(1).await;
    running.close().await;

    let running = home.open();
    assert_eq!(script.sent(2).await[1].1, "2", "it may have been seen");
    // As a killed process: nothing is released.
    running.writer.stop();
    drop(running);

    script.free(None);
    let running = home.open();
    running.settled_down().await;
    home.pass(&running, 60).await;
    assert_eq!(script.sent(3).await[2].1, "3");
    settled(&running, 1).await;
    running.close().await;
}

#[tokio::test]
async fn what_fails_comes_again_by_the_schedule_and_what_is_refused_twice_is_dead() {
    let (mut home, script) = pushing(Home::real());
    home.settings.retry.schedule = vec![Duration::ZERO, Duration::from_secs(10)];
    script.answer(&[500, 0, 1, 422, 422]);
    let running = home.open();
    running.publish(&["a1"]).await;
    for number in 1..=4 {
        script.sent(number).await;
        running.settled_down().await;
        home.pass(&running, 13).await;
    }
    assert_eq!(running.letters(1).await, ["a1"]);
    assert_eq!(script.sent(5).await.len(), 5);
    running.close().await;
}

/// Every write to the journal fails before the second attempt; returns how many there were.
async fn push_without_a_journal(expected: usize) -> usize {
    let model = Model::new();
    let (home, script) = pushing(Home::on(Arc::new(model.clone())));
    script.answer(&[500]);
    let running = home.open();
    running.publish(&["a1"]).await;
    script.sent(1).await;
    while running.subscription.status(false).await.unwrap().status.in_flight > 0 {
        tokio::task::yield_now().await;
    }
    model.fail_nth(Op::Write, 0, Fault::Io);
    model.fail_nth(Op::Sync, 0, Fault::Io);
    model.fail_nth(Op::Create, 0, Fault::Io);
    home.clock.advance(13_000);
    // The first request checks the time, and starts the push.
    while !running.subscription.has_hole().await.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..100 {
        if script.state.lock().sent.len() >= expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = script.state.lock().sent.len();
    running.close().await;
    sent
}

#[test]
fn without_its_attempt_record_nothing_is_pushed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(push_without_a_journal(2)), 1);
    let caught = mutation::with(Mutation::AttemptAfterDelivery, || {
        runtime.block_on(push_without_a_journal(2))
    });
    assert_eq!(caught, 2, "an attempt after its push goes unnoticed");
}

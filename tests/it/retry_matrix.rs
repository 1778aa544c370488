//! Semantics 4: every class, every method, broken off at every byte, over HTTP/1.1 and HTTP/2.
//!
//! What counts is what origins saw: of a method that must not come twice never more than one
//! request, wherever the exchange broke off. Of the others the client hears of no failure before
//! the head of the answer.

use crate::harness::{
    Message, Running,
    cutter::{ANSWER, ANSWER_H2, Cut, Cutter, End, HEAD, HEAD_H2, Seen},
    within,
};

const SAFE: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
const UNSAFE: [&str; 3] = ["POST", "PATCH", "PROPFIND"];
const REFUSED_STREAM: u32 = 7;
const RETRY: &str = "retry: { attempts: 3, on: [connect, reset, 503] }";

/// An upstream, a gateway in front of it, and what became of one exchange.
struct Rig {
    cutter: Cutter,
    gateway: Running,
    method: &'static str,
}

struct Outcome {
    /// The status and whether the body came as a whole; nothing if the connection closed before:
    /// that is how an answer that breaks off right behind its head may look.
    answer: Option<Message>,
    seen: Seen,
}

impl Rig {
    fn new(cutter: Cutter, protocol: &str, method: &'static str, retry: &str) -> Self {
        let comma = if retry.is_empty() { "" } else { ", " };
        let yaml = format!(
            "workers: 1\nupstreams: {{ origin: {{ endpoints: [\"{}\"], protocol: {protocol}, \
             retry_budget: {{ ratio: 100%, min_per_second: 1000000 }} }} }}\n\
             routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin{comma}{retry} }}]\n",
            cutter.address()
        );
        Self { cutter, gateway: Running::start(&yaml), method }
    }

    async fn send(&self) -> Option<Message> {
        let body = if matches!(self.method, "PUT" | "POST" | "PATCH") { "order" } else { "" };
        let (length, mut buffer) = (body.len(), Vec::new());
        let head = match length {
            0 => format!("{} /a HTTP/1.1\r\nHost: a\r\n\r\n", self.method),
            _ => format!(
                "{} /a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}",
                self.method
            ),
        };
        let mut client = self.gateway.client().await;
        client.send(head).await;
        let mut stream = client.into_stream();
        let read = Message::read_response(&mut stream, &mut buffer, self.method);
        within("an answer", read).await
    }

    /// One exchange that is broken off at `cut`.
    async fn exchange(&self, cut: Cut, end: End) -> Outcome {
        // An exchange may come upon a connection that is about to close; then the plan is left.
        for _ in 0..20 {
            let seen = self.cutter.cut(cut, end);
            let answer = self.send().await;
            if self.cutter.is_cut() {
                return Outcome { answer, seen };
            }
            assert!(seen.get() <= 1, "{} {cut:?}: sent twice", self.method);
        }
        panic!("{} {cut:?} {end:?}: never cut", self.method);
    }

    /// The longest request, sent once without a cut.
    async fn length(&self) -> usize {
        let answer = self.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}: {}", self.method, answer.text());
        self.cutter.longest()
    }

    fn check(&self, cut: Cut, end: End, outcome: &Outcome, is_class_d: bool) {
        let seen = outcome.seen.get();
        let told = outcome.answer.as_ref().map_or("nothing", |answer| &answer.line);
        let what = format!("{} {cut:?} {end:?}: seen {seen} times, {told}", self.method);
        let is_safe = SAFE.contains(&self.method);
        assert!(seen <= if is_safe { 2 } else { 1 }, "{what}");
        let Some(answer) = &outcome.answer else {
            assert!(is_class_d, "{what}");
            return;
        };
        if !is_safe {
            assert!(matches!(answer.status(), 200 | 502), "{what}");
            return;
        }
        assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
        if is_class_d {
            assert!(seen == 1 || end == End::Rst, "{what}");
        } else if self.method != "HEAD" {
            assert!(answer.is_complete && answer.text() == "hello", "{what}: {}", answer.text());
        }
    }
}

/// Every `stride`th byte of request and answer.
async fn at_each_byte(method: &'static str, is_h2: bool, stride: usize) -> usize {
    let (cutter, protocol, answer, head) = if is_h2 {
        (Cutter::h2().await, "h2", ANSWER_H2, HEAD_H2)
    } else {
        (Cutter::h1().await, "h1", ANSWER.len(), HEAD)
    };
    let rig = Rig::new(cutter, protocol, method, RETRY);
    let length = rig.length().await;
    let mut outcomes = Vec::new();
    for end in [End::Fin, End::Rst] {
        for at in (0..=length).step_by(stride) {
            let cut = Cut::Request(at);
            let outcome = rig.exchange(cut, end).await;
            rig.check(cut, end, &outcome, false);
            outcomes.push((cut, end, outcome, false));
        }
        for at in (0..answer).step_by(stride.min(3)) {
            let cut = Cut::Response(at);
            let outcome = rig.exchange(cut, end).await;
            rig.check(cut, end, &outcome, at >= head);
            outcomes.push((cut, end, outcome, at >= head));
        }
    }
    // Once more: of what a FIN left on its way some may have been read since.
    for (cut, end, outcome, is_class_d) in &outcomes {
        rig.check(*cut, *end, outcome, *is_class_d);
    }
    outcomes.len()
}

/// All methods at once, those with a body at every byte.
async fn matrix(is_h2: bool) {
    let strided = |method| if matches!(method, "PUT" | "POST" | "GET") { 1 } else { 7 };
    let methods = SAFE.into_iter().chain(UNSAFE);
    let tasks: Vec<_> =
        methods.map(|method| tokio::spawn(at_each_byte(method, is_h2, strided(method)))).collect();
    let mut exchanges = 0;
    for task in tasks {
        exchanges += task.await.unwrap();
    }
    assert!(exchanges > 1000, "only {exchanges} exchanges were broken off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_h1_at_each_byte() {
    matrix(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_h2_at_each_byte() {
    matrix(true).await;
}

/// Without `retry` only what was not sent is sent again, whatever the method.
#[tokio::test]
async fn without_retry_no_method_is_seen_twice() {
    for method in ["GET", "PUT", "POST"] {
        let rig = Rig::new(Cutter::h1().await, "h1", method, "");
        let length = rig.length().await;
        for end in [End::Fin, End::Rst] {
            let cuts = (0..=length).step_by(11).map(Cut::Request);
            for cut in cuts.chain((0..HEAD).step_by(11).map(Cut::Response)) {
                let Outcome { answer, seen } = rig.exchange(cut, end).await;
                let (seen, answer) = (seen.get(), answer.expect("an answer"));
                assert!(seen <= 1, "{method} {cut:?} {end:?}: seen {seen} times");
                assert!(matches!(answer.status(), 200 | 502), "{method} {cut:?}: {}", answer.line);
            }
        }
    }
}

/// What HTTP/2 says about a stream decides, not a guess.
#[tokio::test]
async fn what_h2_refuses_is_sent_again_and_what_it_breaks_off_only_if_it_may() {
    // The cut, whether the stream was excluded, whether the head of an answer had come.
    let cuts = [
        (Cut::Reset(REFUSED_STREAM), true, false),
        (Cut::GoAway(0, true), true, false),
        (Cut::GoAway(1, true), true, false),
        (Cut::GoAway(0, false), false, false),
        (Cut::GoAway(1, false), false, false),
        (Cut::Reset(1), false, false),
        (Cut::Reset(2), false, false),
        (Cut::Reset(8), false, false),
        (Cut::ResetAfterHead(1), false, true),
        (Cut::ResetAfterHead(7), false, true),
        (Cut::ResetAfterHead(8), false, true),
    ];
    let routes = [RETRY, ""];
    let methods = SAFE.into_iter().chain(UNSAFE);
    for (method, route) in methods.flat_map(|method| routes.map(|route| (method, route))) {
        let rig = Rig::new(Cutter::h2().await, "h2", method, route);
        for (cut, is_refused, has_head) in cuts {
            let Outcome { answer, seen } = rig.exchange(cut, End::Fin).await;
            let seen = seen.get();
            let is_safe = SAFE.contains(&method) && route == RETRY;
            let Some(answer) = answer else {
                assert!(has_head && seen == 1, "{method} {cut:?}: seen {seen} times, no answer");
                continue;
            };
            let what = format!("{method} {cut:?} {route:?}: {} seen {seen} times", answer.line);
            if has_head {
                assert_eq!((answer.status(), seen), (200, 1), "{what}");
                assert!(method == "HEAD" || !answer.is_complete, "{what}");
            } else if is_refused || is_safe {
                // A refused one was looked at and not processed: that is what the peer vouches for.
                assert_eq!((answer.status(), seen), (200, 2), "{what}");
            } else {
                assert_eq!((answer.status(), seen), (502, 1), "{what}");
            }
        }
    }
}

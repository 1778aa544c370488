//! Customers of a program that is killed again and again, with a ledger outside of it.
//!
//! Half of them send each order three times at once under one idempotency key, and the last one that
//! nobody answered again after the kill; the others send each once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Message, Origin, Reply,
    killed::{Connection, Program, live},
    origin,
};

/// Customers with a key, and as many without.
const CUSTOMERS: u64 = 2;
/// An order of theirs is sent so often at once.
const TIMES: usize = 3;

/// An order on its way.
pub struct Order<'a> {
    /// Its name.
    pub name: &'a str,
    /// It has a key.
    pub is_keyed: bool,
    web: SocketAddr,
}

/// By order, what its customer was told that counts.
pub type Ledger<T> = BTreeMap<String, Option<T>>;

/// What counts of the answers to one order: none of them where the program died.
type Answers = [Option<(u16, Value)>];

/// Kills the program so often under its customers. The ledger, and the program once more. Blocks.
pub fn lives<T: Send>(
    folder: &Path,
    storage: &str,
    kills: u64,
    path: impl Fn(&Order<'_>) -> &'static str + Sync,
    told: impl Fn(&Order<'_>, &Answers) -> Option<T> + Sync,
) -> (Ledger<T>, Program) {
    let mut ledger = Ledger::new();
    let send = |order: &Order<'_>| {
        let answers = order.send(path(order));
        (told(order, &answers), answers.iter().any(Option::is_some))
    };
    for life in 0..kills {
        let program = Program::start(folder, storage);
        let (web, span) = (program.web, Duration::from_millis(fastrand::u64(100..500)));
        let customers = (0..2 * CUSTOMERS).map(|customer| {
            let again = unanswered(&ledger, customer);
            let send = &send;
            move |ended: &AtomicBool| work(web, (customer, life), again, send, ended)
        });
        let customers: Vec<_> = customers.collect();
        for (order, told) in live(program, span, customers).into_iter().flatten() {
            let known = ledger.entry(order).or_default();
            *known = told.or(known.take());
        }
    }
    (ledger, Program::start(folder, storage))
}

/// The last order of a customer that nobody has answered.
fn unanswered<T>(ledger: &Ledger<T>, customer: u64) -> Option<String> {
    let prefix = format!("{customer}-");
    let mut open =
        ledger.iter().filter(|(order, told)| order.starts_with(&prefix) && told.is_none());
    open.next_back().map(|(order, _)| order.clone())
}

/// The orders of one customer until the program is dead.
fn work<T>(
    web: SocketAddr,
    (customer, life): (u64, u64),
    again: Option<String>,
    send: impl Fn(&Order<'_>) -> (Option<T>, bool),
    ended: &AtomicBool,
) -> Vec<(String, Option<T>)> {
    let is_keyed = customer.is_multiple_of(2);
    let mut sent = Vec::new();
    let fresh = (life * 100_000..).map(|number| format!("{customer}-{number}"));
    // What nobody answered is only sent again with a key.
    for name in again.filter(|_| is_keyed).into_iter().chain(fresh) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let (told, is_alive) = send(&Order { name: &name, is_keyed, web });
        sent.push((name, told));
        if !is_alive {
            break;
        }
    }
    sent
}

/// An upstream that takes its time to do what it is asked.
pub async fn shop() -> Origin {
    Origin::start(|_, _| {
        Reply::After(Duration::from_millis(fastrand::u64(0..15)), origin::ok("done"))
    })
    .await
}

/// How often an upstream was asked for each order.
pub fn effects(requests: &[Message]) -> BTreeMap<String, usize> {
    let mut effects = BTreeMap::new();
    for request in requests {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        *effects.entry(body["order"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    effects
}

// === impl Order ===

impl Order<'_> {
    fn send(&self, path: &str) -> Vec<Option<(u16, Value)>> {
        let body = json!({ "order": self.name }).to_string();
        let field = || format!("Idempotency-Key: \"{}\"\r\n", self.name);
        let fields = if self.is_keyed { field() } else { String::new() };
        let times = if self.is_keyed { TIMES } else { 1 };
        let post = || Connection(self.web).ask_with("POST", path, &fields, &body);
        thread::scope(|scope| {
            let all: Vec<_> = (0..times).map(|_| scope.spawn(post)).collect();
            all.into_iter().map(|it| it.join().unwrap()).collect()
        })
    }
}

//! The customers: click when their time comes, click twice, ask again until they know, and write down
//! everything they were told.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use jsonwebtoken::{EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use crate::{
    http::{Answer, Client},
    shop::{Phase, Purchase},
};

/// Customers at once.
const BROWSERS: usize = 128;
/// Nobody asks longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tokens are good for so long, in seconds.
const SESSION: u64 = 24 * 60 * 60;

/// What a customer knows of a purchase in the end.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) purchase: String,
    pub(crate) phase: Phase,
    /// Requests that were sent for it.
    pub(crate) requests: u64,
    /// Answers that were those of an earlier request.
    pub(crate) replayed: u64,
    /// Each different body of a success. One is right.
    pub(crate) answers: BTreeSet<Bytes>,
    /// From the click to the first success.
    pub(crate) took: Option<Duration>,
    pub(crate) end: Word,
}

/// The last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// 2xx.
    Accepted,
    /// 409 `idempotency-uncertain`: nobody knows, and nobody will send it again.
    InDoubt,
    /// Another status that is final.
    Refused(u16),
    /// None in all the time.
    None,
}

/// What a customer's browser sends.
struct Click<'a> {
    purchase: &'a Purchase,
    token: &'a str,
    until: Instant,
    news: &'a News,
}

/// For whoever waits for a customer to be told that an order is accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct News(Arc<Notify>);

/// Signs tokens as `https://id.shop.example` would.
pub(crate) struct Issuer(EncodingKey);

/// Lets customers buy all of this, each at its time, and comes back when all know what became of it.
pub(crate) async fn buy(
    gateway: SocketAddr,
    issuer: &Issuer,
    purchases: &[Purchase],
    since: Instant,
    news: &News,
) -> Vec<Told> {
    let queue: VecDeque<Purchase> = purchases.iter().cloned().collect();
    let queue = Arc::new(Mutex::new(queue));
    let customers = purchases.iter().map(|purchase| &purchase.order.customer);
    let tokens: HashMap<String, String> =
        customers.map(|customer| (customer.clone(), issuer.token(customer))).collect();
    let tokens = Arc::new(tokens);
    let mut browsers = JoinSet::new();
    for _ in 0..BROWSERS {
        let (queue, tokens, news) = (Arc::clone(&queue), Arc::clone(&tokens), news.clone());
        browsers.spawn(async move {
            let mut told = Vec::new();
            let mut clients = [Client::new(gateway), Client::new(gateway)];
            loop {
                let Some(purchase) = queue.lock().pop_front() else { return told };
                let clicked = since + purchase.at;
                tokio::time::sleep_until(clicked).await;
                let token = tokens.get(&purchase.order.customer).map_or("", String::as_str);
                let click =
                    Click { purchase: &purchase, token, until: clicked + PATIENCE, news: &news };
                told.push(decide(&mut clients, &click, clicked).await);
            }
        });
    }
    browsers.join_all().await.into_iter().flatten().collect()
}

/// One purchase, from the first click to the last word.
async fn decide([first, second]: &mut [Client; 2], click: &Click<'_>, clicked: Instant) -> Told {
    let purchase = click.purchase;
    let mut told = Told::new(purchase);
    if purchase.is_impatient {
        let mut other = Told::new(purchase);
        tokio::join!(
            click.until_known(first, clicked, &mut told),
            click.until_known(second, clicked, &mut other)
        );
        told.add(other);
    } else {
        click.until_known(first, clicked, &mut told).await;
    }
    if purchase.is_anxious && told.end == Word::Accepted {
        let mut again = Told::new(purchase);
        click.until_known(first, clicked, &mut again).await;
        again.took = told.took;
        told.add(again);
    }
    told
}

/// An order as it goes out.
pub(crate) fn request(purchase: &Purchase, token: Option<&str>) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(json!(purchase.order).to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/orders");
    let mut field = |name: header::HeaderName, value: String| {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(name, value);
        }
    };
    field(header::CONTENT_TYPE, "application/json".to_owned());
    // A quoted string, as the draft of Idempotency-Key wants it.
    let key = format!("\"{}\"", purchase.order.purchase);
    field(header::HeaderName::from_static("idempotency-key"), key);
    if let Some(token) = token {
        field(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request
}

// === impl Click ===

impl Click<'_> {
    /// Asks until there is a last word.
    async fn until_known(&self, client: &mut Client, clicked: Instant, told: &mut Told) {
        loop {
            told.requests += 1;
            let answer = client.send(request(self.purchase, Some(self.token))).await;
            let wait = match &answer {
                Ok(answer) => match word(answer) {
                    Some(word) => {
                        told.hear(word, answer, clicked.elapsed());
                        if word == Word::Accepted && !is_replayed(answer) {
                            self.news.0.notify_waiters();
                        }
                        return;
                    }
                    None => retry_after(answer),
                },
                Err(_) => Duration::from_millis(100),
            };
            if Instant::now() + wait > self.until {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// What an answer says for good, if it does.
fn word(answer: &Answer) -> Option<Word> {
    let code = answer.json()["code"].as_str().map(ToOwned::to_owned).unwrap_or_default();
    match (answer.status, code.as_str()) {
        (status, _) if status.is_success() => Some(Word::Accepted),
        (_, "idempotency-uncertain") => Some(Word::InDoubt),
        (StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, _) => None,
        (status, _) if status.is_server_error() => None,
        (status, _) => Some(Word::Refused(status.as_u16())),
    }
}

/// How long to wait before asking again: as told, but a customer is not that patient.
fn retry_after(answer: &Answer) -> Duration {
    let told = answer.header("retry-after").and_then(|text| text.parse().ok());
    told.map_or(Duration::from_millis(100), Duration::from_secs).min(Duration::from_secs(1))
}

/// It is that of an earlier request.
fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

// === impl News ===

impl News {
    /// Until a customer is told the next time, for the first time of this order.
    pub(crate) async fn next(&self) {
        self.0.notified().await;
    }
}

// === impl Told ===

impl Told {
    fn new(purchase: &Purchase) -> Self {
        Self {
            purchase: purchase.order.purchase.clone(),
            phase: purchase.phase,
            requests: 0,
            replayed: 0,
            answers: BTreeSet::new(),
            took: None,
            end: Word::None,
        }
    }

    fn hear(&mut self, word: Word, answer: &Answer, took: Duration) {
        self.end = word;
        if word == Word::Accepted {
            self.took = self.took.or(Some(took));
            self.answers.insert(answer.body.clone());
            self.replayed += u64::from(is_replayed(answer));
        }
    }

    /// What the same customer was told in another window. A success is a success.
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.replayed += other.replayed;
        self.answers.extend(other.answers);
        self.took = [self.took, other.took].into_iter().flatten().min();
        if self.end != Word::Accepted {
            self.end = other.end;
        }
    }
}

// === impl Issuer ===

impl Issuer {
    pub(crate) fn new(secret: &str) -> Self {
        Self(EncodingKey::from_secret(secret.as_bytes()))
    }

    /// A token for a customer.
    pub(crate) fn token(&self, customer: &str) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = json!({
            "iss": "https://id.shop.example", "aud": "store", "sub": customer,
            "scope": "orders:write", "iat": now, "exp": now + SESSION,
        });
        // HS256 with a secret signs whatever is JSON.
        jsonwebtoken::encode(&Header::default(), &claims, &self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{
        event::Secret,
        http::{Server, free_address},
        orders::Orders,
        service::{Manners, Service},
        shop::Day,
    };

    fn answer(status: u16, body: &str) -> Answer {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body }
    }

    #[test]
    fn only_what_is_final_is_the_last_word() {
        let uncertain = r#"{"code":"idempotency-uncertain"}"#;
        let in_flight = r#"{"code":"idempotency-in-flight"}"#;
        assert_eq!(word(&answer(201, "{}")), Some(Word::Accepted));
        assert_eq!(word(&answer(409, uncertain)), Some(Word::InDoubt));
        assert_eq!(word(&answer(409, in_flight)), None);
        assert_eq!(word(&answer(503, "")), None);
        assert_eq!(word(&answer(422, "")), Some(Word::Refused(422)));
    }

    #[test]
    fn two_windows_know_what_each_was_told() {
        let day = Day::plan(1, 1);
        let mut one = Told::new(&day.purchases[0]);
        let mut other = one.clone();
        one.hear(Word::InDoubt, &answer(409, ""), Duration::from_secs(1));
        other.hear(Word::Accepted, &answer(201, "a"), Duration::from_secs(2));
        one.add(other.clone());
        assert_eq!(
            (one.end, one.took, one.answers.len()),
            (Word::Accepted, Some(Duration::from_secs(2)), 1)
        );
        other.hear(Word::Accepted, &answer(201, "b"), Duration::from_secs(3));
        one.add(other);
        assert_eq!(one.answers.len(), 2);
    }
    /// The services alone: what the gateway is there for happens.
    #[tokio::test]
    async fn without_a_gateway_who_clicks_twice_orders_twice() {
        let mut purchases = Day::plan(1, 1).purchases;
        purchases.truncate(40);
        for (number, purchase) in purchases.iter_mut().enumerate() {
            purchase.at = Duration::ZERO;
            purchase.is_impatient = number % 2 == 0;
            purchase.is_anxious = false;
        }
        let manners =
            Manners { workers: 1, time: Duration::ZERO, lost_answers: 0.0, remembers: true };
        let about = (Secret::new(b"0123456789abcdef01234567"), fastrand::Rng::with_seed(1));
        let at = free_address().unwrap();
        let service = Service::new(Orders::default(), about, manners, at);
        let _server = Server::start(at, Arc::clone(&service)).await.unwrap();
        let (issuer, news) = (Issuer::new("secret"), News::default());
        let buying = buy(at, &issuer, &purchases, Instant::now(), &news);
        let (told, ()) = tokio::join!(buying, news.next());
        assert!(told.iter().all(|told| told.end == Word::Accepted && told.took.is_some()));
        assert_eq!(told.iter().filter(|told| told.answers.len() == 2).count(), 20);
        let twice = service.state().business.book.values().filter(|it| it.orders == 2).count();
        assert_eq!((told.len(), twice), (40, 20));
    }

    #[tokio::test]
    async fn who_gets_no_answer_asks_again_and_gives_up_in_the_end() {
        let mut purchase = Day::plan(1, 1).purchases.swap_remove(0);
        purchase.is_impatient = false;
        let at = free_address().unwrap();
        // Not much of the patience is left.
        let clicked = Instant::now().checked_sub(PATIENCE).unwrap() + Duration::from_millis(250);
        let (until, news) = (clicked + PATIENCE, &News::default());
        let click = Click { purchase: &purchase, token: "", until, news };
        let told = decide(&mut [Client::new(at), Client::new(at)], &click, clicked).await;
        assert_eq!((told.end, told.took), (Word::None, None));
        assert!(told.requests > 1, "{told:?}");
    }
}

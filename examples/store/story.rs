//! The story: one day in the store, with everything that can happen to it, and what everybody saw.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::{self, Instant};

use crate::{
    analytics::Analytics,
    audit::Facts,
    customers::{self, News, Told},
    error::Error,
    http::Client,
    options::Options,
    report::Diary,
    shop::{CAPACITY, Day, Phase},
    store::Store,
};

/// Payment is gone for so long.
const OUTAGE: Duration = Duration::from_secs(3);
/// Between two kills.
const LIFE: Duration = Duration::from_millis(150);
/// So long the killer waits for a customer who is told yes.
const GOOD_NEWS: Duration = Duration::from_secs(10);
/// The day is over when nothing has come to its end for so long.
const STANDSTILL: Duration = Duration::from_secs(20);
/// Between two looks at how much is under way.
const LOOK: Duration = Duration::from_millis(200);
/// Who tries without a token.
const STRANGERS: usize = 3;

/// Tells what happens while it happens.
pub(crate) type Narrator = fn(Duration, &str);

/// What happens while customers buy.
struct Teller<'a> {
    store: &'a mut Store,
    diary: Diary,
    since: Instant,
    news: News,
    say: Narrator,
}

/// The whole day. Afterwards everything still runs.
pub(crate) async fn tell(
    store: &mut Store,
    options: &Options,
    day: Day,
    say: Narrator,
) -> Result<(Facts, Diary), Error> {
    let strangers = strangers(store, &day).await;
    let since = Instant::now();
    let mut teller = Teller { store, diary: Diary::default(), since, news: News::default(), say };
    let told = teller.the_day(day, options.kills()).await?;
    teller.the_rest().await;
    teller.happens('R', "replay to analytics", "everything is replayed to analytics");
    let Teller { store, diary, .. } = teller;
    let analytics = Analytics::of_everything(&mut store.gateway).await?;
    let dead_letters = store.gateway.dead_letters("inventory").await?
        + store.gateway.dead_letters("payment").await?;
    Ok((store.facts(told, analytics, (strangers, dead_letters)), diary))
}

/// How many got in without a token.
async fn strangers(store: &Store, day: &Day) -> u64 {
    let mut let_in = 0;
    for purchase in day.purchases.iter().take(STRANGERS) {
        let mut client = Client::new(store.at.web);
        let answer = client.send(customers::request(purchase, None)).await;
        let is_sent_away = answer.is_ok_and(|it| it.status == StatusCode::UNAUTHORIZED);
        let_in += u64::from(!is_sent_away);
    }
    let_in
}

// === impl Teller ===

impl Teller<'_> {
    /// Until the last customer knows.
    async fn the_day(&mut self, day: Day, kills: u32) -> Result<Vec<Told>, Error> {
        let issuer = Arc::clone(&self.store.issuer);
        let news = self.news.clone();
        let buying = customers::buy(self.store.at.web, &issuer, &day.purchases, self.since, &news);
        let mut buying = std::pin::pin!(buying);
        let (told, happened) = tokio::join!(&mut buying, self.what_happens(kills));
        happened.map(|()| told)
    }

    /// The spike, the outage, the kill.
    async fn what_happens(&mut self, kills: u32) -> Result<(), Error> {
        let spike =
            format!("the spike: {} orders a second, payment does {CAPACITY}", Phase::Spike.rate());
        self.until(Phase::Spike.starts()).await;
        self.happens('S', "spike", &spike);
        self.until(Phase::Outage.starts() + Duration::from_secs(1)).await;
        self.store.payment.kill();
        self.happens('-', "payment down", "payment is down");
        self.until(Phase::Outage.starts() + Duration::from_secs(1) + OUTAGE).await;
        self.store.payment.revive().await?;
        self.happens('+', "up", "payment is up");
        self.until(Phase::Crash.starts() + Phase::Crash.lasts() / 2).await;
        for _ in 0..kills {
            // The worst moment: a customer knows, and the disk has had no time beyond what it needs.
            drop(time::timeout(GOOD_NEWS, self.news.next()).await);
            self.store.gateway.kill()?;
            self.happens(
                'K',
                "kill -9 of the gateway",
                "kill -9 of the gateway, just as a customer hears that an order is accepted",
            );
            let killed = Instant::now();
            self.store.gateway.start().await?;
            let down = killed.elapsed().as_secs_f64();
            self.tell(&format!("it is back after {down:.1} s"));
            self.until(self.since.elapsed() + LIFE).await;
        }
        self.until(Day::ends()).await;
        Ok(())
    }

    /// Until all has come to its end, or nothing does any more.
    async fn the_rest(&mut self) {
        let mut before = usize::MAX;
        let mut moved = Instant::now();
        self.tell(&format!("no more customers; {} orders are under way", self.store.under_way()));
        while self.store.is_busy() && moved.elapsed() < STANDSTILL {
            let now = self.store.under_way();
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            self.until(self.since.elapsed() + LOOK).await;
        }
    }

    /// Waits, and looks now and then at how much is under way.
    async fn until(&mut self, at: Duration) {
        loop {
            let now = self.since.elapsed();
            let looked = self.diary.depth.last().map(|(at, _)| *at);
            if looked.is_none_or(|looked| now >= looked + LOOK) {
                self.diary.depth.push((now, self.store.under_way() as u64));
            }
            if now >= at {
                return;
            }
            time::sleep_until(self.since + at.min(now + LOOK)).await;
        }
    }

    fn happens(&mut self, letter: char, short: &'static str, text: &str) {
        self.note(letter, short);
        self.tell(text);
    }

    fn note(&mut self, letter: char, what: &'static str) {
        self.diary.marks.push((self.since.elapsed(), letter, what));
    }

    fn tell(&self, text: &str) {
        (self.say)(self.since.elapsed(), text);
    }
}

//! Who buys what, and when: one day in the life of the store, from a seed.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use serde_json::json;

use crate::order::{CARD_NUMBER, Card, DECLINED, Order};

/// Orders in a second that the slowest of the services gets done: payment.
pub(crate) const CAPACITY: u32 = 50;
const CUSTOMERS: u32 = 200;
/// Articles, and how many of a hundred purchases are theirs.
const ARTICLES: [(&str, u32); 6] =
    [("lamp", 30), ("chair", 25), ("table", 15), ("vase", 15), ("clock", 10), ("rug", 5)];
/// Sold out before the day is over.
const SCARCE: [&str; 2] = ["vase", "rug"];

/// A part of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Morning,
    Spike,
    /// Payment is down for most of it.
    Outage,
    /// The gateway is killed in the middle of it.
    Crash,
}

/// What is going to be bought.
#[derive(Clone, Debug)]
pub(crate) struct Purchase {
    pub(crate) phase: Phase,
    /// When the customer clicks, from the beginning of the day.
    pub(crate) at: Duration,
    pub(crate) order: Order,
    /// Clicks twice.
    pub(crate) is_impatient: bool,
    /// Sends it once more when it has its answer.
    pub(crate) is_anxious: bool,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Day {
    /// In order.
    pub(crate) purchases: Vec<Purchase>,
    /// By article.
    pub(crate) stock: BTreeMap<String, i64>,
}

// === impl Phase ===

impl Phase {
    pub(crate) const ALL: [Self; 4] = [Self::Morning, Self::Spike, Self::Outage, Self::Crash];

    pub(crate) fn starts(self) -> Duration {
        Self::ALL.iter().take_while(|phase| **phase != self).map(|phase| phase.lasts()).sum()
    }

    pub(crate) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Spike => 1_000,
            Self::Morning => 2_000,
            Self::Outage => 6_000,
            Self::Crash => 1_500,
        })
    }

    /// Purchases in a second.
    pub(crate) fn rate(self) -> u32 {
        match self {
            Self::Morning | Self::Outage => CAPACITY / 2,
            Self::Spike => 20 * CAPACITY,
            Self::Crash => 4 * CAPACITY,
        }
    }
}

// === impl Day ===

impl Day {
    /// `kills`: so often the gateway is killed; each time there are as many customers more.
    pub(crate) fn plan(seed: u64, kills: u32) -> Self {
        let mut luck = Rng::with_seed(seed);
        let mut purchases = Vec::new();
        for phase in Phase::ALL {
            let times = if phase == Phase::Crash { kills } else { 1 };
            let count = phase.lasts().mul_f64(f64::from(phase.rate() * times)).as_secs();
            for _ in 0..count {
                let at = phase.starts() + phase.lasts().mul_f64(luck.f64());
                purchases.push(purchase(&mut luck, phase, at));
            }
        }
        purchases.sort_by_key(|purchase| purchase.at);
        for (number, purchase) in purchases.iter_mut().enumerate() {
            purchase.order.purchase = format!("p-{seed}-{number}");
        }
        let stock = stock(&purchases);
        Self { purchases, stock }
    }

    /// When the last one clicks.
    pub(crate) fn ends() -> Duration {
        Phase::Crash.starts() + Phase::Crash.lasts()
    }
}

fn purchase(luck: &mut Rng, phase: Phase, at: Duration) -> Purchase {
    let mut left = luck.u32(0..100);
    let article = ARTICLES.iter().find(|(_, share)| {
        let found = left < *share;
        left = left.saturating_sub(*share);
        found
    });
    let customer = luck.u32(1..=CUSTOMERS);
    let quantity = luck.u32(1..=3);
    let token = if luck.f64() < 0.08 { DECLINED } else { "tok_good" };
    let order = Order {
        purchase: String::new(),
        customer: format!("customer-{customer}"),
        address: format!("{customer} Main Street"),
        sku: article.map_or("lamp", |(name, _)| name).to_owned(),
        quantity,
        cents: u64::from(quantity) * 1_999,
        card: Card {
            number: json!(format!("{CARD_NUMBER}{:04}", luck.u32(0..10_000))),
            token: token.to_owned(),
        },
    };
    Purchase { phase, at, order, is_impatient: luck.f64() < 0.2, is_anxious: luck.f64() < 0.1 }
}

/// Enough for everybody, but of what is scarce.
fn stock(purchases: &[Purchase]) -> BTreeMap<String, i64> {
    let mut stock = BTreeMap::new();
    for Purchase { order, .. } in purchases {
        *stock.entry(order.sku.clone()).or_default() += i64::from(order.quantity);
    }
    for scarce in SCARCE {
        if let Some(pieces) = stock.get_mut(scarce) {
            *pieces = *pieces * 3 / 4;
        }
    }
    stock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_day() {
        let (one, same, other) = (Day::plan(1, 1), Day::plan(1, 1), Day::plan(2, 1));
        let who = |day: &Day| {
            day.purchases.iter().map(|it| it.order.customer.clone()).collect::<Vec<_>>()
        };
        assert_eq!(who(&one), who(&same));
        assert_ne!(who(&one), who(&other));
    }

    #[test]
    fn the_spike_is_twenty_times_what_the_services_do() {
        let day = Day::plan(7, 1);
        let spike = day.purchases.iter().filter(|it| it.phase == Phase::Spike).count();
        assert_eq!(spike, 20 * CAPACITY as usize);
        assert!(day.purchases.is_sorted_by_key(|it| it.at));
        assert!(day.purchases.iter().all(|it| it.at < Day::ends()));
    }

    #[test]
    fn each_kill_finds_customers() {
        let crash = |kills| {
            let day = Day::plan(7, kills);
            day.purchases.iter().filter(|it| it.phase == Phase::Crash).count()
        };
        assert_eq!(crash(3), 3 * crash(1));
    }

    #[test]
    fn what_is_scarce_does_not_last() {
        let day = Day::plan(3, 1);
        let wanted = |sku: &str| -> i64 {
            day.purchases
                .iter()
                .filter(|it| it.order.sku == sku)
                .map(|it| i64::from(it.order.quantity))
                .sum()
        };
        assert!(day.stock["vase"] < wanted("vase"));
        assert_eq!(day.stock["lamp"], wanted("lamp"));
    }
}

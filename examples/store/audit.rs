//! What must hold at the end of the day, judged by what customers were told and services wrote down.
//! What the gateway says of itself is not asked.

use crate::{
    analytics::Analytics,
    customers::{Told, Word},
    fulfillment::Fulfillment,
    inventory::Inventory,
    orders::{End, Orders},
    payment::Payment,
    service::Counts,
};

/// Everything that anybody wrote down.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) told: Vec<Told>,
    pub(crate) orders: Orders,
    pub(crate) inventory: Inventory,
    pub(crate) payment: Payment,
    pub(crate) fulfillment: Fulfillment,
    pub(crate) analytics: Analytics,
    /// Of the four services together.
    pub(crate) counts: Counts,
    /// Orders without a token that were not answered with 401.
    pub(crate) strangers: u64,
    /// Events that an operator would find among the dead letters of inventory and payment.
    pub(crate) dead_letters: u64,
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invariant {
    pub(crate) name: &'static str,
    /// What a broken one means.
    pub(crate) means: &'static str,
    /// Whom it concerns: nobody, if it holds.
    pub(crate) broken: Vec<String>,
}

impl Facts {
    /// Each invariant, broken or not.
    pub(crate) fn audit(&self) -> Vec<Invariant> {
        let invariant = |name, means, broken| Invariant { name, means, broken };
        vec![
            invariant("ordered-twice", "purchases with two orders", self.ordered_twice()),
            invariant("charged-twice", "purchases that were charged twice", self.charged_twice()),
            invariant("shipped-twice", "purchases that were shipped twice", self.shipped_twice()),
            invariant("oversold", "articles that left, or came back, too often", self.oversold()),
            invariant(
                "events-lost",
                "accepted orders that a subscriber never heard of",
                self.lost(),
            ),
            invariant("silent-effects", "orders taken without any event", self.silent()),
            invariant("said-both", "orders that are created and uncertain", self.said_both()),
            invariant("answers-differ", "purchases with two answers", self.answers_differ()),
            invariant("turned-away", "customers who never got to know", self.turned_away()),
            invariant("unfinished", "orders that did not come to their end", self.unfinished()),
            invariant("not-put-back", "unpaid stock that did not come back once", self.put_back()),
            invariant("out-of-order", "parcels paid before their order came", self.out_of_order()),
            invariant("card-stored", "events with the number of a card", self.card_stored()),
            invariant("let-in", "who had no token, or no signature", self.let_in()),
            invariant("dead-letters", "refusals that no operator would find", self.dead_letters()),
        ]
    }

    fn accepted(&self) -> impl Iterator<Item = &String> {
        self.told.iter().filter(|told| told.end == Word::Accepted).map(|told| &told.purchase)
    }

    fn ordered_twice(&self) -> Vec<String> {
        let twice = self.orders.book.iter().filter(|(_, entry)| entry.orders > 1);
        twice.map(|(purchase, _)| purchase.clone()).collect()
    }

    fn charged_twice(&self) -> Vec<String> {
        let twice = self.payment.charged.iter().filter(|(_, count)| **count > 1);
        twice.map(|(purchase, _)| purchase.clone()).collect()
    }

    fn shipped_twice(&self) -> Vec<String> {
        let twice = self.fulfillment.shipped.iter().filter(|(_, count)| **count > 1);
        twice.map(|(purchase, _)| purchase.clone()).collect()
    }

    /// What left the house and what is on the shelf are not more than there was.
    fn oversold(&self) -> Vec<String> {
        let shelf = &self.inventory.on_shelf;
        let over = self.inventory.initial.iter().filter(|(sku, initial)| {
            let shipped = self.fulfillment.pieces.get(*sku).copied().unwrap_or(0);
            shipped + shelf.get(*sku).copied().unwrap_or(0) > **initial
        });
        over.map(|(sku, _)| sku.clone()).collect()
    }

    fn lost(&self) -> Vec<String> {
        let has_heard = |purchase: &String| {
            self.analytics.created.contains(purchase)
                && self.inventory.heard.contains(purchase)
                && self.fulfillment.addresses.contains_key(purchase)
                && self.orders.book.get(purchase).is_some_and(|entry| entry.is_announced)
        };
        self.accepted().filter(|purchase| !has_heard(purchase)).cloned().collect()
    }

    fn silent(&self) -> Vec<String> {
        let taken = self.orders.book.iter().filter(|(_, entry)| entry.orders > 0);
        let (created, uncertain) = (&self.analytics.created, &self.analytics.uncertain);
        let silent = taken.filter(|(it, _)| !created.contains(*it) && !uncertain.contains(*it));
        silent.map(|(purchase, _)| purchase.clone()).collect()
    }

    fn said_both(&self) -> Vec<String> {
        self.analytics.created.intersection(&self.analytics.uncertain).cloned().collect()
    }

    fn answers_differ(&self) -> Vec<String> {
        let differ = self.told.iter().filter(|told| told.answers.len() > 1);
        differ.map(|told| told.purchase.clone()).collect()
    }

    fn turned_away(&self) -> Vec<String> {
        let away = self.told.iter().filter(|it| matches!(it.end, Word::Refused(_) | Word::None));
        away.map(|told| format!("{} ({:?})", told.purchase, told.end)).collect()
    }

    fn unfinished(&self) -> Vec<String> {
        let book = self.orders.book.iter();
        let unfinished = book.filter(|(purchase, entry)| match entry.end {
            None => true,
            Some(End::Paid) => !self.fulfillment.shipped.contains_key(*purchase),
            Some(_) => false,
        });
        unfinished.map(|(purchase, _)| purchase.clone()).collect()
    }

    fn put_back(&self) -> Vec<String> {
        let (declined, put_back) = (self.payment.declined.len() as u64, self.inventory.put_back);
        if declined == put_back {
            return Vec::new();
        }
        vec![format!("{declined} cards declined, stock put back {put_back} times")]
    }

    fn out_of_order(&self) -> Vec<String> {
        (0..self.fulfillment.without_address).map(|number| format!("parcel {number}")).collect()
    }

    fn card_stored(&self) -> Vec<String> {
        let seen = self.inventory.cards_seen + self.analytics.cards_seen;
        (0..seen).map(|number| format!("event {number}")).collect()
    }

    fn let_in(&self) -> Vec<String> {
        let strangers = self.strangers + self.counts.forged;
        (0..strangers).map(|number| format!("stranger {number}")).collect()
    }

    fn dead_letters(&self) -> Vec<String> {
        let refused = self.refusals();
        if refused == self.dead_letters {
            return Vec::new();
        }
        vec![format!("{refused} refused, {} dead letters", self.dead_letters)]
    }

    /// Orders that inventory or payment refused for good.
    pub(crate) fn refusals(&self) -> u64 {
        (self.inventory.refused.len() + self.payment.declined.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{orders::Entry, shop::Phase};

    /// One purchase that went well.
    fn good_day() -> Facts {
        let purchase = || "p-1".to_owned();
        let told = Told {
            purchase: purchase(),
            phase: Phase::Spike,
            requests: 2,
            replayed: 1,
            answers: [bytes::Bytes::from_static(b"a")].into(),
            took: Some(Duration::from_millis(3)),
            end: Word::Accepted,
        };
        let entry =
            Entry { orders: 1, is_announced: true, is_doubted: false, end: Some(End::Paid) };
        let mut orders = Orders::default();
        orders.book.insert(purchase(), entry);
        let mut inventory = Inventory::new(BTreeMap::from([("lamp".to_owned(), 3)]));
        inventory.heard.insert(purchase());
        inventory.on_shelf.insert("lamp".to_owned(), 1);
        let mut payment = Payment::default();
        payment.charged.insert(purchase(), 1);
        let mut fulfillment = Fulfillment::default();
        fulfillment.addresses.insert(purchase(), String::new());
        fulfillment.shipped.insert(purchase(), 1);
        fulfillment.pieces.insert("lamp".to_owned(), 2);
        let mut analytics = Analytics::default();
        analytics.created.insert(purchase());
        Facts {
            told: vec![told],
            orders,
            inventory,
            payment,
            fulfillment,
            analytics,
            counts: Counts::default(),
            strangers: 0,
            dead_letters: 0,
        }
    }

    fn broken(facts: &Facts) -> Vec<&'static str> {
        let all = facts.audit().into_iter();
        all.filter(|it| !it.broken.is_empty()).map(|it| it.name).collect()
    }

    type Change = fn(&mut Facts);

    #[test]
    fn a_good_day_breaks_nothing() {
        assert_eq!(broken(&good_day()), [""; 0]);
    }

    #[test]
    fn each_invariant_is_broken_by_what_it_is_about() {
        let changes: [(&str, Change); 20] = [
            ("ordered-twice", |it| it.orders.book.get_mut("p-1").unwrap().orders = 2),
            ("charged-twice", |it| *it.payment.charged.get_mut("p-1").unwrap() = 2),
            ("shipped-twice", |it| *it.fulfillment.shipped.get_mut("p-1").unwrap() = 2),
            ("oversold", |it| *it.fulfillment.pieces.get_mut("lamp").unwrap() = 3),
            ("oversold", |it| *it.inventory.on_shelf.get_mut("lamp").unwrap() = 2),
            ("events-lost", |it| it.inventory.heard.clear()),
            ("events-lost", |it| it.fulfillment.addresses.clear()),
            ("events-lost", |it| it.orders.book.get_mut("p-1").unwrap().is_announced = false),
            ("silent-effects", |it| it.analytics.created.clear()),
            ("said-both", |it| _ = it.analytics.uncertain.insert("p-1".to_owned())),
            ("answers-differ", |it| _ = it.told[0].answers.insert("b".into())),
            ("turned-away", |it| it.told[0].end = Word::Refused(404)),
            ("turned-away", |it| it.told[0].end = Word::None),
            ("unfinished", |it| it.orders.book.get_mut("p-1").unwrap().end = None),
            ("unfinished", |it| it.fulfillment.shipped.clear()),
            ("not-put-back", |it| it.inventory.put_back = 1),
            ("out-of-order", |it| it.fulfillment.without_address = 1),
            ("card-stored", |it| it.analytics.cards_seen = 1),
            ("dead-letters", |it| it.dead_letters = 1),
            ("let-in", |it| it.counts.forged = 1),
        ];
        for (name, change) in changes {
            let mut facts = good_day();
            change(&mut facts);
            assert!(broken(&facts).contains(&name), "{name}: {:?}", broken(&facts));
        }
    }
}

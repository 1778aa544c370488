//! The table at the end.

use std::{fmt::Write as _, time::Duration};

use crate::{
    audit::{Facts, Invariant},
    chart,
    customers::{Told, Word},
    gateway::Addresses,
    orders::End,
    shop::{Phase, Purchase},
    store::Store,
};

/// Columns and rows of the chart.
const CHART: (usize, usize) = (72, 8);
/// Examples of a broken invariant.
const EXAMPLES: usize = 3;

/// What happened, and when.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    /// Orders under way, over time.
    pub(crate) depth: Vec<(Duration, u64)>,
    /// A letter for the chart, and what it stands for.
    pub(crate) marks: Vec<(Duration, char, &'static str)>,
}

/// The whole table.
pub(crate) fn table(facts: &Facts, invariants: &[Invariant], diary: &Diary) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String, remark: &str| {
        _ = writeln!(text, "  {name:<34}{value:>8}   {remark}");
    };
    let told = |word: Word| facts.told.iter().filter(|it| it.end == word).count();
    let requests: u64 = facts.told.iter().map(|it| it.requests).sum();
    let replayed: u64 = facts.told.iter().map(|it| it.replayed).sum();
    let end = |end: End| facts.orders.ended(end).to_string();
    let broken = |name: &str| {
        let found = invariants.iter().find(|it| it.name == name);
        found.map_or(0, |it| it.broken.len()).to_string()
    };
    row("purchases", facts.told.len().to_string(), "what customers wanted");
    row("orders accepted", told(Word::Accepted).to_string(), "2xx seen by the customer");
    row(
        "  in doubt",
        told(Word::InDoubt).to_string(),
        "409 idempotency-uncertain: never sent again",
    );
    let duplicates = requests - facts.told.len() as u64;
    row(
        "duplicates sent by clients",
        duplicates.to_string(),
        "double clicks, reloads, asking again",
    );
    row("  answered with the first answer", replayed.to_string(), "Idempotent-Replayed: true");
    row("ordered twice", broken("ordered-twice"), "");
    row("charged twice", broken("charged-twice"), "");
    row("oversold", broken("oversold"), "articles");
    row("events lost", broken("events-lost"), "accepted orders that a subscriber missed");
    row("shipped", end(End::Paid), "");
    row("sold out", end(End::SoldOut), "");
    row("not paid", end(End::NotPaid), "");
    row(
        "called off",
        end(End::CalledOff),
        "order.created.uncertain: the answer was lost on its way",
    );
    row("compensations", facts.inventory.put_back.to_string(), "stock given back");
    row("dead letters", facts.dead_letters.to_string(), "refused by inventory or payment");
    row("deliveries", facts.counts.deliveries.to_string(), "events the services were sent");
    row("  repeated", facts.counts.repeats.to_string(), "known by their id, without effect");
    row("replayed to analytics", facts.analytics.kinds.values().sum::<u64>().to_string(), "events");
    let mut took: Vec<Duration> = of_spike(&facts.told).filter_map(|told| told.took).collect();
    took.sort_unstable();
    for (name, share) in [("p50 during the spike", 0.5), ("p99 during the spike", 0.99)] {
        let took = percentile(&took, share).as_secs_f64() * 1_000.0;
        row(name, format!("{took:.1}"), "ms from the click to the answer");
    }
    let marks: Vec<_> = diary.marks.iter().map(|(at, letter, _)| (*at, *letter)).collect();
    _ = write!(text, "\n  orders under way\n{}", chart::draw(&diary.depth, &marks, CHART));
    let legend: Vec<_> = diary
        .marks
        .iter()
        .map(|(at, letter, what)| format!("{letter} {what} ({:.1} s)", at.as_secs_f64()))
        .collect();
    _ = writeln!(text, "         {}", legend.join(", "));
    text
}

/// For whoever wants to look around while it runs.
pub(crate) fn what_to_type(store: &Store, sample: &Purchase) -> String {
    let Addresses { web, admin, .. } = store.at;
    let sluice = store.gateway.program().display();
    let mut order = sample.order.clone();
    "my-first".clone_into(&mut order.purchase);
    let token = store.issuer.token(&order.customer);
    let (order, purchase) = (serde_json::json!(order), &sample.order.purchase);
    let file = store.gateway.file();
    let file = file.display();
    format!(
        "
Everything runs until Ctrl-C. Another terminal, and:

  token={token}
  curl -i http://{web}/orders -H \"Authorization: Bearer $token\" -H 'Idempotency-Key: \"1\"' \\
    -H 'Content-Type: application/json' -d '{order}'
  curl http://{web}/orders/my-first -H \"Authorization: Bearer $token\"
  curl http://{web}/orders/{purchase} -H \"Authorization: Bearer $token\"
  {sluice} queue status --admin {admin}
  {sluice} queue tail orders --admin {admin}
  {sluice} queue dead-letters payment --admin {admin}
  curl -s http://{admin}/metrics | grep sluice_subscription_

The configuration is {file}: edit and save it, and the change is live.
"
    )
}

/// What was broken, by name; nothing if all held.
pub(crate) fn verdict(invariants: &[Invariant]) -> String {
    let mut text = String::new();
    for it in invariants.iter().filter(|it| !it.broken.is_empty()) {
        let (count, some) = (it.broken.len(), &it.broken[..it.broken.len().min(EXAMPLES)]);
        let more = if count > EXAMPLES { ", .." } else { "" };
        let some = some.join(", ");
        _ = writeln!(text, "BROKEN {}: {count} {}: {some}{more}", it.name, it.means);
    }
    text
}

fn of_spike(told: &[Told]) -> impl Iterator<Item = &Told> {
    told.iter().filter(|told| told.phase == Phase::Spike)
}

/// The least value that this share of the sorted ones does not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = sorted
        .iter()
        .enumerate()
        .find(|(index, _)| (index + 1) as f64 >= share * sorted.len() as f64);
    rank.map_or(Duration::ZERO, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&values, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_broken_invariant_is_named_with_examples() {
        let broken = |count: usize| (0..count).map(|number| number.to_string()).collect();
        let invariant = |name, broken| Invariant { name, means: "m", broken };
        let all = [invariant("good", broken(0)), invariant("bad", broken(5))];
        assert_eq!(verdict(&all), "BROKEN bad: 5 m: 0, 1, 2, ..\n");
        assert_eq!(verdict(&all[..1]), "");
    }
}

//! Explains a match to a person: which route takes a request, and why each other one does not.
//!
//! Pure and slow: looks at every entry, where the matcher looks at few.

use std::fmt;

use serde::Serialize;

use super::{
    Table,
    matcher::{self, Asked, Condition, Head, Match},
    table::Entry,
};
use crate::http::Scheme;

/// Which route takes a request, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `POST shop.example.com/orders`, with the normalised, merged path.
    pub request: String,
    /// The method that a preflight was routed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight_for: Option<String>,
    /// The result.
    pub outcome: Outcome,
    /// Every route that was not taken, in order of match.
    pub losers: Vec<Loser>,
    /// What the route's policies would do with it, in the order of the stack. Filled by the caller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// The result of routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// This route takes it.
    Route {
        /// `routes[].name`.
        route: String,
        /// Its index in [`Table::rules`].
        #[serde(skip)]
        index: usize,
        /// The values bound by its path template.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        params: Vec<(String, String)>,
    },
    /// No route takes it with this method.
    MethodNotAllowed {
        /// The methods with which one would.
        allow: String,
    },
    /// The path belongs to the gateway itself.
    Reserved,
    /// No route takes it.
    RouteNone,
}

/// A route that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loser {
    /// `routes[].name`.
    pub route: String,
    /// The first predicate that failed: `host`, `path`, `scheme`, `method`, `header`, `query`; or
    /// `order`, if another route that also matches comes first.
    pub failed_on: &'static str,
    /// A sentence that includes the values.
    pub why: String,
}

/// What a policy of the route would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its key in the configuration.
    pub policy: String,
    /// A word: `pass`, `refuse`, `limit`, ...
    pub outcome: String,
    /// A sentence; empty if the word is enough.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The entry that took the request, and the rule that represents it.
struct Won<'a> {
    entry: &'a Entry,
    winner: usize,
}

/// How far an entry got; of several hosts, the one that got furthest represents the route.
type Progress<'a> = (u8, &'static str, String, Option<&'a Entry>);

/// Explains where a request belongs.
pub fn explain(table: &Table, head: Head<'_>) -> Explanation {
    let asked = Asked::new(head);
    let (outcome, winner) = outcome(table, head);
    let mut by_group: Vec<Vec<&Entry>> = vec![Vec::new(); table.groups().len()];
    for entry in table.entries() {
        by_group[entry.group].push(entry);
    }
    // Its entries are in order, so the first with a matching host is the one that won.
    let won = winner.and_then(|winner| {
        let takes = |entry: &&&Entry| table.host_of(entry).is_none_or(|host| host.takes(head.host));
        by_group[table.group_of(winner)].iter().find(takes).map(|entry| Won { entry, winner })
    });
    let mut losers = Vec::new();
    for rule in table.in_order().into_iter().filter(|rule| Some(*rule) != winner) {
        let group = table.group_of(rule);
        let (failed_on, why) = if matcher::is_reserved(head.path) {
            ("path", "`/.sluice/` belongs to the gateway".to_owned())
        } else if won.as_ref().is_some_and(|won| won.entry.group == group) {
            ("order", "in the group of the route taken; after it in claims or file".to_owned())
        } else {
            verdict(table, &asked, head, &by_group[group], won.as_ref())
        };
        losers.push(Loser { route: table.rules()[rule].name.to_string(), failed_on, why });
    }
    Explanation {
        request: format!("{} {}{}", head.method, head.host, head.path),
        preflight_for: asked.is_preflight().then(|| asked.method.to_string()),
        outcome,
        losers,
        steps: Vec::new(),
    }
}

fn outcome(table: &Table, head: Head<'_>) -> (Outcome, Option<usize>) {
    match matcher::find(table, head) {
        Match::Route { index, values } => {
            let rule = &table.rules()[index];
            let names = rule.path.names().map(ToString::to_string);
            let params = names.zip(values.iter().map(ToString::to_string)).collect();
            (Outcome::Route { route: rule.name.to_string(), index, params }, Some(index))
        }
        Match::MethodNotAllowed { allow } => {
            let allow = String::from_utf8_lossy(allow.as_bytes()).into_owned();
            (Outcome::MethodNotAllowed { allow }, None)
        }
        Match::None if matcher::is_reserved(head.path) => (Outcome::Reserved, None),
        Match::None => (Outcome::RouteNone, None),
    }
}

/// The reason why a rule was not taken, given its entries.
fn verdict(
    table: &Table,
    asked: &Asked<'_>,
    head: Head<'_>,
    entries: &[&Entry],
    won: Option<&Won<'_>>,
) -> (&'static str, String) {
    let furthest = entries
        .iter()
        .map(|entry| progress(table, asked, head, entry))
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    match (furthest, won) {
        (Some((.., Some(entry))), Some(won)) => {
            let advantage = won.entry.precedence.advantage_over(&entry.precedence);
            let name = &table.rules()[won.winner].name;
            ("order", format!("fits too, but `{name}` has {advantage}"))
        }
        (Some((_, failed_on, why, _)), _) => (failed_on, why),
        (None, _) => ("host", "it has no place in the table".to_owned()),
    }
}

fn progress<'t>(
    table: &'t Table,
    asked: &Asked<'_>,
    head: Head<'_>,
    entry: &'t Entry,
) -> Progress<'t> {
    let rule = table.rule_of(entry);
    if let Some(host) = table.host_of(entry).filter(|host| !host.takes(head.host)) {
        return (0, "host", format!("host is `{}`, not `{host}`", head.host), None);
    }
    if !rule.path.takes(head.path) {
        return (1, "path", format!("path is `{}`, not `{}`", head.path, rule.path), None);
    }
    match asked.failed(rule) {
        Some(Condition::Scheme) => {
            let wanted = rule.scheme.map_or("either", Scheme::as_str);
            (2, "scheme", format!("scheme is {}, not {wanted}", head.scheme), None)
        }
        Some(Condition::Method) => {
            let methods: Vec<&str> =
                rule.methods.iter().flatten().map(http::Method::as_str).collect();
            let why = format!("method is {}, not {}", asked.method, methods.join(" or "));
            (3, "method", why, None)
        }
        Some(Condition::Header(name)) => {
            (4, "header", format!("header `{name}` is not what it asks for"), None)
        }
        Some(Condition::Query(name)) => {
            (5, "query", format!("query parameter `{name}` is not what it asks for"), None)
        }
        None => (6, "order", String::new(), Some(entry)),
    }
}

// === impl Explanation ===

impl Explanation {
    /// Whether a route takes the request.
    pub fn is_matched(&self) -> bool {
        matches!(self.outcome, Outcome::Route { .. })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.request)?;
        if let Some(method) = &self.preflight_for {
            writeln!(f, "  a preflight, routed as the {method} it announces")?;
        }
        match &self.outcome {
            Outcome::Route { route, params, .. } => {
                writeln!(f, "  -> route `{route}`")?;
                for (name, value) in params {
                    writeln!(f, "     {name} = {value}")?;
                }
            }
            Outcome::MethodNotAllowed { allow } => {
                writeln!(f, "  -> 405 method-not-allowed, Allow: {allow}")?;
            }
            Outcome::Reserved => writeln!(f, "  -> the gateway itself")?,
            Outcome::RouteNone => writeln!(f, "  -> 404 route-none")?,
        }
        for step in &self.steps {
            let gap = if step.detail.is_empty() { "" } else { ": " };
            writeln!(f, "     {}: {}{gap}{}", step.policy, step.outcome, step.detail)?;
        }
        if !self.losers.is_empty() {
            writeln!(f, "\nnot taken, in order of match:")?;
        }
        for loser in &self.losers {
            writeln!(f, "  {}: {}", loser.route, loser.why)?;
        }
        Ok(())
    }
}

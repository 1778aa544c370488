//! Keys that this version does not have: refused where they are written, all in one run. A key
//! leaves the table when its behaviour arrives.

use serde_json::Value;

use super::{Found, Resolver};
use crate::config::{
    problem::Severity,
    tree::{Node, Tree},
    value::Fault,
};

/// Patterns for [`Tree::find`].
const LATER: [&str; 8] = [
    "events_api",
    "queue",
    "topics",
    "subscriptions",
    "routes[].idempotency",
    "routes[].spill",
    "routes[].publish",
    "routes[].enqueue",
];

/// Of these, maps by name: an empty one asks for nothing. Others are switched on by `{}`.
const NAMED: [&str; 1] = ["topics"];

impl Resolver<'_> {
    pub(super) fn refuse_later_keys(&mut self, tree: &Tree) {
        for pattern in LATER {
            let key = pattern.rsplit('.').next().unwrap_or(pattern);
            for found in tree.find(pattern) {
                if !asks_for_nothing(key, found.tree) {
                    let fault = Fault::new(format!("`{key}` is not in this version"));
                    self.found.push(Found {
                        severity: Severity::Error,
                        place: found.key,
                        path: Some(found.path),
                        fault,
                    });
                }
            }
        }
    }
}

/// Nothing, an empty list, `adaptive_concurrency: off`, `allow_faults: false`.
fn asks_for_nothing(key: &str, tree: &Tree) -> bool {
    match &tree.node {
        Node::Scalar(value) => value.is_null() || *value == Value::Bool(false) || value == "off",
        Node::List(list) => list.is_empty(),
        Node::Map(map) => map.is_empty() && NAMED.contains(&key),
    }
}

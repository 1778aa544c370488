//! Keys that this version does not have: refused where they are written, all in one run. A key
//! leaves the table when its behaviour arrives.

use super::{Found, Resolver};
use crate::config::{
    problem::Severity,
    tree::{Node, Tree},
    value::Fault,
};

/// Patterns for [`Tree::find`].
const LATER: [&str; 1] = ["subscriptions[].push.upstream"];

impl Resolver<'_> {
    pub(super) fn refuse_later_keys(&mut self, tree: &Tree) {
        for pattern in LATER {
            let key = pattern.rsplit('.').next().unwrap_or(pattern);
            for found in tree.find(pattern) {
                if !asks_for_nothing(found.tree) {
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

/// Nothing, or an empty list. A map is switched on by `{}`.
fn asks_for_nothing(tree: &Tree) -> bool {
    match &tree.node {
        Node::Scalar(value) => value.is_null(),
        Node::List(list) => list.is_empty(),
        Node::Map(_) => false,
    }
}

//! Which of two matching routes wins.
//!
//! Compared in this order: `priority`, higher first; the host, exact before wildcard (longer first)
//! before any; the path, exact before template (more literal segments first) before catch-all
//! (longer first) before regular expression before no path; the number of predicates (the scheme
//! counts as one, so do methods, each header and each query parameter), more first; the order in the
//! file.
//!
//! Claims do not count: they are checked after authentication, inside a group.

use std::{cmp::Reverse, fmt};

use super::route::{Host, Path, Rule, Segment};

/// A rule's rank under one of its hosts; the smallest comes first. No two in a table are equal,
/// except for hosts of the same rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    priority: Reverse<i32>,
    host: HostRank,
    path: PathRank,
    predicates: Reverse<usize>,
    order: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Exact,
    /// By its length in bytes.
    Suffix(Reverse<usize>),
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    /// By its literal segments.
    Template(Reverse<usize>),
    /// By the number of segments before the rest, then by how many of them are literal.
    CatchAll(Reverse<usize>, Reverse<usize>),
    Regex,
    Any,
}

/// The first criterion by which one rule precedes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advantage {
    /// A higher `priority`.
    Priority,
    /// A more specific host.
    Host,
    /// A more specific path.
    Path,
    /// More predicates.
    Predicates,
    /// An earlier place in the file.
    Order,
}

// === impl Precedence ===

impl Precedence {
    /// The rank of `rule`, at position `order` in the file, under `host`; `None` is any host.
    pub fn new(rule: &Rule, host: Option<&Host>, order: usize) -> Self {
        Self {
            priority: Reverse(rule.priority),
            host: match host {
                Some(Host::Exact(_)) => HostRank::Exact,
                Some(Host::Suffix(suffix)) => HostRank::Suffix(Reverse(suffix.len())),
                None => HostRank::Any,
            },
            path: PathRank::new(&rule.path),
            predicates: Reverse(
                usize::from(rule.scheme.is_some())
                    + usize::from(rule.methods.is_some())
                    + rule.headers.len()
                    + rule.query.len(),
            ),
            order,
        }
    }

    /// The criterion that decides, given that this one precedes `other`.
    pub fn advantage_over(&self, other: &Self) -> Advantage {
        if self.priority != other.priority {
            Advantage::Priority
        } else if self.host != other.host {
            Advantage::Host
        } else if self.path != other.path {
            Advantage::Path
        } else if self.predicates != other.predicates {
            Advantage::Predicates
        } else {
            Advantage::Order
        }
    }
}

// === impl PathRank ===

impl PathRank {
    fn new(path: &Path) -> Self {
        let segments = match path {
            Path::Exact(_) => return Self::Exact,
            Path::Regex(_) => return Self::Regex,
            Path::Any => return Self::Any,
            Path::Template(segments) => segments,
        };
        let literals = segments.iter().filter(|s| matches!(s, Segment::Literal(_))).count();
        match segments.last() {
            Some(Segment::Rest(_)) => {
                Self::CatchAll(Reverse(segments.len() - 1), Reverse(literals))
            }
            _ => Self::Template(Reverse(literals)),
        }
    }
}

// === impl Advantage ===

impl fmt::Display for Advantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Priority => "a higher priority",
            Self::Host => "a more specific host",
            Self::Path => "a more specific path",
            Self::Predicates => "more predicates",
            Self::Order => "an earlier place in the file",
        })
    }
}

//! Finds the routes that may match a host and a path, without looking at the others.
//!
//! One index per host pattern, each with a hash map for exact paths, a trie of segments for
//! templates and catch-alls, a list of regular expressions, and a list of routes without a path.
//! Every list is in order of precedence, so that its first match is its best.
//!
//! A lookup visits one hash bucket per matching host pattern and the trie nodes whose prefix
//! matches: never more than the configuration contains, whatever the path.

use std::{collections::HashMap, num::NonZeroUsize, slice};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::route::{Host, Path, Segment};

/// A rule under one of its hosts: an index into the table's entries, which are in order of
/// precedence.
pub(super) type Place = u32;

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// A literal segment; most fit into the map's own memory.
type Literal = SmallVec<[u8; 16]>;
type Literals = HashMap<Literal, usize, RandomState>;

/// All entries of a table, by host.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: Map<Paths>,
    suffix: Map<Paths>,
    any: Paths,
}

/// All entries of one host pattern, by path.
#[derive(Debug, Default)]
struct Paths {
    exact: Map<Places>,
    /// `nodes[0]` is the root, before any segment; empty without templates.
    nodes: Vec<Node>,
    regex: Places,
    any: Places,
}

/// What may follow a prefix of segments. With many routes each is cold in the processor's caches:
/// so it is one cache line, and what most nodes do not have is elsewhere.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Node {
    literal: Option<Box<Literals>>,
    name: Option<NonZeroUsize>,
    /// Templates that end here.
    ends: Places,
    /// Templates whose rest begins here.
    rests: Places,
}

const _: () = assert!(size_of::<Node>() == 64);

/// Entries in order of precedence: mostly one, kept in place.
#[derive(Debug, Default)]
enum Places {
    #[default]
    None,
    One(Place),
    More(Vec<Place>),
}

// === impl Index ===

impl Index {
    /// Adds an entry. Entries come in order of precedence.
    pub(super) fn insert(&mut self, place: Place, host: Option<&Host>, path: &Path) {
        let paths = match host {
            Some(Host::Exact(name)) => self.exact.entry(name.clone()).or_default(),
            Some(Host::Suffix(suffix)) => self.suffix.entry(suffix.clone()).or_default(),
            None => &mut self.any,
        };
        paths.insert(place, path);
    }

    /// Passes each list of entries to `visit` whose host matches `host` and whose path may match
    /// `path`. All in a list match both, except that regular expressions are still to be tried.
    pub(super) fn lookup<'a>(
        &'a self,
        host: &str,
        path: &str,
        visit: &mut impl FnMut(&'a [Place]),
    ) {
        if let Some(paths) = self.exact.get(host) {
            paths.lookup(path, visit);
        }
        if !self.suffix.is_empty() {
            // Not at 0: a wildcard matches at least one label.
            for dot in host.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.') {
                if let Some(paths) = self.suffix.get(&host[dot.0..]) {
                    paths.lookup(path, visit);
                }
            }
        }
        self.any.lookup(path, visit);
    }
}

// === impl Paths ===

impl Paths {
    fn insert(&mut self, place: Place, path: &Path) {
        match path {
            Path::Exact(path) => self.exact.entry(path.clone()).or_default().push(place),
            Path::Regex(_) => self.regex.push(place),
            Path::Any => self.any.push(place),
            Path::Template(segments) => self.insert_template(place, segments),
        }
    }

    fn insert_template(&mut self, place: Place, segments: &[Segment]) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for segment in segments {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => {
                    let literals = node.literal.get_or_insert_default();
                    *literals.entry(text.as_bytes().into()).or_insert(fresh)
                }
                Segment::Name(_) => {
                    // Only the root is at 0.
                    node.name = node.name.or(NonZeroUsize::new(fresh));
                    node.name.map_or(fresh, NonZeroUsize::get)
                }
                Segment::Rest(_) => return node.rests.push(place),
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].ends.push(place);
    }

    fn lookup<'a>(&'a self, path: &str, visit: &mut impl FnMut(&'a [Place])) {
        if let Some(places) = self.exact.get(path) {
            visit(places.as_slice());
        }
        // The target `*` has no segments.
        if let (Some(root), Some(segments)) = (self.nodes.first(), path.strip_prefix('/')) {
            self.descend(root, Some(segments), visit);
        }
        visit(self.regex.as_slice());
        visit(self.any.as_slice());
    }

    /// `rest` is what follows the node's prefix and a slash; `None` if nothing does. Recursion is
    /// as deep as the longest template.
    fn descend<'a>(
        &'a self,
        node: &'a Node,
        rest: Option<&str>,
        visit: &mut impl FnMut(&'a [Place]),
    ) {
        let Some(rest) = rest else { return visit(node.ends.as_slice()) };
        visit(node.rests.as_slice());
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        let literals = node.literal.as_ref();
        if let Some(&next) = literals.and_then(|literals| literals.get(segment.as_bytes())) {
            self.descend(&self.nodes[next], rest, visit);
        }
        if let Some(next) = node.name.filter(|_| !segment.is_empty()) {
            self.descend(&self.nodes[next.get()], rest, visit);
        }
    }
}

// === impl Places ===

impl Places {
    fn push(&mut self, place: Place) {
        match self {
            Self::None => *self = Self::One(place),
            Self::One(first) => *self = Self::More(vec![*first, place]),
            Self::More(places) => places.push(place),
        }
    }

    fn as_slice(&self) -> &[Place] {
        match self {
            Self::None => &[],
            Self::One(place) => slice::from_ref(place),
            Self::More(places) => places,
        }
    }
}

//! All routes, with the index to find the one for a request. Immutable, shared by the workers.
//!
//! An *entry* is a group of routes under one of its hosts; entries are sorted by
//! [`precedence`](super::precedence). A *group* is the routes that differ only in their claims: one
//! place in the order, and after authentication the first member whose claims the token has.

use std::collections::HashMap;

use super::{
    Rule,
    index::{Index, Place},
    precedence::Precedence,
    route::{Host, Shape, Values},
};

/// All rules in the order of matching.
#[derive(Debug)]
pub struct Table {
    rules: Vec<Rule>,
    groups: Vec<Group>,
    /// The group of each rule.
    group_of: Vec<usize>,
    entries: Vec<Entry>,
    /// Of each entry.
    candidates: Vec<Candidate>,
    /// Each once.
    shapes: Vec<Shape>,
    index: Index,
}

/// Rules that differ only in their claims.
#[derive(Debug)]
pub(super) struct Group {
    /// Indexes of rules: more claims first, then in the order of the file. Never empty.
    pub(super) members: Vec<usize>,
}

/// A group under one of its hosts.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) group: usize,
    /// Index into the rule's hosts; `None` is any host.
    host: Option<usize>,
    pub(super) precedence: Precedence,
}

/// What a request has to know of an entry in nearly all cases. With many routes, entries and rules
/// are cold in the processor's caches: several of these share a cache line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    rule: u32,
    shape: u32,
    /// Whether more than host and path must match.
    has_conditions: bool,
}

// === impl Table ===

impl Table {
    /// A table of these rules, which come in the order of the file.
    pub fn new(rules: Vec<Rule>) -> Self {
        let groups = group(&rules);
        let mut entries: Vec<Entry> = Vec::with_capacity(groups.len());
        for (group, Group { members }) in groups.iter().enumerate() {
            let rule = &rules[members[0]];
            // Its position in the file is that of its first member.
            let order = members.iter().copied().min().unwrap_or_default();
            let mut push = |host: Option<usize>| {
                let pattern = host.map(|host| &rule.hosts[host]);
                let precedence = Precedence::new(rule, pattern, order);
                entries.push(Entry { group, host, precedence });
            };
            if rule.hosts.is_empty() {
                push(None);
            }
            (0..rule.hosts.len()).for_each(|host| push(Some(host)));
        }
        entries.sort_by_key(|entry| entry.precedence);
        let mut index = Index::default();
        for (place, entry) in (0..).zip(&entries) {
            let rule = &rules[groups[entry.group].members[0]];
            index.insert(place, entry.host.map(|host| &rule.hosts[host]), &rule.path);
        }
        let (candidates, shapes) = candidates(&rules, &groups, &entries);
        let mut group_of = vec![0; rules.len()];
        for (group, Group { members }) in groups.iter().enumerate() {
            for member in members {
                group_of[*member] = group;
            }
        }
        Self { rules, groups, group_of, entries, candidates, shapes, index }
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Indexes of the rules that differ from `rule` only in their claims, itself included, in the
    /// order in which their claims are checked. Panics if there is no such rule.
    pub fn members(&self, rule: usize) -> &[usize] {
        &self.groups[self.group_of[rule]].members
    }

    /// Indexes of rules in the order of matching, each once, at the rank of its most specific host.
    pub fn in_order(&self) -> Vec<usize> {
        let mut seen = vec![false; self.groups.len()];
        let mut order = Vec::with_capacity(self.rules.len());
        for entry in &self.entries {
            if !std::mem::replace(&mut seen[entry.group], true) {
                order.extend(&self.groups[entry.group].members);
            }
        }
        order
    }

    /// Passes each list of entries that may match `host` and `path` to `visit`, each in order of
    /// matching.
    pub(super) fn lookup<'a>(&'a self, host: &str, path: &str, mut visit: impl FnMut(&'a [Place])) {
        self.index.lookup(host, path, &mut visit);
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The group of a rule.
    pub(super) fn group_of(&self, rule: usize) -> usize {
        self.group_of[rule]
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn candidate(&self, place: Place) -> Candidate {
        self.candidates[place as usize]
    }

    /// The rule that represents the candidate, if more than host and path must match.
    pub(super) fn conditions_of(&self, candidate: Candidate) -> Option<&Rule> {
        candidate.has_conditions.then(|| &self.rules[candidate.rule as usize])
    }

    /// The index of the rule that represents the candidate, and the values of its template in a
    /// path that it matches.
    pub(super) fn matched<'a>(&self, candidate: Candidate, path: &'a str) -> (usize, Values<'a>) {
        let values = self.shapes[candidate.shape as usize].values(path);
        (candidate.rule as usize, values)
    }

    /// The rule that represents the entry's group in everything but claims.
    pub(super) fn rule_of(&self, entry: &Entry) -> &Rule {
        &self.rules[self.groups[entry.group].members[0]]
    }

    /// The entry's host pattern; `None` is any host.
    pub(super) fn host_of(&self, entry: &Entry) -> Option<&Host> {
        entry.host.map(|host| &self.rule_of(entry).hosts[host])
    }
}

/// A candidate for each entry, and their shapes.
#[expect(clippy::cast_possible_truncation, reason = "a `Place` bounds them: entries have one each")]
fn candidates(rules: &[Rule], groups: &[Group], entries: &[Entry]) -> (Vec<Candidate>, Vec<Shape>) {
    let (mut by_shape, mut shapes) = (HashMap::new(), Vec::new());
    let candidate = |entry: &Entry| {
        let index = groups[entry.group].members[0];
        let rule = &rules[index];
        let shape = Shape::of(&rule.path);
        let shape = *by_shape.entry(shape.clone()).or_insert_with(|| {
            shapes.push(shape);
            shapes.len() - 1
        });
        Candidate { rule: index as u32, shape: shape as u32, has_conditions: rule.has_conditions() }
    };
    (entries.iter().map(candidate).collect(), shapes)
}

fn group(rules: &[Rule]) -> Vec<Group> {
    let mut by_key: HashMap<String, usize> = HashMap::with_capacity(rules.len());
    let mut groups: Vec<Group> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let group = *by_key.entry(identity(rule)).or_insert(groups.len());
        if let Some(group) = groups.get_mut(group) {
            group.members.push(index);
        } else {
            groups.push(Group { members: vec![index] });
        }
    }
    for group in &mut groups {
        // Stable: rules with equally many claims keep the order of the file.
        group.members.sort_by_key(|member| std::cmp::Reverse(rules[*member].claims.len()));
    }
    groups
}

/// The same text for rules that differ only in name and claims. Compiled patterns cannot be
/// compared, but their source can.
fn identity(rule: &Rule) -> String {
    let Rule { name: _, claims: _, priority, hosts, path, scheme, methods, headers, query, .. } =
        rule;
    let pass = rule.pass_encoded_separators;
    format!("{:?}", (priority, hosts, path, scheme, methods, headers, query, pass))
}

//! All rules in the order of match. Immutable, shared by the workers.

use super::Rule;

/// All rules in the order of match.
#[derive(Debug)]
pub struct Table {
    rules: Vec<Rule>,
}

impl Table {
    /// A table of these rules, given in the order of the file.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

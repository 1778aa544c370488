//! What is wrong with a file, and how it is told: file, line, column, path, the source lines, a
//! caret and a hint.
//!
//! A problem never shows a secret: what stands behind a key such as `token` is masked in every
//! excerpt, also in files that do not parse and under keys that are misspelled.

use std::fmt;

use super::{value::Fault, written::Place};

/// Whether the file can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}

/// One thing that is wrong, with all that is needed to print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// The file's name as it was given.
    pub file: Box<str>,
    /// From 1; 0 when it concerns no line.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `routes[2].upstream`; empty for the file as a whole.
    pub path: Box<str>,
    /// What is wrong.
    pub message: Box<str>,
    /// What would be right.
    pub help: Option<Box<str>>,
    excerpt: Vec<(usize, Box<str>)>,
}

/// All that is wrong with a file, in the order of its lines. Not empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

/// The text that problems are shown in.
pub struct Source<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
    /// For each line the column (from 0) from which it is masked.
    masks: Vec<Option<usize>>,
}

/// Lines shown before the one in question.
const CONTEXT: usize = 2;
/// Characters shown of a line.
const WIDTH: usize = 160;
/// Problems printed; a file with more has one cause.
const MAX_PRINTED: usize = 100;
/// What takes the place of a secret.
const MASK: &str = "[redacted]";
/// Keys whose values are secrets.
const SECRET_KEYS: [&str; 4] = ["token", "secret", "password", "authorization"];

// === impl Problem ===

impl Problem {
    /// A problem of a file that could not even be read.
    pub fn of_file(name: &str, message: impl Into<Box<str>>) -> Self {
        Self {
            severity: Severity::Error,
            file: name.into(),
            line: 0,
            column: 0,
            path: "".into(),
            message: message.into(),
            help: None,
            excerpt: Vec::new(),
        }
    }

    /// What a program wants to know of it, for the admin API.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "help": self.help,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The other form is for a log, which says the severity itself.
        if !f.alternate() {
            f.write_str(match self.severity {
                Severity::Error => "error: ",
                Severity::Warning => "warning: ",
            })?;
        }
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        let width = self.line.to_string().len();
        for (number, line) in &self.excerpt {
            write!(f, "\n{number:>width$} | {line}")?;
        }
        match &self.help {
            Some(help) if self.excerpt.is_empty() => write!(f, "\n  {help}"),
            _ if self.excerpt.is_empty() => Ok(()),
            help => {
                let indent = self.column.saturating_sub(1);
                write!(f, "\n{:>width$} | {:indent$}^", "", "")?;
                help.as_ref().map_or(Ok(()), |help| write!(f, " {help}"))
            }
        }
    }
}

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(MAX_PRINTED).enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{problem}")?;
        }
        match self.0.len().saturating_sub(MAX_PRINTED) {
            0 => Ok(()),
            more => write!(f, "\n\nerror: and {more} more problems"),
        }
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    /// The text of a file of this name.
    pub fn new(name: &'a str, text: &'a str) -> Self {
        let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).lines().collect();
        let masks = masks(&lines);
        Self { name, lines, masks }
    }

    /// A line, numbered from 1.
    pub fn line(&self, number: usize) -> Option<&'a str> {
        self.lines.get(number.checked_sub(1)?).copied()
    }

    /// Whether a secret may stand here.
    pub fn is_masked(&self, place: Place) -> bool {
        let mask =
            place.line.checked_sub(1).and_then(|line| self.masks.get(line).copied().flatten());
        mask.is_some_and(|column| place.column > column)
    }

    /// A problem at this place.
    pub fn problem(
        &self,
        severity: Severity,
        place: Place,
        path: String,
        fault: &Fault,
    ) -> Problem {
        // A caret beyond the cropped line would point at nothing.
        let first =
            if place.column > WIDTH { usize::MAX } else { place.line.saturating_sub(CONTEXT) };
        let excerpt = (first.max(1)..=place.line)
            .filter_map(|number| Some((number, self.shown(number)?)))
            .collect();
        Problem {
            severity,
            file: self.name.into(),
            line: place.line,
            column: place.column,
            path: path.into(),
            message: printable(&fault.message).into(),
            help: fault.help.as_deref().map(|help| printable(help).into()),
            excerpt,
        }
    }

    /// A line as it may be shown: masked, cropped, without control characters.
    fn shown(&self, number: usize) -> Option<Box<str>> {
        let line = self.line(number)?;
        let shown = match self.masks.get(number - 1).copied().flatten() {
            Some(column) => line.chars().take(column).chain(MASK.chars()).collect(),
            None => line.to_owned(),
        };
        let cropped: String = shown.chars().take(WIDTH).collect();
        Some(printable(&cropped).trim_end().into())
    }
}

/// Without characters that would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Where each line is masked.
fn masks(lines: &[&str]) -> Vec<Option<usize>> {
    let mut masks = vec![None; lines.len()];
    // The indentation of the key whose value goes on over deeper lines.
    let mut open: Option<usize> = None;
    for (mask, line) in masks.iter_mut().zip(lines) {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        if let Some(key) = open {
            let is_blank = line.trim().is_empty();
            if is_blank || indent > key || (indent == key && line.trim_start().starts_with('-')) {
                if !is_reference(line.trim_start_matches([' ', '-', '\t'])) {
                    *mask = Some(indent);
                }
                continue;
            }
            open = None;
        }
        if let Some((key, value)) = secret_of(line) {
            open = Some(key.min(indent));
            *mask = value;
        }
    }
    masks
}

/// The column of a secret's key in this line, and of its value when it stands there inline.
fn secret_of(line: &str) -> Option<(usize, Option<usize>)> {
    let mut found = None;
    for (colon, _) in line.match_indices(':') {
        let (before, value) = (&line[..colon], &line[colon + 1..]);
        let before = before.trim_end_matches(['"', '\'', ' ']);
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        if !is_secret_key(&before[start..]) {
            continue;
        }
        let key = line[..start].chars().count();
        let trimmed = value.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') || is_reference(trimmed) {
            found = Some((key, None));
            continue;
        }
        let column = line.len() - trimmed.len();
        return Some((key, Some(line[..column].chars().count())));
    }
    found
}

/// Whether this is the name of a secret, or may be meant as one.
fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    key.len() >= 3
        && SECRET_KEYS
            .iter()
            .any(|secret| key.contains(secret) || strsim::damerau_levenshtein(&key, secret) <= 1)
}

/// Whether it only says where the secret is, in every item of a list.
fn is_reference(value: &str) -> bool {
    let is_one = |item: &str| {
        let item = item.trim().trim_start_matches(['"', '\'']);
        item.starts_with("env:") || item.starts_with("file:")
    };
    match value.strip_prefix('[') {
        Some(list) => list.split(']').next().is_some_and(|list| list.split(',').all(is_one)),
        None => is_one(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> Vec<String> {
        let source = Source::new("gateway.yaml", text);
        (1..=source.lines.len())
            .map(|number| source.shown(number).unwrap_or_default().into_string())
            .collect()
    }

    #[test]
    fn a_problem_is_printed_with_its_lines_a_caret_and_a_hint() {
        let text = "routes:\n  - name: create-order\n    match: {}\n    upstream: order\n";
        let place = Place { line: 4, column: 15 };
        let fault = Fault::new("no upstream named `order`").help("did you mean `orders`?");
        let source = Source::new("gateway.yaml", text);
        let problem = source.problem(Severity::Error, place, "routes[0].upstream".into(), &fault);
        assert_eq!(
            problem.to_string(),
            "\
error: gateway.yaml:4:15: routes[0].upstream: no upstream named `order`
2 |   - name: create-order
3 |     match: {}
4 |     upstream: order
  |               ^ did you mean `orders`?"
        );
    }

    #[test]
    fn control_characters_and_long_lines_do_not_reach_the_terminal() {
        let text = format!("a: \u{1b}[31m{}", "x".repeat(500));
        let shown = &masked(&text)[0];
        assert_eq!(shown.chars().count(), WIDTH);
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for text in [
            "token: s3cr3t",
            "  token: \"s3cr3t\"",
            "\"token\": s3cr3t",
            "{ a: 1, token: s3cr3t }",
            "{\"token\":\"s3cr3t\"}",
            "tokn: s3cr3t",
            "bearer_token: s3cr3t",
            "token: |\n  s3cr3t\n\n  s3cr3t",
            "token:\n  s3cr3t",
            "secrets: [env:A, s3cr3t]",
            "secrets:\n- s3cr3t",
            "push: { secrets: [s3cr3t] }",
            "- token: >-\n    s3cr3t",
            "set: { Authorization: Bearer s3cr3t }",
        ] {
            let shown = masked(text).join("\n");
            assert!(!shown.contains("s3cr3t") && shown.contains(MASK), "{text}\n{shown}");
        }
    }

    #[test]
    fn references_are_shown() {
        for text in [
            "token: env:NAME",
            "token: \"file:a/b\"",
            "secrets: [env:A, file:b]",
            "{ secret: env:A, address: 1 }",
            "token:\n  env:NAME",
            "name: tokyo",
        ] {
            assert_eq!(masked(text).join("\n"), text);
        }
    }
}

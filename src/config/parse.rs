//! Text to [`File`], and what is wrong with its shape: the first mistake ends the run, since what
//! follows it may mean anything.

use serde::Deserialize;
use serde_yaml::Error;

use super::{
    file::File,
    problem::{Problem, Severity, Source},
    tree::Tree,
    value::did_you_mean,
    written::Place,
};

/// The nesting of our own deepest key is 8.
const MAX_DEPTH: usize = 32;
/// Nodes of a file with tens of thousands of routes.
const MAX_NODES: usize = 2_000_000;
/// Nodes that aliases may repeat.
const MAX_REPEATED: usize = 100_000;

/// The file, and the same as a tree.
pub fn parse(source: &Source<'_>, text: &str) -> Result<(Tree, File), Box<Problem>> {
    let tree: Tree = read(text).map_err(|error| Box::new(problem(source, None, error)))?;
    let file = read(text).map_err(|error| Box::new(problem(source, Some(&tree), error)))?;
    Ok((tree, file))
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    let mut budget = serde_yaml::Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    let mut options = serde_yaml::Options::default();
    options.budget = Some(budget);
    options.strict_booleans = true;
    options.with_snippet = false;
    options.alias_limits.max_total_replayed_events = MAX_REPEATED;
    serde_yaml::from_str_with_options(text, options)
}

fn problem(source: &Source<'_>, tree: Option<&Tree>, error: Error) -> Problem {
    let error = innermost(error);
    let place = error.location().map_or(Place { line: 1, column: 1 }, Place::from);
    let at_value = || tree.and_then(|tree| tree.path_of(place));
    let at_key = || tree.and_then(|tree| tree.path_of_key(place));
    let (path, message, help) = match &error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let help =
                did_you_mean(field, expected.iter().copied()).unwrap_or_else(|| known(expected));
            (at_key(), format!("there is no key `{field}` here"), Some(help))
        }
        Error::SerdeMissingField { field, .. } => {
            let around = tree.and_then(|tree| tree.map_without(field, place));
            let (start, path) = around.unwrap_or((place, String::new()));
            let message = format!("`{field}` is missing");
            return source.problem(Severity::Error, start, path, message, None);
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            (at_key(), format!("`{key}` is written twice"), Some("keep one of them".to_owned()))
        }
        _ => {
            let (message, help) = describe(source, place, &error);
            (at_value().or_else(at_key), message, help)
        }
    };
    source.problem(Severity::Error, place, path.unwrap_or_default(), message, help)
}

/// The error itself, without what it is wrapped in.
fn innermost(error: Error) -> Error {
    match error {
        Error::WithSnippet { error, .. } => innermost(*error),
        Error::AliasError { error, .. } if error.location().is_some() => innermost(*error),
        other => other,
    }
}

fn known(keys: &[&str]) -> String {
    let all: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    if all.len() > 12 {
        format!("there are {} ..", all[..12].join(", "))
    } else {
        format!("there are {}", all.join(", "))
    }
}

/// What the YAML crate found, in our words. Its own would repeat values, which may be secrets.
fn describe(source: &Source<'_>, place: Place, error: &Error) -> (String, Option<String>) {
    let rest = source
        .line(place.line)
        .map(|line| line.chars().skip(place.column.saturating_sub(1)).collect::<String>())
        .unwrap_or_default();
    let expected = |what: &str| format!("expected {what}");
    match error {
        Error::UnknownAnchor { .. } => unknown_anchor(&rest),
        Error::Unexpected { expected: what, .. } => (expected(plain_words(what)), None),
        Error::SerdeInvalidType { expected: what, .. } => (expected(plain_words(what)), None),
        Error::NullIntoString { .. } => ("there is no value".to_owned(), None),
        Error::Message { msg, .. } => (msg.clone(), None),
        Error::Eof { .. } => {
            ("the file is empty".to_owned(), Some("`sluice schema` lists all keys".to_owned()))
        }
        Error::MultipleDocuments { .. } => {
            ("there is more than one document".to_owned(), Some("one `---` at most".to_owned()))
        }
        Error::ExternalMessage { msg, .. } => syntax(source, place, msg),
        Error::NonFiniteFloat { .. } => ("a number without end".to_owned(), None),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => {
            ("the file is too large or too deeply nested".to_owned(), None)
        }
        _ => ("this is not valid here".to_owned(), None),
    }
}

/// `*.example.com` without quotes is an alias in YAML.
fn unknown_anchor(rest: &str) -> (String, Option<String>) {
    let alias: String =
        rest.chars().take_while(|c| !c.is_whitespace() && !",]}".contains(*c)).collect();
    if alias.starts_with("*.") {
        let help = format!("put it in quotes: \"{alias}\"");
        return (format!("`{alias}` without quotes is an alias in YAML"), Some(help));
    }
    (
        format!("nothing is called `{}`", alias.replacen('*', "&", 1)),
        Some("an alias needs an anchor before it".to_owned()),
    )
}

/// `{ path: /a/{id} }` is the mistake behind most of these.
fn syntax(source: &Source<'_>, place: Place, message: &str) -> (String, Option<String>) {
    let lines = [place.line, place.line.saturating_sub(1)];
    let is_template = lines.iter().filter_map(|line| source.line(*line)).any(has_bare_template);
    let help = if is_template {
        "inside `{ .. }` a path with `{name}` is put in quotes: \"/orders/{id}\""
    } else if source.line(place.line).is_some_and(|line| line.contains('\t')) {
        "YAML is indented by spaces, not by tabs"
    } else {
        "indentation, quotes and brackets are the usual causes"
    };
    (format!("this is not YAML: {message}"), Some(help.to_owned()))
}

/// Whether `/{` stands outside of quotes inside a flow map.
fn has_bare_template(line: &str) -> bool {
    let (mut quote, mut before, mut depth) = (None, ' ', 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') if before == '/' && depth > 0 => return true,
            (None, '{') => depth += 1,
            (None, _) => {}
        }
        before = c;
    }
    false
}

fn plain_words(what: &str) -> &str {
    match what {
        "string scalar" | "scalar" | "a string" => "a word or a number",
        "mapping start" | "mapping" => "a map",
        "sequence start" | "sequence" | "a sequence" => "a list",
        what if what.starts_with("struct ") => "a map",
        what => what,
    }
}

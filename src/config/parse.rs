//! Text to a [`File`](super::file::File), and what is wrong with its shape: the first mistake ends the run, since what
//! follows it may mean anything.

use serde::Deserialize;
use serde_yaml::Error;

use super::{
    problem::{Problem, Severity, Source},
    tree::Tree,
    value::{Fault, did_you_mean},
    written::{Place, expected},
};

/// The nesting of our own deepest key is 8.
const MAX_DEPTH: usize = 32;
/// Nodes of a file with tens of thousands of routes.
const MAX_NODES: usize = 2_000_000;
/// Nodes that aliases may repeat.
const MAX_REPEATED: usize = 100_000;
/// Keys that a hint lists.
const MAX_KNOWN: usize = 12;

/// The file, and the same as a tree.
pub fn parse<T: for<'de> Deserialize<'de>>(
    source: &Source<'_>,
    text: &str,
) -> Result<(Tree, T), Box<Problem>> {
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
    let (place, path, fault) = match &error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let help = did_you_mean(field, expected.iter().copied());
            let help = help.unwrap_or_else(|| known(expected));
            (place, at_key(), Fault::new(format!("there is no key `{field}` here")).help(help))
        }
        Error::SerdeMissingField { field, .. } => {
            let around = tree.and_then(|tree| tree.map_without(field, place));
            let (place, path) = around.map_or((place, None), |(place, path)| (place, Some(path)));
            (place, path, Fault::new(format!("`{field}` is missing")))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            let fault = Fault::new(format!("`{key}` is written twice")).help("keep one of them");
            (place, at_key(), fault)
        }
        _ => (place, at_value().or_else(at_key), describe(source, place, &error)),
    };
    source.problem(Severity::Error, place, path.unwrap_or_default(), &fault)
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
    let all: Vec<_> = keys.iter().take(MAX_KNOWN).map(|key| format!("`{key}`")).collect();
    let more = if keys.len() > MAX_KNOWN { " .." } else { "" };
    format!("there are {}{more}", all.join(", "))
}

/// What the YAML crate found, in our words. Its own would repeat values, which may be secrets.
fn describe(source: &Source<'_>, place: Place, error: &Error) -> Fault {
    match error {
        Error::UnknownAnchor { .. } => unknown_anchor(source, place),
        Error::Unexpected { expected: what, .. } => Fault::new(expected(plain_words(what))),
        Error::SerdeInvalidType { expected: what, .. } => {
            Fault::new(expected(plain_words(what.as_str())))
        }
        Error::NullIntoString { .. } => Fault::new("there is no value"),
        Error::Message { msg, .. } => Fault::new(msg),
        Error::Eof { .. } => Fault::new("the file is empty").help("`sluice schema` lists all keys"),
        Error::MultipleDocuments { .. } => {
            Fault::new("there is more than one document").help("one `---` at most")
        }
        Error::ExternalMessage { msg, .. } => syntax(source, place, msg),
        Error::NonFiniteFloat { .. } => Fault::new("this number is not finite"),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => {
            Fault::new("the file is too large or too deeply nested")
        }
        _ => Fault::new("this is not valid here"),
    }
}

/// `*.example.com` without quotes is an alias in YAML.
fn unknown_anchor(source: &Source<'_>, place: Place) -> Fault {
    let rest = source.line(place.line).unwrap_or_default().chars();
    let alias: String = rest
        .skip(place.column.saturating_sub(1))
        .take_while(|c| !c.is_whitespace() && !",]}".contains(*c))
        .collect();
    if alias.starts_with("*.") && !source.is_masked(place) {
        return Fault::new(format!("`{alias}` without quotes is an alias in YAML"))
            .help(format!("put it in quotes: \"{alias}\""));
    }
    Fault::new("this alias has no anchor before it")
        .help("a value that starts with `*` is put in quotes")
}

/// `{ path: /a/{id} }` is the mistake behind most of these.
fn syntax(source: &Source<'_>, place: Place, message: &str) -> Fault {
    let lines = [place.line, place.line.saturating_sub(1)];
    let is_template = lines.iter().filter_map(|line| source.line(*line)).any(has_bare_template);
    let help = if is_template {
        "inside `{ .. }` a path with `{name}` is put in quotes: \"/orders/{id}\""
    } else if source.line(place.line).is_some_and(|line| line.contains('\t')) {
        "YAML is indented by spaces, not by tabs"
    } else {
        "indentation, quotes and brackets are the usual causes"
    };
    Fault::new(format!("this is not YAML: {message}")).help(help)
}

/// Whether `/{` stands outside of quotes inside a flow map.
fn has_bare_template(line: &str) -> bool {
    let (mut quote, mut before, mut depth) = (None, ' ', 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') if before == '/' && depth > 0 => return true,
            (None, '{') => depth += 1,
            (Some(_) | None, _) => {}
        }
        before = c;
    }
    false
}

fn plain_words(what: &str) -> &str {
    match what {
        "string scalar" | "scalar" | "a string" => "a word or a number",
        "sequence start" | "sequence" | "a sequence" => "a list",
        what if what.starts_with("mapping") || what.starts_with("struct ") => "a map",
        what => what,
    }
}

//! Holds the architecture by reading the sources: who may import whom, how long things may get, and
//! the few things that are never done.
//!
//! A rule that only a document states is broken within a month. The reading is by characters, not by
//! a parser: comments and literals are blanked first, and what is left is regular enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Lines of a file before its tests.
const FILE_LINES: usize = 400;
/// Lines of code in a function's body, comments and blank lines not counted.
const FUNCTION_LINES: usize = 60;

/// The words everything is written in.
const VOCABULARY: &[&str] = &["error", "http", "net", "telemetry"];

/// Folders, and what they may import beside themselves and the vocabulary. The longest folder that
/// contains a file decides; `*` is everything; `a::B` is that one item of `a`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("http", &[]),
    ("net", &[]),
    ("telemetry", &[]),
    ("listener", &[]),
    ("connection", &[]),
    ("routing", &[]),
    ("middleware", &[]),
    ("middleware::stack", &["middleware", "events::publish", "events::enqueue"]),
    // A group hands its endpoints to the workers' pools, so it knows both by name.
    (
        "balancer",
        &[
            "upstream::Address",
            "upstream::Call",
            "upstream::Endpoint",
            "upstream::Flight",
            "upstream::Local",
            "upstream::Pools",
            "upstream::Settings",
            "upstream::TlsError",
            "upstream::Transport",
            "upstream::check",
            "upstream::load::PENALTY",
        ],
    ),
    ("upstream", &[]),
    ("events", &[]),
    ("events::event", &[]),
    ("events::wire", &["events::event"]),
    ("events::api", &["events::event", "events::facade", "events::queue", "events::wire"]),
    ("events::queue", &[]),
    ("events::stored", &["events::event", "events::queue"]),
    // What requests leave behind: shared by all that act on behalf of one.
    ("events::ingress", &["events::event", "events::queue", "events::request", "events::stored"]),
    ("events::publish", &["events::queue", "events::event", "events::ingress"]),
    // What is stored of a request: who accepts and who delivers have it in common.
    ("events::request", &["events::queue"]),
    ("events::enqueue", &["events::queue", "events::request", "events::ingress"]),
    // What the flow offers and what a user decides about it are plain values.
    (
        "events::delivery",
        &[
            "events::queue",
            "events::event",
            "events::facade",
            "events::ingress",
            "events::request",
            "events::settings",
            "events::stored",
            "events::wire",
        ],
    ),
    ("admin", &[]),
    (
        "config",
        &[
            "admin",
            "balancer",
            "connection",
            "events",
            "listener",
            "middleware",
            "routing",
            "upstream",
        ],
    ),
    ("gateway", &["*"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// `config` makes plain values only: nothing that does work has such an ending.
const NOT_IN_CONFIG: &[&str] = &["Layer", "Service", "Future", "Stack"];

/// Functions that may be longer, each with the reason: file, function, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] =
    &[("events/api/answer.rs", "done", "a table: one arm for each endpoint")];

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Who may copy a request's head, each with the reason: a copy could be sent a second time, and
/// nothing unsafe is.
const COPIES: &[(&str, &str)] = &[
    ("upstream/spare.rs", "handed back only when the meter says that not one byte left"),
    ("middleware/retry/resend.rs", "sent only with the leave of the types in it"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "misc", "shared", "prelude"];

/// A source file, read in three ways that have the same lines.
struct Source {
    /// Below `src/`, with forward slashes.
    path: String,
    /// As it is.
    text: String,
    /// Comments and the insides of literals are spaces.
    code: String,
    /// As `code`, and what `#[cfg(test)]` guards is spaces too.
    production: String,
}

/// A name spelled from the crate's root, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    line: usize,
    path: Vec<String>,
}

#[test]
fn the_sources_hold_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "no sources found in {}", root.display());

    let mut findings = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).expect("found below it");
        let path = relative.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        findings.extend(check(&Source::new(&path, &text)));
    }
    for (file, function, reason) in LONG_FUNCTIONS {
        assert!(!reason.is_empty(), "{file}: `{function}` is long without a reason");
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Every `.rs` file below `folder`, in order.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

// === The rules ===

/// What is wrong with a file: `src/path:line: what; what to do`.
fn check(source: &Source) -> Vec<String> {
    // A file of tests, declared under `#[cfg(test)]` by its parent: tests may name anything.
    let is_tests = source.is_test_file();
    let mut findings = Vec::new();
    let mut report = |line: usize, what: &str| {
        findings.push(format!("src/{}:{line}: {what}", source.path));
    };
    if !is_tests {
        check_imports(source, &mut report);
        check_length(source, &mut report);
        check_functions(source, &mut report);
        check_copies(source, &mut report);
    }
    check_names(source, &mut report);
    check_words(source, &mut report);
    findings
}

fn check_imports(source: &Source, report: &mut impl FnMut(usize, &str)) {
    let unit = source.module().join("::");
    let Some((folder, allowed)) = MAY_IMPORT
        .iter()
        .filter(|(folder, _)| is_within(&unit, folder))
        .max_by_key(|(folder, _)| folder.len())
    else {
        report(
            1,
            "this folder is not in the import table; add it to MAY_IMPORT in \
             tests/architecture.rs and to the design",
        );
        return;
    };
    if allowed.contains(&"*") {
        return;
    }
    let known: BTreeSet<&str> =
        MAY_IMPORT.iter().map(|(folder, _)| first_segment(folder)).collect();
    let mut refused: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for Import { line, path } in imports(source) {
        let name = path.join("::");
        if !known.contains(path[0].as_str()) {
            continue;
        }
        let own = is_within(&name, home(folder));
        // An item is named by the module that has it or by the folder that shows it.
        let shown = path.last().map_or_else(String::new, |last| format!("{}::{last}", path[0]));
        let listed = allowed
            .iter()
            .chain(VOCABULARY)
            .any(|entry| is_within(&name, entry) || shown == *entry);
        // The bare folder is judged by what is then taken from it.
        let bare = path.len() == 1 && allowed.iter().any(|entry| first_segment(entry) == path[0]);
        if !(own || listed || bare) {
            refused.entry(line).or_default().push(format!("`{name}`"));
        }
        let working = |ending: &&&str| {
            path[0] != "config" && path.last().is_some_and(|last| last.ends_with(**ending))
        };
        if let (true, Some(ending)) = (folder == &"config", NOT_IN_CONFIG.iter().find(working)) {
            report(
                line,
                &format!("`config` fills plain values; a {ending} is made in `gateway`: `{name}`"),
            );
        }
    }
    for (line, names) in refused {
        let may = [VOCABULARY, allowed].concat().join(", ");
        report(
            line,
            &format!(
                "`{folder}` must not import {} (it may: {may}); pass it in as a value or a trait, \
                 or move the shared part to the vocabulary",
                names.join(", ")
            ),
        );
    }
}

/// What a folder may import as its own: all of the top folder, but the parts of `events` are apart.
fn home(folder: &str) -> &str {
    if folder.starts_with("events::") { folder } else { first_segment(folder) }
}

fn check_length(source: &Source, report: &mut impl FnMut(usize, &str)) {
    if source.is_test_file() || LONG_FILES.iter().any(|(path, _)| *path == source.path) {
        return;
    }
    let lines = source.lines_before_tests();
    if lines > FILE_LINES {
        report(
            lines,
            &format!("{lines} lines before the tests, at most {FILE_LINES}; split by noun"),
        );
    }
}

fn check_functions(source: &Source, report: &mut impl FnMut(usize, &str)) {
    if source.is_test_file() {
        return;
    }
    for (line, name, length) in functions(&source.production) {
        let is_listed = LONG_FUNCTIONS
            .iter()
            .any(|(path, function, _)| *path == source.path && *function == name);
        if length > FUNCTION_LINES && !is_listed {
            report(
                line,
                &format!(
                    "`{name}` has {length} lines, at most {FUNCTION_LINES}; take a step out, or \
                     list it with a reason in LONG_FUNCTIONS of tests/architecture.rs"
                ),
            );
        }
        if length <= FUNCTION_LINES && is_listed {
            report(line, &format!("`{name}` is short now; take it off LONG_FUNCTIONS"));
        }
    }
}

fn check_copies(source: &Source, report: &mut impl FnMut(usize, &str)) {
    if COPIES.iter().any(|(path, reason)| *path == source.path && !reason.is_empty()) {
        return;
    }
    for (line, text) in lines(&source.production) {
        let tight: String = text.split_whitespace().collect();
        if ["parts", "head"].iter().any(|name| tight.contains(&format!("{name}.clone()"))) {
            report(
                line,
                "a copy of a message's head; a request that is copied could be sent twice: see \
                 `middleware::retry::resend`, or list the file with a reason in COPIES of \
                 tests/architecture.rs",
            );
        }
    }
}

fn check_names(source: &Source, report: &mut impl FnMut(usize, &str)) {
    for name in source.module() {
        if EMPTY_NAMES.contains(&name.as_str()) {
            report(1, &format!("`{name}` says nothing; name the file for what is inside"));
        }
    }
    if !source.text.starts_with("//!") {
        report(1, "no `//!` header; say in a few lines what this is, why, and what it costs");
    }
    if source.is_test_file() {
        return;
    }
    for (line, text) in lines(&source.production) {
        let tight: String = text.split_whitespace().collect();
        if tight.contains("usesuper::*") || tight.contains("usecrate::*") {
            report(line, "a glob import outside tests; name what is used");
        }
        if words(text).any(|(_, word)| word == "prelude") {
            report(line, "a prelude; name what is used");
        }
    }
}

fn check_words(source: &Source, report: &mut impl FnMut(usize, &str)) {
    for (line, text) in lines(&source.text) {
        if let Some((_, word)) =
            words(text).find(|(_, word)| ["TODO", "FIXME", "XXX"].contains(word))
        {
            report(line, &format!("{word}; do it, or write down the limit as it is"));
        }
    }
    for (line, text) in lines(&source.code) {
        let tight: String = text.split_whitespace().collect();
        if tight.contains("#[allow(") || tight.contains("#![allow(") {
            report(line, "`allow` never expires; use `#[expect(.., reason = \"..\")]`");
        }
    }
}

// === Reading ===

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank_literals(text);
        let production = blank_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, production }
    }

    /// `middleware/auth/jwt.rs` is `middleware`, `auth`, `jwt`; `mod.rs` is its folder.
    fn module(&self) -> Vec<String> {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let mut segments: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "mod") {
            segments.pop();
        }
        segments
    }

    /// A module that is declared under `#[cfg(test)]` elsewhere.
    fn is_test_file(&self) -> bool {
        self.module().iter().any(|name| name == "tests" || name.ends_with("_tests"))
    }

    fn lines_before_tests(&self) -> usize {
        let tests = self.code.lines().collect::<Vec<_>>();
        let is_start = |at: &usize| {
            tests[*at].trim() == "#[cfg(test)]"
                && tests[at + 1..]
                    .iter()
                    .find(|line| !line.trim().is_empty() && !line.trim().starts_with("#["))
                    .is_some_and(|line| words(line).any(|(_, word)| word == "mod"))
        };
        (0..tests.len()).find(is_start).unwrap_or(tests.len())
    }
}

/// Numbered lines.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Identifiers and numbers, with where they start.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let length = text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start);
        at = start + length;
        Some((start, &text[start..at]))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_within(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn first_segment(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// `text` with everything in comments, strings and characters replaced by spaces of the same size.
fn blank_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let before = code.chars().next_back().filter(|c| is_word(*c));
        let length = literal_length(rest, before.is_some());
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..length].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// Bytes of the comment or literal that `text` starts with, or 0.
fn literal_length(text: &str, in_word: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if !in_word {
        let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
            text.strip_prefix(prefix)
                .is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
        });
        if let Some(prefix) = prefix {
            let after = &text[prefix.len()..];
            let hashes = after.len() - after.trim_start_matches('#').len();
            let is_raw = prefix.ends_with('r');
            if is_raw || hashes == 0 {
                let open = prefix.len() + hashes + 1;
                return open + string_length(&text[open..], is_raw.then_some(hashes));
            }
        }
    }
    character_length(text)
}

/// Bytes up to and with the closing quote.
fn string_length(text: &str, raw_hashes: Option<usize>) -> usize {
    if let Some(hashes) = raw_hashes {
        let close = format!("\"{}", "#".repeat(hashes));
        return text.find(&close).map_or(text.len(), |at| at + close.len());
    }
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'x'` and `'\n'`, but not the lifetime `'a`.
fn character_length(text: &str) -> usize {
    let Some(inside) = text.strip_prefix('\'') else { return 0 };
    let mut characters = inside.char_indices();
    match characters.next() {
        Some((_, '\\')) => inside[2..].find('\'').map_or(0, |at| at + 4),
        Some((_, c)) if inside[c.len_utf8()..].starts_with('\'') => c.len_utf8() + 2,
        _ => 0,
    }
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// `code` without the items under `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut production = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        production.push_str(&rest[..at]);
        let length = item_length(&rest[at..]);
        production.extend(rest[at..at + length].chars().filter(|c| *c == '\n'));
        rest = &rest[at + length..];
    }
    production.push_str(rest);
    production
}

/// Bytes up to the item's end: its closing brace, or `;` or `,` outside all brackets.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    let mut opened = false;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            '{' => {
                depth += 1;
                opened = true;
            }
            ')' | ']' => depth = depth.saturating_sub(1),
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && opened {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every name from the crate's root: `crate::`, `super::` resolved, and what hangs on a bare folder.
fn imports(source: &Source) -> BTreeSet<Import> {
    let code = &source.production;
    let mut found = BTreeSet::new();
    for (at, word) in words(code) {
        let after = &code[at + word.len()..];
        if code[..at].ends_with("::") || !after.starts_with("::") {
            continue;
        }
        let (base, tree) = match word {
            "crate" => (Vec::new(), &after[2..]),
            "super" => {
                let mut base = source.module();
                base.pop();
                let mut tree = &after[2..];
                while let Some(outer) = tree.strip_prefix("super::") {
                    base.pop();
                    tree = outer;
                }
                (base, tree)
            }
            _ => continue,
        };
        let mut paths = Vec::new();
        read_tree(tree, &base, &mut paths);
        let line = line_of(code, at);
        found.extend(paths.into_iter().map(|path| Import { line, path }));
    }
    let bare: Vec<String> = found
        .iter()
        .filter(|import| import.path.len() == 1)
        .map(|import| import.path[0].clone())
        .collect();
    for (at, word) in words(code) {
        let tree = &code[at + word.len()..];
        if bare.iter().any(|name| name == word)
            && tree.starts_with("::")
            && !code[..at].ends_with(':')
        {
            let mut paths = Vec::new();
            read_tree(&tree[2..], &[word.to_owned()], &mut paths);
            let line = line_of(code, at);
            found.extend(paths.into_iter().map(|path| Import { line, path }));
        }
    }
    found
}

/// Reads `a::{b, c::D}` after `base`; returns what is left of the text.
fn read_tree<'a>(text: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = group.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = group.strip_prefix('}') {
                return rest;
            }
            let rest = read_tree(group, base, found);
            if rest.len() == group.len() {
                return rest;
            }
            group = rest;
        }
    }
    let length = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let (word, mut rest) = text.split_at(length);
    let mut path = base.to_vec();
    if !word.is_empty() && word != "self" {
        path.push(word.to_owned());
    }
    if let Some(deeper) = rest.strip_prefix("::") {
        if deeper.trim_start().starts_with(|c: char| is_word(c) || c == '{') {
            return read_tree(deeper, &path, found);
        }
        rest = deeper.trim_start_matches('*');
    }
    if !path.is_empty() {
        found.push(path);
    }
    let renamed = rest.trim_start();
    match renamed.strip_prefix("as ") {
        Some(name) => name.trim_start().trim_start_matches(is_word),
        None => rest,
    }
}

/// Line, name and length of each function with a body; length as clippy counts it.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        if word != "fn" {
            continue;
        }
        let signature = &code[at + 2..];
        // `fn(u8)` is a type.
        let Some((_, name)) = words(signature).next() else { continue };
        if !signature.trim_start().starts_with(name) {
            continue;
        }
        let mut depth = 0_usize;
        let open = signature.char_indices().find(|(_, c)| {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && matches!(c, '{' | ';')
        });
        if let Some((open, '{')) = open {
            let body = &signature[open..];
            let body = &body[1..item_length(body) - 1];
            let length = body.lines().filter(|line| !line.trim().is_empty()).count();
            found.push((line_of(code, at), name.to_owned(), length));
        }
    }
    found
}

// === The rules find what they look for ===

/// Each finding less its place.
fn findings(path: &str, text: &str) -> String {
    check(&Source::new(path, text)).join("\n")
}

#[track_caller]
fn assert_finds(path: &str, text: &str, expected: &str) {
    let found = findings(path, text);
    assert!(found.contains(expected), "expected `{expected}` in:\n{found}");
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(findings(path, text), "");
}

#[test]
fn imports_against_the_table_are_found() {
    let header = "//! x\n";
    for (path, text, expected) in [
        ("routing/table.rs", "use crate::config::Config;", "must not import `config::Config`"),
        ("http/body.rs", "use crate::{error::Error, upstream::Pool};", "import `upstream::Pool`"),
        ("routing/table.rs", "use crate::{\n  http,\n  middleware::{a, b},\n};", "`middleware::b`"),
        ("routing/table.rs", "fn f() { crate::balancer::pick(); }", "`balancer::pick`"),
        ("middleware/a.rs", "use super::super::upstream::Pool;", "`upstream::Pool`"),
        ("middleware/a.rs", "use crate::events::publish::Layer;", "`events::publish::Layer`"),
        ("balancer/pick.rs", "use crate::upstream::Pool;", "must not import `upstream::Pool`"),
        ("balancer/mod.rs", "use crate::upstream; type P = upstream::Pool;", "`upstream::Pool`"),
        ("events/publish.rs", "use crate::events::delivery::Sink;", "`events::delivery::Sink`"),
        ("events/delivery/push.rs", "use crate::events::enqueue;", "`events::enqueue`"),
        ("events/queue/log.rs", "use crate::events::event::Event;", "`events::event::Event`"),
        ("config/resolve.rs", "use crate::gateway::build;", "must not import `gateway::build`"),
        ("config/resolve.rs", "use crate::middleware::cors::CorsLayer;", "a Layer is made in"),
        ("surprise/mod.rs", "", "not in the import table"),
    ] {
        assert_finds(path, &format!("{header}{text}"), expected);
    }
    assert_finds("http/a.rs", "//! x\n\nuse crate::routing::Rule;", "src/http/a.rs:3: ");
}

#[test]
fn imports_within_the_table_pass() {
    for (path, text) in [
        ("http/body.rs", "use crate::{error::Error, telemetry::metrics};"),
        ("routing/table.rs", "use super::Rule; use crate::routing::route::Path;"),
        ("middleware/auth/jwt.rs", "use super::super::headers::Template;"),
        ("middleware/stack.rs", "use crate::events::{publish::PublishLayer, enqueue};"),
        ("middleware/stack.rs", "use crate::middleware::{cors::CorsLayer, retry};"),
        ("balancer/mod.rs", "use crate::upstream; struct S { u: upstream::Settings }"),
        ("balancer/pick.rs", "use crate::upstream::{Endpoint as E, endpoint::Endpoint};"),
        ("events/delivery/push.rs", "use crate::events::{event::Event, queue::{Log, Offset}};"),
        (
            "config/mod.rs",
            "use crate::{admin, middleware::{action, cors::Settings}, routing::Rule};",
        ),
        ("gateway/build.rs", "use crate::{config::Config, middleware::stack, upstream::Pool};"),
        ("http/body.rs", "// crate::routing::Rule\nconst A: &str = \"crate::routing::Rule\";"),
        (
            "http/body.rs",
            "#[cfg(test)]\nmod tests {\n  use super::*;\n  use crate::routing::Rule;\n}",
        ),
        ("http/tests.rs", "fn f() {}"),
    ] {
        assert_clean(path, &format!("//! x\n{text}\n"));
    }
}

#[test]
fn length_is_counted_as_documented() {
    let filler = "const A: u8 = 1;\n".repeat(FILE_LINES - 1);
    let tests = "#[cfg(test)]\nmod tests {\n}\n".to_owned() + &"// more\n".repeat(FILE_LINES);
    assert_clean("http/a.rs", &format!("//! x\n{filler}{tests}"));
    assert_finds("http/a.rs", &format!("//! x\n//! y\n{filler}{tests}"), "401 lines before");

    let body = "    g('{', \"}\"); // }\n\n".repeat(FUNCTION_LINES);
    assert_clean("http/a.rs", &format!("//! x\nfn f<'a>(_: [u8; 2]) -> &'a u8 {{\n{body}}}\n"));
    assert_finds(
        "http/a.rs",
        &format!("//! x\nfn f() {{\n{body}    g();\n}}\n"),
        ":2: `f` has 61 lines",
    );
    assert_clean("http/a.rs", &format!("//! x\n#[cfg(test)]\nfn f() {{\n{body}    g();\n}}\n"));
}

#[test]
fn what_is_never_done_is_found() {
    for (path, text, expected) in [
        ("http/a.rs", "use super::*;", "a glob import outside tests"),
        ("http/a.rs", "mod x { use super :: * ; }", "a glob import outside tests"),
        ("http/a.rs", "use proptest::prelude::*;", "a prelude"),
        ("http/utils.rs", "", "`utils` says nothing"),
        ("middleware/common/mod.rs", "", "`common` says nothing"),
        ("http/a.rs", "// TODO: later", "TODO; do it"),
        ("http/a.rs", "/* FIXME */", "FIXME; do it"),
        ("http/a.rs", "fn f() { let copy = request.parts.clone(); }", "a copy of a message's head"),
        ("http/a.rs", "#[allow(dead_code)]\nfn f() {}", "`allow` never expires"),
        ("http/a.rs", "#![ allow( dead_code )]", "`allow` never expires"),
    ] {
        assert_finds(path, &format!("//! x\n{text}\n"), expected);
    }
    assert_finds("http/a.rs", "use std::fmt;\n", ":1: no `//!` header");
    assert_clean("http/a.rs", "//! x\n// Methods to `allow(..)`: TODOs are none.\nfn allow() {}\n");
}

#[test]
fn literals_do_not_confuse_the_reading() {
    let text =
        "let a = '\\''; let b: &'static str = r#\"{ \" } \"#; /* { /* } */ { */ b'{'; \"\\\"{\"; x";
    let code = blank_literals(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains(['{', '}']), "{code}");
    assert!(code.contains("&'static str") && code.ends_with("; x"), "{code}");
}

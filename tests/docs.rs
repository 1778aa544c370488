//! README, docs, gateway.yaml and the program agree.

use std::{fs, path::Path, process::Command};

use sluicegate::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of this language in a Markdown text.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    text.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn gateway_yaml_is_valid_as_it_stands() {
    if let Err(problems) = config::load(&root().join("gateway.yaml")) {
        panic!("{problems}");
    }
}

#[test]
fn every_yaml_block_of_the_readme_is_valid() {
    let readme = read("README.md");
    let blocks = blocks(&readme, "yaml");
    assert!(!blocks.is_empty(), "the README shows no configuration");
    for block in blocks {
        if let Err(problems) = config::parse(&block, "README.md", root(), &|_| None) {
            panic!("{problems}\nin\n{block}");
        }
    }
}

#[test]
fn the_readme_has_the_test_command_that_ci_runs() {
    let readme = read("README.md");
    let after = readme.split("<!-- ci:test -->").nth(1).expect("the marker is there");
    assert_eq!(blocks(after, "sh").first().map(String::as_str), Some("cargo test"));
}

#[test]
fn what_is_optimised_is_compiled_with_the_counts_of_a_load() {
    assert!(read(".cargo/config.toml").contains("rustc-wrapper = \"profile/rustc\""));
    let counts = root().join("profile/sluice.profdata");
    assert!(counts.exists());
    let asked = |level: &str| {
        let mut wrapper = Command::new(root().join("profile/rustc"));
        let output = wrapper.args(["echo", "-C", level]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let counts = format!("-Cprofile-use={} ", counts.display());
    assert!(asked("opt-level=3").contains(&counts), "{}", asked("opt-level=3"));
    assert_eq!(asked("opt-level=0"), "-C opt-level=0\n");
}

#[test]
fn every_reason_is_documented_with_its_status() {
    let page = read("docs/reasons.md");
    for kind in sluicegate::error::Kind::all() {
        let row = format!("| `{}` | {} |", kind.reason(), kind.status().as_u16());
        assert!(page.contains(&row), "docs/reasons.md has no row {row}");
    }
}

#[test]
fn every_refusal_of_the_event_endpoints_is_documented() {
    use sluicegate::events::facade::{Bound, Refusal};
    let page = read("docs/reasons.md");
    let index = 0;
    let retry_after = std::time::Duration::from_secs(1);
    for refusal in [
        Refusal::Full { bound: Bound::Bytes, retry_after },
        Refusal::Disk { retry_after },
        Refusal::unavailable(""),
        Refusal::Draining,
        Refusal::unknown("topic", ""),
        Refusal::TooLarge { index, limit: 1 },
        Refusal::Invalid { index, detail: String::new() },
        Refusal::DelayTooLong { index },
        Refusal::conflict(""),
        Refusal::internal(""),
    ] {
        let row = format!("| `{}` | ", refusal.reason());
        assert!(page.contains(&row), "docs/reasons.md has no row {row}");
    }
}

#[test]
fn every_yaml_block_of_the_events_and_operation_pages_is_valid() {
    // With the certificate that the pages speak of.
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["shop.example.com".to_owned()]).unwrap();
    fs::create_dir(folder.path().join("tls")).unwrap();
    fs::write(folder.path().join("tls/shop.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("tls/shop.key"), made.signing_key.serialize_pem()).unwrap();
    for page in ["docs/events.md", "docs/operate.md"] {
        for block in blocks(&read(page), "yaml") {
            if let Err(problems) = config::parse(&block, page, folder.path(), &|_| None) {
                panic!("{problems}\nin\n{block}");
            }
        }
    }
}

/// Words of a text that are names of metrics, without what a histogram adds.
fn metrics_in(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("sluice_"));
    names
        .map(|word| {
            let ends = ["_bucket", "_sum", "_count"];
            ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word)
        })
        .collect()
}

#[test]
fn every_metric_that_a_rule_or_a_page_names_exists() {
    let known: Vec<_> =
        sluicegate::telemetry::metrics::METRICS.iter().map(|metric| metric.name()).collect();
    let pages = ["README.md", "docs/events.md", "docs/operate.md"];
    for path in ["examples/alerts.yml", "examples/alerts_test.yml"].into_iter().chain(pages) {
        for name in metrics_in(&read(path)) {
            // `sluice_queue_*` stands for all that begin so.
            let is_known = known.contains(&name)
                || name.ends_with('_') && known.iter().any(|known| known.starts_with(name));
            assert!(is_known, "{path} names {name}, which does not exist");
        }
    }
    assert!(metrics_in(&read("examples/alerts.yml")).len() > 10, "the rules name metrics");
}

#[test]
fn every_label_that_a_rule_shows_or_sums_by_is_one_of_its_metrics() {
    let rules = read("examples/alerts.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default();
        let metrics = metrics_in(rule);
        let all = sluicegate::telemetry::metrics::METRICS.iter();
        let mut labels: Vec<_> = all
            .filter(|metric| metrics.contains(&metric.name()))
            .flat_map(|metric| metric.labels())
            .copied()
            .collect();
        // Prometheus's own.
        labels.push("instance");
        let shown = rule.split("$labels.").skip(1).filter_map(|rest| rest.split(' ').next());
        let summed = rule.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        let summed = summed.flat_map(|list| list.split(", "));
        for label in shown.chain(summed) {
            assert!(labels.contains(&label), "{name}: no metric of it has the label `{label}`");
        }
    }
}

#[test]
fn the_configuration_of_the_store_is_valid() {
    let text = read("examples/store/gateway.yaml");
    let secret = |name: &str| {
        let is_ours = name.starts_with("STORE_") && name.ends_with("_SECRET");
        is_ours.then(|| "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned())
    };
    if let Err(problems) = config::parse(&text, "gateway.yaml", root(), &secret) {
        panic!("{problems}");
    }
}

/// What `.dockerignore` lets in is all of the package that cargo looks for before it builds any of it.
#[test]
fn the_image_is_built_from_all_that_the_manifest_names() {
    let folder = tempfile::tempdir().unwrap();
    let rules = read(".dockerignore");
    let let_in: Vec<_> = rules.lines().filter_map(|rule| rule.strip_prefix('!')).collect();
    for path in &let_in {
        let copied = Command::new("cp")
            .args(["-R", path])
            .arg(folder.path())
            .current_dir(root())
            .status()
            .unwrap();
        assert!(copied.success(), ".dockerignore: {path}: not a path at the root");
    }
    // It looks at the manifest and its targets first, and then for one that there is not.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--locked", "--bin", "nothing", "--target-dir"])
        .arg(folder.path().join("target"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no bin target named `nothing`"), "{said}");
}

//! gateway.yaml: what is accepted, and how each class of mistake is told.
//!
//! `tests/config/valid/*.yaml` are accepted; `tests/config/invalid/NAME.yaml` is answered with
//! exactly `NAME.txt`. `BLESS=1 cargo test` writes the answers anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use serde_json::Value;
use sluicegate::config::{self, Config, Problem, Problems};

fn env(name: &str) -> Option<String> {
    match name {
        "SLUICE_ADMIN_TOKEN" => Some("s3cr3t-from-the-environment".to_owned()),
        "JWT_SECRET" => Some("s3cr3t-that-is-long-enough-to-be-good".to_owned()),
        "FULFILLMENT_SECRET" => Some("whsec_s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3".to_owned()),
        "SHORT_SECRET" => Some("whsec_czNjcjN0".to_owned()),
        "ORDERS_ADDRESS" => Some("10.9.8.7:9001".to_owned()),
        "NOT_AN_ADDRESS" => Some("s3cr3t-but-no-address".to_owned()),
        _ => None,
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

fn parse(text: &str, name: &str, base: &Path) -> Result<(Config, Vec<Problem>), Problems> {
    config::parse(text, name, base, &env)
}

/// A folder with `cert.pem` and `key.pem`.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made =
        rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).expect("a certificate");
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("written");
    fs::write(folder.path().join("api-keys.yaml"), "[]\n").expect("written");
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    folder
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

/// What is expected beside this file; nothing without one.
fn golden(path: &Path, told: &str) -> String {
    let golden = path.with_extension("txt");
    if std::env::var_os("BLESS").is_some() && !told.is_empty() {
        fs::write(&golden, format!("{told}\n")).expect("written");
    }
    fs::read_to_string(&golden).unwrap_or_default()
}

#[test]
fn valid_files_are_accepted_and_warn_as_written() {
    for path in yaml_files(&folder("valid")) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        match parse(&text, name, &folder("valid")) {
            Ok((_, warnings)) => {
                let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
                let golden = golden(&path, &told.join("\n\n"));
                assert_eq!(told.join("\n\n"), golden.trim_end(), "{name}");
            }
            Err(problems) => panic!("{name}\n{problems}"),
        }
    }
}

#[test]
fn every_mistake_is_told_as_written() {
    let mut wrong = Vec::new();
    for path in yaml_files(&folder("invalid")) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let told = match parse(&text, name, &folder("invalid")) {
            Ok(_) => "accepted".to_owned(),
            Err(problems) => problems.to_string(),
        };
        let expected = golden(&path, &told);
        if told != expected.trim_end() {
            wrong.push(format!("--- {name}\n{told}\n--- expected\n{expected}"));
        }
        assert!(!told.contains("s3cr3t"), "{name} shows a secret:\n{told}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One file with ten different mistakes: the run finds all of them.
#[test]
fn ten_mistakes_are_ten_problems() {
    let path = folder("invalid").join("ten_mistakes.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let problems = parse(&text, "gateway.yaml", &folder("invalid")).unwrap_err();
    assert_eq!(problems.0.len(), 10, "{problems}");
    for problem in &problems.0 {
        assert!(problem.line > 0 && !problem.path.is_empty(), "{problem}");
    }
}

/// Every key there is, each once.
#[test]
fn the_whole_reference_is_valid() {
    let path = folder("reference.yaml");
    let text = fs::read_to_string(&path).unwrap();
    if let Err(problems) = parse(&text, "gateway.yaml", certificates().path()) {
        panic!("{problems}");
    }
}

#[test]
fn tls_files_are_read() {
    let folder = certificates();
    let text = "\
listeners:
  - name: web
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: cert.pem, key: key.pem }]
      client_auth: { mode: require, ca: cert.pem }
      min_version: 1.3
upstreams:
  orders:
    endpoints: [orders.internal:443]
    tls: { ca: cert.pem, client_cert: cert.pem, client_key: key.pem }
routes: [{ name: all, upstream: orders }]
";
    let (config, _) = parse(text, "gateway.yaml", folder.path()).unwrap();
    let tls = config.listeners[0].socket.tls.as_ref().unwrap();
    assert!(tls.only_tls13 && tls.certificates[0].cert.is_absolute());
    // A key is not a certificate, and the other way round.
    let swapped = text.replace("cert: cert.pem, key: key.pem", "cert: key.pem, key: cert.pem");
    let problems = parse(&swapped, "gateway.yaml", folder.path()).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(
        problems.0.iter().all(|p| p.message.ends_with("is not the PEM file that is needed here")),
        "{problems}"
    );
}

#[test]
fn a_certificate_with_the_key_of_another_is_a_problem_of_the_configuration() {
    let (folder, other) = (certificates(), certificates());
    let foreign = folder.path().join("foreign.pem");
    fs::copy(other.path().join("key.pem"), foreign).expect("copied");
    let text = "\
listeners:
  - name: web
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: cert.pem, key: foreign.pem }] }
upstreams:
  orders:
    endpoints: [orders.internal:443]
    tls: { client_cert: cert.pem, client_key: foreign.pem }
routes: [{ name: all, upstream: orders }]
";
    let problems = parse(text, "gateway.yaml", folder.path()).unwrap_err();
    let paths: Vec<_> = problems.0.iter().map(|problem| &*problem.path).collect();
    assert_eq!(paths, ["listeners[0].tls.certificates[0].key", "upstreams.orders.tls.client_key"]);
    let help = problems.0[0].help.as_deref();
    assert_eq!(help, Some("it is not the key of the certificate"), "{problems}");
}

#[test]
fn a_certificate_that_no_listener_asks_for_is_warned_of() {
    let folder = certificates();
    let text = |client_auth: &str| {
        format!(
            "listeners:\n  - name: web\n    address: 127.0.0.1:0\n    tls: {{ certificates: [{{ cert: \
             cert.pem, key: key.pem }}]{client_auth} }}\nroutes:\n  - {{ name: a, auth: {{ mtls: {{ \
             allow: [x] }} }}, respond: {{ body: a }} }}\n  - {{ name: b, match: {{ path: /b }}, auth: {{ \
             any_of: [{{ mtls: {{ allow: [x] }} }}] }}, respond: {{ body: b }} }}\n"
        )
    };
    let (_, warnings) = parse(&text(""), "gateway.yaml", folder.path()).unwrap();
    let paths: Vec<_> = warnings.iter().map(|problem| &*problem.path).collect();
    assert_eq!(paths, ["routes[0].auth", "routes[1].auth.any_of[0]"]);
    assert_eq!(&*warnings[0].message, "no listener asks clients for a certificate");
    let asked = text(", client_auth: { mode: request, ca: cert.pem }");
    let (_, warnings) = parse(&asked, "gateway.yaml", folder.path()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_certificate_that_clients_refuse_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let text = "listeners: [{ name: web, address: 127.0.0.1:0, tls: { certificates: [{ cert: c.pem, key: \
                k.pem }] } }]\n";
    let warned = |from: i32, until: i32| {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("c.pem"), made.pem()).unwrap();
        fs::write(folder.path().join("k.pem"), key.serialize_pem()).unwrap();
        let (_, warnings) = parse(text, "gateway.yaml", folder.path()).unwrap();
        warnings.iter().map(ToString::to_string).collect::<String>()
    };
    let expired = warned(2020, 2024);
    assert!(
        expired.contains("cert: the certificate in `c.pem` has expired: clients refuse it"),
        "{expired}"
    );
    assert!(expired.contains("it is valid until 2024-01-01T00:00:00"), "{expired}");
    let early = warned(2200, 2201);
    assert!(
        early.contains("the certificate in `c.pem` is not valid yet: clients refuse it"),
        "{early}"
    );
    assert!(early.contains("it is valid from 2200-01-01T00:00:00"), "{early}");
    assert_eq!(warned(2020, 2200), "");
}

#[test]
fn the_shown_configuration_has_defaults_and_no_secrets() {
    let text = fs::read_to_string(folder("valid").join("full.yaml")).unwrap();
    let (config, _) = parse(&text, "gateway.yaml", &folder("valid")).unwrap();
    let shown = &config.shown;
    assert_eq!(shown["admin"]["token"], "env:SLUICE_ADMIN_TOKEN");
    assert_eq!(shown["limits"]["keepalive_timeout"], "75s");
    assert_eq!(shown["routes"][0]["timeout"], "30s");
    assert_eq!(shown["listeners"][0]["max_streams"], 100);
    assert_eq!(shown["upstreams"]["orders"]["balance"], "p2c_ewma");
    let everything = format!("{shown} {config:?}");
    for secret in ["s3cr3t-from-the-environment", "10.9.8.7"] {
        assert!(!shown.to_string().contains(secret));
    }
    assert!(!everything.contains("s3cr3t"), "{everything}");
}

/// A field that carries API keys is as secret as `authorization`.
#[test]
fn the_shown_configuration_has_no_api_keys() {
    let text = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
api_keys: { partners: { file: api-keys.yaml, header: X-Partner-Key } }
upstreams: { orders: { endpoints: [127.0.0.1:9001] } }
routes:
  - name: all
    upstream: orders
    auth: { api_key: { sets: [partners] } }
    request_headers: { set: { x-partner-key: s3cr3t, x-tier: gold } }
";
    let (config, _) = parse(text, "gateway.yaml", certificates().path()).unwrap();
    assert!(config.shown.to_string().contains("gold"));
    let everything = format!("{} {config:?}", config.shown);
    assert!(!everything.contains("s3cr3t"), "{everything}");
}

#[test]
fn what_says_who_a_client_is_is_no_clients_to_say() {
    let text = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
api_keys: { partners: { file: api-keys.yaml, header: x-partner-key } }
routes:
  - name: all
    respond: {}
    auth:
      any_of:
        - api_key: { sets: [partners] }
        - forward:
            url: https://auth.internal/
            response_headers:
              [X-User, x-forwarded-user, authorization, cookie, set-cookie, x-partner-key, x-forwarded-for]
    claim_headers: { x-sub: sub }
";
    let (config, _) = parse(text, "gateway.yaml", certificates().path()).unwrap();
    assert_eq!(config.edge.stripped, ["x-forwarded-user", "x-sub", "x-user"]);
}

/// What is shown as a default is the default: written out, it changes nothing.
#[test]
fn shown_defaults_are_the_defaults() {
    let text = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
upstreams: { orders: { endpoints: [127.0.0.1:9001] } }
routes: [{ name: all, upstream: orders }]
";
    let (implicit, _) = parse(text, "gateway.yaml", Path::new("")).unwrap();
    // JSON is YAML.
    let written = implicit.shown.to_string();
    let (explicit, _) = parse(&written, "gateway.json", Path::new("")).unwrap();
    assert_eq!(implicit.shown, explicit.shown);
    let without_hash = |config: &Config| format!("{config:?}").replace(&*config.hash, "");
    assert_eq!(without_hash(&implicit), without_hash(&explicit));
}

#[test]
fn the_hash_follows_the_text() {
    let text = "listeners: [{ name: web, address: 127.0.0.1:0 }]\n";
    let hash = |text: &str| parse(text, "gateway.yaml", Path::new("")).unwrap().0.hash;
    assert_eq!(hash(text), hash(text));
    assert_ne!(hash(text), hash(&format!("{text}# more\n")));
}

#[test]
fn load_watches_the_file_and_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    fs::write(folder.path().join("token"), "s3cr3t\n").unwrap();
    fs::write(
        &path,
        "listeners: [{ name: web, address: 127.0.0.1:0 }]\nadmin: { token: file:token }\n",
    )
    .unwrap();
    let loaded = config::load(&path).unwrap();
    assert_eq!(loaded.config.admin.token.unwrap().expose(), b"s3cr3t");
    assert_eq!(loaded.watched, [path.clone(), folder.path().join("token")]);
    fs::remove_file(&path).unwrap();
    let problems = config::load(&path).unwrap_err().to_string();
    assert!(problems.contains("the file cannot be read"), "{problems}");
}

#[test]
fn a_file_of_megabytes_is_refused_before_it_is_read_as_yaml() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let valid = "listeners: [{ name: web, address: 127.0.0.1:0 }]\n";
    let text = |bytes: usize| format!("{valid}#{}\n", "x".repeat(bytes - valid.len() - 2));
    fs::write(&path, text(4 << 20)).unwrap();
    config::load(&path).unwrap();
    // Read as YAML, this would be a mistake of another kind.
    fs::write(&path, format!("{}{{", text(4 << 20))).unwrap();
    let problems = config::load(&path).unwrap_err().to_string();
    assert!(problems.contains("gateway.yaml: the file is larger than 4 MiB"), "{problems}");
}

#[test]
fn the_schema_describes_every_key_and_allows_no_others() {
    let schema = config::schema::schema();
    let schema = schema.as_value();
    assert_eq!(schema["additionalProperties"], false);
    let required = schema["required"].as_array().unwrap();
    assert!(required.contains(&"listeners".into()) && required.len() == 1, "{required:?}");
    let mut blocks = vec![("the file", schema)];
    blocks.extend(schema["$defs"].as_object().unwrap().iter().map(|(name, s)| (name.as_str(), s)));
    for (name, block) in blocks {
        for (key, property) in block["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key} has no description");
            assert_eq!(block["additionalProperties"], false, "{name}");
        }
    }
}

#[test]
fn editors_are_told_that_true_is_no_text_and_that_1_3_may_be_a_number() {
    let schema = config::schema::schema();
    let blocks = &schema.as_value()["$defs"];
    let words = |block: &str, key: &str| {
        let property = &blocks[block]["properties"][key];
        property["enum"].as_array().unwrap_or_else(|| panic!("{block}.{key}: {property}")).clone()
    };
    assert_eq!(words("Idempotency", "required"), [true.into(), false.into(), Value::Null]);
    let versions = words("ListenerTls", "min_version");
    assert!(versions.contains(&"1.3".into()) && versions.contains(&1.3.into()), "{versions:?}");
}

/// Where the schema refuses a value, as far as it is about keys, choices and patterns.
fn refused_at(schema: &Value, root: &Value, value: &Value, path: &str) -> Option<String> {
    let fault = |schema: &Value| refused_at(schema, root, value, path);
    let refused = || Some(path.to_owned());
    if let Some(name) = schema["$ref"].as_str().and_then(|it| it.strip_prefix("#/$defs/")) {
        return fault(&root["$defs"][name]);
    }
    let choices = |name: &str| {
        let all = schema[name].as_array()?;
        Some(all.iter().filter(|it| fault(it).is_none()).count())
    };
    if choices("oneOf").is_some_and(|fitting| fitting != 1)
        || choices("anyOf") == Some(0)
        || schema.get("not").is_some_and(|it| fault(it).is_none())
        || schema.get("const").is_some_and(|only| only != value)
        || schema["enum"].as_array().is_some_and(|all| !all.contains(value))
    {
        return refused();
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_kind = |name: &Value| name == kind || name == "integer" && value.is_i64();
    let is_of_kind = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is_kind),
        one => is_kind(one),
    };
    if !is_of_kind {
        return refused();
    }
    match value {
        Value::String(text) => {
            let pattern = regex::Regex::new(schema["pattern"].as_str()?).unwrap();
            if pattern.is_match(text) { None } else { refused() }
        }
        Value::Array(values) => {
            let item = schema.get("items")?;
            let mut values = values.iter().enumerate();
            values.find_map(|(at, it)| refused_at(item, root, it, &format!("{path}[{at}]")))
        }
        Value::Object(members) => {
            let mut required = schema["required"].as_array().into_iter().flatten();
            if !required.all(|name| members.contains_key(name.as_str().unwrap())) {
                return refused();
            }
            members.iter().find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match schema["properties"].get(name).or(schema.get("additionalProperties"))? {
                    Value::Bool(is_allowed) => (!is_allowed).then_some(path),
                    schema => refused_at(schema, root, value, &path),
                }
            })
        }
        _ => None,
    }
}

/// Where the schema refuses a YAML text.
fn refused_by_schema(text: &str) -> Option<String> {
    let schema = config::schema::schema();
    // As the gateway reads it: `off` is a word.
    let mut options = serde_yaml::Options::default();
    options.strict_booleans = true;
    let value: Value = serde_yaml::from_str_with_options(text, options).unwrap();
    refused_at(schema.as_value(), schema.as_value(), &value, "")
}

#[test]
fn the_schema_accepts_what_is_valid() {
    let mut files = yaml_files(&folder("valid"));
    files.push(folder("reference.yaml"));
    for path in files {
        let refused = refused_by_schema(&fs::read_to_string(&path).unwrap());
        assert_eq!(refused, None, "{}", path.display());
    }
}

#[test]
fn editors_and_check_agree_on_actions_and_methods() {
    for (route, is_valid) in [
        ("upstream: u", true),
        ("respond: {}", true),
        ("split: [{ upstream: u, weight: 1 }]", true),
        ("redirect: { location: / }", true),
        ("priority: 1", false),
        ("upstream: u, respond: {}", false),
        ("upstream: u, redirect: { location: / }, respond: {}", false),
        ("upstream: u, match: { methods: GET }", true),
        ("upstream: u, match: { methods: [GET, M-SEARCH, X_1] }", true),
        ("upstream: u, match: { methods: get }", false),
        ("upstream: u, match: { methods: [GET, Post] }", false),
        ("upstream: u, match: { methods: [CONNECT] }", false),
        ("upstream: u, match: { methods: [\"\"] }", false),
        ("upstream: u, match: { methods: [\"G T\"] }", false),
        ("upstream: u, cors: { origins: \"*\", methods: [put] }", false),
    ] {
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             upstreams: {{ u: {{ endpoints: [\"127.0.0.1:1\"] }} }}\n\
             routes: [{{ name: a, {route} }}]\n"
        );
        assert_eq!(parse(&text, "a.yaml", Path::new("")).is_ok(), is_valid, "{route}");
        assert_eq!(refused_by_schema(&text).is_none(), is_valid, "{route}");
    }
}

/// Words, signs and pieces of a configuration, in any order: deeper than bytes alone would get.
fn yaml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "listeners",
            "name",
            "address",
            "routes",
            "match",
            "path",
            "upstream",
            "upstreams",
            "endpoints",
            "admin",
            "token",
            "limits",
            "hash",
            "split",
            ": ",
            ":\n",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "{ ",
            " }",
            "[",
            "]",
            ", ",
            "&a ",
            "*a",
            "<<: *a",
            "|\n",
            "\"",
            "'",
            "#",
            "127.0.0.1:80",
            "/a/{id}",
            "{*rest}",
            "10s",
            "1MiB",
            "env:A",
            "!!binary ",
            "---\n",
            "\t",
            "\u{feff}",
            "\u{e9}",
            "~",
            "1e999",
            "? ",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

const WITH_SECRET: &str = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
admin:
  address: 0.0.0.0:9901
  token: s3cr3t
routes:
  - name: a
    respond: { status: 200 }
";

/// Not where the key or the secret itself would be cut: another key is not known to hold one.
fn outside_of_the_secret() -> impl Strategy<Value = usize> {
    let line = WITH_SECRET.find("token").expect("a token");
    let end = WITH_SECRET.find("routes").expect("routes");
    prop_oneof![0..line - 6, end..WITH_SECRET.len()]
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(problems) = parse(&text, "gateway.yaml", Path::new("")) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn any_yaml_never_panics(text in yaml_like()) {
        if let Err(problems) = parse(&text, "gateway.yaml", Path::new("")) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    /// Wherever a file is damaged before or after it, an inline secret is not repeated.
    #[test]
    fn a_damaged_file_shows_no_secret(
        at in outside_of_the_secret(),
        with in "[ -~\\n]{0,3}",
        cut in 0_usize..4,
    ) {
        let end = (at + cut).min(WITH_SECRET.len());
        let damaged = format!("{}{with}{}", &WITH_SECRET[..at], &WITH_SECRET[end..]);
        if let Err(problems) = parse(&damaged, "gateway.yaml", Path::new("")) {
            prop_assert!(!problems.to_string().contains("s3cr3t"), "{problems}");
        }
    }
}

//! `sluice token`: a token of an issuer whose key is available, for tests and load tests.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    cli::{self, ConfigFile, signer::Signer},
    config::{self, Config, value::Value as _},
    middleware::auth::{
        algorithm::Algorithm,
        settings::{AtHand, Issuer},
    },
    telemetry::clock,
};

/// Arguments of `sluice token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice token --issuer shop --sub alice
  sluice token --issuer shop --sub alice --scope orders:read --scope orders:write --ttl 5m
  sluice token --issuer shop --sub alice --claim tenant=acme --key private.pem
  curl -H \"Authorization: Bearer $(sluice token --issuer shop --sub alice)\" http://localhost:8080/

Signs with the issuer's `jwks.secret`, a private key in its `jwks.file`, or --key. Prints only the
token. Exit codes: 0 success, 1 no key, 2 wrong arguments, 78 bad configuration.")]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The issuer's name under `issuers` in the configuration
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// The subject: the claim `sub`
    #[arg(long, value_name = "SUBJECT")]
    sub: String,
    /// A scope, or several separated by spaces; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long the token is valid: 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// The claim `aud`; by default the issuer's first `audience`
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// Another claim; the value is JSON, otherwise text; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// A PEM file with the private key, instead of the configured key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Selects a key of `jwks.file`; with --key or a secret, the `kid` to write into the header
    #[arg(long, value_name = "KID")]
    kid: Option<String>,
}

/// Prints one token. 0, 1 if there is no key, 78 for a bad file.
pub(super) fn run(args: &Args) -> ExitCode {
    let config = match config::load(&args.file.path) {
        Ok(loaded) => loaded.config,
        Err(problems) => return cli::bad_configuration(&problems),
    };
    match token(args, &config) {
        Ok(token) => {
            cli::print(&format!("{token}\n"));
            ExitCode::SUCCESS
        }
        Err(message) => cli::failed(&message),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1))
}

/// A duration in the configuration's format, of at least `least`.
pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let told = |fault: config::value::Fault| match fault.help {
        Some(help) => format!("{}: {help}", fault.message),
        None => fault.message,
    };
    match Duration::parse(text).map_err(told)? {
        duration if duration < least => Err(format!("at least {least:?}")),
        duration => Ok(duration),
    }
}

fn token(args: &Args, config: &Config) -> Result<String, String> {
    let names: Vec<_> = config.issuers.iter().map(|issuer| &*issuer.jwt.name).collect();
    let found = config.issuers.iter().find(|issuer| *issuer.jwt.name == *args.issuer);
    let issuer = found.ok_or_else(|| match names.as_slice() {
        [] => "the configuration has no `issuers`".to_owned(),
        names => format!("no issuer named `{}`; there is {}", args.issuer, names.join(", ")),
    })?;
    let claims = claims(args, issuer)?;
    signer(args, issuer)?.sign(&claims)
}

fn signer(args: &Args, issuer: &Issuer) -> Result<Signer, String> {
    let allowed: Vec<_> = issuer.jwt.algorithms.iter().map(Algorithm::name).collect();
    let kid = args.kid.as_deref();
    if let Some(path) = &args.key {
        let shown = path.display();
        let pem = read(path)?;
        let mut signer =
            Signer::from_pem(&pem, &allowed).map_err(|error| format!("--key {shown}: {error}"))?;
        if let Some(kid) = kid {
            signer.set_kid(kid.to_owned());
        }
        return Ok(signer);
    }
    match &issuer.at_hand {
        AtHand::Secret(secret) => {
            let mut signer = Signer::from_secret(secret.expose(), &allowed)?;
            if let Some(kid) = kid {
                signer.set_kid(kid.to_owned());
            }
            Ok(signer)
        }
        AtHand::File(path) => {
            let document = read(path)?;
            Signer::from_jwks(&document, &allowed, kid).map_err(|error| {
                format!("{}: {error}; --key FILE gives a private key in PEM", path.display())
            })
        }
        AtHand::Nothing => Err(format!(
            "issuer `{}` keeps its private key to itself: only its public keys are fetched; \
             --key FILE signs with a private key in PEM",
            args.issuer
        )),
    }
}

fn claims(args: &Args, issuer: &Issuer) -> Result<Value, String> {
    let now = clock::since_epoch(clock::now()).as_secs();
    let audience = args.audience.as_deref().or(issuer.jwt.audience.first().map(AsRef::as_ref));
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(issuer.jwt.issuer));
    claims.insert("sub".to_owned(), json!(args.sub));
    claims.insert("aud".to_owned(), json!(audience));
    claims.insert("iat".to_owned(), json!(now));
    claims.insert("exp".to_owned(), json!(now + args.ttl.as_secs()));
    if !args.scopes.is_empty() {
        claims.insert("scope".to_owned(), json!(args.scopes.join(" ")));
    }
    for claim in &args.claims {
        let (name, value) = claim
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("`{claim}` is not a claim; write --claim NAME=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        claims.insert(name.to_owned(), value);
    }
    match issuer.jwt.require.iter().find(|name| !claims.contains_key(&***name)) {
        Some(missing) => Err(format!(
            "issuer `{}` requires the claim `{missing}`; add --claim {missing}=VALUE",
            args.issuer
        )),
        None => Ok(Value::Object(claims)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

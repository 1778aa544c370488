//! `sluice explain`: which route takes a request, and what happens to it then.

use std::process::ExitCode;

use crate::{
    cli::{self, ConfigFile},
    config,
    gateway::{self, Asked},
    routing::Table,
};

/// Arguments of `sluice explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice explain GET http://shop.example.com/orders/7
  sluice explain POST http://localhost/orders -H 'x-beta: 1' --json

This command only reads the file. To see what a running gateway would do with the current state of
its endpoints and limits, use POST /v1/explain on its admin listener:
  curl --json '{\"method\": \"GET\", \"url\": \"/orders/7\"}' http://127.0.0.1:9901/v1/explain

Exit codes: 0 a route matches, 1 no route matches, 78 bad configuration.")]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The request's method
    method: String,
    /// The request's URL, or only its path (over http)
    url: String,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains one request. 0 if a route takes it, 1 if none does, 78 for a bad file.
pub fn run(args: &Args) -> ExitCode {
    let config = match config::load(&args.file.path) {
        Ok(loaded) => loaded.config,
        Err(problems) => return cli::bad_configuration(&problems),
    };
    let headers = args.headers.iter().map(String::as_str);
    let asked = match Asked::parse(&args.method, &args.url, headers) {
        Ok(asked) => asked,
        Err(message) => return cli::failed(&message),
    };
    let table = Table::new(config.routes.iter().map(|route| route.rule.clone()).collect());
    let explanation = gateway::explain(&config, &table, None, &asked);
    if args.json {
        match serde_json::to_string_pretty(&explanation) {
            Ok(json) => cli::print(&format!("{json}\n")),
            Err(error) => return cli::failed(&error),
        }
    } else {
        cli::print(&explanation.to_string());
    }
    if explanation.is_matched() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

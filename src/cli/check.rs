//! `sluice check`: every problem of a configuration, without running it.

use std::process::ExitCode;

use crate::{
    cli::{self, ConfigFile},
    config::{self, Config},
};

/// Arguments of `sluice check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sluice check -c /etc/sluice/gateway.yaml

An unset `env:` variable or a missing file is a problem. Warnings do not change the exit code.
Exit codes: 0 valid, 78 bad configuration.")]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints what the configuration contains, or all its problems. 0 if it is valid, 78 if not.
pub(super) fn run(args: &Args) -> ExitCode {
    match config::load(&args.file.path) {
        Ok(loaded) => {
            cli::warn(&loaded.warnings);
            cli::print(&format!("{}\n", summary(&loaded.config)));
            ExitCode::SUCCESS
        }
        Err(problems) => cli::bad_configuration(&problems),
    }
}

/// `ok: 3 listeners, 12 routes, 2 upstreams`
fn summary(config: &Config) -> String {
    let count = |number: usize, noun: &str| {
        format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
    };
    format!(
        "ok: {}, {}, {}",
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.written_upstreams, "upstream"),
    ) + &config.events.as_ref().map_or_else(String::new, |events| {
        let topics = count(events.topics.len(), "topic");
        format!(", {topics}, {}", count(events.subscriptions.len(), "subscription"))
    })
}

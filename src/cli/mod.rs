//! The command line: one file per subcommand.

pub mod check;
mod descriptors;
pub mod explain;
mod memory;
pub mod queue;
pub mod run;
pub mod schema;
mod signer;
pub mod token;

pub use self::memory::Allocator;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Problem, Problems};

/// `sluice`'s arguments.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, long_about = None, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM; SIGHUP or a changed file reloads the configuration
    Run(run::Args),
    /// Check a configuration and report every problem
    Check(check::Args),
    /// Show which route a request takes, why not the others, and what each policy does
    Explain(explain::Args),
    /// Print the JSON Schema of gateway.yaml, for editors
    Schema(schema::Args),
    /// Sign a test token with the key of a configured issuer
    Token(token::Args),
    /// Publish, receive and manage events of a running gateway
    Queue(Box<queue::Args>),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "gateway.yaml")]
    pub path: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  sluice run                                      run with ./gateway.yaml
  sluice check -c /etc/sluice/gateway.yaml        check another file
  sluice explain POST http://shop.example.com/orders
  sluice schema > gateway.schema.json
  sluice token --issuer shop --sub alice
  sluice queue status

Exit codes: 0 success, 1 failure, 2 wrong arguments, 78 bad configuration.";

/// The program: parses its arguments and runs the command.
pub fn main() -> ExitCode {
    // First: what is touched before stays as it is.
    memory::use_small_pages();
    match Arguments::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Queue(args) => queue::run(&args),
    }
}

/// Exit code of a configuration with problems (`EX_CONFIG` of sysexits).
const BAD_CONFIGURATION: u8 = 78;

/// Prints every problem to stderr.
#[expect(clippy::print_stderr, reason = "a command tells its user what is wrong")]
fn bad_configuration(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIGURATION)
}

/// Prints what is valid but probably not intended.
#[expect(clippy::print_stderr, reason = "a command tells its user what looks wrong")]
fn warn(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("{warning}");
    }
}

/// Prints why a command failed.
#[expect(clippy::print_stderr, reason = "a command tells its user why it failed")]
fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Prints the output. A reader that has closed its end (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command with those under it.
    fn every(command: &clap::Command, name: String, found: &mut Vec<(String, String)>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for under in command.get_subcommands() {
            every(under, format!("{name} {}", under.get_name()), found);
        }
        found.push((name, help));
    }

    #[test]
    fn no_line_of_an_example_is_broken() {
        let mut found = Vec::new();
        every(&Arguments::command(), "sluice".to_owned(), &mut found);
        assert!(found.iter().any(|(name, help)| name == "sluice queue tail" && !help.is_empty()));
        for (name, help) in found {
            // Help is wrapped at 100.
            let long: Vec<&str> = help.lines().filter(|it| it.chars().count() > 100).collect();
            assert!(long.is_empty(), "{name}: {long:#?}");
        }
    }
}

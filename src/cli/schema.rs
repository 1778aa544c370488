//! `sluice schema`: the JSON Schema of gateway.yaml.

use std::process::ExitCode;

use crate::{cli, config};

/// Arguments of `sluice schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sluice schema > gateway.schema.json

Then make this the first line of gateway.yaml:
  # yaml-language-server: $schema=gateway.schema.json")]
pub(super) struct Args {}

/// Prints the schema. Always 0.
pub(super) fn run(_: &Args) -> ExitCode {
    cli::print(&format!("{:#}\n", config::schema::schema().as_value()));
    ExitCode::SUCCESS
}

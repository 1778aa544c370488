//! The program `sluice`: parses arguments, dispatches, sets the exit code.

use std::process::ExitCode;

use sluicegate::cli;

#[global_allocator]
static ALLOCATOR: cli::Allocator = cli::Allocator;

fn main() -> ExitCode {
    cli::main()
}

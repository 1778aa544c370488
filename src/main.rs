//! The program `sluice`: parses arguments, dispatches, sets the exit code.

use std::process::ExitCode;

use sluicegate::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}

//! An online store behind Sluice, and everything that can happen to it.
//!
//! ```sh
//! cargo run --release --example store
//! ```
//!
//! Customers order through the gateway, which lets in who has a token, sends no order twice, and writes
//! `order.created` to disk before it says yes. Four services do the rest by hearing of events and
//! answering them: see `gateway.yaml` beside this file. Then it counts. Not the gateway counts, but the
//! customers and services: if one of the invariants in `audit` is broken, it is named and the exit code
//! is 1. `--break` breaks one on purpose.

mod analytics;
mod audit;
mod chart;
mod customers;
mod error;
mod event;
mod fulfillment;
mod gateway;
mod http;
mod inventory;
mod options;
mod order;
mod orders;
mod payment;
mod report;
mod service;
mod shop;
mod store;
mod story;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{error::Error, options::Options, shop::Day, store::Store};

/// It could not be run.
const NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(problem) = options.problem() {
        complain(problem);
        return ExitCode::from(NOT_RUN);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return not_run(&error.into()),
    };
    match runtime.block_on(run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => not_run(&error),
    }
}

/// Whether all invariants held.
async fn run(options: &Options) -> Result<bool, Error> {
    let folder = tempfile::Builder::new().prefix("sluice-store-").tempdir()?;
    let program = gateway::program()?;
    let day = Day::plan(options.seed, options.kills());
    say(&format!("seed {}, {}", options.seed, program.display()));
    if let Some(broken) = options.broken {
        say(broken.warning());
    }
    let mut store = Store::open(options, &program, folder.path(), &day).await?;
    let sample = day.purchases.first().cloned();
    let (facts, diary) = story::tell(&mut store, options, day, |at, text| {
        say(&format!("{:6.1} s  {text}", at.as_secs_f64()));
    })
    .await?;
    let invariants = facts.audit();
    say(&format!("\n{}", report::table(&facts, &invariants, &diary)));
    let broken = report::verdict(&invariants);
    let holds = broken.is_empty();
    if holds {
        say(&format!("all {} invariants hold", invariants.len()));
    } else {
        complain(broken.trim_end());
    }
    if options.keep
        && let Some(sample) = sample
    {
        say(&report::what_to_type(&store, &sample));
        tokio::signal::ctrl_c().await?;
    }
    store.gateway.stop().await?;
    Ok(holds)
}

fn not_run(error: &Error) -> ExitCode {
    complain(&error.to_string());
    ExitCode::from(NOT_RUN)
}

#[expect(clippy::print_stdout, reason = "the story is told on the terminal")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "what went wrong is told on the terminal")]
fn complain(text: &str) {
    eprintln!("{text}");
}

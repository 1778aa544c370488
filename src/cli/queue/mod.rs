//! `sluice queue`: works with the event queue from a shell, over the admin API.
//!
//! [`mod@client`] makes the calls and [`show`] turns answers into tables. With `--json` answers are
//! printed unchanged.

mod calls;
mod client;
mod offline;
mod operate;
mod publish;
mod show;
mod table;
mod tail;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use self::client::{Client, Sent, segment};
use crate::{
    cli,
    config::{self, Problems},
};

/// The default address of the admin API.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9901";
/// A heading of its own: otherwise clap sorts these flags among those of each command.
const ANYWHERE: &str = "Common options";
/// The same default as in other commands.
const DEFAULT_FILE: &str = "gateway.yaml";

/// Arguments of `sluice queue`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue status
  sluice queue publish orders --type order.created --source /shop --data '{\"id\": 7}'
  sluice queue receive fulfillment --ack
  sluice queue tail orders --from earliest
  sluice queue dead-letters fulfillment
  sluice queue redrive fulfillment --all
  sluice queue replay orders --to fulfillment --from 2027-01-31T12:00:00Z

The address of the admin API comes from --admin, else SLUICE_ADMIN, else the configuration file,
else it is 127.0.0.1:9901.
Exit codes: 0 success, 1 failure, 2 wrong arguments, 78 bad configuration.")]
pub(super) struct Args {
    /// The configuration file
    #[arg(short, long, global = true, help_heading = ANYWHERE, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The address of the admin API: HOST:PORT
    #[arg(long, global = true, help_heading = ANYWHERE, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The admin API's token; the environment variable SLUICE_ADMIN_TOKEN is safer
    #[arg(long, global = true, help_heading = ANYWHERE, value_name = "TOKEN")]
    token: Option<String>,
    /// Print JSON
    #[arg(long, global = true, help_heading = ANYWHERE)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show topics and subscriptions: size, lag, state
    Status(calls::Status),
    /// Print events as they are published
    Tail(tail::Args),
    /// Publish an event
    Publish(publish::Args),
    /// Lease events from a subscription and print them
    Receive(calls::Receive),
    /// Acknowledge leased events: they are done
    Ack(calls::Tokens),
    /// Report leased events as failed; they are retried by the schedule
    Nack(calls::TokensDelayed),
    /// Give leased events back without counting the attempt
    Release(calls::TokensReleased),
    /// Turn leased events into dead letters
    Reject(calls::TokensReasoned),
    /// Extend the leases of events
    Extend(calls::TokensExtended),
    /// Show an event by its ID, and its state in each subscription; or by its place in a topic
    Event(calls::Event),
    /// Show the events of a saga in order, and their state in each subscription
    Saga(calls::Saga),
    /// List the dead letters of a subscription, or show one
    DeadLetters(operate::DeadLetters),
    /// Deliver dead letters again
    Redrive(operate::Redrive),
    /// Delete dead letters for good
    Purge(operate::Purge),
    /// Deliver a range of a topic again to a subscription
    Replay(operate::Replay),
    /// List replays and redrives, or show one
    Jobs(operate::Jobs),
    /// Cancel a replay or redrive
    Cancel(operate::Cancel),
    /// Move a subscription to another position
    Seek(operate::Seek),
    /// Stop deliveries of a subscription
    Pause(operate::Named),
    /// Continue deliveries of a subscription
    Resume(operate::Named),
    /// Unblock a key that a failed event blocks
    Unblock(operate::Unblock),
    /// List idempotency keys whose request may or may not have been done
    Uncertain,
    /// Resolve an uncertain idempotency key
    Resolve(operate::Resolve),
    /// Recover an offline topic
    Reopen(operate::Topic),
    /// Confirm that the clock is right after a jump
    ConfirmClock,
    /// Verify every byte of a stopped store, and repair it with --repair
    Verify(verify::Args),
    /// Delete a topic or subscription that is no longer configured from a stopped store
    Drop(offline::Drop),
    /// Rewrite a stopped store in the newest format
    Upgrade(offline::Upgrade),
}

/// One call, and how its answer is shown.
struct Asked {
    method: Method,
    target: String,
    sent: Sent,
    show: fn(&Value) -> String,
}

/// Runs one command. 0, 1 if the admin API refuses or does not answer, 78 for a bad file.
pub(super) fn run(args: &Args) -> ExitCode {
    match &args.command {
        Command::Verify(verify) => return verify::run(verify, &args.config, args.json),
        Command::Drop(drop) => return offline::drop(drop, &args.config, args.json),
        Command::Upgrade(upgrade) => return offline::upgrade(upgrade, &args.config, args.json),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failed(&error),
    };
    let client = match client(args) {
        Ok(client) => client,
        Err(problems) => return cli::bad_configuration(&problems),
    };
    let done = runtime.block_on(async {
        match &args.command {
            Command::Tail(tail) => tail::run(&client, tail, args.json).await,
            Command::Status(status) => calls::status(&client, status, args.json).await,
            Command::Receive(receive) => calls::receive(&client, receive, args.json).await,
            command => {
                let Asked { method, target, sent, show } = asked(command)?;
                print(&client.call(method, &target, sent).await?, args.json, show)
            }
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => cli::failed(&message),
    }
}

/// The call for a command that is a single call.
fn asked(command: &Command) -> Result<Asked, String> {
    Ok(match command {
        Command::Publish(args) => args.asked()?,
        Command::Ack(args) => args.asked("ack"),
        Command::Nack(args) => args.asked(),
        Command::Release(args) => args.asked(),
        Command::Reject(args) => args.asked(),
        Command::Extend(args) => args.asked(),
        Command::Event(args) => args.asked()?,
        Command::Saga(args) => args.asked(),
        Command::DeadLetters(args) => args.asked(),
        Command::Redrive(args) => args.asked()?,
        Command::Purge(args) => args.asked(),
        Command::Replay(args) => args.asked(),
        Command::Jobs(args) => args.asked(),
        Command::Cancel(args) => args.asked(),
        Command::Seek(args) => args.asked()?,
        Command::Pause(args) => args.asked("pause"),
        Command::Resume(args) => args.asked("resume"),
        Command::Unblock(args) => args.asked(),
        Command::Uncertain => get("/v1/idempotency?state=uncertain".to_owned(), show::uncertain),
        Command::Resolve(args) => args.asked(),
        Command::Reopen(args) => args.asked("reopen", show::topic),
        Command::ConfirmClock => {
            post("/v1/queue/confirm-clock".to_owned(), &json!({}), |_| "confirmed\n".to_owned())
        }
        Command::Tail(_)
        | Command::Status(_)
        | Command::Receive(_)
        | Command::Verify(_)
        | Command::Drop(_)
        | Command::Upgrade(_) => {
            return Err("this command is more than one call".to_owned());
        }
    })
}

/// The admin API to call. A missing file is a problem only if it was named explicitly.
fn client(args: &Args) -> Result<Client, Problems> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let mut address = args.admin.clone().or_else(|| variable("SLUICE_ADMIN"));
    let mut token = args.token.clone().or_else(|| variable("SLUICE_ADMIN_TOKEN"));
    let loaded = (address.is_none() || token.is_none()).then(|| config::load(&args.config));
    // The file may need variables that only the gateway has: then it is ignored.
    if let Some(Ok(loaded)) = loaded {
        let admin = loaded.config.admin;
        token = token.or_else(|| String::from_utf8(admin.token?.expose().to_vec()).ok());
        let mut at = admin.address;
        if at.ip().is_unspecified() {
            at.set_ip(if at.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        address = address.or_else(|| Some(at.to_string()));
    } else if let Some(Err(problems)) = loaded
        && address.is_none()
        && args.config != Path::new(DEFAULT_FILE)
        && !args.config.exists()
    {
        return Err(problems);
    }
    Ok(Client::new(address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()), token))
}

fn get(target: String, show: fn(&Value) -> String) -> Asked {
    Asked { method: Method::GET, target, sent: Sent::nothing(), show }
}

fn delete(target: String, show: fn(&Value) -> String) -> Asked {
    Asked { method: Method::DELETE, target, sent: Sent::nothing(), show }
}

fn post(target: String, body: &Value, show: fn(&Value) -> String) -> Asked {
    Asked { method: Method::POST, target, sent: Sent::json(body), show }
}

/// `/v1/subscriptions/{name}/{rest}`
fn subscription(name: &str, rest: &str) -> String {
    format!("/v1/subscriptions/{}{rest}", segment(name))
}

/// A JSON object of the members that have a value.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

/// Prints an answer unchanged, or in readable form.
fn print(body: &[u8], json: bool, show: impl FnOnce(&Value) -> String) -> Result<(), String> {
    let text = if json {
        String::from_utf8_lossy(body).into_owned()
    } else {
        let value = serde_json::from_slice(body);
        show(&value.map_err(|error| format!("the answer is no JSON: {error}"))?)
    };
    cli::print(&text);
    Ok(())
}

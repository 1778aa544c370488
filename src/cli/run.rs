//! `sluice run`: starts the gateway and turns signals into orders.

use std::{fmt::Display, io, process::ExitCode};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    cli::{self, ConfigFile, descriptors, memory},
    config,
    gateway::{Drain, Gateway, Options},
    telemetry::logging,
};

/// Arguments of `sluice run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice run                          run with ./gateway.yaml
  sluice run -c /etc/sluice.yaml      run with another file

Signals:
  SIGHUP     reloads the configuration
  SIGTERM    drains: not ready for 5 s, then the listeners close
  SIGINT     drains at once
  A second SIGTERM or SIGINT exits immediately.

After the listeners close, requests and deliveries in flight have 30 s, upgraded connections 10 min.
No new delivery begins.")]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

enum Order {
    Reload,
    End(Drain),
}

enum Ended {
    /// Everything in progress has ended, or its time was over.
    Drained,
    /// A second signal came.
    AtOnce,
}

/// Serves until it has drained. 0, 1 if it could not start or was forced to end, 78 for a bad file.
pub fn run(args: &Args) -> ExitCode {
    let loaded = match config::load(&args.file.path) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::bad_configuration(&problems),
    };
    let log = match logging::init(loaded.config.telemetry.log_level) {
        Ok(log) => Some(log),
        Err(error) => return cli::failed(&error),
    };
    // From here on everything goes to the log: a reader of the pipe gets one object per line.
    loaded.log_warnings();
    memory::keep_under_load();
    memory::suit(loaded.config.routes.len());
    descriptors::raise(&loaded.config);
    let source = Some(args.file.path.clone());
    // The first is the file itself.
    let watched = loaded.watched.into_iter().skip(1).collect();
    let options =
        Options { source, watched, log, give_back: Some(memory::give_back), ..Options::default() };
    // Before anybody can know that it runs: until then a signal would just end the process.
    let (runtime, signals) = match listen_to_signals() {
        Ok(listening) => listening,
        Err(error) => return failed(&error),
    };
    let gateway = match Gateway::start(loaded.config, options) {
        Ok(gateway) => gateway,
        Err(error) => return failed(&error),
    };
    tracing::info!("serving {}", gateway.started());
    match runtime.block_on(serve(&gateway, signals)) {
        // Leaving `main` ends the process with whatever its threads are doing.
        Ended::AtOnce => ExitCode::FAILURE,
        Ended::Drained if gateway.stop() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Ended::Drained => failed(&"the control thread died; please report this as a bug"),
    }
}

/// Logs why the gateway failed.
fn failed(error: &dyn Display) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

/// Starts listening for signals, with the runtime that does so.
fn listen_to_signals() -> io::Result<(Runtime, Signals)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    Ok((runtime, signals))
}

async fn serve(gateway: &Gateway, mut signals: Signals) -> Ended {
    let mut is_draining = false;
    loop {
        // The end and signals are independent; whichever comes first is handled first.
        let order = tokio::select! {
            () = gateway.stopped() => return Ended::Drained,
            order = signals.next() => order,
        };
        match order {
            Order::Reload => gateway.reload_soon(),
            Order::End(_) if is_draining => {
                tracing::warn!("second signal: leaving at once");
                return Ended::AtOnce;
            }
            Order::End(drain) => {
                is_draining = true;
                gateway.drain(drain);
            }
        }
    }
}

// === impl Signals ===

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The order for the next signal. Cancel-safe.
    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.hangup.recv() => Order::Reload,
            _ = self.terminate.recv() => Order::End(Drain::Announced),
            _ = self.interrupt.recv() => Order::End(Drain::Prompt),
        }
    }
}

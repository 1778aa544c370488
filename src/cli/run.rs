//! `sluice run`: starts the gateway and turns signals into orders.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{self, ConfigFile},
    config,
    gateway::{Drain, Gateway, Options},
    telemetry::logging,
};

/// Arguments of `sluice run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice run                          serve ./gateway.yaml
  sluice run -c /etc/sluice.yaml      serve another file

Signals: SIGHUP reloads, SIGTERM drains (first 5 s not ready, then closes), SIGINT drains at once,
a second SIGTERM or SIGINT exits immediately.")]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Serves until it has drained. 0, 1 when it could not start, 78 when the file has problems.
pub fn run(args: &Args) -> ExitCode {
    let loaded = match config::load(&args.file.path) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::bad_configuration(&problems),
    };
    cli::warn(&loaded.warnings);
    logging::init(loaded.config.telemetry.log_level);
    let options = Options { source: Some(args.file.path.clone()), ..Options::default() };
    let gateway = match Gateway::start(loaded.config, options) {
        Ok(gateway) => gateway,
        Err(error) => return cli::failed(&error),
    };
    tracing::info!("serving {}", gateway.started());
    match serve(&gateway) {
        Ok(()) => {
            gateway.stop();
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => cli::failed(&error),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(gateway: &Gateway) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    let mut is_draining = false;
    loop {
        // Signals and the end are independent; whichever comes first is handled first.
        tokio::select! {
            () = gateway.stopped() => return Ok(()),
            _ = signals.hangup.recv() => reload(gateway).await,
            drain = signals.end() => {
                if is_draining {
                    tracing::warn!("second signal: leaving at once");
                    return Ok(());
                }
                is_draining = true;
                gateway.drain(drain).await;
            }
        }
    }
}

async fn reload(gateway: &Gateway) {
    // What became of it is logged where it happens.
    drop(gateway.reload().await);
}

// === impl Signals ===

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Completes when the process is asked to end. Cancel-safe.
    async fn end(&mut self) -> Drain {
        tokio::select! {
            _ = self.terminate.recv() => Drain::Announced,
            _ = self.interrupt.recv() => Drain::Prompt,
        }
    }
}

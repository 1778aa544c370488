//! The control thread: keeps workers, configuration and the outside world in step.
//!
//! One loop handles orders one after another, so that two reloads never overlap and a drain sees
//! the configuration it drains. It carries no client traffic and may take its time.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch as channel},
    time::{Instant, interval},
};

use crate::{
    admin,
    balancer::{Resolve, resolver},
    config::{self, Config},
    gateway::{
        Drain, Options, ReloadError, StartError, Started,
        build::{self, Plan, Stacks},
        drain,
        keys::Keyring,
        listeners::Listeners,
        operator::Operator,
        queue::Keeper,
        reload,
        watch::Files,
        worker::Worker,
    },
    middleware::rate_limit::layer::nanos,
    telemetry::{access_log, clock, metrics::Metrics, task, tracing::Exporter},
};

/// How often certificate files are checked.
const CERTIFICATES: Duration = Duration::from_millis(250);
/// How often the memory of idle rate limit keys is freed.
const IDLE_KEYS: Duration = Duration::from_mins(1);
/// How long the access log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long the collector may take to accept the last spans.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// An order to the control thread.
#[derive(Debug)]
pub(super) enum Order {
    /// Read the file again and apply it.
    Reload(oneshot::Sender<Result<Arc<str>, ReloadError>>),
    /// Begin the drain.
    Drain(Drain),
    /// It is time to close the listeners.
    Close,
    /// No client needs the queue any more; tunnels may continue without it.
    CloseQueue,
    /// Everything has ended, or its time is over.
    Stop,
}

/// The state of the control thread.
pub(super) struct Control {
    options: Options,
    orders: mpsc::Sender<Order>,
    resolver: Arc<dyn Resolve>,
    keyring: Keyring,
    access_log: access_log::AccessLog,
    exporter: Exporter,
    plan: Plan,
    listeners: Listeners,
    workers: Vec<Worker>,
    keeper: Keeper,
    operator: Arc<Operator>,
    /// When tunnels must end.
    tunnels: channel::Sender<Option<Instant>>,
    /// During a drain: when requests must end, both those of clients and stored ones.
    ends_at: Option<Instant>,
}

/// Runs the control thread to its end. Tells `report` when everything listens, or why not.
pub(super) fn run(
    config: Config,
    options: Options,
    orders: mpsc::Sender<Order>,
    inbox: mpsc::Receiver<Order>,
    report: &std_mpsc::SyncSender<Result<Started, StartError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // The starting thread waits for this.
        Err(error) => return drop(report.send(Err(StartError::Thread(error)))),
    };
    // From now on: opening a store may take a while, and no change in that time may be missed.
    let watched = options.source.iter().chain(&options.watched);
    let files = Files::new(watched.cloned().collect());
    runtime.block_on(async move {
        match Control::start(config, options, orders).await {
            Ok((control, started)) => {
                drop(report.send(Ok(started)));
                control.serve(inbox, files).await;
            }
            Err(error) => drop(report.send(Err(error))),
        }
    });
}

// === impl Control ===

impl Control {
    async fn start(
        config: Config,
        options: Options,
        orders: mpsc::Sender<Order>,
    ) -> Result<(Self, Started), StartError> {
        let metrics = Metrics::new();
        metrics.set_route_labels(config.telemetry.route_labels);
        let resolver = resolver::system();
        let keyring = Keyring::new(resolver.clone(), metrics.thread());
        let mut listeners = Listeners::default();
        let prepared = listeners.prepare(&config)?;
        let admin = bind_admin(&config).await?;
        let admin_address = admin.local_addr().map_err(StartError::Thread)?;
        let access_log = access_log::AccessLog::start(&config.telemetry.access_log.path)
            .map_err(StartError::AccessLog)?;
        let plan = Plan::new(config, None, &resolver, &metrics.thread(), &keyring)?;
        let exporter = Exporter::start(&metrics.thread());
        let keeper = Keeper::open(&plan, &metrics.thread(), &exporter).await?;
        exporter.follow(plan.config.telemetry.tracing.as_ref()).await;
        let (tunnels, deadline) = channel::channel(None);
        let mut workers = Vec::new();
        for number in 0..worker_count(&plan.config) {
            let worker =
                Worker::start(number, metrics.thread(), deadline.clone(), options.give_back);
            workers.push(worker.map_err(StartError::Thread)?);
        }
        for worker in &workers {
            let listeners = prepared.for_worker()?;
            worker.prepare(listeners).await.map_err(StartError::Thread)?;
        }
        for worker in &workers {
            let (log, queue) = (&access_log, keeper.queue());
            let stacks = build::stacks(&plan, worker.resources(), log, &exporter, queue);
            worker.commit(stacks).await.map_err(StartError::Thread)?;
        }
        let started = Started {
            admin: admin_address,
            listeners: prepared.addresses(),
            workers: workers.len(),
        };
        plan.take_effect();
        let operator =
            Arc::new(Operator::new(metrics, orders.clone(), &plan, keeper.queue().clone()));
        listeners.keep(prepared, operator.cells());
        serve_admin(admin, &operator);
        // Ends with this runtime.
        task::spawn("clock", clock::follow());
        let control = Self {
            options,
            orders,
            resolver,
            keyring,
            access_log,
            exporter,
            plan,
            listeners,
            workers,
            keeper,
            operator,
            tunnels,
            ends_at: None,
        };
        Ok((control, started))
    }

    /// Sends the order to reload and waits for its result.
    pub(super) async fn reload(orders: &mpsc::Sender<Order>) -> Result<Arc<str>, ReloadError> {
        let (reply, outcome) = oneshot::channel();
        if orders.send(Order::Reload(reply)).await.is_err() {
            return Err(ReloadError::Stopping);
        }
        outcome.await.unwrap_or(Err(ReloadError::Stopping))
    }

    async fn serve(mut self, mut inbox: mpsc::Receiver<Order>, mut files: Files) {
        let mut certificates = interval(CERTIFICATES);
        let mut idle_keys = interval(IDLE_KEYS);
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(Order::Reload(reply)) => {
                        // The caller may have left; the reload remains valid.
                        drop(reply.send(self.reload_from_file(&mut files).await));
                    }
                    Some(Order::Drain(drain)) => self.drain(drain),
                    Some(Order::Close) => self.close().await,
                    Some(Order::CloseQueue) => self.close_queue().await,
                    Some(Order::Stop) | None => return self.stop().await,
                },
                () = self.keeper.opened() => self.queue_opened().await,
                () = files.changed() => self.file_changed(&mut files).await,
                _ = idle_keys.tick() => self.forget_idle_keys(),
                _ = certificates.tick() => self.listeners.refresh_certificates(self.operator.cells()),
            }
        }
    }

    fn forget_idle_keys(&self) {
        let now = nanos(Instant::now());
        for limit in &*self.plan.limits {
            limit.store().sweep(now);
        }
    }

    /// Applies what has changed. Nobody asked for that: during a drain it is no failure.
    async fn file_changed(&mut self, files: &mut Files) {
        if self.operator.is_draining() {
            tracing::debug!(
                "gateway.yaml or a file that it names has changed: not applied, because the gateway is draining"
            );
            return;
        }
        // Logged by itself.
        drop(self.reload_from_file(files).await);
    }

    /// Applies the file as a whole, or changes nothing. Logged and counted either way.
    async fn reload_from_file(&mut self, files: &mut Files) -> Result<Arc<str>, ReloadError> {
        let outcome = match self.options.source.clone() {
            Some(path) => self.take_over(path, files).await,
            None => Err(ReloadError::NoSource),
        };
        match &outcome {
            Ok(hash) => tracing::info!(%hash, "configuration taken over"),
            Err(error) => tracing::error!("configuration not taken over:\n{error}"),
        }
        self.operator.reloaded(outcome.is_ok());
        outcome
    }

    async fn take_over(
        &mut self,
        path: PathBuf,
        files: &mut Files,
    ) -> Result<Arc<str>, ReloadError> {
        if self.operator.is_draining() {
            return Err(ReloadError::Stopping);
        }
        let loaded = config::load(&path).map_err(ReloadError::Invalid)?;
        loaded.log_warnings();
        let config = loaded.config;
        let fixed = reload::needs_restart(&self.plan.config, &config);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        // Everything that can fail comes first, and the queue last of it: if it fails, nothing has
        // changed. A commit fails only with its worker.
        let prepared = self.listeners.prepare(&config)?;
        let cells = self.operator.cells();
        let plan = Plan::new(config, Some(&self.plan), &self.resolver, cells, &self.keyring)?;
        for worker in &self.workers {
            let listeners = prepared.for_worker()?;
            worker.prepare(listeners).await.map_err(StartError::Thread)?;
        }
        let path = &plan.config.telemetry.access_log.path;
        let log = access_log::Opened::new(path).map_err(StartError::AccessLog)?;
        self.keeper.follow(&plan, Some(&self.plan), &self.exporter).await?;
        self.access_log.replace(log);
        if let Some(log) = &self.options.log {
            log.set_level(plan.config.telemetry.log_level);
        }
        self.operator.follow(&plan.config);
        self.exporter.follow(plan.config.telemetry.tracing.as_ref()).await;
        for worker in &self.workers {
            // The old stacks are dropped here, not on the worker's time.
            drop(worker.commit(self.stacks(&plan, worker)).await.map_err(StartError::Thread)?);
        }
        self.listeners.keep(prepared, self.operator.cells());
        files.follow(loaded.watched);
        plan.take_effect();
        self.operator.took_over(&plan);
        self.plan = plan;
        Ok(self.plan.config.hash.clone())
    }

    /// The stacks of a worker.
    fn stacks(&self, plan: &Plan, worker: &Worker) -> Stacks {
        let (log, exporter, queue) = (&self.access_log, &self.exporter, self.keeper.queue());
        build::stacks(plan, worker.resources(), log, exporter, queue)
    }

    /// A store that was waited for is open: routes and endpoints get it.
    async fn queue_opened(&self) {
        self.swap_stacks().await;
        tracing::info!("the queue is open");
    }

    /// Gives routes and endpoints the current state of the queue.
    async fn swap_stacks(&self) {
        for worker in &self.workers {
            if let Err(error) = worker.swap(self.stacks(&self.plan, worker)).await {
                tracing::error!(%error, "a worker thread has ended: it serves nothing any more; restart the gateway");
            }
        }
    }

    /// Stops being ready; the next steps come as orders from a separate task.
    fn drain(&mut self, drain: Drain) {
        if !self.operator.begin_drain() {
            return;
        }
        let settings = self.options.drain;
        let wait = match drain {
            Drain::Announced => settings.before_close,
            Drain::Prompt => Duration::ZERO,
        };
        tracing::info!(?wait, "draining");
        let close_at = Instant::now() + wait;
        self.ends_at = Some(close_at + settings.requests);
        self.tunnels.send_replace(Some(close_at + settings.upgrades));
        let resources: Vec<_> =
            self.workers.iter().map(|worker| worker.resources().clone()).collect();
        for worker in &resources {
            worker.connections.drain();
        }
        task::spawn("drain", drain::wind_down(self.orders.clone(), resources, close_at, settings));
    }

    async fn close(&mut self) {
        self.keeper.wind_down().await;
        for worker in &self.workers {
            worker.close().await;
        }
        tracing::info!("listeners closed");
    }

    /// Frees the queue for another process. One deadline covers all: what clients used has ended.
    async fn close_queue(&mut self) {
        let ends_at = self.ends_at.unwrap_or_else(|| Instant::now() + self.options.drain.requests);
        if self.keeper.close(ends_at.saturating_duration_since(Instant::now())).await {
            // Stacks that still hold the store would keep other processes from it.
            self.swap_stacks().await;
            tracing::info!("the queue is closed");
        }
    }

    async fn stop(mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.stop().await;
        }
        // Nobody publishes or consumes any more. After a drain it is already closed.
        self.close_queue().await;
        self.exporter.finish(Instant::now() + LAST_SPANS).await;
        if !self.access_log.flush(LAST_LINES) {
            tracing::warn!("the last lines of the access log could not be written and are lost");
        }
    }
}

/// The number of workers for `config`.
pub(super) fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.workers.unwrap_or_else(cores)
}

async fn bind_admin(config: &Config) -> Result<TcpListener, StartError> {
    let address: SocketAddr = config.admin.address;
    TcpListener::bind(address).await.map_err(|source| StartError::Admin { address, source })
}

fn serve_admin(listener: TcpListener, operator: &Arc<Operator>) {
    let handles: Arc<dyn admin::Handles> = operator.clone();
    task::spawn("admin", async move { admin::serve(listener, handles).await });
}

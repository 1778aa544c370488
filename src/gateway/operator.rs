//! What the admin listener shows and does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    admin,
    balancer::Group,
    config::Config,
    gateway::{
        self, Asked, Drain, ReloadError,
        build::Plan,
        control::{Control, Order},
    },
    routing::Table,
    telemetry::{
        clock,
        metrics::{
            CONFIG_LOADED, CONFIG_RELOAD_FAILURES, CONFIG_RELOADS, Cells, Metrics,
        },
    },
};

/// The running state as an operator sees it.
#[derive(Debug)]
pub(super) struct Operator {
    metrics: Metrics,
    cells: Cells,
    orders: mpsc::Sender<Order>,
    live: Mutex<Live>,
    is_draining: AtomicBool,
}

/// What is in force now.
#[derive(Clone, Debug)]
struct Live {
    config: Arc<Config>,
    table: Arc<Table>,
    groups: Arc<[Arc<Group>]>,
    loaded_at: std::time::SystemTime,
}

// === impl Operator ===

impl Operator {
    pub(super) fn new(metrics: Metrics, orders: mpsc::Sender<Order>, plan: &Plan) -> Self {
        let cells = metrics.thread();
        let operator = Self {
            metrics,
            cells,
            orders,
            live: Mutex::new(Live::of(plan)),
            is_draining: AtomicBool::new(false),
        };
        operator.took_over(plan);
        operator
    }

    /// `plan` is in force now.
    pub(super) fn took_over(&self, plan: &Plan) {
        let live = Live::of(plan);
        let loaded = clock::since_epoch(live.loaded_at).as_secs_f64();
        self.cells.gauge(&CONFIG_LOADED, &[]).set(loaded);
        *self.live.lock() = live;
    }

    /// Counts a reload.
    pub(super) fn reloaded(&self, is_ok: bool) {
        let desc = if is_ok { &CONFIG_RELOADS } else { &CONFIG_RELOAD_FAILURES };
        self.cells.counter(desc, &[]).add(1);
    }

    /// Not ready from now on. `false`: that was so before.
    pub(super) fn begin_drain(&self) -> bool {
        // Relaxed: nothing else is published by it.
        !self.is_draining.swap(true, Ordering::Relaxed)
    }

    /// Whether the end has begun.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

// === impl Live ===

impl Live {
    fn of(plan: &Plan) -> Self {
        Self {
            config: plan.config.clone(),
            table: plan.table.clone(),
            groups: plan.groups.clone().into(),
            loaded_at: clock::now(),
        }
    }
}

//! What of a configuration may change while the gateway runs.

use crate::config::Config;

/// Which keys differ that only a restart can follow; empty when all can be taken over.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.workers != new.workers {
        keys.push("workers");
    }
    if old.admin.address != new.admin.address {
        keys.push("admin.address");
    }
    if let (Some(old), Some(new)) = (&old.events, &new.events) {
        if old.dir != new.dir {
            keys.push("queue.dir");
        }
        if old.durability != new.durability {
            keys.push("queue.durability");
        }
    }
    keys
}

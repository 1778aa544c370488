//! What may change in a configuration while the gateway runs.

use crate::config::Config;

/// The changed keys that need a restart; empty if all changes can be applied.
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
        if old.disk != new.disk {
            keys.push("queue.disk");
        }
        if old.ingress != new.ingress {
            keys.push("queue.ingress");
        }
        if old.publish_buffer != new.publish_buffer {
            keys.push("queue.publish_buffer");
        }
        if old.os_interval != new.os_interval {
            keys.push("queue.os_interval");
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(queue: &str) -> Config {
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             queue: {{ {queue} }}\n\
             topics: {{ orders: {{}} }}\n"
        );
        match crate::config::parse(&text, "test.yaml", Path::new("."), &|_| None) {
            Ok((config, _)) => config,
            Err(problems) => panic!("{problems}"),
        }
    }

    #[test]
    fn what_is_not_followed_is_named_and_what_is_followed_is_not() {
        let old = config("dir: /d");
        for (queue, wanted) in [
            ("dir: /e", Some("queue.dir")),
            ("dir: /d, durability: os", Some("queue.durability")),
            ("dir: /d, disk: { min_free: 9GiB }", Some("queue.disk")),
            ("dir: /d, ingress: { max_entries: 9000 }", Some("queue.ingress")),
            ("dir: /d, publish_buffer: 9MiB", Some("queue.publish_buffer")),
            ("dir: /d, os_interval: 900ms", Some("queue.os_interval")),
            ("dir: /d, recovery: quarantine, required: true, lock_wait: 9s, instance: a", None),
        ] {
            assert_eq!(needs_restart(&old, &config(queue)), Vec::from_iter(wanted), "{queue}");
        }
    }
}

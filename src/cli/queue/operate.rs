//! The commands of operators: dead letters, replay, jobs, and stopping or moving a subscription.

use clap::Args;
use serde_json::{Value, json};

use super::{Asked, client::segment, delete, get, object, post, show, subscription};

/// Which dead letters.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only with this reason: attempts_exhausted, expired, rejected, lease_expired_limit, maybe_seen, too_large
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only dead letters from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only dead letters from before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only with this event type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

/// `sluice queue dead-letters`
#[derive(Debug, Args)]
pub(super) struct DeadLetters {
    /// The subscription
    subscription: String,
    /// Show only this dead letter, with its event
    #[arg(long, value_name = "ID")]
    id: Option<u64>,
    /// Continue the list after this dead letter
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// The maximum number of dead letters
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u64,
    #[command(flatten)]
    filter: Filter,
}

/// `sluice queue redrive`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue redrive fulfillment --all --dry-run
  sluice queue redrive fulfillment --id 3 --id 4
  sluice queue redrive fulfillment --reason rejected --rate 10")]
pub(super) struct Redrive {
    /// The subscription
    subscription: String,
    /// Redrive this dead letter; may be repeated
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<u64>,
    /// Redrive all dead letters
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// The maximum rate, in events per second
    #[arg(long, value_name = "COUNT")]
    rate: Option<f64>,
    /// Only count them; deliver nothing
    #[arg(long)]
    dry_run: bool,
    /// Also redrive compensated dead letters and requests that may have been done
    #[arg(long)]
    force: bool,
}

/// `sluice queue purge`
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// The subscription
    subscription: String,
    /// The number of dead letters that you expect to delete; it must be right
    #[arg(long, value_name = "COUNT")]
    confirm: u64,
    #[command(flatten)]
    filter: Filter,
}

/// `sluice queue replay`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue replay orders --to fulfillment --from earliest
  sluice queue replay orders --to billing --from 2027-01-31T12:00:00Z --until 2027-01-31T13:00:00Z
  sluice queue replay orders --to fulfillment --from 4711 --rate 100")]
pub(super) struct Replay {
    /// The topic
    topic: String,
    /// The subscription that gets the events
    #[arg(long, value_name = "SUBSCRIPTION")]
    to: String,
    /// Where to start: `earliest`, a time (RFC 3339) or an offset
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Where to stop: a time or an offset; by default the current end
    #[arg(long, value_name = "PLACE")]
    until: Option<String>,
    /// The maximum rate, in events per second
    #[arg(long, value_name = "COUNT")]
    rate: Option<f64>,
    /// Also publish the events that follow (`on_success`, `on_exhausted`)
    #[arg(long)]
    publish: bool,
}

/// `sluice queue jobs`
#[derive(Debug, Args)]
pub(super) struct Jobs {
    /// Show only this job, with its failures
    id: Option<String>,
}

/// `sluice queue cancel`
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The job's ID
    id: String,
}

/// `sluice queue resolve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue uncertain
  sluice queue resolve A3F.. --outcome done         a repeat is answered 200, and not sent
  sluice queue resolve A3F.. --outcome not_done     a repeat is sent")]
pub(super) struct Resolve {
    /// The key's ID, as printed by `uncertain`
    id: String,
    /// Whether the upstream has done the request
    #[arg(long, value_name = "WORD", value_parser = ["done", "not_done"])]
    outcome: String,
}

/// `sluice queue seek`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue seek fulfillment --to earliest
  sluice queue seek fulfillment --to 2027-01-31T12:00:00Z
  sluice queue seek fulfillment --offset 0=4711 --offset 3=4800")]
pub(super) struct Seek {
    /// The subscription
    subscription: String,
    /// The new position: `earliest`, `latest` or a time (RFC 3339)
    #[arg(long, value_name = "PLACE", required_unless_present = "offsets")]
    to: Option<String>,
    /// The new position of one partition; may be repeated
    #[arg(long = "offset", value_name = "PARTITION=OFFSET", conflicts_with = "to")]
    offsets: Vec<String>,
}

/// `sluice queue pause`, `resume`
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The subscription
    subscription: String,
}

/// `sluice queue unblock`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice queue unblock fulfillment customer-1 --action retry
  sluice queue unblock fulfillment --partition 3 --action dead_letter     with `order: partition`
  sluice queue unblock fulfillment --keyless --action discard             events without a key")]
pub(super) struct Unblock {
    /// The subscription
    subscription: String,
    /// The blocked key
    #[arg(required_unless_present_any = ["partition", "keyless"])]
    key: Option<String>,
    /// The blocked partition, if the subscription has `order: partition`
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["key", "keyless"])]
    partition: Option<u32>,
    /// All blocked events without a key
    #[arg(long, conflicts_with = "key")]
    keyless: bool,
    /// What to do with the blocking event: retry, dead_letter or discard
    #[arg(long)]
    action: String,
}

/// `sluice queue reopen`
#[derive(Debug, Args)]
pub(super) struct Topic {
    /// The topic
    topic: String,
}

// === impl Filter ===

impl Filter {
    fn parts(&self) -> [(&'static str, Option<&String>); 5] {
        [
            ("reason", self.reason.as_ref()),
            ("since", self.since.as_ref()),
            ("until", self.until.as_ref()),
            ("key", self.key.as_ref()),
            ("type", self.kind.as_ref()),
        ]
    }

    fn is_empty(&self) -> bool {
        self.parts().iter().all(|(_, value)| value.is_none())
    }

    fn query(&self, start: String) -> String {
        let parts = self.parts().into_iter();
        let parts = parts.filter_map(|(name, value)| Some(format!("{name}={}", segment(value?))));
        [start].into_iter().chain(parts).collect::<Vec<_>>().join("&")
    }

    fn json(&self) -> Value {
        object(self.parts().map(|(name, value)| (name, value.map(|text| json!(text)))))
    }
}

// === impl DeadLetters ===

impl DeadLetters {
    pub(super) fn asked(&self) -> Asked {
        if let Some(id) = self.id {
            let target = subscription(&self.subscription, &format!("/dead-letters/{id}"));
            return get(target, show::dead_letter);
        }
        let after = self.after.map(|after| format!("&after={after}")).unwrap_or_default();
        let query = self.filter.query(format!("?limit={}{after}", self.limit));
        let target = subscription(&self.subscription, &format!("/dead-letters{query}"));
        get(target, show::dead_letters)
    }
}

// === impl Redrive ===

impl Redrive {
    pub(super) fn asked(&self) -> Result<Asked, String> {
        let which = match (self.ids.is_empty(), self.all, self.filter.is_empty()) {
            (false, false, true) => ("ids", json!(self.ids)),
            (true, true, true) => ("filter", json!({})),
            (true, false, false) => ("filter", self.filter.json()),
            _ => return Err("say which: --id, --all, or what they have in common".to_owned()),
        };
        let mut body = object([
            ("rate", self.rate.map(|rate| json!(rate))),
            ("dry_run", Some(json!(self.dry_run))),
            ("force", Some(json!(self.force))),
        ]);
        body[which.0] = which.1;
        let target = subscription(&self.subscription, "/dead-letters/redrive");
        Ok(post(target, &body, show::redriven))
    }
}

// === impl Purge ===

impl Purge {
    pub(super) fn asked(&self) -> Asked {
        let query = self.filter.query(format!("?confirm={}", self.confirm));
        let target = subscription(&self.subscription, &format!("/dead-letters{query}"));
        delete(target, |told| format!("{} removed\n", told["removed"]))
    }
}

// === impl Replay ===

impl Replay {
    pub(super) fn asked(&self) -> Asked {
        let place =
            |text: &String| text.parse::<u64>().map_or_else(|_| json!(text), |at| json!(at));
        let body = object([
            ("subscription", Some(json!(self.to))),
            ("from", Some(place(&self.from))),
            ("to", self.until.as_ref().map(place)),
            ("rate", self.rate.map(|rate| json!(rate))),
            ("publish", Some(json!(self.publish))),
        ]);
        post(format!("/v1/topics/{}/replay", segment(&self.topic)), &body, show::job)
    }
}

// === impl Jobs ===

impl Jobs {
    pub(super) fn asked(&self) -> Asked {
        match &self.id {
            Some(id) => get(format!("/v1/jobs/{}", segment(id)), show::job),
            None => get("/v1/jobs".to_owned(), show::jobs),
        }
    }
}

// === impl Cancel ===

impl Cancel {
    pub(super) fn asked(&self) -> Asked {
        delete(format!("/v1/jobs/{}", segment(&self.id)), show::job)
    }
}

// === impl Seek ===

impl Seek {
    pub(super) fn asked(&self) -> Result<Asked, String> {
        let to = if let Some(to) = &self.to {
            json!(to)
        } else {
            let mut map = json!({});
            for offset in &self.offsets {
                let parsed = offset.split_once('=').and_then(|(partition, offset)| {
                    Some((partition.parse::<u32>().ok()?, offset.parse::<u64>().ok()?))
                });
                let (partition, at) = parsed
                    .ok_or_else(|| format!("`{offset}` is not PARTITION=OFFSET, such as 0=4711"))?;
                map[partition.to_string()] = json!(at);
            }
            map
        };
        let target = subscription(&self.subscription, "/seek");
        Ok(post(target, &json!({ "to": to }), show::subscription))
    }
}

// === impl Resolve ===

impl Resolve {
    pub(super) fn asked(&self) -> Asked {
        let target = format!("/v1/idempotency/{}/resolve", segment(&self.id));
        post(target, &json!({ "outcome": self.outcome }), show::resolved)
    }
}

// === impl Named ===

impl Named {
    pub(super) fn asked(&self, verb: &str) -> Asked {
        let target = subscription(&self.subscription, &format!("/{verb}"));
        post(target, &json!({}), show::subscription)
    }
}

// === impl Unblock ===

impl Unblock {
    pub(super) fn asked(&self) -> Asked {
        let mut body = json!({ "action": self.action });
        match self.partition {
            Some(partition) => body["partition"] = json!(partition),
            None => body["key"] = json!(self.key),
        }
        post(subscription(&self.subscription, "/unblock"), &body, show::subscription)
    }
}

// === impl Topic ===

impl Topic {
    pub(super) fn asked(&self, verb: &str, show: fn(&Value) -> String) -> Asked {
        post(format!("/v1/topics/{}/{verb}", segment(&self.topic)), &json!({}), show)
    }
}

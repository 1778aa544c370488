//! Jobs: deliveries requested by an operator, replay and redrive.

use std::{fmt, str::FromStr, sync::Arc};

use super::dead_letters::Reason;

/// A job of a subscription: `<subscription>:<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    /// The subscription.
    pub subscription: Arc<str>,
    /// Its lane, from 1.
    pub lane: u32,
}

/// A request to deliver a range of a topic to one subscription again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The subscription.
    pub subscription: String,
    /// Where to start.
    pub from: Start,
    /// Where to end, exclusive; `None` for the current end.
    pub to: Option<Start>,
    /// Maximum deliveries per second.
    pub rate: Option<f64>,
    /// Whether `on_success` and `on_exhausted` publish.
    pub publishes: bool,
}

/// A position in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first event that is stored.
    Earliest,
    /// The first event published at this time or later.
    Time(u64),
    /// An offset.
    Offset(u64),
}

/// The status of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Its ID.
    pub id: JobId,
    /// What it delivers.
    pub kind: JobKind,
    /// Whether it runs.
    pub state: JobState,
    /// When it began.
    pub started: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// Number of offsets or dead letters to process.
    pub total: u64,
    /// How many of them are done.
    pub done: u64,
    /// Events settled by success.
    pub delivered: u64,
    /// Events failed for good.
    pub failed: u64,
    /// The first failures, at most 100.
    pub failures: Vec<JobFailure>,
}

/// What a job delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// A range of the topic.
    Replay,
    /// Dead letters.
    Redrive,
}

/// Whether a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// It does.
    Running,
    /// Everything is settled.
    Done,
    /// It was cancelled before that.
    Cancelled,
}

/// An event that a job could not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in the log.
    pub offset: u64,
    /// Why.
    pub reason: Reason,
}

// === impl JobId ===

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.subscription, self.lane)
    }
}

impl FromStr for JobId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (subscription, lane) = text.rsplit_once(':').ok_or(())?;
        let lane = lane.parse().map_err(|_| ())?;
        let is_job = lane > 0 && !subscription.is_empty();
        is_job.then(|| Self { subscription: subscription.into(), lane }).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_its_subscription_and_lane() {
        let id = JobId { subscription: "billing.v2".into(), lane: 7 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "7", "billing", "billing:", "billing:0", ":7", "billing:x"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }
}

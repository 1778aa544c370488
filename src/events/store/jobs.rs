//! Starts, shows and ends jobs.

use super::{Reading, Store};
use crate::events::{
    delivery::subscription::LaneId,
    facade::{JobId, JobStatus, Refusal, Replay, Start},
    queue::{Offset, log::Log},
};

// === impl Store ===

impl Store {
    pub(super) async fn do_replay(
        &self,
        topic: &str,
        replay: Replay,
    ) -> Result<JobStatus, Refusal> {
        let topic = self.find_topic(topic)?;
        let reading = self.find_subscription(&replay.subscription)?;
        if reading.topic.id() != topic.id() {
            let detail = format!(
                "subscription `{}` reads topic `{}`, not `{}`",
                replay.subscription,
                reading.topic.name(),
                topic.name()
            );
            return Err(Refusal::conflict(detail));
        }
        reading.check_takes_events("a replay would send them twice")?;
        let log = topic.opened()?.log().clone();
        let from = self.place_of(&log, replay.from).await?;
        let to = match replay.to {
            Some(to) => self.place_of(&log, to).await?,
            None => log.durable(),
        };
        let stretch = (from, to);
        let lane = reading.subscription.replay(stretch, replay.rate, replay.publishes).await?;
        let id = JobId { subscription: reading.settings.name.clone(), lane: lane.0 };
        self.do_job(&id).await
    }

    async fn place_of(&self, log: &Log, start: Start) -> Result<Offset, Refusal> {
        match start {
            Start::Earliest => Ok(log.start()),
            Start::Offset(offset) => Ok(Offset(offset).clamp(log.start(), log.durable())),
            Start::Time(at) => {
                let log = log.clone();
                let found = self.block(move || log.offset_at(at)).await?;
                found.map_err(|error| Refusal::unavailable(error.to_string()))
            }
        }
    }

    pub(super) async fn do_jobs(&self) -> Result<Vec<JobStatus>, Refusal> {
        let mut jobs = Vec::new();
        for reading in self.all_subscriptions() {
            jobs.extend(reading.subscription.jobs().await?);
        }
        Ok(jobs)
    }

    pub(super) async fn do_job(&self, id: &JobId) -> Result<JobStatus, Refusal> {
        let unknown = || Refusal::unknown("job", id.to_string());
        let reading: Reading = self.find_subscription(&id.subscription).map_err(|_| unknown())?;
        let jobs = reading.subscription.jobs().await?;
        jobs.into_iter().find(|job| job.id.lane == id.lane).ok_or_else(unknown)
    }

    pub(super) async fn do_cancel(&self, id: &JobId) -> Result<JobStatus, Refusal> {
        let job = self.do_job(id).await?;
        if job.ended.is_none() {
            let reading = self.find_subscription(&id.subscription)?;
            reading.subscription.cancel(LaneId(id.lane)).await?;
        }
        self.do_job(id).await
    }
}

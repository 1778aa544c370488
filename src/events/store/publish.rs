//! Publishing: what is refused, what is appended, and what is answered.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Store, topic::Topic, topics::millis};
use crate::events::{
    event::Event,
    facade::{Published, Refusal},
    queue::{
        codec::{Draft, MAX_FRAME_BYTES},
        log::{AppendError, Appended, Log, Purpose, Reason, Refused},
    },
    stored,
};

/// What a frame takes beside its records, at most.
const FRAME_OVERHEAD: usize = 4096;
/// A full topic, and one whose reader is behind: come back after.
const RETRY_AFTER: Duration = Duration::from_secs(1);

// === impl Store ===

impl Store {
    pub(super) async fn do_publish(
        &self,
        topic: &str,
        events: Vec<Event>,
    ) -> Result<Vec<Published>, Refusal> {
        if self.0.is_draining.load(Relaxed) {
            return Err(Refusal::Draining);
        }
        let topic = self.find_topic(topic)?;
        let handle = topic.opened()?;
        let drafts = self.drafts(&topic, &events)?;
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let commit = handle.publish(Purpose::Publish, drafts);
        let appended = commit.map_err(|refused| refusal(&refused, bytes))?.await;
        let appended = appended.map_err(|error| append_refusal(&error, bytes))?;
        let mut published = Vec::with_capacity(appended.len());
        for (event, appended) in events.into_iter().zip(appended) {
            published.push(self.published(handle.log(), event, &appended).await?);
        }
        Ok(published)
    }

    fn drafts(&self, topic: &Topic, events: &[Event]) -> Result<Vec<Draft>, Refusal> {
        let about = topic.about();
        let limit = about.settings.max_event_bytes;
        let last = self.now().saturating_add(millis(about.settings.max_age));
        let mut drafts = Vec::with_capacity(events.len());
        let mut all = FRAME_OVERHEAD;
        for (index, event) in events.iter().enumerate() {
            let draft = stored::draft(event);
            all += draft.encoded_bytes();
            if event.bytes() as u64 > limit || draft.check().is_err() {
                return Err(Refusal::TooLarge { index, limit });
            }
            if all > MAX_FRAME_BYTES {
                return Err(Refusal::TooLarge { index, limit: MAX_FRAME_BYTES as u64 });
            }
            if event.not_before.is_some_and(|at| at > last) {
                return Err(Refusal::DelayTooLong { index });
            }
            if event.not_before.is_some_and(|at| at > self.now()) {
                let detail = "events that wait for their time are not stored yet".into();
                return Err(Refusal::Invalid { index, detail });
            }
            drafts.push(draft);
        }
        Ok(drafts)
    }

    /// A duplicate has the ID of the event that was there.
    async fn published(
        &self,
        log: &Log,
        event: Event,
        appended: &Appended,
    ) -> Result<Published, Refusal> {
        let (offset, mut id) = (appended.offset, event.id);
        if appended.duplicate.is_some() {
            let mut reader = log.reader();
            let first = self.block(move || reader.get(offset)).await?;
            let first = first.ok().flatten();
            let first = first.and_then(|first| Some(first.record()?.id()?.to_owned()));
            id = first.unwrap_or(id);
        }
        Ok(Published {
            id,
            partition: appended.partition.into(),
            offset: offset.0,
            duplicate: appended.duplicate.is_some(),
            mismatch: appended.duplicate.is_some_and(|duplicate| duplicate.mismatch),
        })
    }
}

fn refusal(refused: &Refused, bytes: u64) -> Refusal {
    let retry_after = refused.retry_after.unwrap_or(RETRY_AFTER);
    match refused.reason {
        Reason::Full => Refusal::Full { retry_after },
        Reason::DiskLow => Refusal::Disk { retry_after },
        Reason::Offline => Refusal::unavailable("the topic is offline"),
        Reason::TooLarge => Refusal::TooLarge { index: 0, limit: bytes },
    }
}

fn append_refusal(error: &AppendError, bytes: u64) -> Refusal {
    match error {
        AppendError::Refused(refused) => refusal(refused, bytes),
        AppendError::Unknown => Refusal::Unavailable { detail: error.to_string(), may_exist: true },
        AppendError::Stopped => Refusal::Draining,
    }
}

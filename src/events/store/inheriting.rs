//! Re-reserves places for requests that were stored by an earlier process, so that newcomers leave
//! them one.
//!
//! A request that was never attempted is known only from its topic. So after a topic is opened, it
//! is read once from its oldest unsettled record on, in the background, a block at a time. Until
//! then each record that is unsettled, as far as its subscription knows, counts as such a request;
//! records settled above one that waits for long do not. Costs one read of the backlog, and no
//! memory beyond the places.
//!
//! Copies in a subscription's parked log get no place before they are sent: they are few, and most
//! of them were attempted.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use super::{Inner, Store, maintenance::delivers, topic::Topic};
use crate::{
    events::{
        delivery::{
            runner::{Backlog, Subscription},
            subscription::Partition,
        },
        facade::Refusal,
        ingress::Ingress,
        queue::{
            Offset,
            log::{ReadError, Reader},
        },
        request::{Place, StoredRequest},
    },
    telemetry::task,
};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// The unread records of one topic; dropping this gives up those that remain.
struct Unread {
    ingress: Ingress,
    records: Range<u64>,
    /// Places reserved for them: as many as may be waiting.
    kept: u64,
}

/// A stored request, as far as needed here.
struct Found {
    partition: Partition,
    at: Offset,
    until: u64,
}

// === impl Store ===

impl Store {
    /// Reserves places for a topic's waiting requests. When this returns no newcomer gets one of
    /// these places; which requests need them is found out later.
    pub(super) async fn inherit(&self, topic: &Arc<Topic>) -> Result<(), Refusal> {
        let reader = self.readers(topic).into_iter().find(delivers);
        let (Some(reader), Ok(handle)) = (reader, topic.opened()) else { return Ok(()) };
        let Backlog { records, waiting } =
            reader.subscription.backlog(handle.log().durable()).await?;
        let records = records.start.max(handle.log().start().0)..records.end;
        if !records.is_empty() {
            let unread = Unread::new(self.ingress().clone(), records, waiting);
            let (store, log) = (Arc::downgrade(&self.0), handle.log().reader());
            let topic = topic.clone();
            // Ends with the backlog or the store; nobody waits for it.
            task::spawn("places", look_through(store, topic, (reader.subscription, log), unread));
        }
        Ok(())
    }
}

// === impl Unread ===

impl Unread {
    fn new(ingress: Ingress, records: Range<u64>, waiting: u64) -> Self {
        let kept = waiting.min(records.end - records.start);
        ingress.inherit(kept);
        Self { ingress, records, kept }
    }

    /// Everything below `next` was read: `waiting` requests wait there, and `placeless` are those
    /// that had no place.
    fn looked_at(&mut self, next: Offset, waiting: usize, placeless: &[(Place, u64)]) {
        self.records.start = next.0.clamp(self.records.start, self.records.end);
        let kept = left(self.kept, waiting as u64, &self.records);
        self.ingress.looked_at(self.kept - kept, placeless);
        self.kept = kept;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.looked_at(Offset(self.records.end), 0, &[]);
    }
}

/// How many of `kept` places the remaining records may need, if `waiting` were found before them.
fn left(kept: u64, waiting: u64, records: &Range<u64>) -> u64 {
    kept.saturating_sub(waiting).min(records.end - records.start)
}

/// Reads all of `unread`, unless the store ends first.
async fn look_through(
    store: Weak<Inner>,
    topic: Arc<Topic>,
    (subscription, mut reader): (Subscription, Reader),
    mut unread: Unread,
) {
    while !unread.records.is_empty() {
        let Some(store) = store.upgrade().map(Store) else { return };
        let from = Offset(unread.records.start);
        let read = store.block(move || (read(&mut reader, from), reader)).await;
        let Ok((read, it)) = read else { return };
        reader = it;
        let (mut found, next) = match read {
            Ok((found, next)) if next > from => (found, next),
            Ok(_) => return,
            Err(error) => {
                // The subscription will find it too, and report what to do.
                let topic = topic.name();
                tracing::warn!(%topic, %error, "cannot read all stored requests that wait: some have no place reserved");
                return;
            }
        };
        let events = found.iter().map(|found| (found.partition, found.at)).collect();
        let Ok(is_unsettled) = subscription.unsettled(events).await else { return };
        let mut is_unsettled = is_unsettled.into_iter();
        found.retain(|_| is_unsettled.next() == Some(true));
        let waiting = found.len();
        let place = |found: &Found| Place { topic: topic.id(), offset: found.at };
        let placeless: Vec<_> = found
            .iter()
            .filter(|found| !unread.ingress.has_place(place(found)))
            .map(|found| (place(found), found.until))
            .collect();
        unread.looked_at(next, waiting, &placeless);
    }
}

/// The requests in the block from `from` on, and where the next block begins. Blocks.
fn read(reader: &mut Reader, from: Offset) -> Result<(Vec<Found>, Offset), ReadError> {
    let block = match reader.read(from, BLOCK) {
        Err(ReadError::Retired { start }) => return Ok((Vec::new(), start)),
        other => other?,
    };
    let requests = block.records().filter_map(|(at, record)| {
        let partition = Partition { generation: record.generation(), number: record.partition() };
        let until = StoredRequest::read(&record, |_| Bytes::new()).ok()?.status_until;
        Some(Found { partition, at, until })
    });
    Ok((requests.collect(), block.next()))
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn what_was_found_and_what_was_passed_needs_no_place_any_more() {
        assert_eq!(left(3, 1, &(100..200)), 2, "what is settled is not of those that are kept");
        assert_eq!(left(3, 0, &(198..200)), 2, "no more than there are");
        assert_eq!(left(3, 5, &(100..200)), 0, "one came back unsettled");
        assert_eq!(left(3, 0, &(200..200)), 0);
    }
}

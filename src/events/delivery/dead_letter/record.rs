//! A dead letter as a record: the event's own record, plus one field that says how it died.

use bytes::Bytes;

use crate::events::{
    delivery::{
        encoding::{Encoding, Malformed, fields},
        subscription::{Failure, Letter, Place, Reason},
    },
    event::Event,
    facade,
    queue::{
        Offset,
        codec::{Draft, Fields, Record, Tag},
    },
    stored,
};

/// The field: version u8, then a [`Death`].
const DEATH: Tag = Tag(Tag::FIRST_FREE.0);
const VERSION: u8 = 1;

/// How an event died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The event's original position.
    pub origin: Place,
    /// Why it died.
    pub reason: Reason,
    /// The attempts that counted.
    pub attempts: u32,
    /// When the first of them began.
    pub first_attempt: Option<u64>,
    /// When it died.
    pub at: u64,
    /// How the last attempt ended.
    pub failure: Option<Failure>,
    /// Whether a compensating event followed.
    pub is_compensated: bool,
}

fields!(Death { origin, reason, attempts, first_attempt, at, failure, is_compensated });

// === impl Death ===

impl Death {
    /// From the state of a letter.
    pub fn of(letter: &Letter) -> Self {
        Self {
            origin: letter.place,
            reason: letter.reason,
            attempts: letter.attempts,
            first_attempt: letter.first_attempt,
            at: letter.at,
            failure: letter.failure.clone(),
            is_compensated: letter.is_compensated,
        }
    }

    /// From a record, if it is a dead letter.
    pub fn read(record: &Record<'_>) -> Result<Self, Malformed> {
        let mut bytes = record.field(DEATH).ok_or(Malformed::Bytes)?;
        match u8::take(&mut bytes)? {
            VERSION => Self::take(&mut bytes),
            0 => Err(Malformed::Bytes),
            _ => Err(Malformed::Newer),
        }
    }

    /// The record of the letter, made from its event's.
    pub fn draft(&self, mut event: Draft) -> Draft {
        let mut fields = Fields::builder();
        for field in event.fields.iter().filter(|field| field.tag != DEATH) {
            fields = fields.field(field.tag, field.value);
        }
        let mut said = vec![VERSION];
        self.put(&mut said);
        event.fields = fields.field(DEATH, &said).build();
        event.generation = self.origin.partition.generation;
        event.partition = self.origin.partition.number;
        // It no longer waits, and is nobody's duplicate.
        (event.not_before, event.dedup) = (None, None);
        event
    }
}

/// A dead letter as it is shown.
pub fn shown(
    id: Offset,
    topic: &std::sync::Arc<str>,
    redrives: u32,
    record: &Record<'_>,
) -> Result<facade::DeadLetter, Malformed> {
    let death = Death::read(record)?;
    let failure = death.failure;
    Ok(facade::DeadLetter {
        id: id.0,
        origin: facade::Origin {
            lane: death.origin.lane.0,
            topic: topic.clone(),
            partition: death.origin.partition.number.into(),
            offset: death.origin.offset.0,
        },
        event_id: record.id().unwrap_or_default().to_owned(),
        kind: record.event_type().unwrap_or_default().to_owned(),
        key: record.key().map(Bytes::copy_from_slice),
        attempts: death.attempts,
        first_attempt: death.first_attempt,
        died: death.at,
        reason: reason(death.reason),
        last_status: failure.as_ref().and_then(|failure| failure.status),
        last_error: failure.and_then(|failure| failure.snippet).map(String::from),
        redrives,
        is_compensated: death.is_compensated,
        bytes: record.encoded_bytes() as u64,
    })
}

/// The event of a dead letter.
pub fn event(record: &Record<'_>) -> Event {
    stored::event(record, Bytes::copy_from_slice)
}

/// Whether `filter` matches a dead letter.
pub fn matches(filter: &facade::DeadLetterFilter, letter: &facade::DeadLetter) -> bool {
    filter.reason.is_none_or(|reason| reason == letter.reason)
        && filter.since.is_none_or(|since| letter.died >= since)
        && filter.until.is_none_or(|until| letter.died < until)
        && filter.key.as_ref().is_none_or(|key| letter.key.as_ref() == Some(key))
        && filter.kind.as_ref().is_none_or(|kind| *kind == letter.kind)
}

/// The reason, as it is shown.
pub fn reason(reason: Reason) -> facade::Reason {
    match reason {
        Reason::AttemptsExhausted => facade::Reason::AttemptsExhausted,
        Reason::Expired => facade::Reason::Expired,
        Reason::Rejected => facade::Reason::Rejected,
        Reason::LeaseExpiredLimit => facade::Reason::LeaseExpiredLimit,
        Reason::MaybeSeen => facade::Reason::MaybeSeen,
        Reason::TooLarge => facade::Reason::TooLarge,
    }
}

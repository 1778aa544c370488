//! Attempts and results of stored requests in the ingress log. Pure.
//!
//! Each step is one record that is complete in itself: an attempt begins (synced before the first
//! byte is sent), it came to nothing, or it ended, then with the answer.

use bytes::Bytes;
use uuid::Uuid;

use super::{key_record::put_answer, results::Recorded};
use crate::{
    events::{
        queue::{
            LogId, Offset,
            codec::{Draft, Fields, Kind, Record, Tag},
        },
        request::{Place, State},
    },
    http::idempotency::StoredAnswer,
};

/// The topic of the request and its offset there.
const TOPIC: Tag = Tag(1056);
const OFFSET: Tag = Tag(1057);
/// u8.
const STATE: Tag = Tag(1058);
/// u32.
const ATTEMPTS: Tag = Tag(1059);
/// u32.
const LANE: Tag = Tag(1060);
/// The request may be sent again.
const REPEATABLE: Tag = Tag(1061);
/// Milliseconds since 1970, u64.
const UNTIL: Tag = Tag(1062);
/// The most bytes of a record without an answer.
pub(super) const STEP_BYTES: u64 = 256;

/// The record of a step.
pub(super) fn draft(place: Place, recorded: Recorded, answer: Option<&StoredAnswer>) -> Draft {
    let Recorded { state, attempts, lane, may_repeat, until } = recorded;
    let fields = Fields::builder()
        .field(TOPIC, place.topic.0.as_bytes())
        .field(OFFSET, &place.offset.0.to_le_bytes())
        .field(STATE, &[number(state)])
        .field(ATTEMPTS, &attempts.to_le_bytes())
        .field(LANE, &lane.to_le_bytes())
        .field(UNTIL, &until.to_le_bytes());
    let fields = if may_repeat { fields.field(REPEATABLE, &[]) } else { fields };
    let (fields, body) = match answer {
        Some(answer) => put_answer(fields, answer),
        None => (fields, Bytes::new()),
    };
    Draft::new(Kind::Outcome, fields.build(), body)
}

/// The request of a record, and its state.
pub(super) fn read(record: &Record<'_>) -> Option<(Place, Recorded)> {
    let topic = LogId(Uuid::from_slice(record.field(TOPIC)?).ok()?);
    let long = |tag| record.field(tag)?.try_into().ok().map(u64::from_le_bytes);
    let short = |tag| record.field(tag)?.try_into().ok().map(u32::from_le_bytes);
    let recorded = Recorded {
        state: state(*record.field(STATE)?.first()?),
        attempts: short(ATTEMPTS)?,
        lane: short(LANE)?,
        may_repeat: record.field(REPEATABLE).is_some(),
        until: long(UNTIL)?,
    };
    Some((Place { topic, offset: Offset(long(OFFSET)?) }, recorded))
}

fn number(state: State) -> u8 {
    match state {
        State::Running => 1,
        State::Queued => 2,
        State::Succeeded => 3,
        State::Failed => 4,
        State::Uncertain => 5,
        State::DeadLettered => 6,
    }
}

fn state(number: u8) -> State {
    match number {
        1 => State::Running,
        2 => State::Queued,
        3 => State::Succeeded,
        4 => State::Failed,
        6 => State::DeadLettered,
        // From a later version: what cannot be understood is uncertain.
        _ => State::Uncertain,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};

    use super::*;
    use crate::events::{
        ingress::key_record::{has_answer, stored_answer},
        queue::codec::{Closing, FrameWriter, Stamp, parse_frame},
    };

    #[test]
    fn a_step_is_read_as_it_was_written() {
        let place = Place { topic: LogId(Uuid::from_u128(3)), offset: Offset(40) };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let body = Some(Bytes::from_static(b"done"));
        let answer = StoredAnswer { status: StatusCode::CREATED, headers, body };
        for number in 1..=6 {
            let (lane, may_repeat) = (u32::from(number), number % 2 == 0);
            let state = state(number);
            let recorded = Recorded { state, attempts: 7, lane, may_repeat, until: u64::MAX };
            let answer = (number == 3).then_some(&answer);
            let draft = draft(place, recorded, answer);
            assert!(answer.is_some() || draft.encoded_bytes() as u64 <= STEP_BYTES);
            let mut writer = FrameWriter::new();
            writer.begin(9, Offset(4));
            writer.push(&draft, Stamp { generation: 0, partition: 0, published: 3 }).unwrap();
            let closing = Closing { previous_crc: 0, durable: Offset(4), wall: 1, mono: 1 };
            let bytes = writer.finish(&closing).bytes.to_vec();
            let frame = parse_frame(&bytes, 9, Offset(4)).unwrap();
            let record = frame.records().next().unwrap().1.unwrap();
            assert_eq!(read(&record), Some((place, recorded)));
            assert_eq!(has_answer(&record), answer.is_some());
            if let Some(answer) = answer {
                assert_eq!(&stored_answer(&record, Bytes::copy_from_slice), answer);
            }
        }
    }
}

//! Steps round-trip, no bytes cause a panic, and the encoding has not changed.

use std::fmt::Debug;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::events::{
    delivery::subscription::{
        Added, Attempt, Circuit, Ending, Failed, Failure, FailureKind, Hold, JobEnd, JobKind,
        LaneId, LapsedEvent, Loss, Mode, Outcome, Partition, Place, Reason, Removal, Seek, Target,
    },
    queue::{LogId, Offset},
};

fn one_of<T: Clone + Debug + 'static>(all: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(all.to_vec())
}

fn offset() -> impl Strategy<Value = Offset> {
    any::<u64>().prop_map(Offset)
}

fn partition() -> impl Strategy<Value = Partition> {
    any::<(u16, u16)>().prop_map(|(generation, number)| Partition { generation, number })
}

fn place() -> impl Strategy<Value = Place> {
    (any::<u32>(), partition(), offset()).prop_map(|(lane, partition, offset)| Place {
        lane: LaneId(lane),
        partition,
        offset,
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    one_of(&[
        Reason::AttemptsExhausted,
        Reason::Expired,
        Reason::Rejected,
        Reason::LeaseExpiredLimit,
        Reason::MaybeSeen,
        Reason::TooLarge,
    ])
}

fn failure() -> impl Strategy<Value = Failure> {
    use FailureKind::{Gone, Lapsed, Nack, NotSent, Refused, Status, Throttled, Timeout};
    let kind = one_of(&[Nack, Lapsed, NotSent, Throttled, Status, Timeout, Refused, Gone]);
    (kind, any::<Option<u16>>(), option::of(".{0,20}"))
        .prop_map(|(kind, status, said)| Failure::new(kind, status, said.as_deref()))
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Succeeded),
        reason().prop_map(Ending::DeadLettered),
        reason().prop_map(Ending::Discarded),
        reason().prop_map(Ending::Failed),
    ]
}

fn log() -> impl Strategy<Value = LogId> {
    any::<u128>().prop_map(|id| LogId(Uuid::from_u128(id)))
}

fn target() -> impl Strategy<Value = Target> {
    (log(), offset()).prop_map(|(log, end)| Target { log, end })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let targets = (option::of(target()), option::of(target()));
    let answer = option::of(vec(any::<u8>(), 0..20).prop_map(Bytes::from));
    (any::<u64>(), place(), ending(), targets, option::of(failure()), answer).prop_map(
        |(at, place, ending, (dead_letter, publish), failure, answer)| Outcome {
            at,
            place,
            ending,
            dead_letter,
            publish,
            failure,
            answer,
        },
    )
}

fn added() -> impl Strategy<Value = Added> {
    let numbers = (any::<Option<u64>>(), any::<u64>(), any::<Option<u64>>(), any::<u32>());
    (partition(), offset(), numbers).prop_map(
        |(partition, offset, (key, published, expires, bytes))| Added {
            partition,
            offset,
            key,
            published,
            expires,
            bytes,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![about_events(), about_letters(), about_the_subscription()]
}

fn about_events() -> impl Strategy<Value = Entry> {
    let attempt = (place(), any::<u32>()).prop_map(|(place, number)| Attempt { place, number });
    let failed = (place(), any::<u64>(), any::<bool>(), failure())
        .prop_map(|(place, until, counts, failure)| Failed { place, until, counts, failure });
    let lapsed = (place(), any::<u64>()).prop_map(|(place, until)| LapsedEvent { place, until });
    let positions = vec((partition(), offset()), 0..4);
    let mode = one_of(&[Mode::Shared, Mode::Alone, Mode::Probe]);
    prop_oneof![
        (any::<u32>(), offset(), positions, vec(added(), 0..4)).prop_map(
            |(lane, to, moved, added)| Entry::Scanned { lane: LaneId(lane), to, moved, added }
        ),
        (any::<u64>(), any::<Option<u64>>(), mode, vec(attempt, 0..4)).prop_map(
            |(at, deadline, mode, events)| Entry::Attempted { at, deadline, mode, events }
        ),
        (any::<u64>(), vec(place(), 0..4))
            .prop_map(|(deadline, events)| Entry::Extended { deadline, events }),
        (any::<u64>(), vec(failed, 0..4)).prop_map(|(at, events)| Entry::Failed { at, events }),
        (any::<u64>(), vec(lapsed, 0..4)).prop_map(|(at, events)| Entry::Lapsed { at, events }),
        (any::<u64>(), vec(place(), 0..4))
            .prop_map(|(until, events)| Entry::Released { until, events }),
        vec(place(), 0..4).prop_map(|events| Entry::GivenBack { events }),
        (any::<u64>(), place(), reason(), option::of(failure()))
            .prop_map(|(at, place, reason, failure)| Entry::Blocked { at, place, reason, failure }),
        place().prop_map(|place| Entry::Unblocked { place }),
        vec(place(), 0..4).prop_map(|events| Entry::LostEvents { events }),
        (any::<u64>(), ending(), vec(place(), 0..4))
            .prop_map(|(at, ending, events)| Entry::Settled { at, ending, events }),
        (place(), offset()).prop_map(|(place, at)| Entry::Parked { place, at }),
    ]
}

fn about_letters() -> impl Strategy<Value = Entry> {
    let removal = one_of(&[Removal::Delivered, Removal::Purged, Removal::Aged]);
    prop_oneof![
        outcome().prop_map(Entry::Outcome),
        (place(), offset(), any::<u32>()).prop_map(|(place, letter, bytes)| Entry::DeadLettered {
            place,
            letter,
            bytes
        }),
        (removal, vec(offset(), 0..4))
            .prop_map(|(removal, letters)| Entry::LettersRemoved { removal, letters }),
        (offset(), offset()).prop_map(|(from, to)| Entry::LetterMoved { from, to }),
    ]
}

fn about_the_subscription() -> impl Strategy<Value = Entry> {
    let seek = prop_oneof![
        offset().prop_map(Seek::All),
        vec((partition(), offset()), 0..4).prop_map(Seek::Partitions),
    ];
    let job = prop_oneof![
        (offset(), offset()).prop_map(|(from, to)| JobKind::Replay { from, to }),
        vec((offset(), offset()), 0..4).prop_map(|letters| JobKind::Redrive { letters }),
        vec((offset(), offset()), 0..4).prop_map(|letters| JobKind::ForcedRedrive { letters }),
    ];
    let circuit = prop_oneof![
        (any::<(u64, u64, u64)>(), vec(place(), 0..4)).prop_map(
            |((at, until, wait), given_back)| Circuit::Opened { at, until, wait, given_back }
        ),
        any::<(u64, u64)>().prop_map(|(until, wait)| Circuit::Waits { until, wait }),
        Just(Circuit::Closed),
    ];
    prop_oneof![
        seek.prop_map(Entry::Sought),
        one_of(&[Hold::Operator, Hold::Gone]).prop_map(Entry::Held),
        Just(Entry::Resumed),
        (any::<u32>(), partition(), offset(), offset()).prop_map(|(lane, partition, from, to)| {
            Entry::Damaged { lane: LaneId(lane), partition, from, to }
        }),
        (any::<u32>(), one_of(&[Loss::Damage, Loss::Dropped]), offset(), offset())
            .prop_map(|(lane, loss, from, to)| Entry::Lost { lane: LaneId(lane), loss, from, to }),
        circuit.prop_map(Entry::Circuit),
        any::<(u64, u32)>()
            .prop_map(|(until, throttled)| Entry::EndpointWaits { until, throttled }),
        (any::<(u32, u64, Option<u64>, bool)>(), log(), job).prop_map(
            |((lane, at, rate, publishes), log, kind)| {
                let lane = LaneId(lane);
                Entry::JobStarted { lane, at, log, kind, rate, publishes }
            }
        ),
        (any::<(u32, u64)>(), one_of(&[JobEnd::Done, JobEnd::Cancelled]))
            .prop_map(|((lane, at), end)| Entry::JobEnded { lane: LaneId(lane), at, end }),
        any::<(u64, u64)>().prop_map(|(at, fingerprint)| Entry::Configured { at, fingerprint }),
        any::<i64>().prop_map(|by| Entry::ClockMoved { by }),
    ]
}

proptest! {
    #[test]
    fn a_step_comes_back(id: u128, entries in vec(entry(), 0..8)) {
        let subscription = Uuid::from_u128(id);
        let body = encode(subscription, &entries);
        prop_assert_eq!(owner(&body), Ok(subscription));
        prop_assert_eq!(decode(&body), Ok(Step { subscription, entries }));
        for cut in 0..body.len() {
            prop_assert!(decode(&body[..cut]).is_err());
        }
    }

    #[test]
    fn any_bytes_never_panic(
        id: u128,
        bytes in vec(any::<u8>(), 0..200),
        entries in vec(entry(), 1..4),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        drop(decode(&bytes));
        let mut body = encode(Uuid::from_u128(id), &entries).to_vec();
        for (at, with) in flips {
            let at = at.index(body.len());
            body[at] ^= with;
        }
        drop(decode(&body));
        prop_assert_eq!(owner(&body).is_ok(), body[0] == VERSION);
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut body = encode(Uuid::from_u128(1), &[Entry::Resumed]).to_vec();
    assert_eq!(decode(&[]), Err(Malformed::Bytes));
    body[18] = 200;
    assert_eq!(decode(&body), Err(Malformed::Newer), "an entry that is not known");
    body[0] = 2;
    assert_eq!(decode(&body), Err(Malformed::Newer));
    body[0] = 0;
    assert_eq!(decode(&body), Err(Malformed::Bytes));
}

/// One of each variant, with and without its optional parts.
fn samples() -> Vec<Entry> {
    [samples_about_events(), samples_about_the_subscription()].concat()
}

const PARTITION: Partition = Partition { generation: 0, number: 7 };
const LOG: LogId = LogId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));

fn at(offset: u64) -> Place {
    let partition = Partition { generation: 2, number: 300 };
    Place { lane: LaneId(1), partition, offset: Offset(offset) }
}

fn samples_about_events() -> Vec<Entry> {
    let (place, log, partition) = (at, LOG, PARTITION);
    let failure = Failure::new(FailureKind::Status, Some(503), Some("no"));
    let target = Target { log, end: Offset(1 << 40) };
    let added = Added {
        partition,
        offset: Offset(9),
        key: Some(u64::MAX),
        published: 1_800_000_000_000,
        expires: Some(1_900_000_000_000),
        bytes: 512,
    };
    let outcome = Outcome {
        at: 5,
        place: place(11),
        ending: Ending::DeadLettered(Reason::MaybeSeen),
        dead_letter: Some(target),
        publish: None,
        failure: Some(failure.clone()),
        answer: Some(Bytes::from_static(b"answer")),
    };
    vec![
        Entry::Scanned {
            lane: LaneId::LIVE,
            to: Offset(10),
            moved: vec![(partition, Offset(8))],
            added: vec![added, Added { key: None, expires: None, ..added }],
        },
        Entry::Attempted {
            at: 1,
            deadline: Some(30_001),
            mode: Mode::Alone,
            events: vec![Attempt { place: place(9), number: 3 }],
        },
        Entry::Attempted { at: 1, deadline: None, mode: Mode::Probe, events: vec![] },
        Entry::Extended { deadline: 40_000, events: vec![place(9)] },
        Entry::Failed {
            at: 2,
            events: vec![Failed {
                place: place(9),
                until: 3,
                counts: true,
                failure: failure.clone(),
            }],
        },
        Entry::Lapsed { at: 2, events: vec![LapsedEvent { place: place(9), until: 3 }] },
        Entry::Released { until: 4, events: vec![place(9), place(10)] },
        Entry::GivenBack { events: vec![place(9)] },
        Entry::Blocked { at: 5, place: place(9), reason: Reason::Expired, failure: Some(failure) },
        Entry::Unblocked { place: place(9) },
        Entry::Outcome(outcome.clone()),
        Entry::Outcome(Outcome {
            ending: Ending::Succeeded,
            dead_letter: None,
            publish: Some(target),
            failure: None,
            answer: None,
            ..outcome
        }),
    ]
}

fn samples_about_the_subscription() -> Vec<Entry> {
    let (place, log, partition) = (at, LOG, PARTITION);
    vec![
        Entry::DeadLettered { place: place(11), letter: Offset(2), bytes: 700 },
        Entry::Settled {
            at: 6,
            ending: Ending::Discarded(Reason::TooLarge),
            events: vec![place(9)],
        },
        Entry::LettersRemoved { removal: Removal::Purged, letters: vec![Offset(1), Offset(2)] },
        Entry::LetterMoved { from: Offset(1), to: Offset(3) },
        Entry::Parked { place: place(9), at: Offset(4) },
        Entry::Sought(Seek::All(Offset(5))),
        Entry::Sought(Seek::Partitions(vec![(partition, Offset(6))])),
        Entry::Held(Hold::Gone),
        Entry::Resumed,
        Entry::Damaged { lane: LaneId(1), partition, from: Offset(7), to: Offset(8) },
        Entry::Lost { lane: LaneId(1), loss: Loss::Dropped, from: Offset(7), to: Offset(8) },
        Entry::Circuit(Circuit::Opened { at: 1, until: 2, wait: 3, given_back: vec![place(9)] }),
        Entry::Circuit(Circuit::Waits { until: 2, wait: 3 }),
        Entry::Circuit(Circuit::Closed),
        Entry::EndpointWaits { until: 9, throttled: 2 },
        Entry::JobStarted {
            lane: LaneId(2),
            at: 10,
            log,
            kind: JobKind::Replay { from: Offset(1), to: Offset(100) },
            rate: Some(5_000),
            publishes: true,
        },
        Entry::JobStarted {
            lane: LaneId(3),
            at: 10,
            log,
            kind: JobKind::Redrive { letters: vec![(Offset(1), Offset(3))] },
            rate: None,
            publishes: false,
        },
        Entry::JobEnded { lane: LaneId(2), at: 11, end: JobEnd::Cancelled },
        Entry::Configured { at: 12, fingerprint: 0xdead_beef },
        Entry::ClockMoved { by: -3_600_000 },
        Entry::LostEvents { events: vec![place(9)] },
    ]
}

#[test]
fn the_format_is_what_it_was() {
    let body = encode(Uuid::from_u128(0xabcd), &samples());
    assert_eq!(body, &include_bytes!("golden/journal-1.bin")[..]);
    let step = decode(include_bytes!("golden/journal-1.bin")).unwrap();
    assert_eq!(step, Step { subscription: Uuid::from_u128(0xabcd), entries: samples() });
}

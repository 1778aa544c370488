//! The bytes of a subscription's state in a snapshot: `version u8, state`.

use bytes::Bytes;

use crate::events::delivery::{
    encoding::{Encoding, Malformed, fields, variants},
    subscription::{
        EventState, EventStatus, Failing, Job, JobFailure, LaneState, LetterState, Open, Outage,
        PartState, State,
    },
};

const VERSION: u8 = 1;

/// The bytes of a state.
pub fn encode_state(state: &State) -> Bytes {
    let mut out = vec![VERSION];
    state.put(&mut out);
    out.into()
}

/// The state in a snapshot's bytes.
pub fn decode_state(mut bytes: &[u8]) -> Result<State, Malformed> {
    match u8::take(&mut bytes)? {
        VERSION => {}
        0 => return Err(Malformed::Bytes),
        _ => return Err(Malformed::Newer),
    }
    let state = State::take(&mut bytes)?;
    if bytes.is_empty() { Ok(state) } else { Err(Malformed::Bytes) }
}

fields!(State { lanes, next_lane, ended, hold, outage, letters, fingerprint, lost });
fields!(LaneState { lane, epoch, scan, job, parts, events });
fields!(PartState { partition, epoch, resume, damaged });
fields!(EventState {
    event,
    attempts,
    counted,
    failures,
    unknown,
    is_refused,
    first_attempt,
    failure,
    parked,
    status,
});
fields!(LetterState { reason, died, bytes, redrives, is_compensated, failure });
fields!(Job { kind, log, started, rate, publishes, delivered, failed, failures, ended });
fields!(JobFailure { place, reason });
fields!(Outage { open, run, until, throttled });
fields!(Failing { place, failures, counted });
fields!(Open { since, until, wait });

variants!(EventStatus {
    1 => Waiting { until },
    2 => InFlight { deadline, mode },
    3 => Blocked { reason },
    4 => Ending { outcome, letter },
});

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::events::{
        delivery::subscription::{
            Added, Failure, FailureKind, Hold, JobEnd, JobKind, LaneId, Mode, Partition, Place,
            Reason,
        },
        queue::{LogId, Offset},
    };

    fn job() -> Job {
        Job {
            kind: JobKind::Replay { from: Offset(1), to: Offset(2) },
            log: LogId(uuid::Uuid::from_u128(3)),
            started: 4,
            rate: Some(5),
            publishes: true,
            delivered: 6,
            failed: 7,
            failures: vec![JobFailure { place: Place::default(), reason: Reason::Expired }],
            ended: Some((8, JobEnd::Done)),
        }
    }

    fn sample() -> State {
        let partition = Partition { generation: 1, number: 2 };
        let failure = Some(Box::new(Failure::new(FailureKind::Nack, Some(500), Some("no"))));
        let event = |offset, status| EventState {
            event: Added { partition, offset: Offset(offset), ..Added::default() },
            attempts: 3,
            counted: 2,
            failures: 1,
            unknown: 1,
            is_refused: true,
            first_attempt: Some(4),
            failure: failure.clone(),
            parked: Some(Offset(9)),
            status,
        };
        let lane = LaneState {
            lane: LaneId::LIVE,
            epoch: 1,
            scan: Offset(20),
            job: None,
            parts: vec![PartState {
                partition,
                epoch: 2,
                resume: Some(Offset(10)),
                damaged: Some((Offset(10), Offset(11))),
            }],
            events: vec![
                event(1, EventStatus::Waiting { until: 5 }),
                event(2, EventStatus::InFlight { deadline: Some(6), mode: Mode::Alone }),
                event(3, EventStatus::Blocked { reason: Reason::Rejected }),
            ],
        };
        let letter = LetterState {
            reason: Reason::TooLarge,
            died: 1,
            bytes: 2,
            redrives: 3,
            is_compensated: true,
            failure: None,
        };
        State {
            lanes: vec![lane],
            next_lane: 3,
            ended: vec![(LaneId(2), job())],
            hold: Some(Hold::Operator),
            outage: Outage {
                open: Some(Open { since: 1, until: 2, wait: 3 }),
                run: vec![Failing { place: Place::default(), failures: 4, counted: 3 }],
                until: 5,
                throttled: 6,
            },
            letters: vec![(Offset(7), letter)],
            fingerprint: 8,
            lost: 9,
        }
    }

    #[test]
    fn a_state_comes_back_and_every_cut_is_noticed() {
        let bytes = encode_state(&sample());
        assert_eq!(decode_state(&bytes), Ok(sample()));
        assert_eq!(decode_state(&encode_state(&State::default())), Ok(State::default()));
        for cut in 0..bytes.len() {
            assert!(decode_state(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_format_is_what_it_was() {
        assert_eq!(encode_state(&sample()), &include_bytes!("golden/state-1.bin")[..]);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            bytes in vec(any::<u8>(), 0..200),
            flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            drop(decode_state(&bytes));
            let mut state = encode_state(&sample()).to_vec();
            for (at, with) in flips {
                let at = at.index(state.len());
                state[at] ^= with;
            }
            drop(decode_state(&state));
        }
    }
}

//! The bytes of each entry. Numbers and the order of fields are on disk: a new field is a new variant.

use crate::events::delivery::{
    encoding::{Encoding, Malformed, fields, variants},
    subscription::{
        Added, Attempt, Circuit, Ending, Entry, Failed, Failure, FailureKind, Hold, JobEnd,
        JobKind, LaneId, LapsedEvent, Loss, Mode, Outcome, Partition, Place, Reason, Removal, Seek,
        Target,
    },
};

variants!(Entry {
    1 => Scanned { lane, to, moved, added },
    2 => Attempted { at, deadline, mode, events },
    3 => Extended { deadline, events },
    4 => Failed { at, events },
    5 => Lapsed { at, events },
    6 => Released { until, events },
    7 => GivenBack { events },
    8 => Blocked { at, place, reason, failure },
    9 => Unblocked { place },
    10 => Outcome(outcome),
    11 => DeadLettered { place, letter, bytes },
    12 => Settled { at, ending, events },
    13 => LettersRemoved { removal, letters },
    14 => LetterMoved { from, to },
    15 => Parked { place, at },
    16 => Sought(seek),
    17 => Held(hold),
    18 => Resumed,
    19 => Damaged { lane, partition, from, to },
    20 => Lost { lane, loss, from, to },
    21 => Circuit(circuit),
    22 => EndpointWaits { until, throttled },
    23 => JobStarted { lane, at, log, kind, rate, publishes },
    24 => JobEnded { lane, at, end },
    25 => Configured { at, fingerprint },
    26 => ClockMoved { by },
    27 => LostEvents { events },
});

fields!(Partition { generation, number });
fields!(Place { lane, partition, offset });
fields!(Added { partition, offset, key, published, expires, bytes });
fields!(Attempt { place, number });
fields!(Failed { place, until, counts, failure });
fields!(LapsedEvent { place, until });
fields!(Failure { kind, status, snippet });
fields!(Outcome { at, place, ending, dead_letter, publish, failure, answer });
fields!(Target { log, end });

impl Encoding for LaneId {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        u32::take(bytes).map(Self)
    }
}

variants!(Mode { 1 => Shared, 2 => Alone, 3 => Probe });
variants!(FailureKind {
    1 => Nack,
    2 => Lapsed,
    3 => NotSent,
    4 => Throttled,
    5 => Status,
    6 => Timeout,
    7 => Refused,
    8 => Gone,
});
variants!(Ending {
    1 => Succeeded,
    2 => DeadLettered(reason),
    3 => Discarded(reason),
    4 => Failed(reason),
});
variants!(Reason {
    1 => AttemptsExhausted,
    2 => Expired,
    3 => Rejected,
    4 => LeaseExpiredLimit,
    5 => MaybeSeen,
    6 => TooLarge,
});
variants!(Removal { 1 => Delivered, 2 => Purged, 3 => Aged });
variants!(Seek { 1 => All(offset), 2 => Partitions(offsets) });
variants!(Hold { 1 => Operator, 2 => Gone });
variants!(Loss { 1 => Damage, 2 => Dropped });
variants!(Circuit {
    1 => Opened { at, until, wait, given_back },
    2 => Waits { until, wait },
    3 => Closed,
});
variants!(JobKind {
    1 => Replay { from, to },
    2 => Redrive { letters },
    3 => ForcedRedrive { letters },
});
variants!(JobEnd { 1 => Done, 2 => Cancelled });

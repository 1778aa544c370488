//! The durable log, and what it promises. This header is the format specification.
//!
//! # What it promises
//!
//! | | Promise | Kept by |
//! |---|---|---|
//! | P1 | A success for a publish means: synced on this node (`durable`); `os` survives a killed process, `memory` nothing | `log`: the writer completes a waiter after its sync |
//! | P2 | Nothing acknowledged is lost by a killed process, a crash or power loss, if the disk honours a flush | `log`: group commit, copying forward |
//! | P3 | Damage below the watermark is found before delivery, never delivered, never skipped in silence | [`codec`]: a checksum for each header and record; `log`: opening, reader, scrub |
//! | P4 | At least once for each subscription; dropping is chosen by name, counted, alerted | `topic`: retention; `delivery` |
//! | P5 | In an ordered subscription the next event of a key starts once the one before is settled | `topic`: generations; `delivery` |
//! | P6 | An attempt counts when it starts | `delivery` |
//! | P7 | One dedup key within the effective window gives one event and one ID, across restart; a duplicate is answered when the original is durable, and fails with it | `topic`: sequencer and dedup; `log`: the writer |
//! | P8 | Opening takes bounded time after any crash, and never asks for a file to be deleted | `log`: opening |
//! | P9 | A full disk rejects publishes, goes on draining, and recovers without a restart | `log`: permits; `topic`: admission |
//! | P10 | A later version reads and writes this format until it is told to upgrade; a newer format is refused by name | [`codec`]; `topic`: registry |
//! | P11 | Memory goes with what is in flight and with stated caps, never with the backlog | all of them |
//! | P12 | Trouble in one log is that log's | `log`: each goes offline for itself |
//!
//! # What is on disk
//!
//! All numbers are little-endian. `crc32c` is CRC-32 with Castagnoli's polynomial. Golden files of each
//! format are in `codec/golden`; a test reads and writes them.
//!
//! ```text
//! LOCK  META                      exclusive lock; store ID, secret of the hashes, names of topics and subscriptions
//! topics/<uuid>/                  <base offset, 20 digits>.log, .idx and .keys beside each sealed one, CHECKPOINT, GAPS, quarantine/
//! topics/<uuid>/delayed/          a log of the same kind, made when the first event has to wait
//! dead-letters/<uuid>/  parked/<uuid>/  ingress/  state/journal/      logs of the same kind, without .keys
//! state/RESERVE                   room on the disk, kept for the journal
//! state/CLOCK                     the last time that was trusted, while the clock is not
//! ```
//!
//! ## A log file
//!
//! One page of header, then frames without space between them, then zeros.
//!
//! | Header | Bytes | |
//! |---|---|---|
//! | 0 | 8 | `SLUICE\x01L` |
//! | 8 | 2 | version: 1. A newer one is refused |
//! | 10 | 2 | flags; bit 0: there is a predecessor. Any other: refused |
//! | 12 | 4 | 0 |
//! | 16 | 16 | store ID |
//! | 32 | 16 | log ID |
//! | 48 | 8 | base: the first offset |
//! | 56 | 8 | epoch: random, for this file alone |
//! | 64 | 8 | predecessor: epoch |
//! | 72 | 8 | predecessor: end position |
//! | 80 | 8 | predecessor: end offset. What it has at or above `base` is not part of the log |
//! | 88 | 4 | predecessor: crc of its last frame, 0 if it has none |
//! | 92 | 4 | 0 |
//! | 96 | 8 | gap: offsets right below `base` that were lost |
//! | 104 | 20 | 0 |
//! | 124 | 4 | crc32c of bytes 0 to 123 |
//! | 128 | 3968 | 0 |
//!
//! A **frame** is one group commit: at most 32 MiB and 65,536 records, and a multiple of 8 bytes long.
//!
//! | Frame | Bytes | |
//! |---|---|---|
//! | 0 | 4 | `SlFr` |
//! | 4 | 4 | crc: crc32c of bytes 8 to 63 |
//! | 8 | 4 | length of the whole frame |
//! | 12 | 4 | count of records |
//! | 16 | 8 | epoch of the file |
//! | 24 | 8 | base: the offset of its first record |
//! | 32 | 8 | durable: every offset below was synced when this was written |
//! | 40 | 8 | wall time, ms since 1970 |
//! | 48 | 8 | monotone time, ms |
//! | 56 | 4 | crc of the frame before it in the file, or 0 |
//! | 60 | 2 | version: 1. A newer one is refused |
//! | 62 | 2 | flags: 0. Any other: refused |
//! | 64 | | the records, each padded with zeros to a multiple of 8 |
//! | end - 8 | 4 | crc again |
//! | end - 4 | 4 | length again |
//!
//! A **record** has its own checksum, seeded with epoch and offset. One that is damaged costs no other of
//! its frame: the next is found by its length or, if that is what changed, by looking for it.
//!
//! | Record | Bytes | |
//! |---|---|---|
//! | 0 | 4 | length, without padding |
//! | 4 | 4 | crc32c of epoch (8), offset (8), length (4), and bytes 8 to the end |
//! | 8 | 1 | version: 1. A newer one is refused |
//! | 9 | 1 | kind: 1 event, 2 request, 3 intent, 4 answer, 5 outcome, 6 control |
//! | 10 | 2 | flags; bit 0: no data at all. An unknown one of the upper 8 bits: refused; of the lower: kept |
//! | 12 | 1 | compression: 0 |
//! | 13 | 1 | 0 |
//! | 14 | 2 | generation of the topic's partitions |
//! | 16 | 4 | encryption key: 0 |
//! | 20 | 2 | partition |
//! | 22 | 2 | 0 |
//! | 24 | 8 | published, ms since 1970 |
//! | 32 | 4 | length of the fields, at most 1 MiB |
//! | 36 | 4 | lower half of the offset |
//! | 40 | | fields: type and length as LEB128, value. Unknown types are kept |
//! | | | body, at most 16 MiB |
//!
//! | Field | Type | | Field | Type |
//! |---|---|---|---|---|
//! | 1 | key | | 11 | cause: offset, u64 |
//! | 2 | id | | 12 | datacontenttype |
//! | 3 | source | | 13 | traceparent |
//! | 4 | dedup key | | 14 | tracestate |
//! | 5 | not before, ms, u64 | | 15 | type |
//! | 6 | expiry, ms, u64 | | 16 | subject |
//! | 7 | correlation | | 17 | time, as written |
//! | 8 | causation | | 18 | dataschema |
//! | 9 | depth, u32 | | 19 | extension: length of the name (1), name, 0 string / 1 integer (i32) / 2 boolean, value |
//! | 10 | principal | | 1024.. | free for each kind |
//!
//! The partition of a key is Kafka's: (murmur2(key) & 0x7fffffff) mod partitions of the generation.
//!
//! ## The other files
//!
//! CHECKPOINT, META and `.idx` are 8 bytes of kind (`SLUICE\x01` and a letter), version (2), 0 (2), length
//! of what follows (4), that, and crc32c of all before it. They are replaced whole: new file, sync, rename,
//! sync of the directory.
//!
//! - CHECKPOINT (`C`): store ID, log ID, start, durable.
//! - META (`M`), as fields: 1 store ID, 2 secret of the hashes (16), 5 format of the log files (2), 6 (empty) if
//!   the store was open once: its journal and its log of requests are there, or lost; 3 a topic and 4 a
//!   subscription, each as fields: 1 ID, 2 name, 3 whether it is an orphan, 6 (empty) if its log, or its state,
//!   was on disk: it is there, or lost; of a topic 4 a generation: number (2), partitions (2), an offset that all
//!   records of earlier ones lie below; of a subscription 5 its topic's ID. Unknown ones are kept.
//! - `.idx` (`I`): epoch, end offset, end position, count of blocks, count of partitions; records per
//!   partition (4 each); blocks: position, base offset, newest time, a bitmap of partitions. A block begins
//!   with the first frame at least 64 KiB after the block before began.
//! - `.keys` (`K`): pages of 4 KiB, the last 4 bytes of each crc32c of epoch, page number and the rest. Page
//!   0: kind, version (2), 0 (6), epoch, base, end, origin of times, counts of dedup keys, IDs, correlation
//!   IDs. Then each of these, sorted, in pages of its own: dedup keys are hash (16), digest of the body (4),
//!   offset - base (4), time - origin (4), partition (4); the others upper half of the hash (8), offset -
//!   base (4). Hashes are SipHash-1-3 with 128 bits and the secret of META.
//!
//! - GAPS: text. A line `sluice gaps 1`, a line `start end` for each range of lost offsets that [`log::repair`]
//!   has accepted, in order, and crc32c of all that as 8 hexadecimal digits. Replaced whole. In these ranges
//!   damage is a gap, with [`log::Recovery::Strict`] too; a file that is not sound accepts nothing.
//! - RESERVE: as many bytes as `queue.disk.reserve` says, allocated; what they are means nothing. Made as
//!   `RESERVE.new`, synced and renamed; unlinked when the journal has no room. One of another size is made anew.
//! - CLOCK: text. A line `sluice clock 1`, a line with milliseconds since 1970, and crc32c of both as 8
//!   hexadecimal digits. Replaced whole; there for as long as the clock is frozen, and then what a start judges
//!   it by. One that is not sound is as none.
//!
//! ## Delayed events
//!
//! The log in `delayed/` has the topic's ID with `delayed\0` over its first eight bytes (exclusive or). Its
//! records are events as they were published, with field 5 (not before), and control records about them, whose
//! bodies are `kind u8, end u64, offsets u64 ..`:
//!
//! | Kind | |
//! |---|---|
//! | 1 moving | the events at these offsets are about to be appended to the topic, which ended at `end`: they are there at or after it, or not at all. Synced before they are appended |
//! | 2 settled | the events at these offsets wait no longer; `end` is 0. In one frame with copies of them, if they were only moved within this log |
//!
//! An event with neither waits. One that is moving and not settled is looked for in the topic, by its dedup key
//! or by source and ID, and appended if it is not there.
//!
//! `.idx` and `.keys` are derived: made again from the log when missing or not sound, never evidence.

pub mod codec;
pub mod gauges;
pub mod id;
pub mod log;
pub mod mutation;
pub mod pool;
pub mod reserve;
pub mod storage;
pub mod time;
pub mod topic;

pub use self::id::{LogId, Offset, StoreId};

#[cfg(test)]
mod tests;

//! What is on disk, byte for byte: from values to bytes and back.
//!
//! Pure: no file, no clock, no thread. Reading borrows, a body is never copied. Whatever the bytes
//! are, reading them neither panics nor takes memory that their length does not bound.

mod checkpoint;
mod draft;
mod envelope;
mod fields;
mod frame;
mod hash;
mod index;
mod keys;
mod meta;
mod partition;
mod reading;
mod record;
mod records;
mod segment;
#[cfg(test)]
mod tests;

pub use self::{
    checkpoint::Checkpoint,
    draft::{Coding, Draft, Flags, Kind, MAX_BODY_BYTES, MAX_FIELDS_BYTES, Stamp, TooLarge},
    envelope::FileError,
    fields::{Attribute, Field, Fields, FieldsBuilder, FieldsIter, Tag, Value},
    frame::{
        Closing, Encoded, FRAME_HEADER_BYTES, FRAME_TRAILER_BYTES, Fault, Frame, FrameError,
        FrameHead, FrameWriter, MAX_FRAME_BYTES, MAX_RECORDS, Mark, find_frame, is_zero,
        parse_frame, parse_head,
    },
    hash::{HashKey, Role, digest},
    index::{BLOCK_BYTES, Block, Index},
    keys::{DedupEntry, KeysBuilder, KeysHead, Lookup, LookupError, PAGE_BYTES},
    meta::{Generation, Meta, SubscriptionMeta, TopicMeta},
    partition::partition_of,
    record::{RECORD_HEADER_BYTES, Record, RecordError},
    records::Records,
    segment::{FORMAT_VERSION, Predecessor, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader},
};

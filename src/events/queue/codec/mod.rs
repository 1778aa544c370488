//! Encodes and decodes everything on disk, byte for byte.
//!
//! Pure: no file, no clock, no thread. Decoding borrows and never copies a body. On any input it
//! neither panics nor allocates more than the input's length bounds.

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
mod pieces;
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

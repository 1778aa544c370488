//! What is encoded comes back, what is damaged does not.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::events::queue::Offset;

const EPOCH: u64 = 0x0123_4567_89ab_cdef;
const BASE: Offset = Offset(0x1_0000_0007);
const CLOSING: Closing = Closing { previous_crc: 7, durable: Offset(5), wall: 1_000, mono: 50 };
const STAMP: Stamp = Stamp { generation: 3, partition: 9, published: 1_234 };

fn frame(drafts: &[Draft]) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.begin(EPOCH, BASE);
    for draft in drafts {
        writer.push(draft, STAMP).unwrap();
    }
    writer.finish(&CLOSING).bytes.to_vec()
}

fn draft() -> impl Strategy<Value = Draft> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    let fields = prop::collection::vec((any::<u16>(), bytes(40)), 0..6);
    let own = [Tag::KEY, Tag::DEDUP, Tag::NOT_BEFORE];
    let fields = fields.prop_map(move |fields| {
        let fields = fields.into_iter().filter(|(tag, _)| !own.contains(&Tag(*tag)));
        fields.fold(Fields::builder(), |all, (tag, value)| all.field(Tag(tag), &value)).build()
    });
    let kind = (1u8..=6).prop_map(|number| Kind::from_number(number).unwrap());
    let numbers = (any::<u8>(), prop::option::of(any::<u64>()), prop::option::of(any::<u64>()));
    let texts = (prop::option::of(bytes(300)), prop::option::of(bytes(30)), fields, bytes(600));
    (kind, numbers, texts).prop_map(|(kind, numbers, (key, dedup, fields, body))| Draft {
        flags: Flags(u16::from(numbers.0)),
        published: numbers.1,
        not_before: numbers.2,
        key,
        dedup,
        ..Draft::new(kind, fields, body)
    })
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    prop::collection::vec(draft(), 0..8)
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(drafts in drafts()) {
        let bytes = frame(&drafts);
        prop_assert_eq!(bytes.len() % 8, 0);
        let frame = parse_frame(&bytes, EPOCH, BASE).unwrap();
        prop_assert_eq!(frame.verify(), Ok(()));
        prop_assert_eq!(frame.head().closing, CLOSING);
        prop_assert_eq!(frame.length(), bytes.len());
        let read: Vec<_> = frame.records().collect();
        prop_assert_eq!(read.len(), drafts.len());
        for (index, (draft, (offset, record))) in drafts.iter().zip(&read).enumerate() {
            prop_assert_eq!(*offset, BASE.plus(index as u64));
            let record = record.unwrap();
            let expected = Draft {
                generation: STAMP.generation,
                partition: STAMP.partition,
                published: Some(draft.published.unwrap_or(STAMP.published)),
                ..draft.clone()
            };
            prop_assert_eq!(record.to_draft(), expected);
            prop_assert!(record.encoded_bytes() <= draft.encoded_bytes());
        }
    }

    /// Copied forward record by record, a frame is the same to the byte.
    #[test]
    fn a_copied_record_is_the_same(drafts in drafts()) {
        let bytes = frame(&drafts);
        let mut writer = FrameWriter::new();
        writer.begin(EPOCH, BASE);
        for (_, record) in parse_frame(&bytes, EPOCH, BASE).unwrap().records() {
            writer.push_record(&record.unwrap()).unwrap();
        }
        prop_assert_eq!(writer.finish(&CLOSING).bytes, bytes);
    }

    /// One flipped bit costs one record, or it is in what belongs to the whole frame.
    #[test]
    fn one_flipped_bit_costs_one_record(
        drafts in prop::collection::vec(draft(), 1..8),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let whole = frame(&drafts);
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match parse_frame(&bytes, EPOCH, BASE) {
            Err(_) => {
                let in_records = FRAME_HEADER_BYTES..whole.len() - FRAME_TRAILER_BYTES;
                prop_assert!(!in_records.contains(&at));
            }
            Ok(damaged) => {
                let whole = parse_frame(&whole, EPOCH, BASE).unwrap();
                let read: Vec<_> = damaged.records().collect();
                prop_assert_eq!(read.len(), drafts.len());
                let mut lost = 0;
                for ((offset, read), (same, written)) in read.into_iter().zip(whole.records()) {
                    prop_assert_eq!(offset, same);
                    match read {
                        Ok(read) => {
                            prop_assert_eq!(read.to_draft(), written.unwrap().to_draft());
                        }
                        Err(why) => {
                            prop_assert_eq!(why, RecordError::Damaged);
                            lost += 1;
                        }
                    }
                }
                // None: the bit was in the padding.
                prop_assert!(lost <= 1, "{} records lost", lost);
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse_frame(&bytes, EPOCH, BASE).is_err());
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        prop_assert!(find_frame(&bytes, EPOCH, Offset::ZERO).is_none());
        let fields = Fields::from_encoded(bytes.clone().into());
        let length = |field: Field<'_>| field.value.len();
        prop_assert!(fields.iter().flatten().map(length).sum::<usize>() <= bytes.len());
    }
}

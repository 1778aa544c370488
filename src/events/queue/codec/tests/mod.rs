//! Encoding round-trips, and damage is detected.

mod golden;

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

    /// A frame copied record by record is identical.
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

    /// One flipped bit costs one record, unless it is in the frame's own bytes.
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
                // None if the bit was in the padding.
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

    /// Invalid bytes with right checksums, as from a faulty or foreign program.
    #[test]
    fn any_bytes_behind_right_checksums_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        numbers in prop::collection::vec(prop_oneof![0..5u32, any::<u32>()], 6),
    ) {
        let index = envelope::Envelope { magic: *b"SLUICE\x01I", version: 1 };
        let head = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        let file = index.encode(|out| {
            out.extend_from_slice(&[0; 24]);
            out.extend_from_slice(&head[..8]);
            out.extend_from_slice(&payload);
        });
        if let Ok(index) = Index::decode(&file) {
            prop_assert!(index.blocks().len() * 24 <= file.len());
        }

        // A record with any header and any fields.
        let offset = BASE;
        let mut record = vec![0; RECORD_HEADER_BYTES];
        record[8] = 1;
        record[9] = 1;
        record[32..36].copy_from_slice(&head[8..12]);
        record.extend_from_slice(&payload);
        let length = u32::try_from(record.len()).unwrap();
        record[..4].copy_from_slice(&length.to_le_bytes());
        let mut covered = EPOCH.to_le_bytes().to_vec();
        covered.extend_from_slice(&offset.0.to_le_bytes());
        covered.extend_from_slice(&length.to_le_bytes());
        covered.extend_from_slice(&record[8..]);
        record[4..8].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
        record.resize(record.len().next_multiple_of(8), 0);
        let mut bytes = frame(&[]);
        let end = bytes.len() - FRAME_TRAILER_BYTES;
        bytes.splice(end..end, record);
        // A frame that says it has any number of records.
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        bytes[8..12].copy_from_slice(&length);
        bytes[12..16].copy_from_slice(&head[12..16]);
        let crc = crc32c::crc32c(&bytes[8..FRAME_HEADER_BYTES]).to_le_bytes();
        bytes[4..8].copy_from_slice(&crc);
        let end = bytes.len() - FRAME_TRAILER_BYTES;
        bytes[end..end + 4].copy_from_slice(&crc);
        bytes[end + 4..].copy_from_slice(&length);
        if let Ok(frame) = parse_frame(&bytes, EPOCH, BASE) {
            for (_, record) in frame.records() {
                let Ok(record) = record else { continue };
                let draft = record.to_draft();
                prop_assert!(draft.body.len() + draft.fields.as_bytes().len() <= payload.len());
                prop_assert!(record.attributes().count() <= payload.len());
            }
        }
    }

    #[test]
    fn an_index_finds_what_was_added(
        frames in prop::collection::vec((1u64..100_000, 0u64..50, prop::collection::vec(0u16..200, 0..5)), 1..60),
        wanted in 0u64..200,
        time in 0u64..1_000,
    ) {
        let mut index = Index::new(EPOCH, Offset(10), 4096);
        let (mut position, mut offset, mut wall) = (4096, 10, 0);
        let mut all = Vec::new();
        for (length, step, partitions) in frames {
            wall += step;
            index.add_frame(position, length, Offset(offset), wall, partitions.iter().copied());
            all.push((position, offset, wall, partitions.clone()));
            position += length;
            offset += partitions.len() as u64;
        }
        prop_assert_eq!((index.end, index.end_position), (Offset(offset), position));
        prop_assert_eq!(Index::decode(&index.encode()), Ok(index.clone()));
        // Reading from the block on finds the frame of the offset.
        let frame = all.iter().rfind(|(_, base, ..)| *base <= wanted);
        let block = index.block_of(Offset(wanted));
        prop_assert_eq!(frame.is_some(), block.is_some());
        if let (Some(frame), Some(block)) = (frame, block) {
            prop_assert!(block.position <= frame.0);
            prop_assert!(frame.0 < block.position + BLOCK_BYTES);
        }
        // No frame of this time or later is before the block.
        let first = all.iter().find(|(_, _, at, _)| *at >= time);
        let block = index.block_at(time);
        prop_assert_eq!(first.is_some(), block.is_some());
        if let (Some(first), Some(block)) = (first, block) {
            prop_assert!(block.position <= first.0);
        }
        for partition in 0..200 {
            let of = |(.., partitions): &&(u64, u64, u64, Vec<u16>)| partitions.contains(&partition);
            let count = all.iter().flat_map(|it| &it.3).filter(|it| **it == partition).count();
            prop_assert_eq!(index.count(partition), count as u64);
            for frame in all.iter().filter(of) {
                let block = index.blocks().iter().rfind(|it| it.position <= frame.0);
                prop_assert!(block.unwrap().has(partition));
            }
        }
    }
}

/// After damage, a body full of bytes that look like records costs no more than a few times the
/// frame.
#[test]
fn getting_over_damage_is_bounded() {
    let mut fake = Vec::new();
    for _ in 0..4_000 {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..4].copy_from_slice(&100_000_u32.to_le_bytes());
        header[36..40].copy_from_slice(&8_u32.to_le_bytes());
        fake.extend_from_slice(&header);
    }
    let drafts: Vec<_> =
        (0..4).map(|_| Draft::new(Kind::Event, Fields::default(), fake.clone().into())).collect();
    let mut bytes = frame(&drafts);
    // The length of the first: nothing says where the next begins.
    bytes[FRAME_HEADER_BYTES] ^= 0xff;
    bytes[FRAME_HEADER_BYTES + 1] ^= 0xff;
    let frame = parse_frame(&bytes, EPOCH, BASE).unwrap();
    let read: Vec<_> = frame.records().map(|(_, record)| record.is_ok()).collect();
    assert_eq!(read.len(), 4);
    assert!(!read[0]);
}

/// `SLUICE_CAMPAIGN=n` encodes n million records; for release builds.
#[test]
fn encoding_is_cheap() {
    let Some(millions): Option<u64> =
        std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok())
    else {
        return;
    };
    let fields = Fields::builder()
        .id("0197a5a0-7f3b-7c41-a1f5-6d3f0b1e2c3d")
        .source("/sluice/0197a5a0/orders")
        .event_type("order.created")
        .field(Tag::TIME, b"2026-11-22T12:41:42.007Z")
        .content_type("application/json")
        .build();
    let draft = Draft {
        key: Some(Bytes::from_static(b"customer-4711")),
        ..Draft::new(Kind::Event, fields, Bytes::from(vec![b'x'; 512]))
    };
    let mut writer = FrameWriter::new();
    let start = tokio::time::Instant::now();
    let frames = millions * 1_000_000 / 500;
    for number in 0..frames {
        writer.begin(EPOCH, Offset(number));
        for _ in 0..500 {
            writer.push(&draft, STAMP).unwrap();
        }
        writer.finish(&CLOSING);
    }
    let encode = start.elapsed().as_secs_f64() * 1e9 / (frames * 500) as f64;
    let bytes = frame(&vec![draft.clone(); 500]);
    let start = tokio::time::Instant::now();
    let mut body = 0;
    for _ in 0..frames {
        let frame = parse_frame(&bytes, EPOCH, BASE).unwrap();
        body += frame.records().map(|(_, record)| record.unwrap().body().len()).sum::<usize>();
    }
    let decode = start.elapsed().as_secs_f64() * 1e9 / (frames * 500) as f64;
    println!("encode {encode:.0} ns, decode {decode:.0} ns a record, {body} bytes of bodies");
}

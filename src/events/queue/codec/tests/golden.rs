//! Golden files: the format on disk never changes.
//!
//! `SLUICE_GOLDEN=write` rewrites them: only for a format that was never released.

use std::{fs, path::Path};

use bytes::Bytes;
use uuid::Uuid;

use crate::events::queue::codec::{fields::put_field, *};
use crate::events::queue::{LogId, Offset, StoreId};

const EPOCH: u64 = 0x0123_4567_89ab_cdef;
const KEY: HashKey = HashKey(*b"0123456789abcdef");

#[track_caller]
fn is_golden(name: &str, bytes: &[u8]) {
    let path = Path::new(file!()).parent().unwrap().with_file_name("golden").join(name);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var("SLUICE_GOLDEN").is_ok_and(|it| it == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let golden = fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(golden == bytes, "{name} is not what it was: a store of this format cannot be read");
}

fn log() -> LogId {
    LogId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001))
}

fn header() -> SegmentHeader {
    SegmentHeader {
        store: StoreId(Uuid::from_u128(0x0196_0000_0000_7000_8000_0000_0000_0002)),
        log: log(),
        base: Offset(1_000),
        epoch: EPOCH,
        predecessor: Some(Predecessor {
            epoch: 77,
            end_position: 67_108_000,
            end_offset: Offset(990),
            last_crc: 0xdead_beef,
        }),
        gap: 10,
    }
}

fn drafts() -> [Draft; 3] {
    let event = Fields::builder()
        .id("0197-1")
        .source("/shop")
        .event_type("order.created")
        .field(Tag::SUBJECT, b"order-7")
        .field(Tag::TIME, b"2026-11-22T12:41:42.007Z")
        .content_type("application/json")
        .data_schema("https://example.com/schema")
        .expiry(1_800_000_000_000)
        .field(Tag::CORRELATION, b"saga-1")
        .field(Tag::CAUSATION, b"0196-9")
        .depth(2)
        .principal("alice")
        .cause(41)
        .trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .trace_state("vendor=1")
        .attribute("tenant", Value::String("acme"))
        .attribute("weight", Value::Integer(-3))
        .attribute("urgent", Value::Boolean(true))
        .build();
    let body = Bytes::from_static(b"{\"total\":42}");
    [
        Draft {
            key: Some(Bytes::from_static(b"order-7")),
            dedup: Some(Bytes::from_static(b"dedup-7")),
            not_before: Some(1_790_000_000_000),
            published: Some(1_780_000_000_000),
            ..Draft::new(Kind::Event, event, body)
        },
        Draft { flags: Flags::NO_DATA, ..Draft::new(Kind::Event, Fields::default(), Bytes::new()) },
        // As a later version may write it: with an unknown field and flag.
        Draft {
            flags: Flags(0x0080),
            ..Draft::new(
                Kind::Control,
                Fields::builder().field(Tag(900), b"later").build(),
                Bytes::from_static(b"entry"),
            )
        },
    ]
}

fn frame() -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.begin(EPOCH, Offset(1_000));
    for (draft, partition) in drafts().iter().zip(4..) {
        writer
            .push(draft, Stamp { generation: 1, partition, published: 1_785_000_000_000 })
            .unwrap();
    }
    let closing = Closing {
        previous_crc: 0x1234_5678,
        durable: Offset(1_000),
        wall: 1_785_000_000_001,
        mono: 12_345,
    };
    writer.finish(&closing).bytes.to_vec()
}

fn checkpoint() -> Checkpoint {
    Checkpoint { store: header().store, log: log(), start: Offset(500), durable: Offset(1_003) }
}

fn index() -> Index {
    let mut index = Index::new(EPOCH, Offset(1_000), SEGMENT_HEADER_BYTES as u64);
    index.add_frame(4_096, 1_000, Offset(1_000), 50, [0, 1, 1]);
    index.add_frame(5_096, 64_536, Offset(1_003), 40, [130]);
    index.add_frame(69_632, 800, Offset(1_004), 60, [2]);
    index
}

fn keys() -> Vec<u8> {
    let mut keys = KeysBuilder::new(Offset(1_000), 1_785_000_000_000);
    for number in 0..500_u64 {
        let text = number.to_string();
        let offset = Offset(1_000 + number);
        let hash = KEY.hash(Role::Dedup, &[text.as_bytes()]);
        let digest = digest(b"", text.as_bytes());
        let wall = 1_785_000_000_000 + number;
        keys.add_dedup(DedupEntry { hash, digest, offset, wall, partition: (number % 16) as u16 });
        keys.add(Lookup::Id, KEY.hash(Role::Id, &[text.as_bytes()]), offset);
        let saga = (number % 7).to_string();
        keys.add(Lookup::Correlation, KEY.hash(Role::Correlation, &[saga.as_bytes()]), offset);
    }
    keys.encode(EPOCH, Offset(1_500))
}

#[test]
fn a_segment_header_is_golden() {
    let bytes = header().encode();
    is_golden("segment.bin", &bytes);
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
    let first = SegmentHeader { predecessor: None, gap: 0, ..header() };
    assert_eq!(SegmentHeader::decode(&first.encode()), Ok(first));
}

#[test]
fn a_frame_is_golden() {
    let bytes = frame();
    is_golden("frame.bin", &bytes);
    let frame = parse_frame(&bytes, EPOCH, Offset(1_000)).unwrap();
    assert_eq!(frame.verify(), Ok(()));
    let records: Vec<_> = frame.records().map(|(_, record)| record.unwrap()).collect();
    let first = records[0];
    assert_eq!(first.kind(), Kind::Event);
    assert_eq!((first.generation(), first.partition()), (1, 4));
    assert_eq!(first.key(), Some(&b"order-7"[..]));
    assert_eq!((first.id(), first.source()), (Some("0197-1"), Some("/shop")));
    assert_eq!((first.event_type(), first.subject()), (Some("order.created"), Some("order-7")));
    assert_eq!(first.dedup_key(), Some(&b"dedup-7"[..]));
    assert_eq!(first.not_before(), Some(1_790_000_000_000));
    assert_eq!((first.expiry(), first.published()), (Some(1_800_000_000_000), 1_780_000_000_000));
    assert_eq!((first.correlation(), first.causation()), (Some("saga-1"), Some("0196-9")));
    assert_eq!((first.depth(), first.cause()), (Some(2), Some(Offset(41))));
    assert_eq!(
        (first.principal(), first.content_type()),
        (Some("alice"), Some("application/json"))
    );
    assert_eq!(first.trace_state(), Some("vendor=1"));
    let attributes: Vec<_> = first.attributes().map(|it| (it.name, it.value)).collect();
    let expected = [
        ("tenant", Value::String("acme")),
        ("weight", Value::Integer(-3)),
        ("urgent", Value::Boolean(true)),
    ];
    assert_eq!(attributes, expected);
    assert_eq!(records[1].published(), 1_785_000_000_000);
    assert!(records[1].flags().has(Flags::NO_DATA));
}

/// Written by a later version that keeps the format, copied by this one, read by the later one.
#[test]
fn what_a_later_version_adds_survives_a_copy() {
    let bytes = frame();
    let frame = parse_frame(&bytes, EPOCH, Offset(1_000)).unwrap();
    let mut writer = FrameWriter::new();
    writer.begin(5, Offset(1_000));
    for (_, record) in frame.records() {
        writer.push_record(&record.unwrap()).unwrap();
    }
    let copy = writer.finish(&frame.head().closing).bytes.to_vec();
    let copy = parse_frame(&copy, 5, Offset(1_000)).unwrap();
    for ((_, copy), (_, record)) in copy.records().zip(frame.records()) {
        assert_eq!(copy.unwrap().to_draft(), record.unwrap().to_draft());
    }
    let (_, last) = copy.records().last().unwrap();
    let last = last.unwrap();
    assert_eq!(last.field(Tag(900)), Some(&b"later"[..]));
    assert!(last.flags().has(Flags(0x0080)));
}

#[test]
fn a_checkpoint_is_golden() {
    let bytes = checkpoint().encode();
    is_golden("checkpoint.bin", &bytes);
    assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint()));
}

fn meta() -> Meta {
    let mut meta = Meta::new(header().store, KEY);
    let mut orders = TopicMeta::new(log(), "orders".into(), 16);
    orders.generations.push(Generation { number: 1, partitions: 32, opened: Offset(77) });
    // As a later version may write it.
    put_field(&mut orders.unknown, Tag(900), b"later");
    put_field(&mut meta.unknown, Tag(901), b"later too");
    meta.topics.push(orders);
    let id = LogId(Uuid::from_u128(3));
    let mut billing = SubscriptionMeta::new(id, "billing".into(), log());
    billing.is_orphaned = true;
    put_field(&mut billing.unknown, Tag(902), b"and here");
    meta.subscriptions.push(billing);
    meta
}

#[test]
fn a_registry_is_golden_and_keeps_what_a_later_version_adds() {
    let bytes = meta().encode();
    is_golden("meta.bin", &bytes);
    let read = Meta::decode(&bytes).unwrap();
    assert_eq!(read, meta());
    assert_eq!(read.encode(), bytes);
}

#[test]
fn what_was_begun_is_noted_in_fields_that_an_older_version_keeps() {
    let mut begun = meta();
    begun.is_used = true;
    begun.topics.iter_mut().for_each(|topic| topic.is_begun = true);
    begun.subscriptions.iter_mut().for_each(|it| it.is_begun = true);
    let bytes = begun.encode();
    is_golden("meta-begun.bin", &bytes);
    assert_eq!(Meta::decode(&bytes), Ok(begun));
}

#[test]
fn an_index_is_golden() {
    let bytes = index().encode();
    is_golden("index.bin", &bytes);
    assert_eq!(Index::decode(&bytes), Ok(index()));
}

#[test]
fn keys_are_golden() {
    let bytes = keys();
    is_golden("keys.bin", &bytes);
    let head = KeysHead::decode(&bytes).unwrap();
    assert_eq!(head.file_bytes(), bytes.len());
    assert_eq!((head.base, head.end, head.epoch), (Offset(1_000), Offset(1_500), EPOCH));
    let dedup = head.dedup(&bytes[head.dedup_range()]).unwrap();
    assert_eq!(dedup.len(), 500);
    assert!(dedup.is_sorted_by_key(|entry| entry.offset));
    assert_eq!(dedup[30].hash, KEY.hash(Role::Dedup, &[b"30"]));
    assert_eq!((dedup[30].wall, dedup[30].partition), (1_785_000_000_030, 14));
    let read = |buffer: &mut [u8], at: u64| {
        let from = bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    };
    for number in 0..500_u64 {
        let hash = KEY.hash(Role::Id, &[number.to_string().as_bytes()]);
        assert_eq!(head.find(Lookup::Id, hash, 10, read).unwrap(), [Offset(1_000 + number)]);
    }
    let none = KEY.hash(Role::Id, &[b"500"]);
    assert!(head.find(Lookup::Id, none, 10, read).unwrap().is_empty());
    let saga = KEY.hash(Role::Correlation, &[b"3"]);
    let found = head.find(Lookup::Correlation, saga, 1_000, read).unwrap();
    assert_eq!(found.len(), 71);
    assert!(found.iter().all(|offset| offset.0 % 7 == (1_000 + 3) % 7));
    assert_eq!(head.find(Lookup::Correlation, saga, 5, read).unwrap(), found[..5]);
}

/// Damage is distinguished from a later version, which is refused by name.
#[test]
fn every_flipped_bit_of_a_small_file_is_seen() {
    fn flips(bytes: &[u8], is_seen: impl Fn(&[u8]) -> bool) {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << bit;
                assert!(is_seen(&damaged), "bit {bit} of byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert!(is_seen(&bytes[..length]), "cut to {length} bytes");
        }
    }
    let is_damage = |why| !matches!(why, FileError::Newer { .. });
    flips(&checkpoint().encode(), |bytes| Checkpoint::decode(bytes).is_err_and(is_damage));
    flips(&meta().encode(), |bytes| Meta::decode(bytes).is_err_and(is_damage));
    flips(&index().encode(), |bytes| Index::decode(bytes).is_err_and(is_damage));
    flips(&header().encode()[..128], |bytes| {
        let mut page = bytes.to_vec();
        page.resize(SEGMENT_HEADER_BYTES, 0);
        // The same if it is cut before zeros.
        page == header().encode()
            || SegmentHeader::decode(&page)
                .is_err_and(|why| !matches!(why, SegmentError::Newer { .. }))
    });
    let keys = keys();
    flips(&keys[..PAGE_BYTES], |bytes| KeysHead::decode(bytes).is_err_and(is_damage));
    let head = KeysHead::decode(&keys).unwrap();
    let section = &keys[head.dedup_range()];
    for at in (0..section.len()).step_by(97) {
        let mut damaged = section.to_vec();
        damaged[at] ^= 1;
        assert_eq!(head.dedup(&damaged), Err(FileError::Checksum));
    }
}

#[test]
fn what_is_newer_is_refused_by_name() {
    let mut page = header().encode();
    page[8..10].copy_from_slice(&2_u16.to_le_bytes());
    let crc = crc32c::crc32c(&page[..124]).to_le_bytes();
    page[124..128].copy_from_slice(&crc);
    let refused = SegmentHeader::decode(&page).unwrap_err();
    assert_eq!(refused, SegmentError::Newer { found: 2 });
    assert_eq!(
        refused.to_string(),
        "it has format 2, and this program knows up to 1: use a newer one"
    );

    let mut page = header().encode();
    page[10] |= 0x80;
    let crc = crc32c::crc32c(&page[..124]).to_le_bytes();
    page[124..128].copy_from_slice(&crc);
    assert_eq!(SegmentHeader::decode(&page), Err(SegmentError::UnknownFlags { flags: 0x81 }));

    let mut bytes = frame();
    bytes[60] = 2;
    let crc = crc32c::crc32c(&bytes[8..64]).to_le_bytes();
    bytes[4..8].copy_from_slice(&crc);
    let refused = parse_frame(&bytes, EPOCH, Offset(1_000)).unwrap_err();
    assert_eq!(refused, FrameError::Newer { found: 2 });

    let mut bytes = checkpoint().encode();
    bytes[8] = 2;
    let end = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&crc);
    assert_eq!(Checkpoint::decode(&bytes), Err(FileError::Newer { found: 2, known: 1 }));
}

/// An unknown critical flag, version, kind or body encoding refuses that record and no other.
#[test]
fn a_record_that_is_not_understood_is_refused_by_name() {
    let changes: [(usize, u8, RecordError); 5] = [
        (8, 2, RecordError::Newer { found: 2 }),
        (9, 99, RecordError::Unknown { what: "a kind", value: 99 }),
        (11, 0x80, RecordError::Unknown { what: "flags", value: 0x8000 }),
        (12, 1, RecordError::Unknown { what: "a compression", value: 1 }),
        (16, 5, RecordError::Unknown { what: "an encryption key", value: 5 }),
    ];
    for (at, value, expected) in changes {
        let mut bytes = frame();
        let record = FRAME_HEADER_BYTES;
        bytes[record + at] = value;
        let length = u32::from_le_bytes(*bytes[record..].first_chunk().unwrap()) as usize;
        // Its checksum, computed separately: epoch, offset, length, rest.
        let mut covered = EPOCH.to_le_bytes().to_vec();
        covered.extend_from_slice(&1_000_u64.to_le_bytes());
        covered.extend_from_slice(&bytes[record..record + 4]);
        covered.extend_from_slice(&bytes[record + 8..record + length]);
        let crc = crc32c::crc32c(&covered).to_le_bytes();
        bytes[record + 4..record + 8].copy_from_slice(&crc);
        let frame = parse_frame(&bytes, EPOCH, Offset(1_000)).unwrap();
        let read: Vec<_> = frame.records().map(|(_, record)| record.map(drop)).collect();
        assert_eq!(read, [Err(expected), Ok(()), Ok(())], "byte {at}");
    }
}

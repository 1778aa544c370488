//! Test 15 of the specification: decoding any bytes does not panic, and takes no more memory than
//! their length bounds.
//!
//! Checksums stop nearly all wrong bytes, so random bytes would not test the code behind them. Here
//! checksums are taken as right, and valid encodings are decoded with a few bytes changed.

use fastrand::Rng;

use super::draft;
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{
        Checkpoint, Closing, DedupEntry, FRAME_HEADER_BYTES, FrameWriter, Index, KeysBuilder,
        KeysHead, Lookup, PAGE_BYTES, Predecessor, Record, SegmentHeader, Stamp, find_frame,
        parse_frame, parse_head,
    },
    mutation::{Mutation, with},
    storage::model::campaign,
};

const EPOCH: u64 = 77;

fn frame() -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.begin(EPOCH, Offset(5));
    for n in 0..4 {
        let mut draft = draft(n);
        draft.key = Some(vec![7; 9].into());
        draft.not_before = Some(n);
        writer.push(&draft, Stamp { generation: 1, partition: 2, published: 3 }).unwrap();
    }
    let closing = Closing { previous_crc: 1, durable: Offset(5), wall: 2, mono: 3 };
    writer.finish(&closing).bytes.to_vec()
}

fn segment_header() -> Vec<u8> {
    let predecessor =
        Predecessor { epoch: 3, end_position: 4096, end_offset: Offset(4), last_crc: 9 };
    let header = SegmentHeader {
        store: StoreId(uuid::Uuid::from_u128(1)),
        log: LogId(uuid::Uuid::from_u128(2)),
        base: Offset(5),
        epoch: EPOCH,
        predecessor: Some(predecessor),
        gap: 1,
    };
    header.encode().to_vec()
}

fn keys() -> Vec<u8> {
    let mut builder = KeysBuilder::new(Offset(5), 1_000);
    for n in 0..300u32 {
        let hash = u128::from(n) << 100;
        let offset = Offset(5 + u64::from(n));
        builder.add_dedup(DedupEntry { hash, digest: n, offset, wall: 1_000, partition: 1 });
        builder.add(Lookup::Id, hash, offset);
    }
    builder.encode(EPOCH, Offset(305))
}

/// Changes, removes or inserts a few bytes.
fn change(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.usize(0..5) {
        // Lengths and counts are mostly in the first bytes.
        let most = if rng.bool() { bytes.len().min(96) } else { bytes.len() };
        if most == 0 {
            return;
        }
        let at = rng.usize(..most);
        bytes[at] = if rng.bool() { rng.u8(..) } else { [0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)] };
    }
    match rng.u8(0..8) {
        0 => bytes.truncate(rng.usize(..=bytes.len())),
        1 => bytes.extend((0..rng.usize(..80)).map(|_| rng.u8(..))),
        _ => {}
    }
}

/// Reads everything of a record.
fn ask(record: &Record<'_>) -> usize {
    let texts = [record.id(), record.source(), record.event_type(), record.subject()];
    let more = [record.correlation(), record.causation(), record.principal(), record.trace_state()];
    let numbers = [record.not_before(), record.expiry(), record.depth().map(u64::from)];
    assert!(numbers.iter().flatten().count() <= 3);
    let fields: usize = record.fields().map(|field| field.value.len()).sum();
    assert!(texts.iter().chain(&more).flatten().all(|text| text.len() <= fields));
    let copied = record.to_draft();
    assert!(copied.body.len() + fields <= record.encoded_bytes());
    record.attributes().count()
}

fn decode(bytes: &[u8]) {
    parse_head(bytes, EPOCH).ok();
    if let Ok(frame) = parse_frame(bytes, EPOCH, Offset(5)) {
        let mut records = 0;
        for (_, record) in frame.records() {
            records += 1;
            if let Ok(record) = record {
                assert!(ask(&record) <= bytes.len());
            }
        }
        assert!(records <= bytes.len());
        frame.verify().ok();
    }
    if let Some((at, _)) = find_frame(bytes, EPOCH, Offset::ZERO) {
        assert!(at + FRAME_HEADER_BYTES <= bytes.len());
    }
    SegmentHeader::decode(bytes).ok();
    Checkpoint::decode(bytes).ok();
    if let Ok(index) = Index::decode(bytes) {
        assert!(index.blocks().len() <= bytes.len());
        index.block_of(Offset(7));
        index.count(3);
    }
    if let Ok(head) = KeysHead::decode(bytes) {
        if let Some(section) = bytes.get(head.dedup_range()) {
            let entries = head.dedup(section).unwrap_or_default();
            assert!(entries.len() <= bytes.len());
        }
        let mut reads = 0;
        let found = head.find(Lookup::Id, 9 << 100, 10, |buffer, position| {
            reads += 1;
            assert!(reads < 10_000, "it reads for ever");
            assert!(buffer.len() <= PAGE_BYTES);
            let from = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
            let rest = &bytes[from..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        });
        assert!(
            found.is_ok_and(|found| found.len() <= 10) || reads > 0 || bytes.len() > PAGE_BYTES
        );
    }
}

#[test]
fn t15_no_bytes_make_a_decoder_panic() {
    let checkpoint = Checkpoint {
        store: StoreId(uuid::Uuid::from_u128(1)),
        log: LogId(uuid::Uuid::from_u128(2)),
        start: Offset(1),
        durable: Offset(9),
    };
    let mut index = Index::new(EPOCH, Offset(5), 4096);
    let sound = frame();
    let head = parse_head(&sound, EPOCH).unwrap();
    index.add_frame(4096, head.length as u64, head.base, 2, [0, 3, 60]);
    let sources = [sound, segment_header(), keys(), checkpoint.encode(), index.encode()];
    for seed in 0..campaign(6_000) {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = sources[usize::try_from(seed % 5).unwrap()].clone();
        change(&mut bytes, &mut rng);
        with(Mutation::AcceptABadCrc, || decode(&bytes));
        decode(&bytes);
    }
}

//! A log on the real file system without faults.

use super::*;
use crate::events::queue::storage::model::Model;

#[test]
fn what_is_acknowledged_is_read_and_is_there_after_a_restart() {
    let home = Home::real();
    let (log, opened) = home.open();
    assert_eq!((opened.start, opened.end), (Offset(0), Offset(0)));
    for batch in 0..300 {
        let appended = append(&log, batch * 10..batch * 10 + 10).wait().unwrap();
        let offsets: Vec<u64> = appended.iter().map(|it| it.offset.0).collect();
        assert_eq!(offsets, (batch * 10..batch * 10 + 10).collect::<Vec<_>>());
    }
    assert_eq!(log.durable(), Offset(3_000));
    let expected: Vec<_> = (0..3_000).map(|n| (n, n)).collect();
    assert_eq!(all(&log), expected);
    assert!(log.segments().len() > 1, "no file was sealed");
    log.close();
    assert!(append_fails(&log));

    let (log, opened) = home.open();
    assert_eq!((opened.end, opened.copied, opened.cut_bytes), (Offset(3_000), 0, 0));
    assert_eq!(all(&log), expected);
    append(&log, [3_000]).wait().unwrap();
    assert_eq!(all(&log).len(), 3_001);
}

fn append_fails(log: &Log) -> bool {
    log.permit(10).is_err()
}

#[test]
fn a_log_that_was_not_closed_is_copied_forward_as_far_as_nothing_proves_it() {
    let home = Home::real();
    let (log, _) = home.open();
    for n in 0..10 {
        append(&log, [n]).wait().unwrap();
    }
    // Dropped as if killed: the last commit is in no watermark, except perhaps CHECKPOINT.
    let (again, opened) = home.open();
    assert_eq!(opened.end, Offset(10));
    assert_eq!(all(&again), (0..10).map(|n| (n, n)).collect::<Vec<_>>());
}

#[test]
fn old_segments_go_and_the_rest_stays() {
    let mut home = Home::real();
    home.settings.segment_bytes = 100 << 10;
    let (log, _) = home.open();
    for batch in 0..334 {
        append(&log, batch * 15..batch * 15 + 15).wait().unwrap();
    }
    let segments = log.segments();
    assert!(segments.len() > 2);
    let start = log.retire(segments[2].base.plus(1)).unwrap();
    assert_eq!(start, segments[2].base);
    assert_eq!(log.start(), start);
    assert_eq!(log.segments().len(), segments.len() - 2);
    let expected: Vec<_> = (start.0..5_010).map(|n| (n, n)).collect();
    assert_eq!(all(&log), expected);
    assert!(matches!(log.reader().read(Offset(0), 1), Err(ReadError::Retired { .. })));
    log.close();
    let (log, opened) = home.open();
    assert_eq!(opened.start, start);
    assert_eq!(all(&log), expected);
}

#[test]
fn unwaited_records_are_written_at_once_and_synced_soon() {
    let home = Home::real();
    let (log, _) = home.open();
    let appended = log.append_unwaited(log.permit(200).unwrap(), vec![draft(0)]).wait().unwrap();
    assert_eq!(appended[0].offset, Offset(0));
    let mut durable = log.subscribe_durable();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let seen = durable.wait_for(|durable| *durable == Offset(1));
        drop(tokio::time::timeout(std::time::Duration::from_secs(10), seen).await.unwrap());
    });
    assert_eq!(all(&log), [(0, 0)]);
}

#[test]
fn a_stopped_writer_has_written_what_it_was_given() {
    let home = Home::real();
    let (log, _) = home.open();
    let commits: Vec<Commit> = (0..100).map(|n| append(&log, [n])).collect();
    home.writer.stop();
    for commit in commits {
        commit.wait().unwrap();
    }
    assert_eq!(append(&log, [100]).wait(), Err(AppendError::Stopped));
}

#[test]
fn a_reader_skips_what_has_no_record_of_its_partitions() {
    let mut home = Home::real();
    home.settings.segment_bytes = 400 << 10;
    let (log, _) = home.open();
    // Partition 7 rarely, about 200 KiB apart.
    let mut expected = Vec::new();
    for n in 0..600_u64 {
        let mut large = draft(n);
        large.body = Bytes::from(vec![1; 2_000]);
        large.partition = if n % 100 == 50 { 7 } else { 1 };
        if large.partition == 7 {
            expected.push(n);
        }
        let permit = log.permit(large.encoded_bytes() as u64).unwrap();
        log.append(permit, vec![large]).wait().unwrap();
    }
    let mut reader = log.reader();
    let (mut from, mut found, mut read) = (Offset(0), Vec::new(), 0);
    loop {
        from = reader.skip_to(from, &[7]).unwrap();
        let block = reader.read(from, 1).unwrap();
        if block.is_empty() {
            break;
        }
        read += block.bytes();
        let records = block.records().filter(|(_, record)| record.partition() == 7);
        found.extend(records.map(|(offset, _)| offset.0));
        from = block.next();
    }
    assert_eq!(found, expected);
    assert!(read < 900_000, "{read} bytes of 1,200,000 were read");
    assert_eq!(reader.skip_to(Offset(0), &[9]).unwrap(), log.durable());
}

#[test]
fn what_a_log_has_open_goes_with_its_writer() {
    let storage: Arc<dyn Storage> = Arc::new(Model::new());
    for is_closed in [true, false] {
        let home = Home::on(storage.clone());
        let (log, _) = home.open();
        append(&log, [0]).wait().unwrap();
        if is_closed {
            log.close();
        }
        home.writer.stop();
        drop((log, home));
        assert_eq!(Arc::strong_count(&storage), 1, "closed: {is_closed}");
    }
}

#[test]
fn a_time_leads_to_the_first_event_at_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(Now { wall: 1_000, mono: 0 });
    let home = Home {
        writer: Writer::spawn("test", Arc::new(clock.clone())).unwrap(),
        ..Home::on(Arc::new(Real::open(dir.path()).unwrap()))
    };
    let home =
        Home { settings: Settings { segment_bytes: 70_000, ..home.settings.clone() }, ..home };
    let (log, _) = home.open();
    for n in 0..60 {
        append(&log, n * 20..n * 20 + 20).wait().unwrap();
        clock.advance(10);
    }
    assert!(log.segments().len() > 1);
    for n in 0..60 {
        assert_eq!(log.offset_at(1_000 + n * 10).unwrap(), Offset(n * 20));
        assert_eq!(log.offset_at(1_000 + n * 10 - 9).unwrap(), Offset(n * 20));
    }
    assert_eq!(log.offset_at(0).unwrap(), Offset(0));
    assert_eq!(log.offset_at(9_999_999).unwrap(), Offset(1_200));
}

//! How much of a body is read at once.
//!
//! Large reads make a large body cheap: each costs a system call, a buffer and a frame. But what is
//! read and not taken yet is held in memory, for each slow client. So a read doubles while it is
//! filled, up to [`STEADY`] for every reader and up to [`MOST`] only for one that is back for more
//! at once. A reader that makes us wait once stays at [`STEADY`] for the rest of its body: it would
//! seem quick again each time that the socket's own buffer has room.

use std::time::Duration;

use tokio::time::Instant;

/// The first read: a head, and often a body with it.
pub(super) const LEAST: usize = 8 * 1024;
/// For any reader.
pub(super) const STEADY: usize = 64 * 1024;
/// For a reader that takes what it gets at once.
const MOST: usize = 128 * 1024;
/// How soon such a reader is back: 100 Mbit/s at [`MOST`].
const AT_ONCE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct ReadSize {
    next: usize,
    most: usize,
    /// Whether the last read got less than half of what it asked for.
    was_small: bool,
    was_filled: bool,
    /// When the last read ended, if none has begun since.
    ended_at: Option<Instant>,
}

// === impl ReadSize ===

impl Default for ReadSize {
    fn default() -> Self {
        Self { next: LEAST, most: MOST, was_small: false, was_filled: false, ended_at: None }
    }
}

impl ReadSize {
    /// A body of `length` bytes comes next: no need to find out that it is large.
    pub(super) fn expect(&mut self, length: u64) {
        self.next = usize::try_from(length).unwrap_or(STEADY).clamp(LEAST, STEADY);
    }

    /// How much the read that begins `now` asks for.
    pub(super) fn begin(&mut self, now: Instant) -> usize {
        if let Some(ended_at) = self.ended_at.take() {
            if now.saturating_duration_since(ended_at) > AT_ONCE {
                self.most = STEADY;
            }
            let next = if self.was_filled { 2 * self.next } else { self.next };
            self.next = next.min(self.most);
        }
        self.next
    }

    /// The read got `count` bytes.
    pub(super) fn end(&mut self, count: usize, now: Instant) {
        let is_small = count < self.next / 2;
        if is_small && self.was_small {
            self.next = (self.next / 2).max(LEAST);
        }
        self.was_filled = count >= self.next;
        self.was_small = is_small;
        self.ended_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read that is filled, after which its reader needs `pause`. Returns how much it got.
    fn fill(size: &mut ReadSize, now: &mut Instant, pause: Duration) -> usize {
        let count = size.begin(*now);
        size.end(count, *now);
        *now += pause;
        count
    }

    #[test]
    fn a_quick_reader_gets_more_and_more_until_it_makes_us_wait() {
        let (mut size, mut now) = (ReadSize::default(), Instant::now());
        let reads: Vec<_> = (0..7).map(|_| fill(&mut size, &mut now, AT_ONCE) / 1024).collect();
        assert_eq!(reads, [8, 16, 32, 64, 128, 128, 128]);
        now += Duration::from_millis(1);
        assert_eq!(size.begin(now), STEADY, "it has made us wait");
        let reads = [(); 3].map(|()| fill(&mut size, &mut now, Duration::ZERO));
        assert_eq!(reads, [STEADY; 3], "and will again");
    }

    #[test]
    fn a_slow_reader_never_gets_more_than_any_reader() {
        let (mut size, mut now) = (ReadSize::default(), Instant::now());
        let slow = AT_ONCE * 2;
        let reads: Vec<_> = (0..6).map(|_| fill(&mut size, &mut now, slow) / 1024).collect();
        assert_eq!(reads, [8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn a_reader_that_makes_us_wait_is_seen_although_its_read_was_not_filled() {
        let (mut size, mut now) = (ReadSize::default(), Instant::now());
        for _ in 0..6 {
            fill(&mut size, &mut now, Duration::ZERO);
        }
        assert_eq!(size.begin(now), MOST);
        size.end(MOST - 1, now);
        assert_eq!(size.begin(now + AT_ONCE * 2), STEADY);
    }

    #[test]
    fn asking_again_for_the_same_read_changes_nothing() {
        let (mut size, now) = (ReadSize::default(), Instant::now());
        size.end(LEAST, now);
        assert_eq!(size.begin(now), 2 * LEAST);
        assert_eq!(size.begin(now + AT_ONCE * 2), 2 * LEAST, "the upstream has made us wait");
    }

    #[test]
    fn a_declared_length_is_believed_up_to_a_point() {
        for (length, first) in [(0, 8), (20 * 1024, 20), (100 * 1024, 64), (u64::MAX, 64)] {
            let mut size = ReadSize::default();
            size.expect(length);
            assert_eq!(size.begin(Instant::now()) / 1024, first, "{length}");
        }
    }

    #[test]
    fn two_small_reads_in_a_row_make_it_smaller() {
        let (mut size, now) = (ReadSize::default(), Instant::now());
        size.expect(STEADY as u64);
        for (count, next) in [(1, STEADY), (STEADY / 2, STEADY), (1, STEADY), (1, STEADY / 2)] {
            size.end(count, now);
            assert_eq!(size.begin(now), next);
        }
        (0..9).for_each(|_| size.end(1, now));
        assert_eq!(size.begin(now), LEAST);
    }
}

//! Lists, shows, redrives and removes dead letters.

use super::{Reading, Store};
use crate::events::{
    delivery::{
        dead_letter,
        runner::Letter,
        subscription::{Reason, Removal},
    },
    event::Event,
    facade::{
        self, DeadLetter, DeadLetterFilter, DeadLetterPage, JobId, Redrive, Redriven, Refusal,
        Which,
    },
    queue::Offset,
};

/// Dead letters read in one go.
const BATCH: usize = 500;

// === impl Store ===

impl Store {
    pub(super) async fn do_dead_letters(
        &self,
        name: &str,
        after: Option<u64>,
        limit: usize,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterPage, Refusal> {
        let reading = self.find_subscription(name)?;
        let limit = limit.clamp(1, BATCH);
        let mut page = DeadLetterPage::default();
        let mut after = after.map(Offset);
        loop {
            let (letters, next) = self.matching(&reading, after, &filter).await?;
            for letter in letters {
                if page.entries.len() >= limit {
                    page.next = page.entries.last().map(|last| last.id);
                    return Ok(page);
                }
                page.entries.push(letter);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(page),
            }
        }
    }

    /// Some matching dead letters after `after`, and where to continue.
    async fn matching(
        &self,
        reading: &Reading,
        after: Option<Offset>,
        filter: &DeadLetterFilter,
    ) -> Result<(Vec<DeadLetter>, Option<Offset>), Refusal> {
        let found = reading.subscription.letters(after, filter.clone(), BATCH).await?;
        let next = (found.len() == BATCH).then(|| found.last().map(|last| last.id)).flatten();
        let letters = self.read_letters(reading, found).await?;
        let letters = letters.into_iter().map(|(letter, _)| letter);
        let letters = letters.filter(|letter| dead_letter::matches(filter, letter));
        Ok((letters.collect(), next))
    }

    async fn read_letters(
        &self,
        reading: &Reading,
        letters: Vec<Letter>,
    ) -> Result<Vec<(DeadLetter, Event)>, Refusal> {
        let (subscription, topic) = (reading.subscription.clone(), reading.topic.name());
        let read = move || {
            let ids: Vec<Offset> = letters.iter().map(|letter| letter.id).collect();
            let records = subscription.surroundings().letters.read(&ids);
            let read = letters.iter().zip(records).filter_map(|(letter, record)| {
                let record = record?;
                let record = record.record()?;
                let mut shown =
                    dead_letter::shown(letter.id, &topic, letter.redrives, &record).ok()?;
                shown.reason = dead_letter::reason(letter.reason);
                shown.died = letter.died;
                if let Some(error) = &letter.last_error {
                    shown.last_error = Some(error.to_string());
                }
                Some((shown, dead_letter::event(&record)))
            });
            read.collect()
        };
        self.block(read).await
    }

    pub(super) async fn do_dead_letter(
        &self,
        name: &str,
        id: u64,
    ) -> Result<(DeadLetter, Event), Refusal> {
        let reading = self.find_subscription(name)?;
        let unknown = || Refusal::unknown("dead letter", id.to_string());
        let letter = reading.subscription.letter(Offset(id)).await?.ok_or_else(unknown)?;
        self.read_letters(&reading, vec![letter]).await?.pop().ok_or_else(unknown)
    }

    pub(super) async fn do_redrive(
        &self,
        name: &str,
        redrive: Redrive,
    ) -> Result<Redriven, Refusal> {
        let reading = self.find_subscription(name)?;
        let meant = self.meant(&reading, redrive.which).await?;
        let all = meant.len() as u64;
        let is_meant = |letter: &&(Offset, bool)| redrive.force || !letter.1;
        let letters: Vec<Offset> = meant.iter().filter(is_meant).map(|(id, _)| *id).collect();
        let matching = letters.len() as u64;
        let mut redriven = Redriven { job: None, matching, skipped: all - matching };
        if !redrive.dry_run && matching > 0 {
            let lane = reading.subscription.redrive(letters, redrive.rate, redrive.force).await?;
            let subscription = reading.settings.name.clone();
            redriven.job = Some(JobId { subscription, lane: lane.0 });
        }
        Ok(redriven)
    }

    /// The selected dead letters, and whether redriving each needs `force`, because a compensating
    /// event was published for it or it may have been done.
    async fn meant(&self, reading: &Reading, which: Which) -> Result<Vec<(Offset, bool)>, Refusal> {
        let mut meant = Vec::new();
        match which {
            Which::Ids(ids) => {
                for id in ids {
                    let letter = reading.subscription.letter(Offset(id)).await?;
                    let letter =
                        letter.ok_or_else(|| Refusal::unknown("dead letter", id.to_string()))?;
                    meant.push((
                        letter.id,
                        letter.is_compensated || letter.reason == Reason::MaybeSeen,
                    ));
                }
            }
            Which::Filter(filter) => {
                let mut after = None;
                loop {
                    let (letters, next) = self.matching(reading, after, &filter).await?;
                    let needs_force = |it: &DeadLetter| {
                        it.is_compensated || it.reason == facade::Reason::MaybeSeen
                    };
                    let ids = letters.iter().map(|it| (Offset(it.id), needs_force(it)));
                    meant.extend(ids);
                    match next {
                        Some(next) => after = Some(next),
                        None => break,
                    }
                }
            }
        }
        Ok(meant)
    }

    pub(super) async fn do_purge(
        &self,
        name: &str,
        filter: DeadLetterFilter,
        confirm: u64,
    ) -> Result<u64, Refusal> {
        let reading = self.find_subscription(name)?;
        let meant = self.meant(&reading, Which::Filter(filter)).await?;
        let count = meant.len() as u64;
        if count != confirm {
            let detail = format!("{count} dead letters match, and {confirm} were to be removed");
            return Err(Refusal::conflict(detail));
        }
        let letters = meant.into_iter().map(|(id, _)| id).collect();
        reading.subscription.remove_letters(Removal::Purged, letters).await?;
        Ok(count)
    }
}

//! Effects of an event's outcome: its dead letter, and the event that follows.
//!
//! Each is appended once the outcome is on disk, and then, once on disk itself, reported to the
//! machine. After a crash it is first searched for, from where its log ended at the outcome.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{
    Surroundings,
    actor::{AGAIN, Actor, Done, Step},
    concluding,
    ledger::Until,
    polls::{Spot, fetch},
    reading::{self, Keep, Stop},
    requests::Loaded,
    succession,
};
use crate::events::{
    delivery::{
        dead_letter::{self, Death},
        side_log::Appended,
        subscription::{Effect, Ending, EventView, Letter, Place, Publication, Reason},
    },
    event::Event,
    queue::{
        Offset,
        codec::{Draft, Record},
        log::Log,
    },
    settings::{Reaction, Subscription as Settings},
    stored,
};

/// The result of writing a dead letter.
pub(super) struct Buried {
    letter: Letter,
    /// Its offset and size, and why the event died.
    result: Result<(Appended, Reason), Undone>,
}

/// The result of publishing what follows from an event.
pub(super) struct Followed {
    publication: Publication,
    result: Result<Sequel, Undone>,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequel {
    /// The event that follows is in its topic.
    Published,
    /// Nothing, under the current settings.
    Nothing,
    /// Nothing, because the saga is too deep.
    TooDeep,
}

/// Why an effect was not carried out.
pub(super) enum Undone {
    /// A retry may help.
    Later(String),
    /// The event's bytes are damaged: a repair decides whether they come back.
    Damaged(Stop),
    /// The event's bytes are gone for good.
    Gone,
}

// === impl Actor ===

impl Actor {
    /// Carries out an effect once its step is on disk. Without a step it already is.
    pub(super) fn start_effect(&mut self, effect: Effect, written: Option<Step>) {
        let around = self.around.clone();
        let settings = self.settings.clone();
        match effect {
            Effect::DeadLetter(letter) => {
                let spot = self.spot_of(letter.place, letter.parked);
                let is_request = self.upstream().is_some();
                let work = async move {
                    let result = match synced(written).await {
                        Ok(()) => bury(&around, spot, &letter, is_request).await,
                        Err(error) => Err(error),
                    };
                    Done::Buried(Buried { letter, result })
                };
                self.work.push(work.boxed());
            }
            Effect::Conclude(conclusion) => self.conclude(conclusion, written),
            Effect::Publish(publication) => {
                let spot = self.spot_of(publication.place, publication.parked);
                let work = async move {
                    let result = match synced(written).await {
                        Ok(()) => follow(&around, &settings, spot, &publication).await,
                        Err(error) => Err(error),
                    };
                    Done::Followed(Followed { publication, result })
                };
                self.work.push(work.boxed());
            }
        }
    }

    pub(super) fn buried(&mut self, buried: Buried) {
        let Buried { letter, result } = buried;
        match result {
            Ok((Appended { offset, bytes }, reason)) => {
                let decided = self.decide(Until::Written, |machine, moment, out| {
                    machine.dead_lettered(moment, letter.place, reason, (offset, bytes), out);
                });
                // It was appended: the next attempt finds it.
                if decided.is_err() {
                    self.defer(Effect::DeadLetter(Letter { is_recovered: true, ..letter }));
                }
            }
            Err(undone) => {
                let (place, parked, is_known) = (letter.place, letter.parked, letter.is_recovered);
                let effect = Effect::DeadLetter(Letter { is_recovered: true, ..letter });
                self.undone((place, parked), (undone, is_known), effect);
            }
        }
    }

    pub(super) fn followed(&mut self, followed: Followed) {
        let Followed { publication, result } = followed;
        let retry = Publication { is_recovered: true, ..publication.clone() };
        match result {
            Ok(sequel) => {
                let decided = self.decide(Until::Written, |machine, moment, out| {
                    machine.published(moment, publication.place, out);
                });
                match (decided, sequel) {
                    (Err(_), _) => self.defer(Effect::Publish(retry)),
                    (Ok(_), Sequel::TooDeep) => self.machine.tally().stopped_sagas.add(1),
                    (Ok(_), Sequel::Published | Sequel::Nothing) => {}
                }
            }
            Err(undone) => {
                let Publication { place, parked, is_recovered, .. } = publication;
                self.undone((place, parked), (undone, is_recovered), Effect::Publish(retry));
            }
        }
    }

    /// Handles an effect that was not carried out: it is retried as long as its event may be
    /// readable. `is_known`: it was not the first failure.
    pub(super) fn undone(
        &mut self,
        (place, parked): (Place, Option<Offset>),
        (undone, is_known): (Undone, bool),
        effect: Effect,
    ) {
        // The event was lost meanwhile, and counted then.
        if self.machine.event(place) != EventView::Ending {
            return;
        }
        let subscription = self.settings.name.clone();
        let error = match undone {
            Undone::Gone if self.lose_event(place) => return,
            Undone::Gone => "it cannot be written down that its event is gone".to_owned(),
            Undone::Later(error) => error,
            Undone::Damaged(stop) => {
                // A copy has no place in the topic to stop at.
                if parked.is_none() && !is_known {
                    self.stopped_at(place.lane, Some(&[place.partition]), &stop);
                }
                said(&stop)
            }
        };
        let what = match effect {
            Effect::DeadLetter(_) => "a dead letter",
            Effect::Conclude(_) => "the end of a request",
            Effect::Publish(_) => "the event that follows from another",
        };
        // Logged once; retried every second.
        if !is_known {
            tracing::warn!(%subscription, %error, "{what} cannot be written yet; it is tried again every second");
        }
        self.defer(effect);
    }

    /// Settles an event that can no longer be read, without a dead letter, and counts it. `false`
    /// if that could not be recorded.
    pub(super) fn lost(&mut self, place: Place) -> bool {
        let decided = self.decide(Until::Written, |machine, moment, out| {
            machine.lose_events(moment.now, &[place], out);
        });
        if decided.is_ok() {
            let (subscription, offset) = (&self.settings.name, place.offset.0);
            let partition = place.partition.number;
            tracing::error!(%subscription, partition, offset, "an event is lost: its bytes are missing or damaged on disk");
        }
        decided.is_ok()
    }

    pub(super) fn defer(&mut self, effect: Effect) {
        self.deferred.push(effect);
        self.retry_at.get_or_insert(Instant::now() + AGAIN);
    }
}

pub(super) async fn synced(written: Option<Step>) -> Result<(), Undone> {
    match written {
        None => Ok(()),
        Some(written) => match written.await {
            Ok(_) => Ok(()),
            Err(_) => Err(Undone::Later("its outcome is not written".into())),
        },
    }
}

/// Appends a dead letter, unless it exists. `is_request`: the subscription delivers requests.
async fn bury(
    around: &Arc<Surroundings>,
    spot: Spot,
    letter: &Letter,
    is_request: bool,
) -> Result<(Appended, Reason), Undone> {
    let letters = around.letters.clone();
    if letter.is_recovered
        && let Some(there) =
            dead_letter::find(&letters, &around.pool, letter).await.map_err(Undone::Later)?
    {
        return Ok(there);
    }
    let (event, loaded) = one(around, spot, copied).await?;
    let mut death = Death::of(letter);
    if is_request {
        let of = (letter.place, letter.left);
        death.reason = concluding::given_up(around, &loaded, of, letter.reason).await?;
    }
    let appended = letters.append(&around.pool, death.draft(event)).await;
    Ok((appended.map_err(Undone::Later)?, death.reason))
}

/// Reads one event.
pub(super) async fn one<T: Send + 'static>(
    around: &Surroundings,
    spot: Spot,
    keep: Keep<T>,
) -> Result<T, Undone> {
    match fetch(around, vec![spot], keep).await.pop() {
        Some(Ok(event)) => Ok(event),
        Some(Err(Stop::Gone | Stop::Retired(_))) => Err(Undone::Gone),
        Some(Err(stop @ Stop::Damaged(_))) => Err(Undone::Damaged(stop)),
        Some(Err(Stop::Failed(error))) => Err(Undone::Later(error)),
        None => Err(Undone::Later("its event cannot be read".into())),
    }
}

fn copied(record: &Record<'_>) -> (Draft, Loaded) {
    (record.to_draft(), Loaded::read(record))
}

/// The event that another follows from. If it is a dead letter and its original is unreadable, it
/// is read from the letter, so that it is compensated all the same.
async fn cause(around: &Surroundings, spot: Spot, letter: Option<Offset>) -> Result<Event, Undone> {
    let read = one(around, spot, reading::whole).await;
    match letter {
        Some(at) if matches!(read, Err(Undone::Gone | Undone::Damaged(_))) => {
            one(around, Spot::letter(at), reading::whole).await.or(read)
        }
        _ => read,
    }
}

/// Appends the event that follows, unless it exists.
async fn follow(
    around: &Arc<Surroundings>,
    settings: &Settings,
    spot: Spot,
    publication: &Publication,
) -> Result<Sequel, Undone> {
    let reaction = match publication.ending {
        Ending::Succeeded => settings.on_success.as_ref(),
        _ => settings.on_exhausted.as_ref(),
    };
    // The settings have changed: nothing follows any more.
    let Some(reaction) = reaction else { return Ok(Sequel::Nothing) };
    let cause = cause(around, spot, publication.letter).await?;
    let answer = publication.answer.as_ref();
    let follower = succession::follow(
        around.id,
        &around.instance,
        &cause,
        publication.ending,
        answer,
        reaction,
    );
    let Some(follower) = follower else {
        let (id, topic) = (&cause.id, &reaction.topic);
        tracing::error!(event = %id, %topic, "a chain of reactions is too deep: no event follows from this one");
        return Ok(Sequel::TooDeep);
    };
    let log = topic(around, reaction)?;
    let draft = stored::draft(follower.event.borrowed());
    if publication.is_recovered && is_there(around, &log, publication, &follower.event.id).await? {
        return Ok(Sequel::Published);
    }
    append(around, reaction, &log, draft).await.map_err(Undone::Later)?;
    Ok(Sequel::Published)
}

fn topic(around: &Surroundings, reaction: &Reaction) -> Result<Log, Undone> {
    let log = around.topics.log(&reaction.topic);
    log.ok_or_else(|| Undone::Later(format!("topic `{}` is not open", reaction.topic)))
}

async fn is_there(
    around: &Surroundings,
    log: &Log,
    publication: &Publication,
    id: &str,
) -> Result<bool, Undone> {
    let (from, mut reader, id) = (publication.target.end, log.reader(), id.to_owned());
    let look = move || reader.find(from, |_, record| (record.id() == Some(&id)).then_some(()));
    match around.pool.run(look).await {
        Ok(Ok(found)) => Ok(found.is_some()),
        Ok(Err(error)) => Err(Undone::Later(error.to_string())),
        Err(undone) => Err(Undone::Later(undone.to_string())),
    }
}

/// Appends on behalf of an accepted event, with the room reserved for that.
async fn append(
    around: &Surroundings,
    reaction: &Reaction,
    log: &Log,
    draft: Draft,
) -> Result<(), String> {
    let bytes = draft.encoded_bytes() as u64;
    let permit = around.topics.permit(&reaction.topic, bytes);
    let permit = permit.map_err(|refused| refused.to_string())?;
    let appended = log.append(permit, vec![draft]).await;
    appended.map(drop).map_err(|error| error.to_string())
}

pub(super) fn said(stop: &Stop) -> String {
    match stop {
        Stop::Damaged(range) => format!("offsets {} to {} are damaged", range.start, range.end),
        Stop::Gone => "it is lost".to_owned(),
        Stop::Retired(start) => format!("the log begins at {start}"),
        Stop::Failed(error) => error.clone(),
    }
}

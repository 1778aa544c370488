//! The handle's side: requests to the task, and waiting for its answers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Command, Subscription, Surroundings,
    actor::{Actor, Step},
    operate,
    shown::{Backlog, Letter, Status},
};
use crate::events::{
    delivery::{
        snapshot::Section,
        subscription::{Ask, LaneId, Partition, Pins, Place, Removal, Seek},
    },
    facade::{
        DeadLetterFilter, EventState, JobStatus, Leased, Receive, Refusal, Tally, TokenItem,
        TokenResult, Unblock, Verb,
    },
    queue::Offset,
    settings::Subscription as Settings,
};

impl Subscription {
    /// The subscription's surroundings.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Its counters.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Leases events, waiting for the first as long as asked. Dropped, it gives leases back.
    pub async fn receive(&self, receive: Receive, lease: Duration) -> Result<Vec<Leased>, Refusal> {
        let ask = Ask {
            events: receive.max_events,
            bytes: receive.max_bytes,
            lease: operate::millis(receive.lease.unwrap_or(lease)),
        };
        let until = Instant::now() + receive.wait;
        self.ask_later(move |actor, reply| actor.poll(ask, until, reply)).await
    }

    /// Applies one verb to the attempts of some tokens; one result for each.
    pub async fn settle(
        &self,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Result<Vec<TokenResult>, Refusal> {
        let tokens = &self.surroundings.tokens;
        let items = items.into_iter().map(|item| (tokens.check(&item.token), item)).collect();
        self.ask(move |actor| actor.settle(verb, items)).await?
    }

    /// Moves the position; ends all leases. Synced.
    pub async fn seek(&self, to: Seek) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.seek(to)).await
    }

    /// Pauses delivery. Synced.
    pub async fn pause(&self) -> Result<(), Refusal> {
        self.carry_out(Actor::pause).await
    }

    /// Resumes delivery. Synced.
    pub async fn resume(&self) -> Result<(), Refusal> {
        self.carry_out(Actor::resume).await
    }

    /// Unblocks a key or a partition; `false` if it was not blocked. Synced.
    pub async fn unblock(&self, unblock: Unblock) -> Result<bool, Refusal> {
        match self.ask(move |actor| actor.unblock(&unblock)).await?? {
            Some(step) => written(step).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Its status.
    pub async fn status(&self, is_orphaned: bool) -> Result<Status, Refusal> {
        self.ask(move |actor| actor.show(is_orphaned)).await
    }

    /// The state of an event.
    pub async fn event(&self, partition: Partition, offset: Offset) -> Result<EventState, Refusal> {
        self.ask(move |actor| actor.show_event(partition, offset)).await
    }

    /// Which of these events are unsettled.
    pub async fn unsettled(&self, events: Vec<(Partition, Offset)>) -> Result<Vec<bool>, Refusal> {
        self.ask(move |actor| actor.are_unsettled(&events)).await
    }

    /// Up to `most` dead letters after `after`. Filters on the events' contents are not applied.
    pub async fn letters(
        &self,
        after: Option<Offset>,
        filter: DeadLetterFilter,
        most: usize,
    ) -> Result<Vec<Letter>, Refusal> {
        self.ask(move |actor| actor.letters_after(after, &filter, most)).await
    }

    /// Up to `most` dead letters that died before `until`; none died after `now`.
    pub async fn aged_letters(
        &self,
        now: u64,
        until: u64,
        most: usize,
    ) -> Result<Vec<Offset>, Refusal> {
        self.ask(move |actor| actor.aged_letters(now, until, most)).await
    }

    /// One dead letter, if it exists.
    pub async fn letter(&self, id: Offset) -> Result<Option<Letter>, Refusal> {
        self.ask(move |actor| actor.letter(id)).await
    }

    /// Removes dead letters. Synced.
    pub async fn remove_letters(
        &self,
        removal: Removal,
        letters: Vec<Offset>,
    ) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.remove_letters(removal, letters)).await
    }

    /// Notes that a dead letter was copied forward. Synced.
    pub async fn letter_moved(&self, from: Offset, to: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.letter_moved(from, to)).await
    }

    /// Starts a replay of a range of the topic. Synced.
    pub async fn replay(
        &self,
        stretch: (Offset, Offset),
        rate: Option<f64>,
        publishes: bool,
    ) -> Result<LaneId, Refusal> {
        let started = self.ask(move |actor| actor.replay(stretch, rate, publishes)).await?;
        let (lane, step) = started?;
        written(step).await.map(|()| lane)
    }

    /// Starts a redrive of dead letters; `is_forced`: even of requests maybe seen before. Synced.
    pub async fn redrive(
        &self,
        letters: Vec<Offset>,
        rate: Option<f64>,
        is_forced: bool,
    ) -> Result<LaneId, Refusal> {
        let redrive = move |actor: &mut Actor| actor.redrive(&letters, rate, is_forced);
        let (lane, step) = self.ask(redrive).await??;
        written(step).await.map(|()| lane)
    }

    /// Its running jobs, and those that ended last.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, Refusal> {
        self.ask(|actor| actor.show_jobs()).await
    }

    /// Ends a job. Synced.
    pub async fn cancel(&self, lane: LaneId) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.cancel(lane)).await
    }

    /// Changes the settings. Synced.
    pub async fn configure(&self, settings: Settings) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.configure(settings)).await
    }

    /// The lowest offsets it still needs.
    pub async fn pins(&self) -> Result<Pins, Refusal> {
        self.ask(|actor| actor.pins()).await
    }

    /// Its backlog below `end`.
    pub async fn backlog(&self, end: Offset) -> Result<Backlog, Refusal> {
        self.ask(move |actor| actor.backlog(end)).await
    }

    /// Up to `most` events that would keep segments below `below`.
    pub async fn to_park(&self, below: Offset, most: usize) -> Result<Vec<Place>, Refusal> {
        self.ask(move |actor| actor.to_park(below, most)).await
    }

    /// Notes that an event was copied into the parked log. Synced.
    pub async fn parked(&self, place: Place, at: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.parked(place, at)).await
    }

    /// Notes that the topic's log has deleted everything before `start`.
    pub async fn dropped(&self, start: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.dropped(start)).await
    }

    /// Notes that the log it reads was reopened.
    pub async fn reopened(&self) -> Result<(), Refusal> {
        self.ask(Actor::reopened).await
    }

    /// Its part of a snapshot, and whether the snapshot mends a hole in the journal.
    pub async fn section(&self) -> Result<(Section, bool), Refusal> {
        let (reply, answer) = oneshot::channel();
        let has_hole = self
            .ask(move |actor| {
                actor.section(reply);
                actor.has_hole()
            })
            .await?;
        let (position, state) = answer.await.map_err(|_| stopped())?;
        Ok((Section { subscription: self.surroundings.id, position, state }, has_hole))
    }

    /// Whether a step of it is missing in the journal, which a snapshot has to mend.
    pub async fn has_hole(&self) -> Result<bool, Refusal> {
        self.ask(|actor| actor.has_hole()).await
    }

    /// A snapshot with its section is on disk.
    pub async fn mend(&self) -> Result<(), Refusal> {
        self.ask(Actor::mend).await
    }

    /// Starts no more pushes, because the gateway is about to stop; those in flight continue. Waiting
    /// consumers get an empty answer; later ones get what is ready, and wait briefly at most.
    pub async fn wind_down(&self) {
        // An actor that has stopped is just as good.
        self.ask(Actor::wind_down).await.ok();
    }

    /// Ends the task once its steps are written. From its first poll on nothing starts any more;
    /// deliveries in flight are awaited for this long.
    pub async fn stop(&self, patience: Duration) {
        // An actor that has stopped is just as good.
        self.ask(move |actor| actor.stop(patience)).await.ok();
        self.commands.closed().await;
    }

    /// Has the task take a step, and waits until it is written.
    async fn carry_out(
        &self,
        command: impl FnOnce(&mut Actor) -> Result<Step, Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let step = self.ask(command).await??;
        written(step).await
    }

    /// Runs something in the task, and returns its result. It runs even if the future is dropped.
    async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Actor) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |actor| drop(reply.send(command(actor))));
        self.commands.send(command).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// As [`Subscription::ask`], for what the task answers later.
    async fn ask_later<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Actor, oneshot::Sender<Result<T, Refusal>>) + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |actor| command(actor, reply));
        self.commands.send(command).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn written(step: Step) -> Result<(), Refusal> {
    match step.await {
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::Unavailable {
            detail: "the delivery state cannot be written".into(),
            may_exist: true,
        }),
    }
}

fn stopped() -> Refusal {
    Refusal::unavailable("the subscription is stopped")
}

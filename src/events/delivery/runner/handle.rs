//! The handle's side: what is asked of the task, and the wait for it.

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
    /// What is around it.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// What it counts of itself.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Leases events, and waits for the first as long as asked. Dropped, what was leased is given back.
    pub async fn receive(&self, receive: Receive, lease: Duration) -> Result<Vec<Leased>, Refusal> {
        let ask = Ask {
            events: receive.max_events,
            bytes: receive.max_bytes,
            lease: operate::millis(receive.lease.unwrap_or(lease)),
        };
        let until = Instant::now() + receive.wait;
        self.ask_later(move |actor, reply| actor.poll(ask, until, reply)).await
    }

    /// Does one thing to what tokens stand for; one answer for each.
    pub async fn settle(
        &self,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Result<Vec<TokenResult>, Refusal> {
        let tokens = &self.surroundings.tokens;
        let items = items.into_iter().map(|item| (tokens.check(&item.token), item)).collect();
        self.ask(move |actor| actor.settle(verb, items)).await?
    }

    /// Goes on elsewhere; leases are over. Synced.
    pub async fn seek(&self, to: Seek) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.seek(to)).await
    }

    /// Stops. Synced.
    pub async fn pause(&self) -> Result<(), Refusal> {
        self.carry_out(Actor::pause).await
    }

    /// Goes on. Synced.
    pub async fn resume(&self) -> Result<(), Refusal> {
        self.carry_out(Actor::resume).await
    }

    /// Frees a key or a partition; `false`: it was not blocked. Synced.
    pub async fn unblock(&self, unblock: Unblock) -> Result<bool, Refusal> {
        match self.ask(move |actor| actor.unblock(&unblock)).await?? {
            Some(step) => written(step).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// How it stands.
    pub async fn status(&self, is_orphaned: bool) -> Result<Status, Refusal> {
        self.ask(move |actor| actor.show(is_orphaned)).await
    }

    /// How far it is with an event.
    pub async fn event(&self, partition: Partition, offset: Offset) -> Result<EventState, Refusal> {
        self.ask(move |actor| actor.show_event(partition, offset)).await
    }

    /// Which of these are not settled.
    pub async fn unsettled(&self, events: Vec<(Partition, Offset)>) -> Result<Vec<bool>, Refusal> {
        self.ask(move |actor| actor.are_unsettled(&events)).await
    }

    /// Dead letters after `after`, at most so many; what a filter asks of the events themselves is not
    /// looked at.
    pub async fn letters(
        &self,
        after: Option<Offset>,
        filter: DeadLetterFilter,
        most: usize,
    ) -> Result<Vec<Letter>, Refusal> {
        self.ask(move |actor| actor.letters_after(after, &filter, most)).await
    }

    /// One dead letter, if it is there.
    pub async fn letter(&self, id: Offset) -> Result<Option<Letter>, Refusal> {
        self.ask(move |actor| actor.letter(id)).await
    }

    /// Dead letters are gone. Synced.
    pub async fn remove_letters(
        &self,
        removal: Removal,
        letters: Vec<Offset>,
    ) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.remove_letters(removal, letters)).await
    }

    /// A dead letter was copied forward. Synced.
    pub async fn letter_moved(&self, from: Offset, to: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.letter_moved(from, to)).await
    }

    /// Starts a replay of a stretch of the topic. Synced.
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

    /// Starts a redrive of dead letters; `is_forced`: of requests that may have been seen, too. Synced.
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

    /// Its jobs: those that run, and the last that ended.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, Refusal> {
        self.ask(|actor| actor.show_jobs()).await
    }

    /// Ends a job. Synced.
    pub async fn cancel(&self, lane: LaneId) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.cancel(lane)).await
    }

    /// Other settings hold from here on. Synced.
    pub async fn configure(&self, settings: Settings) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.configure(settings)).await
    }

    /// What must be kept for it.
    pub async fn pins(&self) -> Result<Pins, Refusal> {
        self.ask(|actor| actor.pins()).await
    }

    /// What waits for it below `end`.
    pub async fn backlog(&self, end: Offset) -> Result<Backlog, Refusal> {
        self.ask(move |actor| actor.backlog(end)).await
    }

    /// Events that would keep segments below `below`, at most `most`.
    pub async fn to_park(&self, below: Offset, most: usize) -> Result<Vec<Place>, Refusal> {
        self.ask(move |actor| actor.to_park(below, most)).await
    }

    /// An event was copied into the parked log. Synced.
    pub async fn parked(&self, place: Place, at: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.parked(place, at)).await
    }

    /// The topic's log has let go of everything before `start`.
    pub async fn dropped(&self, start: Offset) -> Result<(), Refusal> {
        self.carry_out(move |actor| actor.dropped(start)).await
    }

    /// The log it reads was opened anew.
    pub async fn reopened(&self) -> Result<(), Refusal> {
        self.ask(Actor::reopened).await
    }

    /// Its part of a snapshot, and whether the journal has a hole that the snapshot mends.
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

    /// Whether the journal has a hole where a step of it should be, which a snapshot has to mend.
    pub async fn has_hole(&self) -> Result<bool, Refusal> {
        self.ask(|actor| actor.has_hole()).await
    }

    /// A snapshot with its section is on disk.
    pub async fn mend(&self) -> Result<(), Refusal> {
        self.ask(Actor::mend).await
    }

    /// Begins no delivery by push any more: the gateway is about to stop. What is under way goes on. Consumers that
    /// wait are sent away with nothing; those that come get what is there, and wait for a moment at most.
    pub async fn wind_down(&self) {
        // One that is stopped already is as good.
        self.ask(Actor::wind_down).await.ok();
    }

    /// Ends the task once its steps are written. Nothing begins any more from its first poll on; what is on
    /// its way is waited for as long as this.
    pub async fn stop(&self, patience: Duration) {
        // One that is stopped already is as good.
        self.ask(move |actor| actor.stop(patience)).await.ok();
        self.commands.closed().await;
    }

    /// Has the task take a step, and waits until that is written.
    async fn carry_out(
        &self,
        command: impl FnOnce(&mut Actor) -> Result<Step, Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let step = self.ask(command).await??;
        written(step).await
    }

    /// Has the task do something, and gives back what came of it. Dropped, it is done nevertheless.
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

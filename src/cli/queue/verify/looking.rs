//! Checks a stopped store and repairs it, in the order of dependencies.
//!
//! First the journal, then the state in it, which tells what the other logs must have contained. An
//! interrupted repair can be continued by the next: nothing is accepted for good before it is
//! copied aside, and nothing begun anew before everything it is made from is repaired.

use std::{ffi::OsStr, io, path::Path};

use super::{Found, Known, part::Part};
use crate::{
    cli::queue::offline::Stopped,
    events::{
        delivery::snapshot::{self, Snapshot},
        queue::{
            Offset,
            log::{self, OpenError, Place},
            time::{Clock as _, SystemClock},
            topic::registry::Registry,
        },
        store::{
            Begun, KnownState, NotedClock, StoreError, examine_clock, examine_state,
            floor_of_journal,
            layout::{self, LogAt},
        },
    },
};

/// A store that is being checked.
struct Look<'a> {
    stopped: &'a Stopped,
    is_repair: bool,
    /// What the logs must contain, if known.
    known: Option<KnownState>,
}

// === impl Found ===

impl Found {
    pub(super) fn in_store(stopped: &Stopped, is_repair: bool) -> Self {
        let mut look = Look { stopped, is_repair, known: None };
        let mut found = Self {
            topics: Vec::new(),
            logs: Vec::new(),
            snapshots: Vec::new(),
            state: None,
            clock: None,
            error: None,
        };
        match look.journal() {
            Ok(journal) => found.logs.extend(journal),
            Err(error) => found.error = Some(error.to_string()),
        }
        found.topics = look.topics();
        found.logs.extend(look.side_logs());
        match look.state() {
            Ok(known) => found.state = known,
            Err(error) => found.error = found.error.or_else(|| Some(error.to_string())),
        }
        let store = stopped.registry.store();
        match Snapshot::examine(&*stopped.storage, Path::new(layout::STATE), store) {
            Ok(examined) => found.snapshots = examined,
            Err(error) => found.error = found.error.or_else(|| Some(error.to_string())),
        }
        if let Err(error) = look.reserve() {
            found.error = found.error.or_else(|| Some(error.to_string()));
        }
        if let Err(error) = look.unfinished() {
            found.error = found.error.or_else(|| Some(error.to_string()));
        }
        match look.clock() {
            Ok(clock) => found.clock = clock,
            Err(error) => found.error = found.error.or_else(|| Some(error.to_string())),
        }
        found
    }
}

// === impl Look ===

impl Look<'_> {
    /// The journal, and the state known from it.
    fn journal(&mut self) -> Result<Option<Part>, StoreError> {
        let registry = &self.stopped.registry;
        let snapshot = self.snapshot()?;
        let LogAt { name, dir, id } = layout::journal(registry);
        let place = self.stopped.place(dir, id);
        let floor = floor_of_journal(&place, &snapshot, registry)?;
        if floor == Offset::ZERO && !self.stopped.has(&place.dir) {
            // The store was never open.
            return Ok(None);
        }
        if self.is_repair {
            self.stopped.storage.create_dir(Path::new(layout::STATE))?;
        }
        let part = Part::of(&name, &place, Ok(floor), self.is_repair);
        if part.report.is_ok() {
            self.known = Some(examine_state(&place, &snapshot, registry)?);
        }
        Ok(Some(part))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (storage, store) = (&*self.stopped.storage, self.stopped.registry.store());
        Ok(Snapshot::load(storage, Path::new(layout::STATE), store)?.snapshot)
    }

    fn topics(&self) -> Vec<Part> {
        let registry = &self.stopped.registry;
        let topics = registry.topics().iter().map(|topic| {
            let place = self.stopped.place(Registry::topic_dir(topic.id), topic.id);
            let seen = |known: &KnownState| known.floor_of_topic(registry, topic.id);
            let seen = self.known.as_ref().map_or(Offset::ZERO, seen);
            let floor = log::floor_of(&place, seen, topic.is_begun);
            Part::of(&topic.name, &place, floor, self.is_repair)
        });
        topics.collect()
    }

    fn side_logs(&self) -> Vec<Part> {
        let parts = layout::side_logs(&self.stopped.registry).into_iter().filter_map(|log| {
            let place = self.stopped.place(log.dir, log.id);
            let floor = self.floor_of_side(&place);
            let is_there = self.stopped.has(&place.dir)
                || floor.as_ref().map_or(true, |it| *it > Offset::ZERO);
            is_there.then(|| Part::of(&log.name, &place, floor, self.is_repair))
        });
        parts.collect()
    }

    fn floor_of_side(&self, place: &Place) -> Result<Offset, OpenError> {
        if place.dir == Path::new(layout::INGRESS) {
            return log::floor_of(place, Offset::ZERO, self.stopped.registry.is_used());
        }
        let known = self.known.as_ref().filter(|_| place.dir.starts_with(layout::LETTERS));
        Ok(known.map_or(Offset::ZERO, |known| known.floor_of_letters(place.id)))
    }

    /// If requested, sets damaged snapshots aside, and begins anew what is lost.
    fn state(&mut self) -> Result<Option<Known>, StoreError> {
        let Some(known) = self.known.take() else { return Ok(None) };
        let (subscriptions, forgotten) = (known.count(), known.forgotten().clone());
        if !self.is_repair {
            return Ok(Some(Known { subscriptions, forgotten, begun: Begun::new() }));
        }
        let (storage, dir) = (&*self.stopped.storage, Path::new(layout::STATE));
        let examined = Snapshot::examine(storage, dir, self.stopped.registry.store())?;
        let damaged = examined.iter().filter(|it| it.error.is_some());
        snapshot::set_aside(storage, dir, damaged.map(|it| it.name.as_str()))?;
        let LogAt { dir, id, .. } = layout::journal(&self.stopped.registry);
        let place = self.stopped.place(dir, id);
        let begun = if forgotten.is_nothing() {
            Begun::new()
        } else {
            known.mend(&place, SystemClock.now().wall)?
        };
        let known = examine_state(&place, &self.snapshot()?, &self.stopped.registry)?;
        let forgotten = known.forgotten().clone();
        Ok(Some(Known { subscriptions: known.count(), forgotten, begun }))
    }

    /// Nothing is read from it, but a start has to open it.
    fn reserve(&self) -> io::Result<()> {
        match self.stopped.storage.open_read(Path::new(layout::RESERVE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A file that is left under such a name is replaced, and a directory is not.
    fn unfinished(&self) -> io::Result<()> {
        let is_dir = |name: &&str| self.stopped.storage.list(Path::new(name)).is_ok();
        layout::UNFINISHED.into_iter().find(|name| is_dir(name)).map_or(Ok(()), |name| {
            let said = format!("{name}: it is a directory, where only files belong");
            Err(io::Error::new(io::ErrorKind::IsADirectory, said))
        })
    }

    /// What the clock is compared with. If requested, sets a damaged note aside: the next start
    /// would use the newest record with it, too.
    fn clock(&self) -> io::Result<Option<NotedClock>> {
        let storage = &*self.stopped.storage;
        let found = examine_clock(storage)?;
        let name = Path::new(layout::CLOCK).file_name().and_then(OsStr::to_str);
        if self.is_repair && found.is_some_and(|it| it.trusted.is_none()) {
            snapshot::set_aside(storage, Path::new(layout::STATE), name)?;
            return Ok(None);
        }
        Ok(found)
    }
}

//! RESERVE: disk space kept for the journal of delivery state.
//!
//! On a full disk nothing can be drained unless that can be recorded. So the store keeps a file
//! without content, and removes it when the journal has no room. From then on nothing else is
//! written: publishes, dead letters and following events wait. Once enough space is free the file
//! is created again, and only then is anything new accepted.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::events::queue::{
    log::DiskWatch,
    storage::{self, Storage},
};

/// The reserve of one store. All calls block.
#[derive(Debug)]
pub struct Reserve {
    storage: Arc<dyn Storage>,
    disk: Arc<DiskWatch>,
    path: PathBuf,
    bytes: u64,
    is_held: Mutex<bool>,
}

// === impl Reserve ===

impl Reserve {
    /// Allocates the reserve, `bytes` in the file at `path`, whose directory exists. With too little
    /// space it counts as given up, and is taken once there is enough. 0 bytes: none is wanted.
    pub fn open(
        storage: Arc<dyn Storage>,
        disk: Arc<DiskWatch>,
        path: PathBuf,
        bytes: u64,
    ) -> io::Result<Self> {
        let reserve = Self { storage, disk, path, bytes, is_held: Mutex::new(false) };
        let mut is_held = reserve.is_held.lock();
        *is_held = bytes == 0 || reserve.is_there()?;
        if !*is_held {
            // It has another size, or is incomplete.
            reserve.remove()?;
            let is_enough = reserve.disk.refresh()?.free >= bytes.saturating_mul(2);
            *is_held = is_enough && reserve.make()?;
        }
        reserve.disk.set_reserve_out(!*is_held);
        drop(is_held);
        Ok(reserve)
    }

    /// Gives the space to the journal, which had none. Returns whether there was any.
    pub fn give_up(&self) -> io::Result<bool> {
        let mut is_held = self.is_held.lock();
        if !*is_held || self.bytes == 0 {
            return Ok(false);
        }
        // First, so that nobody else takes the space.
        self.disk.set_reserve_out(true);
        if let Err(error) = self.remove() {
            self.disk.set_reserve_out(false);
            return Err(error);
        }
        *is_held = false;
        tracing::error!(
            "the disk is full: the journal gets the reserve, publishes are refused; free some space"
        );
        Ok(true)
    }

    /// Checks the disk, and takes the reserve back if that leaves enough space for publishes. Call it
    /// about once a second, instead of [`DiskWatch::refresh`]. Returns whether the reserve is held.
    pub fn tend(&self) -> io::Result<bool> {
        let space = self.disk.refresh()?;
        let mut is_held = self.is_held.lock();
        let wanted = self.disk.bound(space.total).saturating_add(self.bytes);
        if !*is_held && space.free >= wanted && self.make()? {
            *is_held = true;
            self.disk.refresh()?;
            self.disk.set_reserve_out(false);
            tracing::info!("the disk has room again: the reserve is restored");
        }
        Ok(*is_held)
    }

    /// Whether the reserve is held for the journal.
    pub fn is_held(&self) -> bool {
        *self.is_held.lock()
    }

    fn is_there(&self) -> io::Result<bool> {
        match self.storage.open_read(&self.path) {
            Ok(file) => Ok(file.length()? == self.bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates the whole file, or none; `false` if others have taken the space.
    fn make(&self) -> io::Result<bool> {
        let unfinished = self.path.with_extension("new");
        remove_if_there(&*self.storage, &unfinished)?;
        let file = self.storage.create(&unfinished)?;
        let made = file.allocate(self.bytes).and_then(|()| file.sync());
        drop(file);
        match made.and_then(|()| self.storage.rename(&unfinished, &self.path)) {
            Ok(()) => {}
            Err(error) => {
                remove_if_there(&*self.storage, &unfinished)?;
                return if storage::is_full(&error) { Ok(false) } else { Err(error) };
            }
        }
        self.sync_dir()?;
        Ok(true)
    }

    fn remove(&self) -> io::Result<()> {
        // Needs no sync: a crash that undoes it brings back a full disk with its reserve.
        remove_if_there(&*self.storage, &self.path)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |parent| self.storage.sync_dir(parent))
    }
}

fn remove_if_there(storage: &dyn Storage, path: &std::path::Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::events::queue::{
        LogId, Offset, StoreId,
        codec::{Draft, Fields, Kind},
        log::{
            AppendError, DiskSettings, Log, Place, Plain, Purpose, Reason, Refused, Settings,
            Writer,
        },
        storage::model::{Crash, Model, Survivors},
        time::{ManualClock, Now},
    };

    const KIB: u64 = 1 << 10;
    const RESERVE: u64 = 512 * KIB;

    struct World {
        model: Model,
        disk: Arc<DiskWatch>,
        reserve: Reserve,
        topic: Log,
        journal: Log,
        _writer: Writer,
    }

    fn place(model: &Model, disk: &Arc<DiskWatch>, dir: &str, id: u128) -> Place {
        Place {
            storage: Arc::new(model.clone()),
            dir: PathBuf::from(dir),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(id)),
            disk: disk.clone(),
        }
    }

    impl World {
        fn on(model: Model) -> Self {
            let settings = DiskSettings { low_water: 0.1, min_free: 256 * KIB, reserve: RESERVE };
            let storage: Arc<dyn Storage> = Arc::new(model.clone());
            let disk = Arc::new(DiskWatch::new(storage.clone(), settings));
            let path = PathBuf::from("RESERVE");
            let reserve = Reserve::open(storage, disk.clone(), path, RESERVE).unwrap();
            let clock = ManualClock::at(Now { wall: 1_000, mono: 1_000 });
            let writer = Writer::spawn("test", Arc::new(clock)).unwrap();
            let settings = Settings { segment_bytes: 64 * KIB, ..Settings::default() };
            let open = |dir, id| {
                let place = place(&model, &disk, dir, id);
                Log::open(&writer, place, &settings, Offset::ZERO, Box::new(Plain)).unwrap().0
            };
            let (topic, journal) = (open("topic", 2), open("journal", 3));
            Self { model, disk, reserve, topic, journal, _writer: writer }
        }

        /// Appends a record of 16 KiB.
        fn append(log: &Log, purpose: Purpose) -> Result<(), AppendError> {
            let body = Bytes::from(vec![b'x'; 16 << 10]);
            let draft = Draft::new(Kind::Event, Fields::default(), body);
            let permit = log.permit_for(purpose, draft.encoded_bytes() as u64)?;
            log.append(permit, vec![draft]).wait().map(drop)
        }

        /// As the runner of a subscription does.
        fn note(&self) -> Result<(), AppendError> {
            match Self::append(&self.journal, Purpose::Journal) {
                Err(AppendError::Refused(Refused { reason: Reason::DiskLow, .. }))
                    if self.reserve.give_up().unwrap() =>
                {
                    Self::append(&self.journal, Purpose::Journal)
                }
                other => other,
            }
        }

        fn is_low(log: &Log, purpose: Purpose) -> bool {
            let refused = Self::append(log, purpose);
            matches!(refused, Err(AppendError::Refused(Refused { reason: Reason::DiskLow, .. })))
        }
    }

    fn limited(bytes: u64) -> Model {
        let model = Model::new();
        model.set_capacity(bytes);
        model
    }

    #[test]
    fn the_room_is_taken_when_there_is_enough_and_kept() {
        let model = limited(8 << 20);
        let world = World::on(model.clone());
        assert!(world.reserve.is_held() && !world.disk.is_low());
        assert_eq!(model.bytes("RESERVE".as_ref()).len() as u64, RESERVE);
        let operations = model.operations();
        drop(world);
        let model = model.crash(Crash::new(Survivors::None, 1));
        assert!(World::on(model.clone()).reserve.is_held());
        let made = model.trace().iter().any(|(_, path)| path.ends_with("RESERVE.new"));
        assert!(!made, "it was there: {operations}");
    }

    #[test]
    fn without_room_for_it_nothing_is_accepted_until_there_is() {
        let model = limited(RESERVE + 300 * KIB);
        let world = World::on(model.clone());
        assert!(!world.reserve.is_held() && world.disk.is_low());
        assert!(World::is_low(&world.topic, Purpose::Publish));
        model.set_free(3 * RESERVE);
        assert!(world.reserve.tend().unwrap());
        World::append(&world.topic, Purpose::Publish).unwrap();
    }

    #[test]
    fn a_full_disk_drains_by_the_reserve_and_accepts_only_with_it() {
        let model = limited(16 << 20);
        let world = World::on(model.clone());
        World::append(&world.topic, Purpose::Publish).unwrap();
        model.set_free(0);
        world.reserve.tend().unwrap();
        assert!(World::is_low(&world.topic, Purpose::Publish));
        while World::append(&world.topic, Purpose::Accepted).is_ok() {}
        assert!(world.reserve.is_held(), "only the journal gets it");
        for _ in 0..16 {
            world.note().unwrap();
        }
        assert!(!world.reserve.is_held());
        assert!(World::is_low(&world.topic, Purpose::Accepted), "nobody else has it");
        assert!(!world.reserve.give_up().unwrap(), "there is no more to give");

        // The bound is twice the reserve: publishes resume with that much besides it.
        model.set_free(3 * RESERVE - 4 * KIB);
        assert!(!world.reserve.tend().unwrap());
        assert!(World::is_low(&world.topic, Purpose::Publish), "there is room, and no reserve");
        world.note().unwrap();
        model.set_free(3 * RESERVE);
        assert!(world.reserve.tend().unwrap());
        // Accepted events use the space at once, which shows that it is there.
        World::append(&world.topic, Purpose::Accepted).unwrap();
        World::append(&world.topic, Purpose::Publish).unwrap();
        world.note().unwrap();
    }

    #[test]
    fn a_reserve_that_was_not_made_to_its_end_is_made_again() {
        for stop in 0..6 {
            for survivors in Survivors::ALL {
                let model = limited(8 << 20);
                let storage: Arc<dyn Storage> = Arc::new(model.clone());
                let disk = Arc::new(DiskWatch::new(storage.clone(), DiskSettings::default()));
                model.stop_at(stop);
                drop(Reserve::open(storage, disk, "RESERVE".into(), RESERVE));
                let world = World::on(model.crash(Crash::new(survivors, stop)));
                assert!(world.reserve.is_held());
                assert_eq!(world.model.bytes("RESERVE".as_ref()).len() as u64, RESERVE);
            }
        }
    }

    #[test]
    fn another_size_is_followed() {
        for bytes in [RESERVE / 2, RESERVE * 2] {
            let model = limited(8 << 20);
            drop(World::on(model.clone()));
            let storage: Arc<dyn Storage> = Arc::new(model.clone());
            let disk = Arc::new(DiskWatch::new(storage.clone(), DiskSettings::default()));
            let reserve = Reserve::open(storage, disk, "RESERVE".into(), bytes).unwrap();
            assert!(reserve.is_held());
            assert_eq!(model.bytes("RESERVE".as_ref()).len() as u64, bytes);
        }
    }

    #[test]
    fn none_is_missed_where_none_is_wanted() {
        let model = limited(8 << 20);
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        let disk = Arc::new(DiskWatch::new(
            storage.clone(),
            DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 },
        ));
        let reserve = Reserve::open(storage, disk.clone(), "RESERVE".into(), 0).unwrap();
        assert!(reserve.tend().unwrap() && !disk.is_low());
        assert!(!reserve.give_up().unwrap());
        assert!(model.files().is_empty());
    }
}

//! The thin pool this daemon works on: where its blocks come from, that it is the right one, and
//! its thins.
//!
//! Knows device-mapper, block devices and the store; knows nothing of snapshots' keys, parents or
//! file systems.
//!
//! Architecture Invariant: a thin id is used for a new thin only after the lease that covers it is
//! on disk, so a crash can leave unrecorded thins inside open leases and nowhere else.

mod active;
mod areas;
mod backing;
mod balloon;
mod claim;
mod company;
mod contents;
mod devices;
mod error;
mod expected;
mod feature_watch;
mod features;
mod ground;
mod growth;
mod health;
mod identity;
mod ids;
mod label;
mod lapses;
mod metadata;
mod minors;
mod room;
mod settings;
mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

pub use backing::Backer;
use balloon::Balloon;
pub use claim::{Claim, Company};
pub use devices::{DeviceNames, Role};
pub use error::{MetadataGrowth, PoolError};
pub use ground::LENGTH as BALLOON_LENGTH;
pub use ids::IdGuard;
pub use metadata::MetadataError;
use room::Below;
pub use room::Room;
pub use settings::PoolSettings;

use crate::block::Disks;
pub use crate::block::Space;
use crate::config::PoolFeature;
use crate::dm::{self, Dm, StatusOptions, ThinPoolStatus};
pub use crate::dm::{DeviceInfo, PoolMode};
use crate::names::DmName;
use crate::store::{Moment, PoolRecord, Store};
use crate::units::{DeviceNumber, Sectors, ThinId};
use health::{must_be_checked, sick};
use ids::Ids;
use lapses::Lapses;

/// What is known of a pool that somebody else assembles.
#[derive(Debug)]
struct Shared {
    /// Not in the database before the first claim is.
    record: PoolRecord,
    accepted_features: Vec<PoolFeature>,
    /// Known since [`Pool::join`].
    disks: OnceLock<Arc<dyn Disks>>,
    /// Why no new snapshots are made, since its owner changed its features.
    unfit: Mutex<Option<String>>,
}

/// An open pool. All verbs block; none is called with a lock or a database transaction held.
#[derive(Debug)]
pub struct Pool {
    dm: Dm,
    names: DeviceNames,
    device_name: DmName,
    device: DeviceNumber,
    block_size: Sectors,
    min_free_percent: u8,
    shared: Option<Shared>,
    ids: Ids,
    backer: Arc<Backer>,
    store: Arc<Store>,
    /// Whether what looks show goes on record.
    keeps_record: bool,
    assembly: u64,
    /// Held while the pool is looked at, so that looks are noted in the order in which they were
    /// taken.
    lapses: Mutex<Lapses>,
    balloon: Balloon,
    seen: Mutex<Seen>,
    /// Held while the pool grows.
    growing: Mutex<()>,
    /// Held for writing while the pool gets another table, for reading while a thin is loaded.
    table_turn: RwLock<()>,
    /// All that the pool can hand out has its place in the file system below it.
    backed: AtomicBool,
}

/// What was last seen, for those who must not wait for a look.
#[derive(Debug, Default)]
struct Seen {
    room: Option<Room>,
    lapses: u64,
    /// How often the pool was seen to have promised what the file system below it does not have.
    host_lapses: u64,
}

impl Pool {
    /// Assembles the pool if it is not there yet, makes sure that it is the one the database
    /// belongs to, and moves its epoch on. Leaves the leases of the last run for
    /// [`Pool::unrecorded`].
    pub fn open(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<Backer>,
    ) -> Result<Pool, PoolError> {
        let opened = identity::open(settings, &dm, &store, &backer)?;
        let pool = Pool::of(opened, settings, dm, store, backer, true)?;
        // Before anything else: what a start does fills the kernel's log, which says what happened
        // while no daemon ran.
        pool.look()?;
        if let Err(error) = pool.restore_blocks() {
            tracing::error!(%error, "the embedded pool's files have lost blocks, or it cannot be told, and there is no room to give them new ones: nothing new is taken until there is");
            pool.backed.store(false, Ordering::Relaxed);
        }
        Ok(pool)
    }

    /// The pool as it is, to look at; `None` when it is not assembled. Changes nothing, whatever
    /// state it is in.
    pub fn attach(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<Backer>,
    ) -> Result<Option<Pool>, PoolError> {
        let opened = identity::attach(settings, &dm, &store)?;
        opened.map(|opened| Pool::of(opened, settings, dm, store, backer, false)).transpose()
    }

    fn of(
        opened: identity::Opened,
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<Backer>,
        keeps_record: bool,
    ) -> Result<Pool, PoolError> {
        let info = dm.info(&opened.device_name);
        let info =
            info.map_err(|source| PoolError::Look { device: opened.device_name.clone(), source })?;
        let events = info.map_or(0, |info| info.event_nr);
        let lapses = Lapses::new(&dm, opened.device, events, store.read(|r| r.lapses())?);
        Ok(Pool {
            dm,
            assembly: lapses.assembly(),
            lapses: Mutex::new(lapses),
            keeps_record,
            names: opened.names,
            device_name: opened.device_name,
            device: opened.device,
            block_size: opened.block_size,
            min_free_percent: settings.min_free_percent,
            shared: opened.external.map(|record| Shared {
                record,
                accepted_features: settings.accepted_features.clone(),
                disks: OnceLock::new(),
                unfit: Mutex::default(),
            }),
            ids: Ids::new(Arc::clone(&store), settings.external.is_some()),
            balloon: Balloon::new(balloon::STEP.0 / opened.block_size.0),
            backer,
            store,
            seen: Mutex::default(),
            growing: Mutex::default(),
            table_turn: RwLock::default(),
            backed: AtomicBool::new(true),
        })
    }

    pub fn names(&self) -> &DeviceNames {
        &self.names
    }

    pub fn device_name(&self) -> &DmName {
        &self.device_name
    }

    pub fn block_size(&self) -> Sectors {
        self.block_size
    }

    /// An id for a new thin, or for a view's device name. What is not recorded by the time the
    /// guard is dropped is found by the next start.
    pub fn take_id(&self) -> Result<IdGuard<'_>, PoolError> {
        self.ids.take(&|range| self.taken(range))
    }

    /// The thins that the last run may have made without recording them. None in a shared pool,
    /// where they may be somebody else's.
    pub fn unrecorded(&self) -> Result<Vec<ThinId>, PoolError> {
        self.ids.unrecorded()
    }

    /// Forgets the leases of the last run, once nothing unrecorded is left in them.
    pub fn settle_leases(&self) -> Result<(), PoolError> {
        self.ids.settle(&|range| self.taken(range))
    }

    /// Makes a new thin, empty, or as a snapshot of `origin`, which must not be written to
    /// meanwhile.
    ///
    /// An id that turns out to be taken by a thin that isn't ours is set aside for good, and the
    /// next one is used.
    pub fn create(&self, origin: Option<ThinId>) -> Result<IdGuard<'_>, PoolError> {
        self.create_timed(origin).map(|(id, _)| id)
    }

    /// The same, and when that was in the pool's life, for [`Pool::has_refused_since`].
    pub fn create_timed(&self, origin: Option<ThinId>) -> Result<(IdGuard<'_>, Moment), PoolError> {
        loop {
            let id = self.take_id()?;
            match self.dm.make_thin(&self.device_name, id.get(), origin) {
                Ok(event) => return Ok((id, Moment { assembly: self.assembly, event })),
                Err(dm::Error::ThinExists { .. }) => self.ids.set_aside(id)?,
                Err(source) => {
                    let pool = self.device_name.clone();
                    return Err(self.why_refused(PoolError::Create {
                        pool,
                        id: id.get(),
                        origin,
                        source,
                    }));
                }
            }
        }
    }

    /// Deletes a thin, durably; one that is gone already counts as deleted.
    ///
    /// Where the kernel cannot commit, it says nothing, and the thin is there again once the pool
    /// has been checked: then this fails with [`PoolError::NeedsCheck`], and is to be called again.
    pub fn delete(&self, id: ThinId) -> Result<(), PoolError> {
        match self.dm.delete_thin(&self.device_name, id) {
            Ok(()) | Err(dm::Error::NoSuchThin { .. }) => self.must_be_well(&self.status()?),
            Err(source) => Err(self.why_refused(PoolError::Delete {
                pool: self.device_name.clone(),
                id,
                source,
            })),
        }
    }

    /// The pool's state in place of an error of a pool that takes no changes, which tells what to
    /// do.
    fn why_refused(&self, error: PoolError) -> PoolError {
        match &error {
            PoolError::Create { source: dm::Error::PoolFailed { .. }, .. }
            | PoolError::Delete { source: dm::Error::PoolFailed { .. }, .. } => {
                self.status().and_then(|status| self.must_be_well(&status)).err().unwrap_or(error)
            }
            _ => error,
        }
    }

    /// Deletes a thin that is not going on record. Where that fails its id stays on lease, and the
    /// next start deletes it.
    pub fn take_back(&self, id: IdGuard<'_>) -> Result<(), PoolError> {
        let deleted = self.delete(id.get());
        if deleted.is_err() {
            id.stay_leased();
        }
        deleted
    }

    fn status(&self) -> Result<ThinPoolStatus, PoolError> {
        let status = self.dm.pool_status(&self.device_name, StatusOptions::NO_FLUSH);
        status.map_err(|source| PoolError::Look { device: self.device_name.clone(), source })
    }

    /// Looks whether the pool takes changes; [`PoolError::Failed`] or [`PoolError::NeedsCheck`]
    /// where it does not.
    pub fn takes_changes(&self) -> Result<(), PoolError> {
        self.must_be_well(&self.status()?)
    }

    /// Refuses a pool that takes no changes: it has failed, or must be checked.
    pub fn must_be_well(&self, status: &ThinPoolStatus) -> Result<(), PoolError> {
        let pool = self.device_name.clone();
        match status.working() {
            None => Err(PoolError::Failed { pool }),
            Some(status) if must_be_checked(status) => {
                Err(sick(status, pool, &self.backer, &self.names, true))
            }
            Some(_) => Ok(()),
        }
    }

    /// Looks at how full the pool is, cheaply, and remembers it for [`Pool::check_room`], and
    /// whether it has refused writes, for [`Pool::has_refused_since`]. What is new about that goes
    /// on record, which is one database commit for each look that finds new events of the pool's.
    pub fn look(&self) -> Result<Room, PoolError> {
        let mut lapses = self.looking();
        let (status, changed) = lapses
            .look(&self.dm, &self.device_name)
            .map_err(|source| PoolError::Look { device: self.device_name.clone(), source })?;
        if let Some(record) = changed.filter(|_| self.keeps_record) {
            self.store.commit(|c| c.put_lapses(&record))?;
        }
        let has = status
            .working()
            .map_or(Sectors(0), |status| Sectors(status.data.total * self.block_size.0));
        let held = self.held_back();
        let has = Sectors(has.0.saturating_sub(held.0));
        let below = Below {
            host: self.backer.host_space(),
            held,
            growable: self.backer.room_to_grow(has),
            held_back: self.backer.is_held_back(has),
            backed: self.backed.load(Ordering::Relaxed),
        };
        let room = Room::new(status, self.block_size, below);
        let mut seen = self.seen();
        seen.lapses = lapses.count();
        if room.is_unbacked() && !seen.room.as_ref().is_some_and(Room::is_unbacked) {
            seen.host_lapses += 1;
        }
        seen.room = Some(room.clone());
        self.look_at_features()?;
        Ok(room)
    }

    fn looking(&self) -> MutexGuard<'_, Lapses> {
        self.lapses.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reloads the pool's table, or whatever else of our own doing may be up to `events` events of
    /// the pool's. Nothing of it is taken for a lapse, also where the kernel's log cannot be read.
    /// Looks at the pool before and after.
    pub fn note_own_events<T>(
        &self,
        events: usize,
        act: impl FnOnce() -> T,
    ) -> Result<T, PoolError> {
        self.look()?;
        self.looking().expect(events);
        let done = act();
        self.look()?;
        Ok(done)
    }

    /// Whether the pool has refused writes at any time since `moment`, by all looks so far, or may
    /// have: what was made then may lack some of what was written to it.
    pub fn has_refused_since(&self, moment: Moment) -> bool {
        self.looking().refused_since(moment)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How often, by all looks of this run, the pool has been in a state in which it refuses writes
    /// to new blocks: full, not backed by its host's file system, read-only or failed.
    pub fn lapses(&self) -> u64 {
        let seen = self.seen();
        seen.lapses + seen.host_lapses
    }

    /// How often in this run the embedded pool was seen to have promised blocks that the file
    /// system below it does not have. The pool has no events for that.
    pub fn host_lapses(&self) -> u64 {
        self.seen().host_lapses
    }

    /// Whether there is room for another writable snapshot, by what was last seen; looks again
    /// before it says no.
    pub fn check_room(&self) -> Result<(), PoolError> {
        self.must_be_fit()?;
        let seen = self.seen().room.clone();
        if seen.is_some_and(|room| self.short_of(&room).is_none()) {
            return Ok(());
        }
        match self.short_of(&self.look()?) {
            None => Ok(()),
            Some(full) => Err(full),
        }
    }

    fn short_of(&self, room: &Room) -> Option<PoolError> {
        if let Err(sick) = self.must_be_well(&room.status) {
            return Some(sick);
        }
        let percent = self.min_free_percent;
        let (what, Space { free, total }) = room.short_of(percent)?;
        Some(PoolError::Full { pool: self.device_name.clone(), what, free, total, percent })
    }
}

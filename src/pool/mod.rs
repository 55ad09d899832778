//! The thin pool this daemon works on: where its blocks come from, that it is the right one, and its thins.
//!
//! Knows device-mapper, block devices and the store; knows nothing of snapshots' keys, parents or file systems.
//!
//! Architecture Invariant: a thin id is used for a new thin only after the lease that covers it is on disk, so a crash can
//! leave unrecorded thins inside open leases and nowhere else.

mod backing;
mod contents;
mod devices;
mod error;
mod identity;
mod ids;
mod metadata;
mod minors;
mod room;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

pub use backing::{Areas, Backer, GivenAreas, HostBacker};
pub use devices::{DeviceNames, Role};
pub use error::PoolError;
pub use ids::IdGuard;
pub use metadata::MetadataError;
pub use room::Room;
use room::Seen;

pub use crate::block::Space;
use crate::dm::{self, ActivateOptions, Dm, Target, ThinPoolStatus, WorkingPool};
pub use crate::dm::{DeviceInfo, PoolMode};
use crate::names::DmName;
use crate::store::Store;
use crate::units::{DeviceNumber, Sectors, ThinId};
use ids::Ids;

/// What a pool must be told to be opened.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Prefix of every device name.
    pub name: String,
    /// The dm name of a pool that somebody else assembles; `None` when it is ours to assemble.
    pub external: Option<DmName>,
    pub block_size: Sectors,
    /// See [`crate::config::Config::min_free_percent`].
    pub min_free_percent: u8,
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
    ids: Ids,
    backer: Arc<dyn Backer>,
    seen: Mutex<Seen>,
}

impl Pool {
    /// Assembles the pool if it is not there yet, makes sure that it is the one the database belongs to, and moves its
    /// epoch on. Leaves the leases of the last run for [`Pool::unrecorded`].
    pub fn open(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<dyn Backer>,
    ) -> Result<Pool, PoolError> {
        let opened = identity::open(settings, &dm, &store, backer.as_ref())?;
        Ok(Pool::of(opened, settings, dm, store, backer))
    }

    /// The pool as it is, to look at; `None` when it is not assembled. Changes nothing, whatever state it is in.
    pub fn attach(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<dyn Backer>,
    ) -> Result<Option<Pool>, PoolError> {
        let opened = identity::attach(settings, &dm, &store)?;
        Ok(opened.map(|opened| Pool::of(opened, settings, dm, store, backer)))
    }

    fn of(
        opened: identity::Opened,
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Arc<dyn Backer>,
    ) -> Pool {
        Pool {
            dm,
            names: opened.names,
            device_name: opened.device_name,
            device: opened.device,
            block_size: opened.block_size,
            min_free_percent: settings.min_free_percent,
            ids: Ids::new(store, settings.external.is_some()),
            backer,
            seen: Mutex::default(),
        }
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

    /// An id for a new thin, or for a view's device name. What is not recorded by the time the guard is dropped is found
    /// by the next start.
    pub fn take_id(&self) -> Result<IdGuard<'_>, PoolError> {
        self.ids.take()
    }

    /// The ids that the last run may have used without recording them.
    pub fn unrecorded(&self) -> Result<Vec<ThinId>, PoolError> {
        self.ids.unrecorded()
    }

    /// Forgets the leases of the last run, once nothing unrecorded is left in them.
    pub fn settle_leases(&self) -> Result<(), PoolError> {
        self.ids.settle()
    }

    /// Makes a new thin, empty, or as a snapshot of `origin`, which must not be written to meanwhile.
    ///
    /// An id that turns out to be taken by a thin that isn't ours is set aside for good, and the next one is used.
    pub fn create(&self, origin: Option<ThinId>) -> Result<IdGuard<'_>, PoolError> {
        loop {
            let id = self.ids.take()?;
            let made = match origin {
                Some(origin) => self.dm.create_snap(&self.device_name, id.get(), origin),
                None => self.dm.create_thin(&self.device_name, id.get()),
            };
            match made {
                Ok(()) => return Ok(id),
                Err(dm::Error::ThinExists { .. }) => self.ids.set_aside(id)?,
                Err(source) => {
                    return Err(PoolError::Create { pool: self.device_name.clone(), id: id.get(), origin, source })
                }
            }
        }
    }

    /// Deletes a thin, durably; one that is gone already counts as deleted.
    ///
    /// Where the kernel cannot commit, it says nothing, and the thin is there again once the pool has been checked: then this
    /// fails with [`PoolError::NeedsCheck`], and is to be called again.
    pub fn delete(&self, id: ThinId) -> Result<(), PoolError> {
        match self.dm.delete_thin(&self.device_name, id) {
            Ok(()) | Err(dm::Error::NoSuchThin { .. }) => self.must_be_well(&self.status()?),
            Err(source) => Err(PoolError::Delete { pool: self.device_name.clone(), id, source }),
        }
    }

    /// Deletes a thin that is not going on record. Where that fails its id stays on lease, and the next start deletes it.
    pub fn take_back(&self, id: IdGuard<'_>) -> Result<(), PoolError> {
        let deleted = self.delete(id.get());
        if deleted.is_err() {
            id.stay_leased();
        }
        deleted
    }

    /// Makes the device `role` show the thin `id`, `size` long. A device of that role that is active already is left as
    /// it is, but for one that could not be finished or resumed earlier.
    pub fn activate(&self, role: Role, id: ThinId, size: Sectors, read_only: bool) -> Result<PathBuf, PoolError> {
        let name = self.names.name(role);
        let table = [Target::thin(self.device, id, size)];
        let uuid = self.names.uuid(role);
        let activate = || {
            let activate =
                |minor| self.dm.activate(&name, Some(&uuid), &table, ActivateOptions { read_only, minor }).map(drop);
            // A number may be somebody else's device's: then another one, and in the end the kernel's choice.
            let settled = |tried: &dm::Result<()>| !matches!(tried, Err(dm::Error::MinorInUse { .. }));
            let mut tries = self.names.minors(role).map(|minor| activate(Some(minor)));
            tries.find(settled).unwrap_or_else(|| activate(None))
        };
        let activated = match activate() {
            Err(source @ dm::Error::NameOrUuidInUse { .. }) => match self.info(role)? {
                Some(info) if !self.is_ours(&info) => return Err(PoolError::NameTaken { device: name, source }),
                Some(info) if !info.live_table => {
                    self.deactivate(role)?;
                    activate()
                }
                Some(info) if info.suspended => return self.resume(role).map(|()| self.dm.node(&name)),
                Some(_) => Ok(()),
                None => Err(source),
            },
            other => other,
        };
        match activated {
            Ok(()) => Ok(self.dm.node(&name)),
            Err(source) => Err(PoolError::Activate { device: name, id, source }),
        }
    }

    /// The same for a device that is likely to be active already: looks first, which is cheaper than to be refused.
    pub fn ensure_active(&self, role: Role, id: ThinId, size: Sectors, read_only: bool) -> Result<PathBuf, PoolError> {
        match self.active(role)? {
            Some(node) => Ok(node),
            None => self.activate(role, id, size, read_only),
        }
    }

    /// The node of the device `role` if it is one of ours and can be used as it is.
    pub fn active(&self, role: Role) -> Result<Option<PathBuf>, PoolError> {
        let usable = |info: &DeviceInfo| info.live_table && !info.suspended && self.is_ours(info);
        Ok(self.info(role)?.filter(usable).map(|_| self.node(role)))
    }

    fn is_ours(&self, info: &DeviceInfo) -> bool {
        info.uuid.as_ref().is_some_and(|uuid| self.names.owns(uuid.as_str()))
    }

    /// Refuses a device that has one of our names and not our uuid.
    pub fn must_be_ours(&self, info: &DeviceInfo) -> Result<(), PoolError> {
        if self.is_ours(info) {
            return Ok(());
        }
        let source = dm::Error::NameOrUuidInUse { verb: dm::Verb::Info, device: info.name.to_string() };
        Err(PoolError::NameTaken { device: info.name.clone(), source })
    }

    /// The devices there are under this pool's names, the pool itself and its areas left out.
    pub fn devices(&self) -> Result<Vec<Role>, PoolError> {
        let devices = self.dm.list().map_err(PoolError::Kernel)?;
        let roles = devices.iter().filter_map(|device| self.names.role(device.name.as_str()));
        Ok(roles.filter(|role| !matches!(role, Role::Pool | Role::Data | Role::Metadata)).collect())
    }

    /// The thin that the active device `role` shows, and the device's size; `None` when it is no thin.
    pub fn shown(&self, role: Role) -> Result<Option<(ThinId, Sectors)>, PoolError> {
        let name = self.names.name(role);
        let table = self.dm.table(&name).map_err(|source| PoolError::Look { device: name, source })?;
        Ok(match table.as_slice() {
            [Target::Thin(thin)] => Some((thin.id, thin.length)),
            _ => None,
        })
    }

    /// Makes the nodes of this pool's devices that are missing, and removes those without a device.
    pub fn sweep_nodes(&self) -> Result<(), PoolError> {
        self.dm.sweep_nodes(&format!("{}-", self.names.prefix())).map(drop).map_err(PoolError::Kernel)
    }

    /// Lets a device go on that was left suspended.
    pub fn resume(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm.resume(&name).map(drop).map_err(|source| PoolError::Thaw { device: name, source })
    }

    /// Takes back a removal that waits for the last user of the device.
    pub fn keep(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm.cancel_deferred_remove(&name).map_err(|source| PoolError::Keep { device: name, source })
    }

    /// Takes the device `role` away; one that is not there counts as done.
    ///
    /// Fails with [`PoolError::Deactivate`] and [`PoolError::is_busy`] while somebody has it open.
    pub fn deactivate(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        match self.dm.remove(&name) {
            Err(error) if !error.is_no_such_device() => Err(PoolError::Deactivate { device: name, source: error }),
            _ => Ok(()),
        }
    }

    pub fn info(&self, role: Role) -> Result<Option<DeviceInfo>, PoolError> {
        let name = self.names.name(role);
        self.dm.info(&name).map_err(|source| PoolError::Look { device: name, source })
    }

    /// The block device node of `role`.
    pub fn node(&self, role: Role) -> PathBuf {
        self.dm.node(&self.names.name(role))
    }

    /// Makes a thin that holds what the device `role` shows at this moment. The device is frozen meanwhile: its file system
    /// is synced and takes no writes. It is thawed whatever happens.
    pub fn copy_frozen(&self, role: Role, origin: ThinId) -> Result<IdGuard<'_>, PoolError> {
        let name = self.names.name(role);
        self.dm
            .suspend(&name, Default::default())
            .map_err(|source| PoolError::Freeze { device: name.clone(), source })?;
        let thaw = Thaw { pool: self, name: &name, done: false };
        let copy = self.create(Some(origin));
        match (copy, thaw.now()) {
            (copy, Ok(())) => copy,
            (Err(error), Err(frozen)) => {
                tracing::error!(error = %frozen, "after a copy failed");
                Err(error)
            }
            (Ok(copy), Err(error)) => {
                if let Err(left) = self.take_back(copy) {
                    tracing::warn!(error = %left, "the copy is left to the next start");
                }
                Err(error)
            }
        }
    }

    /// Bytes that the active device `role` maps, those it shares with its origin included.
    pub fn mapped(&self, role: Role) -> Result<u64, PoolError> {
        let name = self.names.name(role);
        match self.dm.thin_status(&name) {
            Ok(status) => Ok(status.mapped().map_or(0, |mapped| mapped.0 * 512)),
            Err(source) => Err(PoolError::Look { device: name, source }),
        }
    }

    fn status(&self) -> Result<ThinPoolStatus, PoolError> {
        let status = self.dm.pool_status(&self.device_name, true);
        status.map_err(|source| PoolError::Look { device: self.device_name.clone(), source })
    }

    /// Looks whether the pool takes changes; [`PoolError::Failed`] or [`PoolError::NeedsCheck`] where it does not.
    pub fn takes_changes(&self) -> Result<(), PoolError> {
        self.must_be_well(&self.status()?)
    }

    /// Refuses a pool that takes no changes: it has failed, or must be checked.
    pub fn must_be_well(&self, status: &ThinPoolStatus) -> Result<(), PoolError> {
        let pool = self.device_name.clone();
        match status.working() {
            None => Err(PoolError::Failed { pool }),
            Some(status) if must_be_checked(status) => {
                let metadata = self.backer.metadata_path(&self.names);
                Err(PoolError::NeedsCheck { pool, metadata, active: true })
            }
            Some(_) => Ok(()),
        }
    }

    /// Looks at how full the pool is, cheaply, and remembers it for [`Pool::check_room`] and [`Pool::lapses`].
    pub fn look(&self) -> Result<Room, PoolError> {
        let fail = |source| PoolError::Look { device: self.device_name.clone(), source };
        let info = self.dm.info(&self.device_name).map_err(fail)?;
        let room = Room::new(self.status()?, self.block_size, self.backer.host_space());
        self.seen().note(&room, info.map_or(0, |info| info.event_nr));
        Ok(room)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How often, by all looks so far, the pool has been in a state in which it refuses writes to new blocks: full, on a full
    /// host file system, read-only or failed.
    pub fn lapses(&self) -> u64 {
        self.seen().lapses
    }

    /// Whether there is room for another writable snapshot, by what was last seen; looks again before it says no.
    pub fn check_room(&self) -> Result<(), PoolError> {
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

/// The kernel could not write metadata, and refuses every change from then on.
fn must_be_checked(status: &WorkingPool) -> bool {
    status.needs_check || status.mode == PoolMode::ReadOnly
}

/// Resumes a device when dropped, so that no way out of a freeze leaves it frozen.
struct Thaw<'a> {
    pool: &'a Pool,
    name: &'a DmName,
    done: bool,
}

/// How often a thaw is tried: whoever uses the device waits until one succeeds.
const THAW_TRIES: usize = 3;

impl Thaw<'_> {
    fn now(mut self) -> Result<(), PoolError> {
        self.done = true;
        let mut tries = (0..THAW_TRIES).map(|_| self.resume());
        tries.find(Result::is_ok).unwrap_or_else(|| self.resume())
    }

    fn resume(&self) -> Result<(), PoolError> {
        self.pool.dm.resume(self.name).map(drop).map_err(|source| PoolError::Thaw { device: self.name.clone(), source })
    }
}

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        if !self.done {
            if let Err(error) = self.resume() {
                tracing::error!(%error, "a frozen device could not be thawed");
            }
        }
    }
}

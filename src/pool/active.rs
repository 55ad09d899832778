//! The devices that show a pool's thins: making, finding, freezing and taking them away.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{DeviceInfo, IdGuard, Pool, PoolError, Role};
use crate::dm::{self, ActivateOptions, Target};
use crate::names::DmName;
use crate::units::{Sectors, ThinId};

/// How long the owner of a shared pool may have it suspended before whoever wants a device hears of
/// it.
const OWNER_LIMIT: Duration = Duration::from_secs(10);
const OWNER_TICK: Duration = Duration::from_millis(10);

impl Pool {
    /// Makes the device `role` show the thin `id`, `size` long. A device of that role that is
    /// active already is left as it is, but for one that could not be finished or resumed earlier.
    pub fn activate(
        &self,
        role: Role,
        id: ThinId,
        size: Sectors,
        read_only: bool,
    ) -> Result<PathBuf, PoolError> {
        let name = self.names.name(role);
        let table = [Target::thin(self.device, id, size)];
        let uuid = self.names.uuid(role);
        let activate = || {
            let activate = |minor| {
                self.dm
                    .activate(&name, Some(&uuid), &table, ActivateOptions { read_only, minor })
                    .map(drop)
            };
            // A number may be somebody else's device's: then another one, and in the end the
            // kernel's choice.
            let settled =
                |tried: &dm::Result<()>| !matches!(tried, Err(dm::Error::MinorInUse { .. }));
            let mut tries = self.names.minors(role).map(|minor| activate(Some(minor)));
            tries.find(settled).unwrap_or_else(|| activate(None))
        };
        let activate = || self.load_thin(&activate);
        let activated = match activate() {
            Err(source @ dm::Error::NameOrUuidInUse { .. }) => match self.info(role)? {
                Some(info) if !self.is_ours(&info) => {
                    return Err(PoolError::NameTaken { device: name, source })
                }
                Some(info) if !info.live_table => {
                    self.deactivate(role)?;
                    activate()
                }
                Some(info) if info.suspended => {
                    return self.resume(role).map(|()| self.dm.node(&name))
                }
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

    /// The same for a device that is likely to be active already: looks first, which is cheaper
    /// than to be refused.
    pub fn ensure_active(
        &self,
        role: Role,
        id: ThinId,
        size: Sectors,
        read_only: bool,
    ) -> Result<PathBuf, PoolError> {
        match self.active(role)? {
            Some(node) => Ok(node),
            None => self.activate(role, id, size, read_only),
        }
    }

    /// dm-thin takes no thin of a pool that is suspended, as every pool is for a moment when it
    /// gets another table. Ours gets none meanwhile; the owner of a shared one does not ask, so it
    /// is waited for.
    fn load_thin(&self, load: &dyn Fn() -> dm::Result<()>) -> dm::Result<()> {
        let _table_stays = self.table_turn.read().unwrap_or_else(|e| e.into_inner());
        let begun = Instant::now();
        let mut unexplained = 0;
        loop {
            let result = load();
            let again = match &result {
                Err(dm::Error::PoolSuspended { .. }) => begun.elapsed() < OWNER_LIMIT,
                // Why is found out afterwards, when the pool may have gone on.
                Err(dm::Error::TableRefused { .. }) => {
                    unexplained += 1;
                    unexplained <= 3
                }
                _ => false,
            };
            if !again || !self.is_shared() {
                return result;
            }
            std::thread::sleep(OWNER_TICK);
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
        let source =
            dm::Error::NameOrUuidInUse { verb: dm::Verb::Info, device: info.name.to_string() };
        Err(PoolError::NameTaken { device: info.name.clone(), source })
    }

    /// The devices there are under this pool's names, the pool itself and its areas left out.
    pub fn devices(&self) -> Result<Vec<Role>, PoolError> {
        let devices = self.dm.list().map_err(PoolError::Kernel)?;
        let roles = devices.iter().filter_map(|device| self.names.role(device.name.as_str()));
        Ok(roles.filter(|role| !matches!(role, Role::Pool | Role::Data | Role::Metadata)).collect())
    }

    /// The thin of this pool that the active device `role` shows, and the device's size; `None`
    /// when it shows something else.
    pub fn shown(&self, role: Role) -> Result<Option<(ThinId, Sectors)>, PoolError> {
        let name = self.names.name(role);
        let table =
            self.dm.table(&name).map_err(|source| PoolError::Look { device: name, source })?;
        Ok(match table.as_slice() {
            [Target::Thin(thin)] if thin.pool.number() == Some(self.device) => {
                Some((thin.id, thin.length))
            }
            _ => None,
        })
    }

    /// Makes the nodes of this pool's devices that are missing, and removes those without a device.
    pub fn sweep_nodes(&self) -> Result<(), PoolError> {
        let is_ours = |name: &DmName| self.names.role(name.as_str()).is_some();
        let swept = self.dm.sweep_nodes_of(&format!("{}-", self.names.prefix()), is_ours);
        swept.map(drop).map_err(PoolError::Kernel)
    }

    /// Lets a device go on that was left suspended.
    pub fn resume(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm.resume(&name).map(drop).map_err(|source| PoolError::Thaw { device: name, source })
    }

    /// Takes back a removal that waits for the last user of the device.
    pub fn keep(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm
            .cancel_deferred_remove(&name)
            .map_err(|source| PoolError::Keep { device: name, source })
    }

    /// Takes the device `role` away; one that is not there counts as done, and one that is somebody
    /// else's is left.
    ///
    /// Fails with [`PoolError::Deactivate`] and [`PoolError::is_busy`] while somebody has it open.
    pub fn deactivate(&self, role: Role) -> Result<(), PoolError> {
        if let Some(info) = self.info(role)? {
            self.must_be_ours(&info)?;
        }
        let name = self.names.name(role);
        match self.dm.remove(&name) {
            Err(error) if !error.is_no_such_device() => {
                Err(PoolError::Deactivate { device: name, source: error })
            }
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

    /// Makes a thin that holds what the device `role` shows at this moment. The device is frozen
    /// meanwhile: its file system is synced and takes no writes. It is thawed whatever happens.
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
        self.pool
            .dm
            .resume(self.name)
            .map(drop)
            .map_err(|source| PoolError::Thaw { device: self.name.clone(), source })
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

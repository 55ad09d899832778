//! Finding devices, and what they show.

use std::path::PathBuf;

use super::state::DeviceState;
use crate::dm::{self, Target};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::naming::Role;
use crate::units::{Sectors, ThinId};

impl Pool {
    /// The device `role`. `None` if there is none.
    pub fn info(&self, role: Role) -> Result<Option<DeviceState>, PoolError> {
        let name = self.names.name(role);
        let info = self.dm.info(&name);
        let info = info.map_err(|source| PoolError::Look { device: name, source })?;
        Ok(info.map(|info| DeviceState {
            is_ours: info.uuid.as_ref().is_some_and(|uuid| self.names.owns(uuid.as_str())),
            name: info.name,
            device: info.device,
            live_table: info.live_table,
            suspended: info.suspended,
            read_only: info.read_only,
            deferred_remove: info.deferred_remove,
            open_count: info.open_count,
        }))
    }

    /// Refuses a device that has one of our names and not our uuid.
    pub fn must_be_ours(&self, device: &DeviceState) -> Result<(), PoolError> {
        if device.is_ours {
            return Ok(());
        }
        let source =
            dm::Error::NameOrUuidInUse { verb: dm::Verb::Info, device: device.name.to_string() };
        Err(PoolError::DeviceNotOurs { device: device.name.clone(), source })
    }

    /// The node of the device `role`, if it is ours and can be used as it is.
    pub fn active(&self, role: Role) -> Result<Option<PathBuf>, PoolError> {
        let usable =
            |device: &DeviceState| device.live_table && !device.suspended && device.is_ours;
        Ok(self.info(role)?.filter(usable).map(|_| self.node(role)))
    }

    /// The node of the device `role`.
    pub fn node(&self, role: Role) -> PathBuf {
        self.dm.node(&self.names.name(role))
    }

    /// The devices under this pool's names, without the pool itself and its areas.
    pub fn devices(&self) -> Result<Vec<Role>, PoolError> {
        let devices = self.dm.list().map_err(|source| PoolError::List { source })?;
        let roles = devices.iter().filter_map(|device| self.names.role(device.name.as_str()));
        Ok(roles.filter(|role| !matches!(role, Role::Pool | Role::Data | Role::Metadata)).collect())
    }

    /// The thin of this pool that the active device `role` shows, and the size of the device.
    /// `None` if it shows something else.
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

    /// The bytes that the thin of the active device `role` maps, with those that it shares with its
    /// origin.
    pub fn mapped(&self, role: Role) -> Result<u64, PoolError> {
        let name = self.names.name(role);
        match self.dm.thin_status(&name) {
            Ok(status) => Ok(status.mapped().map_or(0, |mapped| mapped.0 * 512)),
            Err(source) => Err(PoolError::Look { device: name, source }),
        }
    }
}

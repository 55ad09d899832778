//! Resuming and removing devices.

use crate::names::DmName;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::naming::Role;

impl Pool {
    /// Removes the device `role`. One that does not exist counts as removed. One that is not ours
    /// stays.
    ///
    /// Fails with [`PoolError::Deactivate`] and [`PoolError::is_busy`] while it is open.
    pub fn deactivate(&self, role: Role) -> Result<(), PoolError> {
        if let Some(device) = self.info(role)? {
            self.must_be_ours(&device)?;
        }
        let name = self.names.name(role);
        match self.dm.remove(&name) {
            Err(error) if !error.is_no_such_device() => {
                Err(PoolError::Deactivate { device: name, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Resumes a device that was left suspended.
    pub fn resume(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm.resume(&name).map(drop).map_err(|source| PoolError::Resume { device: name, source })
    }

    /// Cancels a deferred removal.
    pub fn keep(&self, role: Role) -> Result<(), PoolError> {
        let name = self.names.name(role);
        self.dm
            .cancel_deferred_remove(&name)
            .map_err(|source| PoolError::Keep { device: name, source })
    }

    /// Makes the missing nodes of this pool's devices, and removes nodes without a device.
    pub fn sweep_nodes(&self) -> Result<(), PoolError> {
        let prefix = self.names.prefix();
        let is_ours = |name: &DmName| self.names.role(name.as_str()).is_some();
        let swept = self.dm.sweep_nodes_of(&format!("{prefix}-"), is_ours);
        swept.map(drop).map_err(|source| PoolError::Nodes { prefix: prefix.into(), source })
    }
}

//! Whether the pool takes changes.

use super::error::PoolError;
use super::handle::Pool;
use super::health::{must_be_checked, sick};
use super::space::FreeSpace;
use crate::dm::{StatusOptions, ThinPoolStatus};

impl Pool {
    pub(super) fn status(&self) -> Result<ThinPoolStatus, PoolError> {
        let status = self.dm.pool_status(&self.device_name, StatusOptions::NO_FLUSH);
        status.map_err(|source| PoolError::Look { device: self.device_name.clone(), source })
    }

    /// Looks whether the pool takes changes. [`PoolError::Failed`], [`PoolError::NeedsCheck`] or
    /// [`PoolError::MetadataFull`] if it does not.
    pub fn takes_changes(&self) -> Result<(), PoolError> {
        self.must_take_changes(&self.status()?)
    }

    /// Refuses a pool that took no changes when it was `seen`; see [`Pool::takes_changes`].
    pub fn must_be_well(&self, seen: &FreeSpace) -> Result<(), PoolError> {
        self.must_take_changes(&seen.status)
    }

    pub(super) fn must_take_changes(&self, status: &ThinPoolStatus) -> Result<(), PoolError> {
        let pool = self.device_name.clone();
        match status.working() {
            None => Err(PoolError::Failed { pool }),
            Some(status) if must_be_checked(status) => {
                Err(sick(status, pool, &self.metadata, true))
            }
            Some(_) => Ok(()),
        }
    }
}

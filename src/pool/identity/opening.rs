//! What every way of opening a pool needs: the kernel, the database, the names, and questions about
//! the pool's device.

use crate::dm::{DeviceInfo, Dm, StatusOptions, Target, ThinPoolTable, WorkingPool};
use crate::names::DmName;
use crate::pool::advice::MetadataPlace;
use crate::pool::error::PoolError;
use crate::pool::health::{must_be_checked, sick};
use crate::pool::naming::DeviceNames;
use crate::pool::settings::PoolSettings;
use crate::store::{ExternalPool, PoolRecord, Store};
use crate::units::DeviceNumber;

/// A pool that is being opened.
pub struct Opening<'a> {
    pub settings: &'a PoolSettings,
    pub dm: &'a Dm,
    pub store: &'a Store,
    pub names: &'a DeviceNames,
    pub metadata: &'a MetadataPlace,
}

/// A pool that is assembled, and the database's record of it as it has to be.
pub struct PoolFound {
    pub name: DmName,
    pub device: DeviceNumber,
    pub record: PoolRecord,
}

impl Opening<'_> {
    pub fn info(&self, name: &DmName) -> Result<Option<DeviceInfo>, PoolError> {
        self.dm.info(name).map_err(|source| PoolError::Look { device: name.clone(), source })
    }

    /// The table of a thin-pool device. `None` for a device of another kind.
    pub fn pool_table(&self, name: &DmName) -> Result<Option<ThinPoolTable>, PoolError> {
        let mut table = self
            .dm
            .table(name)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        Ok(match (table.pop(), table.as_slice()) {
            (Some(Target::ThinPool(table)), []) => Some(table),
            _ => None,
        })
    }

    /// The status of the pool. Fails with [`PoolError::Failed`] if it has failed.
    pub fn working(&self, name: &DmName) -> Result<WorkingPool, PoolError> {
        let status = self
            .dm
            .pool_status(name, StatusOptions::NO_FLUSH)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        status.working().copied().ok_or_else(|| PoolError::Failed { pool: name.clone() })
    }

    /// Refuses a pool that needs thin_check. If it was assembled just now, it is taken apart again,
    /// so that it can be checked.
    pub fn must_take_changes(&self, name: &DmName, assembled: bool) -> Result<(), PoolError> {
        let status = self.working(name)?;
        if !must_be_checked(&status) {
            return Ok(());
        }
        let active = !assembled || self.dm.remove(name).is_err();
        Err(sick(&status, name.clone(), self.metadata, active))
    }

    pub fn foreign(&self, pool: &DmName, what: &str) -> PoolError {
        PoolError::Foreign {
            pool: pool.clone(),
            store: self.store.path().into(),
            what: what.into(),
        }
    }
}

/// The pool that a database belongs to, for messages. `None` is a pool of our own.
pub fn called(pool: Option<&ExternalPool>) -> String {
    match pool {
        None => "a pool that this daemon made itself".into(),
        Some(ExternalPool { name, uuid: Some(uuid) }) => format!("pool {name} with dm uuid {uuid}"),
        Some(ExternalPool { name, uuid: None }) => format!("pool {name} without a dm uuid"),
    }
}

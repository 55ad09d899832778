//! Mounts: how to mount a snapshot or a view that exists.

use super::error::During;
use super::labels::check_key;
use super::record::role;
use super::shared::Shared;
use super::{Error, Mount, Snapshotter};
use crate::store::{Kind, SnapshotRecord};

impl Snapshotter {
    /// How to mount an active snapshot or a view. Activates its device if a reboot has removed it.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>, Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let record = self.shared.mountable(key)?;
        self.shared.ensure_active(key, &record)
    }

    /// As [`Snapshotter::mounts`], but never waits: one database read and one look at the device.
    /// `None` if the device is not active; then [`Snapshotter::mounts`] must be called.
    pub fn mounts_at_once(&self, key: &str) -> Result<Option<Vec<Mount>>, Error> {
        check_key("key", key)?;
        let record = self.shared.mountable(key)?;
        let active = self.shared.pool.active(role(&record)).during(key, "cannot be looked at")?;
        active.map(|node| Mount::list_of(&record, &node)).transpose()
    }
}

impl Shared {
    fn mountable(&self, key: &str) -> Result<SnapshotRecord, Error> {
        let record = self.find(key)?;
        if record.kind == Kind::Committed {
            let what = "only active snapshots and views have mounts; prepare or view it under a \
                        key of its own";
            return Err(Error::NotActive { key: key.into(), kind: "committed", what });
        }
        Ok(record)
    }
}

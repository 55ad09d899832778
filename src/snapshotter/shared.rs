//! What all calls and the reclaimer use: the settings, the pool, the database, disks and file
//! systems, and how a snapshot is looked up and its device activated.

use std::sync::Arc;

use super::error::During;
use super::lapses::HostLapses;
use super::maker::Maker;
use super::record::role;
use super::{Error, Mount, Settings};
use crate::block::Disks;
use crate::fs::Formatter;
use crate::pool::Pool;
use crate::store::{Kind, SnapshotRecord, Store};

/// What all calls and the reclaimer use.
#[derive(Debug)]
pub struct Shared {
    pub settings: Settings,
    pub pool: Arc<Pool>,
    pub store: Arc<Store>,
    pub disks: Arc<dyn Disks>,
    pub formatter: Arc<dyn Formatter>,
    pub host_lapses: HostLapses,
    pub maker: Maker,
}

impl Shared {
    pub fn new(
        settings: Settings,
        pool: Arc<Pool>,
        store: Arc<Store>,
        disks: Arc<dyn Disks>,
        formatter: Arc<dyn Formatter>,
    ) -> Shared {
        let (host_lapses, maker) = Default::default();
        Shared { settings, pool, store, disks, formatter, host_lapses, maker }
    }

    pub fn find(&self, key: &str) -> Result<SnapshotRecord, Error> {
        self.store
            .read(|r| r.find_snapshot(key))?
            .ok_or_else(|| Error::NotFound { key: key.into() })
    }

    /// Looks up a parent, which must be committed.
    pub fn parent(&self, parent: &str) -> Result<SnapshotRecord, Error> {
        let record = self
            .store
            .read(|r| r.find_snapshot(parent))?
            .ok_or_else(|| Error::ParentNotFound { parent: parent.into() })?;
        if record.kind != Kind::Committed {
            return Err(Error::ParentNotCommitted { parent: parent.into() });
        }
        Ok(record)
    }

    /// Activates the device of a new snapshot or view, and says how to mount it.
    pub fn activate(&self, key: &str, record: &SnapshotRecord) -> Result<Vec<Mount>, Error> {
        let view = record.kind == Kind::View;
        let active = self.pool.activate(role(record), record.thin, record.size, view);
        Mount::list_of(record, &active.during(key, "cannot be activated")?)
    }

    /// As [`Shared::activate`], for a device that is most likely active already. A reboot may have
    /// removed it.
    pub fn ensure_active(&self, key: &str, record: &SnapshotRecord) -> Result<Vec<Mount>, Error> {
        let view = record.kind == Kind::View;
        let active = self.pool.ensure_active(role(record), record.thin, record.size, view);
        Mount::list_of(record, &active.during(key, "cannot be activated")?)
    }
}

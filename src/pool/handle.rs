//! The open pool.

use std::sync::{Arc, Mutex, RwLock};

use super::advice::MetadataPlace;
use super::kind::{Embedded, Kind, Shared};
use super::lapses::Lapses;
use super::naming::DeviceNames;
use super::space::Seen;
use super::thins::Ids;
use crate::block::Disks;
use crate::dm::Dm;
use crate::names::DmName;
use crate::store::Store;
use crate::units::{DeviceNumber, Sectors};

/// An open pool. All methods block. None may be called with a lock or a database transaction held.
#[derive(Debug)]
pub struct Pool {
    pub(super) dm: Dm,
    pub(super) names: DeviceNames,
    pub(super) device_name: DmName,
    pub(super) device: DeviceNumber,
    pub(super) block_size: Sectors,
    pub(super) min_free_percent: u8,
    pub(super) kind: Kind,
    pub(super) metadata: MetadataPlace,
    pub(super) disks: Arc<dyn Disks>,
    pub(super) store: Arc<Store>,
    pub(super) ids: Ids,
    /// The number of this assembly of the pool; see [`crate::store::Moment`].
    pub(super) assembly: u64,
    /// Whether the findings of looks are put on record.
    pub(super) keeps_record: bool,
    /// Held during a look, so that looks are recorded in the order in which they were taken.
    pub(super) lapses: Mutex<Lapses>,
    pub(super) seen: Mutex<Seen>,
    /// Held for writing while the pool gets another table, for reading while a thin is loaded.
    pub(super) table_turn: RwLock<()>,
}

impl Pool {
    pub fn names(&self) -> &DeviceNames {
        &self.names
    }

    /// The name of the pool's own device.
    pub fn device_name(&self) -> &DmName {
        &self.device_name
    }

    pub fn block_size(&self) -> Sectors {
        self.block_size
    }

    pub(super) fn embedded(&self) -> Option<&Embedded> {
        match &self.kind {
            Kind::Embedded(embedded) => Some(embedded),
            Kind::Given | Kind::Shared(_) => None,
        }
    }

    pub(super) fn shared(&self) -> Option<&Shared> {
        match &self.kind {
            Kind::Shared(shared) => Some(shared),
            Kind::Embedded(_) | Kind::Given => None,
        }
    }
}

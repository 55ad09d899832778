//! What is in a pool, read from a snapshot of its metadata that is held for as long as it takes: which thins there are, and
//! whether every block in use belongs to one.

use std::collections::BTreeMap;

use super::metadata::{self, MetadataError};
use super::{Pool, PoolError};
use crate::block::{self, Access, Disk, Disks};
use crate::dm::{Target, WorkingPool};
use crate::units::ThinId;

impl Pool {
    /// Every thin in the pool with the number of blocks it maps, ours or not. Fails with `MetadataSnapHeld` while another
    /// program holds a snapshot of the metadata.
    pub fn thins(&self, disks: &dyn Disks) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.with_metadata(disks, |disk, root, _| metadata::thins(disk, root))
    }

    /// How many data blocks are in use that no thin maps. dm-thin leaves one behind when the power goes while it fills a block
    /// for the first time, or when the disk fails to. Reads every mapping. Blocks that are being filled at this moment look the
    /// same, so it looks twice before it says that there are any.
    pub fn unmapped(&self, disks: &dyn Disks) -> Result<u64, PoolError> {
        let look = || -> Result<u64, PoolError> {
            let used = self.working()?.data.used;
            let mapped = self.with_metadata(disks, |disk, root, total| metadata::mapped(disk, root, total))?;
            Ok(used.saturating_sub(mapped))
        };
        match look()? {
            0 => Ok(0),
            some => Ok(some.min(look()?)),
        }
    }

    fn working(&self) -> Result<WorkingPool, PoolError> {
        self.status()?.working().copied().ok_or_else(|| PoolError::Failed { pool: self.device_name.clone() })
    }

    /// Reads a snapshot of the metadata: `read` gets the disk, the block of the snapshot's superblock, and the number of the
    /// pool's data blocks.
    fn with_metadata<T>(
        &self,
        disks: &dyn Disks,
        read: impl Fn(&dyn Disk, u64, u64) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let pool = &self.device_name;
        let fail = |source| PoolError::Look { device: pool.clone(), source };
        let table = self.dm.table(pool).map_err(fail)?;
        let metadata = match table.as_slice() {
            [Target::ThinPool(table)] => table.metadata.number(),
            _ => None,
        };
        let node = metadata.and_then(block::node_of).ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
        self.dm.reserve_metadata_snap(pool).map_err(fail)?;
        let held = || -> Result<T, PoolError> {
            let status = self.working()?;
            let root = status.held_metadata_root.ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
            let read = || {
                let disk = disks.open(&node, Access::Read)?;
                disk.forget_cached()?;
                read(disk.as_ref(), root, status.data.total)
            };
            read().map_err(|source| PoolError::Metadata { pool: pool.clone(), source })
        };
        let found = held();
        self.dm.release_metadata_snap(pool).map_err(fail)?;
        found
    }
}

//! What is in a pool, read from its metadata as it is on disk: which thins there are, and whether every block in use belongs
//! to one. Nothing is changed by it.

use std::collections::BTreeMap;

use super::metadata::{self, MetadataError};
use super::{Pool, PoolError};
use crate::block::{self, Access, Disk, Disks};
use crate::dm::Target;
use crate::units::ThinId;

impl Pool {
    /// Every thin in the pool with the number of blocks it maps, ours or not, as of the pool's last commit: whatever made or
    /// deleted a thin has been committed when it returns. Fails with [`MetadataError::Changing`] while the pool is written
    /// to faster than that can be read.
    pub fn thins(&self, disks: &dyn Disks) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.read_metadata(disks, |disk| metadata::thins(disk, 0))
    }

    /// How many data blocks are in use that no thin maps, as of the pool's last commit. dm-thin leaves one behind when the
    /// power goes while it fills a block for the first time, or when the disk fails to. Reads every mapping; fails like
    /// [`Pool::thins`].
    pub fn unmapped(&self, disks: &dyn Disks) -> Result<u64, PoolError> {
        let status = self.status()?;
        let status = status.working().ok_or_else(|| PoolError::Failed { pool: self.device_name.clone() })?;
        self.read_metadata(disks, |disk| metadata::unmapped(disk, status.data.total))
    }

    fn read_metadata<T>(
        &self,
        disks: &dyn Disks,
        read: impl Fn(&dyn Disk) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let pool = &self.device_name;
        let table = self.dm.table(pool).map_err(|source| PoolError::Look { device: pool.clone(), source })?;
        let metadata = match table.as_slice() {
            [Target::ThinPool(table)] => table.metadata.number(),
            _ => None,
        };
        let node = metadata.and_then(block::node_of).ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
        let found = disks.open(&node, Access::Read).map_err(MetadataError::from);
        let found = found.and_then(|disk| metadata::of_one_commit(disk.as_ref(), read));
        found.map_err(|source| PoolError::Metadata { pool: pool.clone(), source })
    }
}

//! What is in a pool, read from its metadata as it is on disk: which thins there are, what a small
//! one of them holds, and whether every block in use belongs to one. Nothing is changed by it, and
//! the pool is asked for nothing: a snapshot of the metadata, of which a pool has one, may be
//! somebody else's at the time, and one of our own would stay behind after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metadata::{self, MetadataError};
use super::{Pool, PoolError};
use crate::block::{self, Access, Disk, Disks};
use crate::dm::{Target, ThinPoolTable};
use crate::units::{DeviceNumber, ThinId};

/// dm-thin commits changes within a second (`COMMIT_PERIOD` in drivers/md/dm-thin.c).
const NEXT_COMMIT: Duration = Duration::from_millis(1500);
/// How often blocks that no thin maps are looked for, if there are any.
const UNMAPPED_LOOKS: u32 = 3;

impl Pool {
    /// Every thin in the pool with the number of blocks it maps, ours or not, as of the pool's last
    /// commit: whatever made or deleted a thin has been committed when it returns. Fails with
    /// [`MetadataError::Changing`] while the pool is written to faster than that can be read.
    pub fn thins(&self, disks: &dyn Disks) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.read_metadata(disks, |disk| metadata::thins(disk, 0))
    }

    /// The start of a thin's first block, without activating it; `None` when it has no such block.
    /// The thin should be a small one: all that it maps is read.
    pub(super) fn peek(
        &self,
        disks: &dyn Disks,
        id: ThinId,
        out: &mut [u8],
    ) -> Result<Option<()>, PoolError> {
        let first = self.read_metadata(disks, |disk| metadata::first_block(disk, 0, id))?;
        let Some(block) = first else { return Ok(None) };
        let data = self.below(disks, |table| table.data.number())?;
        let mut read = || -> Result<(), MetadataError> {
            data.forget_cached()?;
            Ok(data.read_at(out, block * self.block_size.0 * 512)?)
        };
        read().map(Some).map_err(|source| self.unreadable(source))
    }

    /// How many data blocks are in use that no thin maps. dm-thin leaves one behind when the power
    /// goes while it fills a block for the first time, or when the disk fails to. Reads every
    /// mapping; fails like [`Pool::thins`].
    ///
    /// A block that is being filled while the pool commits its metadata looks the same until the
    /// next commit. So what is found is looked for again, and the least of all looks counts.
    pub fn unmapped(&self, disks: &dyn Disks) -> Result<u64, PoolError> {
        let mut least = self.unmapped_in_last_commit(disks)?;
        for _ in 1..UNMAPPED_LOOKS {
            if least == 0 {
                break;
            }
            std::thread::sleep(NEXT_COMMIT);
            least = least.min(self.unmapped_in_last_commit(disks)?);
        }
        Ok(least)
    }

    fn unmapped_in_last_commit(&self, disks: &dyn Disks) -> Result<u64, PoolError> {
        let status = self.status()?;
        let status =
            status.working().ok_or_else(|| PoolError::Failed { pool: self.device_name.clone() })?;
        self.read_metadata(disks, |disk| metadata::unmapped(disk, status.data.total))
    }

    pub(super) fn read_metadata<T>(
        &self,
        disks: &dyn Disks,
        read: impl Fn(&dyn Disk) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let disk = self.below(disks, |table| table.metadata.number())?;
        metadata::of_one_commit(disk.as_ref(), read).map_err(|source| self.unreadable(source))
    }

    /// One of the devices that the pool stands on, opened to be read.
    fn below(
        &self,
        disks: &dyn Disks,
        which: impl Fn(&ThinPoolTable) -> Option<DeviceNumber>,
    ) -> Result<Box<dyn Disk>, PoolError> {
        let pool = &self.device_name;
        let table = self
            .dm
            .table(pool)
            .map_err(|source| PoolError::Look { device: pool.clone(), source })?;
        let number = match table.as_slice() {
            [Target::ThinPool(table)] => which(table),
            _ => None,
        };
        let node = number
            .and_then(block::node_of)
            .ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
        disks.open(&node, Access::Read).map_err(|source| self.unreadable(source.into()))
    }

    fn unreadable(&self, source: MetadataError) -> PoolError {
        PoolError::Metadata { pool: self.device_name.clone(), source }
    }
}

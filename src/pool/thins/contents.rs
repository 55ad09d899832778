//! What is in a pool, read from its metadata on disk: which thins there are, what a small thin
//! holds, and how many blocks in use belong to no thin.
//!
//! This changes nothing. It takes no metadata snapshot of the pool: a pool has only one, which
//! another program may hold, and a snapshot of our own would be left behind by a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metadata::{self, MetadataError};
use crate::block::{self, Access, Disk};
use crate::dm::{Target, ThinPoolTable};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::units::{DeviceNumber, ThinId};

/// dm-thin commits changes within a second (`COMMIT_PERIOD` in drivers/md/dm-thin.c).
const NEXT_COMMIT: Duration = Duration::from_millis(1500);
/// How often blocks that no thin maps are looked for, if there are any.
const UNMAPPED_LOOKS: u32 = 3;

impl Pool {
    /// Every thin in the pool with the number of blocks that it maps, ours or not, as of the pool's
    /// last commit. The kernel commits before a message that makes or deletes a thin returns, so
    /// none of these is missed. Fails with [`MetadataError::Changing`] while the pool is written to
    /// faster than its metadata can be read.
    pub fn thins(&self) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.read_metadata(|disk| metadata::thins(disk, 0))
    }

    /// Reads the start of a thin's first block, without activating the thin. `None` if it has no
    /// such block. The thin should be small, because all its mappings are read.
    pub(in crate::pool) fn peek(
        &self,
        id: ThinId,
        out: &mut [u8],
    ) -> Result<Option<()>, PoolError> {
        let first = self.read_metadata(|disk| metadata::first_block(disk, 0, id))?;
        let Some(block) = first else { return Ok(None) };
        let data = self.below(|table| table.data.number())?;
        let mut read = || -> Result<(), MetadataError> {
            data.forget_cached()?;
            Ok(data.read_at(out, block * self.block_size.0 * 512)?)
        };
        read().map(Some).map_err(|source| self.unreadable(source))
    }

    /// How many data blocks are in use that no thin maps. dm-thin leaves one behind when the power
    /// goes while it fills a block for the first time, or when the disk fails to. Reads every
    /// mapping. Fails like [`Pool::thins`].
    ///
    /// A block that is being filled while the pool commits its metadata looks the same until the
    /// next commit. So what is found is looked for again, and the least of all looks counts.
    pub fn unmapped(&self) -> Result<u64, PoolError> {
        let mut least = self.unmapped_in_last_commit()?;
        for _ in 1..UNMAPPED_LOOKS {
            if least == 0 {
                break;
            }
            std::thread::sleep(NEXT_COMMIT);
            least = least.min(self.unmapped_in_last_commit()?);
        }
        Ok(least)
    }

    fn unmapped_in_last_commit(&self) -> Result<u64, PoolError> {
        let status = self.status()?;
        let status =
            status.working().ok_or_else(|| PoolError::Failed { pool: self.device_name.clone() })?;
        self.read_metadata(|disk| metadata::unmapped(disk, status.data.total))
    }

    /// Reads something of the metadata, as of one commit.
    pub(in crate::pool) fn read_metadata<T>(
        &self,
        read: impl Fn(&dyn Disk) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let disk = self.below(|table| table.metadata.number())?;
        metadata::of_one_commit(disk.as_ref(), read).map_err(|source| self.unreadable(source))
    }

    /// Opens one of the devices that the pool stands on, for reading.
    fn below(
        &self,
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
        self.disks.open(&node, Access::Read).map_err(|source| self.unreadable(source.into()))
    }

    fn unreadable(&self, source: MetadataError) -> PoolError {
        PoolError::Metadata { pool: self.device_name.clone(), source }
    }
}

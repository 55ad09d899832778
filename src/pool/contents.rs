//! What is in a pool, read from its metadata: which thins there are, what a small one of them holds, and whether every block in
//! use belongs to one.
//!
//! Which thins there are is read beside the working pool, without asking it for anything: a snapshot of the metadata, of which
//! a pool has one, may be somebody else's at the time, and one of our own would stay behind after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metadata::{self, MetadataError};
use super::{Pool, PoolError};
use crate::block::{self, Access, Disk, Disks};
use crate::dm::{Target, ThinPoolTable, WorkingPool};
use crate::units::{DeviceNumber, ThinId};

/// How often the metadata is read before a pool that commits again and again is asked to hold a snapshot of it.
const TRIES: u32 = 20;
/// The wait between two of these.
const PAUSE: Duration = Duration::from_millis(10);

impl Pool {
    /// Every thin in the pool with the number of blocks it maps, ours or not. Fails with `MetadataSnapHeld` only where the pool
    /// changes all the time and another program holds a snapshot of its metadata.
    pub fn thins(&self, disks: &dyn Disks) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.between_commits(disks, metadata::thins)
    }

    /// The start of a thin's first block, without activating it; `None` when it has no such block. The thin should be a
    /// small one: all that it maps is read.
    pub(super) fn peek(&self, disks: &dyn Disks, id: ThinId, out: &mut [u8]) -> Result<Option<()>, PoolError> {
        let first = self.between_commits(disks, |disk, root| metadata::first_block(disk, root, id))?;
        let Some(block) = first else { return Ok(None) };
        let data = self.below(disks, |table| table.data.number())?;
        let mut read = || -> Result<(), MetadataError> {
            data.forget_cached()?;
            Ok(data.read_at(out, block * self.block_size.0 * 512)?)
        };
        read().map(Some).map_err(|source| self.unreadable(source))
    }

    /// How many data blocks are in use that no thin maps. dm-thin leaves one behind when the power goes while it fills a block
    /// for the first time, or when the disk fails to. Reads every mapping. Blocks that are being filled at this moment look the
    /// same, so it looks twice before it says that there are any.
    pub fn unmapped(&self, disks: &dyn Disks) -> Result<u64, PoolError> {
        let look = || -> Result<u64, PoolError> {
            let used = self.working()?.data.used;
            let mapped = self.with_snapshot(disks, |disk, root, total| metadata::mapped(disk, root, total))?;
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

    fn unreadable(&self, source: MetadataError) -> PoolError {
        PoolError::Metadata { pool: self.device_name.clone(), source }
    }

    /// One of the devices that the pool stands on, opened to be read.
    fn below(
        &self,
        disks: &dyn Disks,
        which: impl Fn(&ThinPoolTable) -> Option<DeviceNumber>,
    ) -> Result<Box<dyn Disk>, PoolError> {
        let pool = &self.device_name;
        let table = self.dm.table(pool).map_err(|source| PoolError::Look { device: pool.clone(), source })?;
        let number = match table.as_slice() {
            [Target::ThinPool(table)] => which(table),
            _ => None,
        };
        let node = number.and_then(block::node_of).ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
        disks.open(&node, Access::Read).map_err(|source| self.unreadable(source.into()))
    }

    /// Reads the metadata as the pool's last commit has it: `read` gets the disk, and the block of the superblock. Where the
    /// pool goes on so fast that no commit stays the last for long enough, it is asked for a snapshot.
    fn between_commits<T>(
        &self,
        disks: &dyn Disks,
        read: impl Fn(&dyn Disk, u64) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let disk = self.below(disks, |table| table.metadata.number())?;
        let look = || -> Result<_, MetadataError> {
            disk.forget_cached()?;
            let before = metadata::committed(disk.as_ref())?;
            let found = read(disk.as_ref(), 0);
            disk.forget_cached()?;
            Ok((before == metadata::committed(disk.as_ref())?).then_some(found))
        };
        for _ in 0..TRIES {
            if let Some(found) = look().map_err(|source| self.unreadable(source))? {
                return found.map_err(|source| self.unreadable(source));
            }
            std::thread::sleep(PAUSE);
        }
        self.with_snapshot(disks, |disk, root, _| read(disk, root))
    }

    /// Reads a snapshot of the metadata: `read` gets the disk, the block of the snapshot's superblock, and the number of the
    /// pool's data blocks.
    fn with_snapshot<T>(
        &self,
        disks: &dyn Disks,
        read: impl Fn(&dyn Disk, u64, u64) -> Result<T, MetadataError>,
    ) -> Result<T, PoolError> {
        let pool = &self.device_name;
        let fail = |source| PoolError::Look { device: pool.clone(), source };
        let disk = self.below(disks, |table| table.metadata.number())?;
        self.dm.reserve_metadata_snap(pool).map_err(fail)?;
        let held = || -> Result<T, PoolError> {
            let status = self.working()?;
            let root = status.held_metadata_root.ok_or_else(|| PoolError::Failed { pool: pool.clone() })?;
            disk.forget_cached().map_err(|source| self.unreadable(source.into()))?;
            read(disk.as_ref(), root, status.data.total).map_err(|source| self.unreadable(source))
        };
        let found = held();
        self.dm.release_metadata_snap(pool).map_err(fail)?;
        found
    }
}

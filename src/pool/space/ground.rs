//! The embedded pool and its file, as the balloon sees them.
//!
//! Giving a block back costs a write: it is filled with zeros first, because dm-thin gives a block
//! of a thin a place only when it is written.

use std::ops::Range;

use super::balloon::{Ground, BALLOON_LENGTH};
use crate::block::{Access, BlockError, Disk};
use crate::dm::{StatusOptions, ThinStatus};
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::kind::Embedded;
use crate::pool::naming::Role;
use crate::pool::thins::metadata;
use crate::units::{Sectors, ThinId};

/// Zeros are written in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// The pool, and the file below it.
pub struct PoolGround<'a> {
    pub pool: &'a Pool,
    pub embedded: &'a Embedded,
    /// The balloon's thin.
    pub thin: ThinId,
}

impl PoolGround<'_> {
    fn device(&self) -> Result<Box<dyn Disk>, PoolError> {
        let node = self.pool.ensure_active(Role::Balloon, self.thin, BALLOON_LENGTH, false)?;
        let opened = self.pool.disks.open(&node, Access::Write);
        opened.map_err(|source| PoolError::area("data", &node, source))
    }

    fn on_device(
        &self,
        act: impl FnOnce(&dyn Disk) -> Result<(), BlockError>,
    ) -> Result<(), PoolError> {
        let disk = self.device()?;
        act(disk.as_ref()).map_err(|source| PoolError::area("data", disk.path(), source))
    }

    fn sectors(&self, blocks: u64) -> Sectors {
        Sectors(blocks * self.pool.block_size.0)
    }
}

impl Ground for PoolGround<'_> {
    fn end(&self) -> Result<u64, PoolError> {
        self.device()?;
        let device = self.pool.names.name(Role::Balloon);
        match self.pool.dm.thin_status(&device) {
            Ok(ThinStatus::Working { highest, .. }) => {
                Ok(highest.map_or(0, |highest| highest.0 / self.pool.block_size.0 + 1))
            }
            Ok(_) => Err(PoolError::Failed { pool: self.pool.device_name.clone() }),
            Err(source) => Err(PoolError::Look { device, source }),
        }
    }

    fn fill(&self, blocks: Range<u64>) -> Result<(), PoolError> {
        let zeros = vec![0; PIECE];
        let (mut at, end) = (self.sectors(blocks.start).0 * 512, self.sectors(blocks.end).0 * 512);
        self.on_device(|disk| {
            while at < end {
                let length = (end - at).min(PIECE as u64) as usize;
                disk.write_at(&zeros[..length], at)?;
                at += length as u64;
            }
            disk.flush()?;
            disk.forget_cached()
        })
    }

    fn held(&self, from: u64) -> Result<Vec<(u64, u64)>, PoolError> {
        let (pool, thin) = (self.pool, self.thin);
        // This status makes the kernel commit. Before that, blocks that were released may still
        // look held on disk. The next status tells whether the commit succeeded.
        pool.dm
            .pool_status(&pool.device_name, StatusOptions::default())
            .map_err(|source| PoolError::Look { device: pool.device_name.clone(), source })?;
        pool.takes_changes()?;
        pool.read_metadata(|disk| metadata::mappings(disk, 0, thin, from))
    }

    fn release(&self, blocks: Range<u64>) -> Result<(), PoolError> {
        let (start, length) = (self.sectors(blocks.start), self.sectors(blocks.end - blocks.start));
        self.on_device(|disk| disk.discard(start, length))
    }

    fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        self.embedded.files.punch(blocks)
    }

    fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        self.embedded.files.allocate(blocks)
    }
}

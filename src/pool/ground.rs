//! Space of the embedded pool that goes back to the file system below, and comes from there again.
//!
//! What is removed leaves free blocks in the pool, and their space in its file. Free blocks beyond
//! what the pool may need at once go to the [balloon](super::balloon), and are taken from it before
//! the file is made longer. It costs what it writes: a block is filled with zeros before its space
//! goes back, since dm-thin gives a block a place only when it is written to.

use std::ops::Range;

use super::balloon::{surplus, Ground};
use super::{metadata, Pool, PoolError, Role};
use crate::block::{Access, Disk};
use crate::dm::{StatusOptions, ThinStatus};
use crate::store::BalloonRecord;
use crate::units::{Sectors, ThinId};

/// The length of the balloon's device, 512 TiB: more than it will ever hold.
pub const LENGTH: Sectors = Sectors(1 << 40);
/// Zeros are written in pieces of so many bytes.
const PIECE: usize = 1 << 20;

impl Pool {
    /// Gives space back, if the embedded pool has more free blocks than it may need at once, as
    /// long as `go_on` says so. Returns how much. It may have to wait for the pool to grow, so
    /// whoever makes it grow must not be the caller.
    pub fn give_back(&self, mut go_on: impl FnMut() -> bool) -> Result<Sectors, PoolError> {
        let Some(keep) = self.kept_free() else { return Ok(Sectors(0)) };
        let free = || -> Result<u64, PoolError> {
            let status = self.status()?;
            self.must_be_well(&status)?;
            Ok(status.working().map_or(0, |status| status.data.free()))
        };
        let wanted = surplus(free()?, keep);
        if wanted == 0 {
            return Ok(Sectors(0));
        }
        let ground = PoolGround { pool: self, thin: self.balloon_thin()? };
        let given = self
            .balloon
            .give_back(&ground, wanted, || go_on() && free().is_ok_and(|free| free > keep))?;
        tracing::info!(pool = %self.device_name, blocks = given, "free space has gone back to the file system below the pool");
        Ok(Sectors(given * self.block_size.0))
    }

    /// Lets the pool have space again that went back, up to `wanted`; less where the file system
    /// below has no room for it. Returns how much.
    pub(super) fn take_again(&self, wanted: Sectors) -> Result<Sectors, PoolError> {
        let Some(balloon) = self.store.read(|r| r.balloon())? else { return Ok(Sectors(0)) };
        let ground = PoolGround { pool: self, thin: balloon.thin };
        let taken = self.balloon.take_back(&ground, wanted.0 / self.block_size.0)?;
        Ok(Sectors(taken * self.block_size.0))
    }

    /// Sees to it that all that the embedded pool can hand out has its space: a file that was
    /// copied may have lost it.
    pub(super) fn restore_blocks(&self) -> Result<(), PoolError> {
        let held = match self.store.read(|r| r.balloon())? {
            Some(balloon) => self.balloon.blocks(&PoolGround { pool: self, thin: balloon.thin })?,
            None => Vec::new(),
        };
        self.backer.restore_blocks(&held)
    }

    /// What the balloon holds: the pool counts it as used.
    pub(super) fn held_back(&self) -> Sectors {
        Sectors(self.balloon.held() * self.block_size.0)
    }

    /// How many free blocks stay with the pool: two steps of its growth. `None` where no space goes
    /// back.
    fn kept_free(&self) -> Option<u64> {
        let step = self.backer.growth_step().filter(|_| self.backer.gives_back())?;
        Some(2 * step.0 / self.block_size.0)
    }

    /// The balloon's thin, which is on record before it holds anything.
    fn balloon_thin(&self) -> Result<ThinId, PoolError> {
        if let Some(balloon) = self.store.read(|r| r.balloon())? {
            return Ok(balloon.thin);
        }
        let id = self.create(None)?;
        let thin = id.get();
        match self.store.commit(|c| c.put_balloon(&BalloonRecord { thin })) {
            Ok(()) => Ok(thin),
            Err(error) => {
                // Whether it is on record may not be known: the next start finds it by its lease,
                // if it is not.
                id.stay_leased();
                Err(error.into())
            }
        }
    }
}

/// The real pool, and the file below it.
struct PoolGround<'a> {
    pool: &'a Pool,
    thin: ThinId,
}

impl PoolGround<'_> {
    fn device(&self) -> Result<Box<dyn Disk>, PoolError> {
        let node = self.pool.ensure_active(Role::Balloon, self.thin, LENGTH, false)?;
        let opened = self.pool.backer.disks().open(&node, Access::Write);
        opened.map_err(|source| self.pool.backer.area("data", &node, source))
    }

    fn on_device(
        &self,
        act: impl FnOnce(&dyn Disk) -> Result<(), crate::block::BlockError>,
    ) -> Result<(), PoolError> {
        let disk = self.device()?;
        act(disk.as_ref()).map_err(|source| self.pool.backer.area("data", disk.path(), source))
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
        // What was released before is committed first: on disk it may still look held. Whether the
        // kernel could commit it, the next status says.
        pool.dm
            .pool_status(&pool.device_name, StatusOptions::default())
            .map_err(|source| PoolError::Look { device: pool.device_name.clone(), source })?;
        pool.must_be_well(&pool.status()?)?;
        pool.read_metadata(pool.backer.disks(), |disk| metadata::mappings(disk, 0, thin, from))
    }

    fn release(&self, blocks: Range<u64>) -> Result<(), PoolError> {
        let (start, length) = (self.sectors(blocks.start), self.sectors(blocks.end - blocks.start));
        self.on_device(|disk| disk.discard(start, length))
    }

    fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        self.pool.backer.punch(blocks)
    }

    fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        self.pool.backer.allocate(blocks)
    }
}

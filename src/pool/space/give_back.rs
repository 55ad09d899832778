//! Giving space of the embedded pool back to the host's file system, and taking it again.
//!
//! Removed snapshots leave free blocks in the pool, and their space in its file. Free blocks that
//! the pool does not need soon go to the [balloon](super::balloon). They are taken from it again
//! before the file is made longer.

use super::balloon::surplus;
use super::ground::PoolGround;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::kind::Embedded;
use crate::store::BalloonRecord;
use crate::units::{Sectors, ThinId};

impl Pool {
    /// Gives space back, if the embedded pool has more free blocks than it needs soon, as long as
    /// `go_on` says so. Returns how much. It may wait for the pool to grow, so the thread that
    /// makes the pool grow must not call it.
    pub fn give_back(&self, mut go_on: impl FnMut() -> bool) -> Result<Sectors, PoolError> {
        let Some(embedded) = self.embedded() else { return Ok(Sectors(0)) };
        let Some(keep) = self.kept_free(embedded) else { return Ok(Sectors(0)) };
        let free = || -> Result<u64, PoolError> {
            let status = self.status()?;
            self.must_take_changes(&status)?;
            Ok(status.working().map_or(0, |status| status.data.free()))
        };
        let wanted = surplus(free()?, keep);
        if wanted == 0 {
            return Ok(Sectors(0));
        }
        let ground = PoolGround { pool: self, embedded, thin: self.balloon_thin()? };
        let go_on = || go_on() && free().is_ok_and(|free| free > keep);
        let given = embedded.balloon.give_back(&ground, wanted, go_on)?;
        tracing::info!(
            pool = %self.device_name,
            blocks = given,
            "free space has gone back to the file system below the pool"
        );
        Ok(Sectors(given * self.block_size.0))
    }

    /// Lets the pool have up to `wanted` again of the space that went back. It is less if the
    /// host's file system has no space for it. Returns how much.
    pub(super) fn take_again(
        &self,
        embedded: &Embedded,
        wanted: Sectors,
    ) -> Result<Sectors, PoolError> {
        let Some(balloon) = self.store.read(|r| r.balloon())? else { return Ok(Sectors(0)) };
        let ground = PoolGround { pool: self, embedded, thin: balloon.thin };
        let taken = embedded.balloon.take_back(&ground, wanted.0 / self.block_size.0)?;
        Ok(Sectors(taken * self.block_size.0))
    }

    /// Allocates again each block that the embedded pool can hand out and that its file has lost,
    /// as a file does that was copied as a sparse one.
    pub(in crate::pool) fn restore_blocks(&self, embedded: &Embedded) -> Result<(), PoolError> {
        let held = match self.store.read(|r| r.balloon())? {
            Some(BalloonRecord { thin }) => {
                embedded.balloon.blocks(&PoolGround { pool: self, embedded, thin })?
            }
            None => Vec::new(),
        };
        embedded.files.restore_blocks(&held)
    }

    /// How many free blocks stay with the pool: two steps of its growth. `None` if no space is to
    /// be given back.
    fn kept_free(&self, embedded: &Embedded) -> Option<u64> {
        let step = embedded.files.growth_step().filter(|_| embedded.files.gives_back())?;
        Some(2 * step.0 / self.block_size.0)
    }

    /// The balloon's thin. It is on record before it holds a block.
    fn balloon_thin(&self) -> Result<ThinId, PoolError> {
        if let Some(balloon) = self.store.read(|r| r.balloon())? {
            return Ok(balloon.thin);
        }
        let id = self.create(None)?;
        let thin = id.get();
        match self.store.commit(|c| c.put_balloon(&BalloonRecord { thin })) {
            Ok(()) => Ok(thin),
            Err(error) => {
                // It may be on record or not. If not, the next start finds it by its lease.
                id.stay_leased();
                Err(error.into())
            }
        }
    }
}

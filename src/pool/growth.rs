//! Growing the embedded pool while it serves.
//!
//! Architecture Invariant: the pool's table covers only what its file has blocks for. So the pool
//! itself runs out of room, which is counted and said, before a write could meet a full file system
//! below it, which nobody would hear of.

use std::sync::atomic::Ordering;

use super::{label, table, Pool, PoolError, Role};
use crate::dm::{DiscardPolicy, Dm, LinearTable, NoSpacePolicy, Target, ThinPoolTable};
use crate::names::DmName;
use crate::units::Sectors;

/// The least that is worth a reload of the pool when the file system below has not room for a whole
/// step.
const LEAST: Sectors = Sectors((4 << 20) / 512);

/// How many events of the pool's a growth makes at the most: out of the lack of space, low water,
/// and into it again.
const EVENTS: usize = 3;

/// Tells of the pool's events: low water, a change of its mode.
#[derive(Debug)]
pub struct PoolEvents {
    dm: Dm,
    pool: DmName,
}

impl PoolEvents {
    /// Waits until the pool has had more than `seen` events since its assembly, and says how many.
    pub fn next(&self, seen: u32) -> Result<u32, PoolError> {
        let waited = self.dm.wait_event(&self.pool, seen);
        waited.map_err(|source| PoolError::Look { device: self.pool.clone(), source })
    }
}

impl Pool {
    pub fn events(&self) -> PoolEvents {
        PoolEvents { dm: self.dm.clone(), pool: self.device_name.clone() }
    }

    /// Gives the pool another step when it runs low, as far as it may grow and the file system
    /// below it has room. Where that is not far enough, whoever waits for a block gets an error at
    /// once. Cheap when there is nothing to do.
    pub fn maintain(&self) -> Result<(), PoolError> {
        let Some(step) = self.backer.growth_step() else { return Ok(()) };
        let _one_at_a_time = self.growing.lock().unwrap_or_else(|e| e.into_inner());
        if !self.backed.load(Ordering::Relaxed) {
            self.restore_blocks()?;
            self.backed.store(true, Ordering::Relaxed);
        }
        let status = self.status()?;
        let Some(status) = status.working().filter(|status| !status.needs_check) else {
            return Ok(());
        };
        let has = Sectors(status.data.total * self.block_size.0);
        let is_low = status.data.free() < table::low_water(step, self.block_size);
        if !is_low
            && (status.no_space == NoSpacePolicy::Queue || self.policy(has) == NoSpacePolicy::Error)
        {
            return Ok(());
        }
        let pool = self.table()?;
        // Whoever meets the end may wait again, since the file system below has got room.
        if !is_low {
            return self.load(pool, NoSpacePolicy::Queue);
        }
        let mut by = self.blocks(step.min(self.backer.room_to_grow(self.backed_part(has))));
        // What the file is long enough for comes first.
        let taken = match self.held_back() {
            Sectors(0) => Ok(Sectors(0)),
            _ => self.note_own_events(EVENTS, || self.take_again(by))?,
        };
        match taken {
            Ok(Sectors(0)) => {}
            Ok(_) => return self.set_policy(pool),
            Err(error) => {
                tracing::warn!(%error, "space that went back to the file system below the pool is not taken again")
            }
        }
        by = by.min(self.blocks(self.backer.room_to_grow(has)));
        while by >= self.least() {
            let length = Sectors(has.0 + by.0);
            match self.backer.lengthen(length) {
                Ok(()) => return self.extend(pool, length),
                Err(PoolError::Area { source, .. }) if source.is_no_space() => {
                    by = self.blocks(Sectors(by.0 / 2))
                }
                Err(error) => {
                    self.refuse_more(pool)?;
                    return Err(error);
                }
            }
        }
        self.refuse_more(pool)
    }

    fn least(&self) -> Sectors {
        self.blocks(LEAST).max(self.block_size)
    }

    /// How much of a data area of this length has its space.
    fn backed_part(&self, length: Sectors) -> Sectors {
        Sectors(length.0.saturating_sub(self.held_back().0))
    }

    /// Whoever needs a block of a full pool waits for it if there is more to come.
    fn policy(&self, length: Sectors) -> NoSpacePolicy {
        match self.backer.room_to_grow(self.backed_part(length)) {
            room if room < self.least() => NoSpacePolicy::Error,
            _ => NoSpacePolicy::Queue,
        }
    }

    fn set_policy(&self, pool: ThinPoolTable) -> Result<(), PoolError> {
        let policy = self.policy(pool.length);
        if pool.features.no_space == policy {
            return Ok(());
        }
        self.load(pool, policy)
    }

    fn blocks(&self, size: Sectors) -> Sectors {
        Sectors(size.0 / self.block_size.0 * self.block_size.0)
    }

    /// The live table of the pool.
    fn table(&self) -> Result<ThinPoolTable, PoolError> {
        let fail = |source| PoolError::Look { device: self.device_name.clone(), source };
        match self.dm.table(&self.device_name).map_err(fail)?.as_slice() {
            [Target::ThinPool(table)] => Ok(table.clone()),
            _ => Err(PoolError::Failed { pool: self.device_name.clone() }),
        }
    }

    /// Makes the data area and then the pool `length` long. Its file has the blocks already.
    fn extend(&self, pool: ThinPoolTable, length: Sectors) -> Result<(), PoolError> {
        let name = self.names.name(Role::Data);
        let fail = |source| PoolError::Grow { pool: self.device_name.clone(), source };
        let area = match self.dm.table(&name).map_err(fail)?.as_slice() {
            [Target::Linear(area)] if area.offset == label::SPACE => area.clone(),
            _ => return Err(PoolError::Failed { pool: self.device_name.clone() }),
        };
        let from = pool.length;
        self.dm.reload(&name, &[Target::Linear(LinearTable { length, ..area })]).map_err(fail)?;
        let policy = self.policy(length);
        self.note_own_events(EVENTS, || self.load(ThinPoolTable { length, ..pool }, policy))??;
        tracing::info!(pool = %self.device_name, %from, to = %length, "the pool has grown");
        Ok(())
    }

    /// It cannot grow: a full pool answers at once from here on.
    fn refuse_more(&self, pool: ThinPoolTable) -> Result<(), PoolError> {
        if pool.features.no_space == NoSpacePolicy::Error {
            return Ok(());
        }
        tracing::warn!(pool = %self.device_name, "the pool cannot grow any more; once it is full, writes to it fail");
        self.load(pool, NoSpacePolicy::Error)
    }

    fn load(&self, mut pool: ThinPoolTable, no_space: NoSpacePolicy) -> Result<(), PoolError> {
        pool.features.no_space = no_space;
        pool.features.discard = DiscardPolicy::NoPassDown;
        let _alone = self.table_turn.write().unwrap_or_else(|e| e.into_inner());
        let loaded = self.dm.reload(&self.device_name, &[Target::ThinPool(pool)]);
        loaded
            .map(drop)
            .map_err(|source| PoolError::Grow { pool: self.device_name.clone(), source })
    }
}

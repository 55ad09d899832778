//! Growth of the embedded pool while it serves.
//!
//! Architecture Invariant: the pool's table covers only what is allocated in its file. So the pool
//! itself becomes full, which is counted and logged, before a write can meet a full file system
//! below it, which no program would be told of.

use std::sync::atomic::Ordering;
use std::sync::PoisonError;

use crate::dm::{DiscardPolicy, LinearTable, NoSpacePolicy, Target, ThinPoolTable};
use crate::pool::backing::LABEL_SPACE;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::identity::low_water;
use crate::pool::kind::Embedded;
use crate::pool::naming::Role;
use crate::units::Sectors;

/// The smallest growth that is worth a reload of the pool, when the host's file system has no space
/// for a whole step.
const LEAST: Sectors = Sectors((4 << 20) / 512);

/// The most events of the pool that a growth causes: it leaves the state without space, reaches its
/// low water mark, and enters that state again.
const EVENTS: usize = 3;

impl Pool {
    /// Makes the embedded pool longer by a step when it runs low, as far as it may grow and the
    /// host's file system has space. If it cannot grow, a write that needs a block fails at once
    /// from then on. Cheap when there is nothing to do.
    pub fn maintain(&self) -> Result<(), PoolError> {
        match self.embedded() {
            Some(embedded) => Growth { pool: self, embedded }.maintain(),
            None => Ok(()),
        }
    }
}

/// The embedded pool, while it is looked after.
struct Growth<'a> {
    pool: &'a Pool,
    embedded: &'a Embedded,
}

impl Growth<'_> {
    fn maintain(&self) -> Result<(), PoolError> {
        let (pool, files) = (self.pool, &self.embedded.files);
        let Some(step) = files.growth_step() else { return Ok(()) };
        let _one_at_a_time = self.embedded.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.embedded.backed.load(Ordering::Relaxed) {
            pool.restore_blocks(self.embedded)?;
            self.embedded.backed.store(true, Ordering::Relaxed);
        }
        let status = pool.status()?;
        let Some(status) = status.working().filter(|status| !status.needs_check) else {
            return Ok(());
        };
        let has = Sectors(status.data.total * pool.block_size.0);
        let is_low = status.data.free() < low_water(step, pool.block_size);
        if !is_low
            && (status.no_space == NoSpacePolicy::Queue || self.policy(has) == NoSpacePolicy::Error)
        {
            return Ok(());
        }
        let table = self.table()?;
        // The host's file system has space again, so writes to a full pool may wait again.
        if !is_low {
            return self.load(table, NoSpacePolicy::Queue);
        }
        let wanted = self.blocks(step.min(files.growable(self.backed_part(has))));
        // Space that the file has already comes first.
        match self.take_again(wanted) {
            Ok(Sectors(0)) => {}
            Ok(_) => return self.set_policy(table),
            Err(error) => tracing::warn!(
                %error,
                "space that went back to the file system below the pool is not taken again"
            ),
        }
        self.grow(table, has, wanted)
    }

    /// Takes back up to `wanted` of what the balloon holds. Returns how much.
    fn take_again(&self, wanted: Sectors) -> Result<Sectors, PoolError> {
        if self.embedded.balloon.held() == 0 {
            return Ok(Sectors(0));
        }
        let pool = self.pool;
        pool.note_own_events(EVENTS, || pool.take_again(self.embedded, wanted))?
    }

    /// Makes the file and the pool longer by up to `wanted`, or by less if the host's file system
    /// has no space for that.
    fn grow(&self, table: ThinPoolTable, has: Sectors, wanted: Sectors) -> Result<(), PoolError> {
        let files = &self.embedded.files;
        let mut by = wanted.min(self.blocks(files.growable(has)));
        while by >= self.least() {
            let length = Sectors(has.0 + by.0);
            match files.lengthen(length) {
                Ok(()) => return self.extend(table, length),
                Err(error) if error.is_no_space() => by = self.blocks(Sectors(by.0 / 2)),
                Err(error) => {
                    self.refuse_more(table)?;
                    return Err(error);
                }
            }
        }
        self.refuse_more(table)
    }

    fn least(&self) -> Sectors {
        self.blocks(LEAST).max(self.pool.block_size)
    }

    /// How much of a data area of this length is allocated in the file.
    fn backed_part(&self, length: Sectors) -> Sectors {
        let held = self.embedded.balloon.held() * self.pool.block_size.0;
        Sectors(length.0.saturating_sub(held))
    }

    /// A write to a full pool waits if the pool can still grow.
    fn policy(&self, length: Sectors) -> NoSpacePolicy {
        if self.embedded.files.growable(self.backed_part(length)) < self.least() {
            NoSpacePolicy::Error
        } else {
            NoSpacePolicy::Queue
        }
    }

    fn set_policy(&self, table: ThinPoolTable) -> Result<(), PoolError> {
        let policy = self.policy(table.length);
        if table.features.no_space == policy {
            return Ok(());
        }
        self.load(table, policy)
    }

    fn blocks(&self, size: Sectors) -> Sectors {
        let block = self.pool.block_size.0;
        Sectors(size.0 / block * block)
    }

    /// The live table of the pool.
    fn table(&self) -> Result<ThinPoolTable, PoolError> {
        let (pool, name) = (self.pool, &self.pool.device_name);
        let fail = |source| PoolError::Look { device: name.clone(), source };
        match pool.dm.table(name).map_err(fail)?.as_slice() {
            [Target::ThinPool(table)] => Ok(table.clone()),
            _ => Err(PoolError::Failed { pool: name.clone() }),
        }
    }

    /// Makes the data area and then the pool `length` long. The file has the blocks already.
    fn extend(&self, table: ThinPoolTable, length: Sectors) -> Result<(), PoolError> {
        let pool = self.pool;
        let name = pool.names.name(Role::Data);
        let look = |source| PoolError::Look { device: name.clone(), source };
        let area = match pool.dm.table(&name).map_err(look)?.as_slice() {
            [Target::Linear(area)] if area.offset == LABEL_SPACE => area.clone(),
            _ => return Err(PoolError::Failed { pool: pool.device_name.clone() }),
        };
        let from = table.length;
        pool.dm
            .reload(&name, &[Target::Linear(LinearTable { length, ..area })])
            .map_err(|source| PoolError::Reload { device: name.clone(), source })?;
        let policy = self.policy(length);
        let table = ThinPoolTable { length, ..table };
        pool.note_own_events(EVENTS, || self.load(table, policy))??;
        tracing::info!(pool = %pool.device_name, %from, to = %length, "the pool has grown");
        Ok(())
    }

    /// The pool cannot grow: a write to the full pool fails at once from here on.
    fn refuse_more(&self, table: ThinPoolTable) -> Result<(), PoolError> {
        if table.features.no_space == NoSpacePolicy::Error {
            return Ok(());
        }
        tracing::warn!(
            pool = %self.pool.device_name,
            "the pool cannot grow any more; once it is full, writes to it fail"
        );
        self.load(table, NoSpacePolicy::Error)
    }

    fn load(&self, mut table: ThinPoolTable, no_space: NoSpacePolicy) -> Result<(), PoolError> {
        let (pool, name) = (self.pool, &self.pool.device_name);
        table.features.no_space = no_space;
        table.features.discard = DiscardPolicy::NoPassDown;
        let _alone = pool.table_turn.write().unwrap_or_else(PoisonError::into_inner);
        pool.dm
            .reload(name, &[Target::ThinPool(table)])
            .map(drop)
            .map_err(|source| PoolError::Reload { device: name.clone(), source })
    }
}

//! Looks at the pool: how full it is, and whether it has refused writes.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::free::{Below, FreeSpace, Seen};
use crate::block::Space;
use crate::dm::ThinPoolStatus;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::pool::lapses::Lapses;
use crate::store::Moment;
use crate::units::Sectors;

impl Pool {
    /// Looks at the pool, cheaply. Remembers how full it is for [`Pool::check_free_space`], and
    /// whether it has refused writes for [`Pool::has_refused_since`]. The latter goes on record,
    /// with one database commit for each look that finds new events of the pool.
    pub fn look(&self) -> Result<FreeSpace, PoolError> {
        let mut lapses = self.looking();
        let (status, changed) = lapses
            .look(&self.dm, &self.device_name)
            .map_err(|source| PoolError::Look { device: self.device_name.clone(), source })?;
        if let Some(record) = changed.filter(|_| self.keeps_record) {
            self.store.commit(|c| c.put_lapses(&record))?;
        }
        let below = self.below_the_pool(&status);
        let free = FreeSpace::new(status, self.block_size, below);
        let mut seen = self.seen();
        seen.lapses = lapses.count();
        if free.is_unbacked() && !seen.free.as_ref().is_some_and(FreeSpace::is_unbacked) {
            seen.host_lapses += 1;
        }
        seen.free = Some(free.clone());
        self.look_at_features()?;
        Ok(free)
    }

    fn below_the_pool(&self, status: &ThinPoolStatus) -> Below {
        let Some(embedded) = self.embedded() else { return Below::default() };
        let blocks = status.working().map_or(0, |status| status.data.total);
        let held = Sectors(embedded.balloon.held() * self.block_size.0);
        let has = Sectors((blocks * self.block_size.0).saturating_sub(held.0));
        Below {
            host: embedded.files.host_space(),
            held,
            growable: embedded.files.growable(has),
            held_back: embedded.files.is_held_back(has),
            backed: embedded.backed.load(Ordering::Relaxed),
        }
    }

    fn looking(&self) -> MutexGuard<'_, Lapses> {
        self.lapses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, such as reloading the pool's table, that causes up to `events` events of the
    /// pool. None of these counts as a lapse, even if the kernel's log cannot be read. Looks at the
    /// pool before and after.
    pub(in crate::pool) fn note_own_events<T>(
        &self,
        events: usize,
        act: impl FnOnce() -> T,
    ) -> Result<T, PoolError> {
        self.look()?;
        self.looking().expect(events);
        let done = act();
        self.look()?;
        Ok(done)
    }

    /// Whether the pool has refused writes at any time since `moment`, or may have, by all looks so
    /// far. If so, a snapshot that was made then may lack writes.
    pub fn has_refused_since(&self, moment: Moment) -> bool {
        self.looking().refused_since(moment)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the pool was seen in this run in a state in which it refuses writes to new blocks:
    /// full, not backed by the host's file system, read-only or failed.
    pub fn lapses(&self) -> u64 {
        let seen = self.seen();
        seen.lapses + seen.host_lapses
    }

    /// How often the embedded pool was seen in this run with blocks to hand out that the host's
    /// file system does not have. The kernel has no events for that.
    pub fn host_lapses(&self) -> u64 {
        self.seen().host_lapses
    }

    /// Whether another writable snapshot fits, by what was last seen. Looks again before it
    /// refuses.
    pub fn check_free_space(&self) -> Result<(), PoolError> {
        self.must_be_fit()?;
        let seen = self.seen().free.clone();
        if seen.is_some_and(|free| self.short_of(&free).is_none()) {
            return Ok(());
        }
        match self.short_of(&self.look()?) {
            None => Ok(()),
            Some(full) => Err(full),
        }
    }

    fn short_of(&self, free: &FreeSpace) -> Option<PoolError> {
        if let Err(sick) = self.must_be_well(free) {
            return Some(sick);
        }
        let percent = self.min_free_percent;
        let (what, Space { free, total }) = free.short_of(percent)?;
        Some(PoolError::Full { pool: self.device_name.clone(), what, free, total, percent })
    }
}

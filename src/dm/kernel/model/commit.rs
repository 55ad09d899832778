//! How a modelled pool's metadata becomes durable.

use std::sync::Arc;

use super::disk::Disk;
use super::machine::{Machine, Outcome, Stop};
use crate::dm::kernel::fault_plan::Verdict;

impl Machine {
    /// Makes a pool's metadata durable, and the data it points to first. The kernel hides a failure
    /// of this from the caller: the pool becomes read-only instead.
    pub fn commit(&mut self, minor: u32) -> Outcome<()> {
        let Some(pool) = self.pools.get(&minor) else { return Ok(()) };
        let disks = self.disks_below(pool.data_device);
        let dirty = disks.iter().any(|disk| self.disks.get(disk).is_some_and(Disk::is_dirty));
        if !pool.is_writable() || (!pool.changed && !dirty) {
            return Ok(());
        }
        if self.locate(pool.metadata_device, 0) != Some(pool.place) {
            // Its metadata can neither be written nor read back.
            if let Some(pool) = self.pools.get_mut(&minor) {
                pool.failed = true;
            }
            self.mode_event(minor);
            return Ok(());
        }
        let verdict = self.step("pool commit");
        if matches!(verdict, Verdict::Halt) {
            self.halted = true;
            return Err(Stop::Halted);
        }
        let Some(pool) = self.pools.get_mut(&minor) else { return Ok(()) };
        if let Verdict::Fail(_) = verdict {
            pool.abort();
            self.mode_event(minor);
            return Ok(());
        }
        for disk in disks {
            if let Some(disk) = self.disks.get_mut(&disk) {
                disk.flush();
            }
        }
        pool.committed = Arc::new(pool.current.clone());
        pool.changed = false;
        let (place, committed) = (pool.place, Arc::clone(&pool.committed));
        self.put_superblock(place, committed);
        if verdict == Verdict::GoThenHalt {
            self.halted = true;
            return Err(Stop::Halted);
        }
        Ok(())
    }
}

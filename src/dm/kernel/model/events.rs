//! The modelled kernel's events, and what it logs of its pools: one line for each change of a
//! pool's mode and each low water mark, as drivers/md/dm-thin.c does.

use super::machine::Machine;
use crate::dm::text::{NoSpacePolicy, PoolMode, PoolNotice};

impl Machine {
    /// An event of a device.
    pub fn event(&mut self, minor: u32) {
        if let Some(device) = self.devices.get_mut(&minor) {
            if device.live.is_some() {
                device.event_nr += 1;
            }
        }
        self.events += 1;
    }

    /// An event of a pool, and its line in the log.
    pub fn pool_event(&mut self, minor: u32, notice: PoolNotice) {
        self.log.records.push((minor, notice));
        self.event(minor);
    }

    /// The event of a pool whose mode has changed.
    pub fn mode_event(&mut self, minor: u32) {
        let Some(pool) = self.pools.get(&minor) else { return };
        let queues = pool.table.features.no_space == NoSpacePolicy::Queue;
        let notice = match pool.mode {
            _ if pool.failed => PoolNotice::RefusesWrites,
            PoolMode::ReadWrite => PoolNotice::ServesWrites,
            PoolMode::OutOfDataSpace if queues => PoolNotice::ServesWrites,
            PoolMode::OutOfDataSpace | PoolMode::ReadOnly => PoolNotice::RefusesWrites,
        };
        self.pool_event(minor, notice);
    }
}

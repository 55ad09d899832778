//! The modelled kernel's events, and what it logs of its pools: one line for each change of a
//! pool's mode and each low water mark, as drivers/md/dm-thin.c does.

use super::machine::{Machine, MAJOR};
use super::FakeKernel;
use crate::dm::pool_log::{Noticed, PoolLog, PoolNotice};
use crate::dm::{NoSpacePolicy, PoolMode};
use crate::names::DmName;
use crate::units::DeviceNumber;

/// The kernel's log.
#[derive(Debug, Default)]
pub struct Log {
    records: Vec<(u32, PoolNotice)>,
    /// How many of the oldest have been overwritten.
    lost: usize,
    /// Nobody may read it.
    pub forbidden: bool,
}

impl Machine {
    /// An event of a device's own.
    pub fn event(&mut self, minor: u32) {
        if let Some(device) = self.devices.get_mut(&minor) {
            if device.live.is_some() {
                device.event_nr += 1;
            }
        }
        self.events += 1;
    }

    /// An event of a pool's, and its line in the log.
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

impl FakeKernel {
    /// A pool's free metadata falls to its low water mark, as it does again and again while it is
    /// used at that mark. It has no other effect.
    pub fn metadata_falls_low(&self, pool: &DmName) {
        self.change(|machine| {
            if let Some(minor) = machine.by_name(pool.as_str()) {
                machine.pool_event(minor, PoolNotice::LowWater);
            }
        });
    }

    /// The log so far is overwritten by others' lines.
    pub fn lose_log(&self) {
        let mut machine = self.machine();
        machine.log.lost = machine.log.records.len();
    }

    /// Nobody may read the log, or somebody may again.
    pub fn forbid_log(&self, forbidden: bool) {
        self.machine().log.forbidden = forbidden;
    }
}

/// Reads the log of a modelled kernel.
#[derive(Debug)]
pub(super) struct FakeLog {
    pub kernel: FakeKernel,
    pub next: u64,
}

impl PoolLog for FakeLog {
    fn read(&mut self, pool: DeviceNumber, since: u64) -> Noticed {
        let machine = self.kernel.machine();
        let log = &machine.log;
        let wanted = usize::try_from(self.next.max(since)).unwrap_or(usize::MAX);
        let records = log.records.iter().skip(wanted.max(log.lost));
        let notices = records
            .filter(|(minor, _)| pool.major == MAJOR && pool.minor == *minor)
            .map(|(_, n)| *n);
        let noticed = Noticed {
            notices: notices.collect(),
            next: log.records.len().max(wanted) as u64,
            complete: wanted >= log.lost,
        };
        self.next = noticed.next;
        noticed
    }
}

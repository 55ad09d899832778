//! [`FakeKernel`]: the handle on a modelled kernel, and what a test can do to it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::disk::Disk;
use super::io_error::IoError;
use super::machine::Machine;
#[cfg(doc)]
use crate::dm::error::Error;
use crate::dm::kernel::fault_plan::FaultPlan;
use crate::dm::text::PoolNotice;
use crate::names::DmName;
use crate::units::{DeviceNumber, Sectors, ThinId};

/// What becomes of writes that were not flushed before a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unflushed {
    /// They are lost, mappings of thins and contents of blocks alike.
    Lost,
    /// They reached the disk in time.
    Kept,
}

/// A modelled kernel. Cheap to clone; clones are the same kernel.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    machine: Mutex<Machine>,
    /// Notified at each event.
    happened: Condvar,
}

impl FakeKernel {
    /// A machine without disks and devices.
    #[must_use]
    pub fn new() -> FakeKernel {
        FakeKernel::default()
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the machine, and wakes listeners if something happened.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine();
        let before = machine.events;
        let result = act(&mut machine);
        if machine.events != before {
            self.shared.happened.notify_all();
        }
        result
    }

    /// Adds a disk of zeros.
    pub fn add_disk(&self, number: DeviceNumber, size: Sectors) {
        self.machine().disks.insert(number, Disk::new(size));
    }

    /// Makes a disk longer or shorter; does nothing to one that is not there.
    pub fn resize_disk(&self, number: DeviceNumber, size: Sectors) {
        if let Some(disk) = self.machine().disks.get_mut(&number) {
            disk.set_size(size);
        }
    }

    /// From now on `plan` counts what is made durable, and can make it fail: commits of pools,
    /// formatting of pools, flushes of disks.
    pub fn set_plan(&self, plan: Arc<FaultPlan>) {
        self.machine().plan = Some(plan);
    }

    /// Whether a plan has ended this machine.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.machine().halted
    }

    /// Makes a device refuse writes, or take them again, as BLKROSET does.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is no such device.
    pub fn set_read_only(&self, name: &DmName, read_only: bool) -> Result<(), IoError> {
        let mut machine = self.machine();
        let minor = machine.by_name(name.as_str());
        match minor.and_then(|minor| machine.devices.get_mut(&minor)) {
            Some(device) => {
                device.read_only = read_only;
                Ok(())
            }
            None => Err(IoError::Errno(Errno::ENXIO)),
        }
    }

    /// The thins of a pool, as `thin_ls` would list them; `None` when `pool` is not a pool.
    #[must_use]
    pub fn thin_ids(&self, pool: &DmName) -> Option<Vec<ThinId>> {
        let machine = self.machine();
        let minor = machine.by_name(pool.as_str())?;
        Some(machine.pools.get(&minor)?.current.thins.keys().copied().collect())
    }

    /// Makes a pool fail for good, as when its metadata can be neither read nor written.
    pub fn fail_pool(&self, pool: &DmName) {
        self.change(|machine| {
            if let Some(minor) = machine.by_name(pool.as_str()) {
                if let Some(pool) = machine.pools.get_mut(&minor) {
                    pool.failed = true;
                    machine.mode_event(minor);
                }
            }
        });
    }

    /// From here on a deferred removal is not complete before the next [`tick`](FakeKernel::tick):
    /// the device's name is gone, and what it stood on is still held. A real kernel takes some
    /// milliseconds for that.
    pub fn linger(&self, lingers: bool) {
        self.machine().lingers = lingers;
    }

    /// Commits every pool that has changes, as the kernel does each second, and finishes removals
    /// that linger.
    pub fn tick(&self) {
        self.change(|machine| {
            let _ = machine.finish_removals();
            let pools: Vec<u32> = machine.pools.keys().copied().collect();
            for pool in pools {
                // A plan may end the machine here. The next request reports it.
                let _ = machine.commit(pool);
            }
        });
    }

    /// Cuts the power. This kernel is gone: later requests fail with [`Error::Halted`]. The
    /// returned kernel has the same disks, with what was durable on them, and no devices.
    #[must_use]
    pub fn power_cut(&self, unflushed: Unflushed) -> FakeKernel {
        let disks = self.change(|machine| {
            // What a plan did before decides what was durable.
            machine.plan = None;
            if unflushed == Unflushed::Kept {
                let pools: Vec<u32> = machine.pools.keys().copied().collect();
                for pool in pools {
                    let _ = machine.commit(pool);
                }
            }
            machine.halted = true;
            machine.events += 1;
            let mut disks = machine.disks.clone();
            for disk in disks.values_mut() {
                match unflushed {
                    Unflushed::Lost => disk.lose_cache(),
                    Unflushed::Kept => disk.flush(),
                }
            }
            disks
        });
        let kernel = FakeKernel::new();
        let boot = self.machine().boot + 1;
        {
            let mut machine = kernel.machine();
            machine.disks = disks;
            machine.boot = boot;
        }
        kernel
    }

    /// A pool's free metadata falls to its low water mark, as it does again and again while it is
    /// used at that mark. It has no other effect.
    pub fn metadata_falls_low(&self, pool: &DmName) {
        self.change(|machine| {
            if let Some(minor) = machine.by_name(pool.as_str()) {
                machine.pool_event(minor, PoolNotice::LowWater);
            }
        });
    }

    /// The log so far is overwritten by other lines.
    pub fn lose_log(&self) {
        let mut machine = self.machine();
        machine.log.lost = machine.log.records.len();
    }

    /// Makes the log unreadable, or readable again.
    pub fn forbid_log(&self, forbidden: bool) {
        self.machine().log.forbidden = forbidden;
    }

    /// Waits for an event after number `seen`; `false` when the time is up.
    pub(super) fn wait_event(&self, seen: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut machine = self.machine();
        while machine.events == seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.happened.wait_timeout(machine, left);
            machine = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

//! A modelled kernel: device-mapper with thin pools, thins and linear devices, in memory.
//!
//! It passes the same contract tests as a real kernel (tests/dm_contract) and reads tables and
//! messages with the same parsers. What survives a power cut is kept apart from what does not:
//! [`FakeKernel::power_cut`] gives the machine as it would come up again. A [`FaultPlan`] counts
//! what it makes durable and can let any of it fail, or be the last thing that happens.
//!
//! What it does not do: wait. I/O on a suspended device is EAGAIN, a full pool that queues answers
//! ENOSPC, and nothing is committed by the clock. It knows no udev, no nodes and no file systems.

mod disk;
mod events;
mod handle;
mod io;
mod machine;
mod metadata;
mod pool;
mod tables;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use handle::{FakeHandle, IoError};

use self::disk::Disk;
use self::events::FakeLog;
use self::machine::{Machine, Stop};
use super::codec;
use super::fault::FaultPlan;
use super::reply::Reply;
use super::request::Request;
use super::{Error, EventSource, Kernel, PoolLog, Result};
use crate::names::DmName;
use crate::units::{DeviceNumber, Sectors, ThinId};

/// What becomes of writes that nobody flushed when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unflushed {
    /// They are lost, mappings of thins and contents of blocks alike.
    Lost,
    /// They made it to the disk just in time.
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
    happened: Condvar,
}

impl FakeKernel {
    /// A machine without disks and devices.
    #[must_use]
    pub fn new() -> FakeKernel {
        FakeKernel::default()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the machine, and wakes listeners if something happened.
    fn change<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
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

    /// Lets `plan` count, and spoil, what is made durable from now on: commits of pools, formatting
    /// of pools, flushes of disks.
    pub fn set_plan(&self, plan: Arc<FaultPlan>) {
        self.machine().plan = Some(plan);
    }

    /// Whether a plan has ended this machine.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.machine().halted
    }

    /// Opens a device by name.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is none.
    pub fn open(&self, name: &DmName) -> std::result::Result<FakeHandle, IoError> {
        let minor = self.machine().by_name(name.as_str());
        let minor = minor.ok_or(IoError::Errno(super::Errno::ENXIO))?;
        FakeHandle::open(self.clone(), Machine::number(minor))
    }

    /// Opens a device or a disk by number.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is none.
    pub fn open_number(&self, number: DeviceNumber) -> std::result::Result<FakeHandle, IoError> {
        FakeHandle::open(self.clone(), number)
    }

    /// Makes a device refuse writes, or take them again, as BLKROSET does.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is no such device.
    pub fn set_read_only(
        &self,
        name: &DmName,
        read_only: bool,
    ) -> std::result::Result<(), IoError> {
        let mut machine = self.machine();
        let minor = machine.by_name(name.as_str());
        match minor.and_then(|minor| machine.devices.get_mut(&minor)) {
            Some(device) => {
                device.read_only = read_only;
                Ok(())
            }
            None => Err(IoError::Errno(super::Errno::ENXIO)),
        }
    }

    /// The thins of a pool, as `thin_ls` would list them; `None` when `pool` is not a pool.
    #[must_use]
    pub fn thin_ids(&self, pool: &DmName) -> Option<Vec<ThinId>> {
        let machine = self.machine();
        let minor = machine.by_name(pool.as_str())?;
        Some(machine.pools.get(&minor)?.current.thins.keys().copied().collect())
    }

    /// Makes a pool fail for good, as one does whose metadata cannot be read or written.
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

    /// Commits every pool that has changes, as the kernel does each second.
    pub fn tick(&self) {
        self.change(|machine| {
            let pools: Vec<u32> = machine.pools.keys().copied().collect();
            for pool in pools {
                // A plan may end the machine here; whoever asks next hears of it.
                let _ = machine.commit(pool);
            }
        });
    }

    /// Cuts the power. This kernel is gone: whatever is still asked of it fails with
    /// [`Error::Halted`]. The one returned has the same disks, with what was durable, and no
    /// devices.
    #[must_use]
    pub fn power_cut(&self, unflushed: Unflushed) -> FakeKernel {
        let disks = self.change(|machine| {
            // A plan that ended it already has the last word on what was durable.
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
}

impl Kernel for FakeKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        // What cannot be laid out in memory does not reach a real kernel either.
        codec::encode(request, 0).map_err(|source| Error::Codec {
            verb: request.verb(),
            device: request.selector().to_string(),
            source,
        })?;
        self.change(|machine| machine.submit(request)).map_err(|stop| match stop {
            Stop::Errno(errno) => Error::from_errno(request, errno),
            Stop::Halted => Error::Halted { request: request.to_string() },
        })
    }

    fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
        self.machine().size(device)
    }

    fn event_source(&self) -> Result<Box<dyn EventSource>> {
        Ok(Box::new(FakeEvents { seen: self.machine().events, kernel: self.clone() }))
    }

    fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
        (!self.machine().log.forbidden)
            .then(|| Box::new(FakeLog { kernel: self.clone(), next: 0 }) as Box<dyn PoolLog>)
    }

    fn incarnation(&self, device: DeviceNumber) -> String {
        let machine = self.machine();
        let born = machine.devices.get(&device.minor).map_or(0, |device| device.born);
        format!("boot {} {device} {born}", machine.boot)
    }
}

/// Listens to a modelled kernel.
#[derive(Debug)]
struct FakeEvents {
    kernel: FakeKernel,
    seen: u64,
}

impl EventSource for FakeEvents {
    fn arm(&mut self) -> Result<()> {
        self.seen = self.kernel.machine().events;
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let mut machine = self.kernel.machine();
        while machine.events == self.seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let woken = self.kernel.shared.happened.wait_timeout(machine, left);
            machine = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
    }
}

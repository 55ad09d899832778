//! What a kernel is to this library: something that answers requests.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[cfg(doc)]
use crate::dm::error::Error;
use crate::dm::error::Result;
use crate::dm::text::PoolNotice;
use crate::dm::wire::{Reply, Request};
use crate::units::{DeviceNumber, Sectors};

/// Something that answers device-mapper requests. All verbs go through [`Kernel::submit`].
pub trait Kernel: Send + Sync + Debug {
    /// Runs one request.
    ///
    /// # Errors
    /// [`Error::from_errno`] of the kernel's errno; [`Error::Codec`] for an answer that is
    /// malformed.
    fn submit(&self, request: &Request) -> Result<Reply>;

    /// The size of a block device; `None` when there is no such device, or its size is not known.
    /// Used to explain why a table was refused, and to wait for the end of a removal.
    fn device_size(&self, device: DeviceNumber) -> Option<Sectors>;

    /// The size in bytes of the sectors that a block device reads and writes whole (512, or 4096 on
    /// a "4Kn" disk); `None` when it is not known. Used to explain why a table was refused.
    fn logical_block_size(&self, device: DeviceNumber) -> Option<u32> {
        let _ = device;
        None
    }

    /// A new listener for events, not armed yet.
    ///
    /// # Errors
    /// Those of opening the kernel's device-mapper.
    fn event_source(&self) -> Result<Box<dyn EventSource>>;

    /// The kernel's log from its oldest record on; `None` where it cannot be read.
    fn pool_log(&self) -> Option<Box<dyn PoolLog>>;

    /// A text that tells this device from all other devices with its number, on this boot and on
    /// others.
    fn incarnation(&self, device: DeviceNumber) -> String;
}

/// Waits for events of any device (`DM_DEV_ARM_POLL` and poll(2), kernel 4.14 and later). Arm
/// first, then list and compare, then wait: what happens in between is not lost.
pub trait EventSource: Send + Debug {
    /// From here on any event makes [`wait`](EventSource::wait) return.
    ///
    /// # Errors
    /// Those of [`Kernel::submit`].
    fn arm(&mut self) -> Result<()>;

    /// Waits for an event since the last [`arm`](EventSource::arm); `false` when the time is up.
    /// A source that was never armed counts from when it was opened.
    ///
    /// # Errors
    /// [`Error::Node`] when the control node cannot be polled.
    fn wait(&mut self, limit: Duration) -> Result<bool>;

    /// A descriptor that is readable when [`wait`](EventSource::wait) would return at once, for a
    /// caller with an event loop of its own; `None` where there is none.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What the log has on one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// What was logged, in the order in which it happened.
    pub notices: Vec<PoolNotice>,
    /// The number of the first record that has not been read yet.
    pub next: u64,
    /// No record is missing between the first one and the last one that was asked for.
    pub complete: bool,
}

/// A reader of the kernel's log. It remembers how far it has read.
pub trait PoolLog: Send + Debug {
    /// What has been logged of `pool` in the records from number `since` on that were not read
    /// before. It does not wait.
    fn read(&mut self, pool: DeviceNumber, since: u64) -> Noticed;
}

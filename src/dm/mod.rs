//! Device-mapper on raw ioctls: no libdevmapper, no `dmsetup`.
//!
//! [`Dm`] has the verbs. It asks a [`Kernel`], which is the running one ([`RealKernel`]), a model
//! of it ([`fake::FakeKernel`]), or one that wraps another ([`CountingKernel`], [`FaultyKernel`],
//! [`LoggingKernel`]). Tables and status lines are values with a parser and a printer ([`Target`],
//! [`TargetStatus`]); errors are situations ([`Error`]). All calls block; everything can be used
//! from any number of threads.
//!
//! A pool, a thin and its snapshot, here on the model of a kernel; [`RealKernel::open`] and
//! [`Settings::default`] do the same on the running one:
//!
//! ```
//! use std::sync::Arc;
//!
//! use devmapper_snapshotter::dm::fake::FakeKernel;
//! use devmapper_snapshotter::dm::{ActivateOptions, Dm, PoolFeatures, Settings, Target, ThinPoolTable};
//! use devmapper_snapshotter::names::DmName;
//! use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (metadata, data) = (DeviceNumber { major: 7, minor: 0 }, DeviceNumber { major: 7, minor: 1 });
//! let kernel = FakeKernel::new();
//! kernel.add_disk(metadata, Sectors(8192));
//! kernel.add_disk(data, Sectors(131_072));
//! let dm = Dm::new(Arc::new(kernel), Settings::without_nodes());
//!
//! let table = ThinPoolTable {
//!     start: Sectors::ZERO,
//!     length: Sectors(131_072),
//!     metadata: metadata.into(),
//!     data: data.into(),
//!     block_size: Sectors(128),
//!     low_water_blocks: 64,
//!     features: PoolFeatures::default(),
//! };
//! let pool = dm.activate(&DmName::new("pool")?, None, &[Target::ThinPool(table)], ActivateOptions::default())?;
//! dm.create_thin(&pool.name, ThinId::new(1)?)?;
//! dm.create_snap(&pool.name, ThinId::new(2)?, ThinId::new(1)?)?;
//! let snapshot = Target::thin(pool.device, ThinId::new(2)?, Sectors(2_097_152));
//! let read_only = ActivateOptions { read_only: true, ..Default::default() };
//! let device = dm.activate(&DmName::new("snapshot")?, None, &[snapshot], read_only)?;
//! assert!(device.read_only && !device.suspended);
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: every request goes through [`Kernel::submit`]; `unsafe` is in `ioctl.rs` alone;
//! replies are read with bounds checks; nothing is left suspended and nothing half-made when a verb
//! fails. This module must not know what devices are for: no pool policy, no snapshots, no
//! database.
#![doc = include_str!("docker.md")]
#![warn(missing_docs)]

mod client;
pub mod codec;
mod count;
mod error;
mod events;
mod explain;
pub mod fake;
mod fault;
mod info;
mod ioctl;
mod log;
pub mod message;
mod nodes;
mod pool_log;
mod present;
mod queries;
mod real;
mod reply;
mod request;
mod status;
mod table;
mod thin;
pub mod udev;
mod verb;

use std::fmt::Debug;
use std::time::Duration;

pub use nix::errno::Errno;

pub use client::{ActivateOptions, Dm, LoadOptions, SuspendOptions, MAX_MINOR};
pub use count::CountingKernel;
pub use error::{Error, Result};
pub use events::{Change, EventWatch};
pub use explain::Misfit;
pub use fault::{Fault, FaultPlan, FaultyKernel, Verdict};
pub use info::{DeviceInfo, ListedDevice, Removal};
pub use log::{LogLevel, LogSink, LoggingKernel, TracingSink};
pub use nodes::{NodeDir, Swept};
pub use pool_log::{Noticed, PoolLog, PoolNotice};
pub use present::{NodePolicy, Settings};
pub use queries::StatusOptions;
pub use real::{RealKernel, NODE_DIR, OLDEST_DRIVER};
pub use reply::{DriverVersion, Header, ListEntry, Reply, ReplyData, TargetVersion};
pub use request::{Payload, Request, Selector, TargetLine};
pub use status::{PoolMode, Status, TargetStatus, ThinPoolStatus, ThinStatus, Usage, WorkingPool};
pub use table::{
    DeviceRef, DiscardPolicy, LinearTable, NoSpacePolicy, PoolFeatures, TableError, Target,
    ThinPoolTable, ThinTable, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE,
};
pub use udev::{Cookie, EventCookie, UdevFlags, UdevPolicy};
pub use verb::{Flags, Verb};

use crate::units::{DeviceNumber, Sectors};

/// The version of this library, which stands where libdevmapper would.
pub const LIBRARY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether this library knows deferred removal. The kernel does since 3.13.
pub const DEFERRED_REMOVAL_SUPPORT: bool = true;

/// Something that answers device-mapper requests. The one door to the kernel: every verb is a
/// [`Request`] that goes through [`Kernel::submit`].
pub trait Kernel: Send + Sync + Debug {
    /// Runs one request.
    ///
    /// # Errors
    /// What [`Error::from_errno`] makes of the kernel's errno, or an answer that makes no sense.
    fn submit(&self, request: &Request) -> Result<Reply>;

    /// The size of a block device; `None` when it is not known. Used to explain why a table was
    /// refused.
    fn device_size(&self, device: DeviceNumber) -> Option<Sectors>;

    /// The size in bytes of the sectors that a block device reads and writes whole (512, or 4096 on
    /// a "4Kn" disk); `None` when it is not known. Used for the same.
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

    /// What tells this device from every other that has had, or will have, its number: on this boot
    /// and on any other.
    fn incarnation(&self, device: DeviceNumber) -> String;
}

/// Waits for events of any device (`DM_DEV_ARM_POLL` and poll(2), kernel 4.14 and later). Arm
/// first, then list and compare, then wait: what happens in between is not lost.
pub trait EventSource: Send + Debug {
    /// From here on, any event makes [`wait`](EventSource::wait) return.
    ///
    /// # Errors
    /// Those of [`Kernel::submit`].
    fn arm(&mut self) -> Result<()>;

    /// Waits for an event since the last [`arm`](EventSource::arm); `false` when the time is up.
    /// One that was never armed hears of the events since it was opened.
    ///
    /// # Errors
    /// [`Error::Node`] when the control node cannot be polled.
    fn wait(&mut self, limit: Duration) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_used_from_any_thread() {
        fn any_thread<T: Send + Sync>() {}
        any_thread::<Dm>();
        any_thread::<RealKernel>();
        any_thread::<fake::FakeKernel>();
        any_thread::<CountingKernel>();
        any_thread::<FaultyKernel>();
        any_thread::<LoggingKernel>();
        any_thread::<Error>();
        any_thread::<Request>();
        fn one_thread_at_a_time<T: Send>() {}
        one_thread_at_a_time::<EventWatch>();
        one_thread_at_a_time::<Cookie>();
    }
}

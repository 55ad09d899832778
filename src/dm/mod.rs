//! Device-mapper on raw ioctls: no libdevmapper, no `dmsetup`.
//!
//! [`Dm::open`] opens the running kernel, and [`Dm`] has the verbs. A verb finds its device by
//! name, uuid or number ([`Selector`]). Tables and status lines are values with a parser and a
//! printer ([`Target`], [`TargetStatus`]). An error is a situation that a caller can act on
//! ([`Error`]) and keeps the kernel's errno. All calls block. Everything can be used from any
//! number of threads.
//!
//! A pool, a thin in it, and a read-only snapshot of the thin:
//!
//! ```no_run
//! use devmapper_snapshotter::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dm = Dm::open()?;
//! let metadata = DeviceNumber { major: 7, minor: 0 };
//! let data = DeviceNumber { major: 7, minor: 1 };
//! let table = ThinPoolTable {
//!     start: Sectors::ZERO,
//!     length: Sectors(131_072),
//!     metadata: metadata.into(),
//!     data: data.into(),
//!     block_size: Sectors(128),
//!     low_water_blocks: 64,
//!     features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
//! };
//! let pool = Target::ThinPool(table);
//! let pool = dm.activate(&DmName::new("pool")?, None, &[pool], ActivateOptions::default())?;
//! dm.create_thin(pool.device, ThinId::new(1)?)?;
//! dm.create_snap(pool.device, ThinId::new(2)?, ThinId::new(1)?)?;
//! let snapshot = Target::thin(pool.device, ThinId::new(2)?, Sectors(2_097_152));
//! let read_only = ActivateOptions { read_only: true, ..ActivateOptions::default() };
//! let device = dm.activate(&DmName::new("snapshot")?, None, &[snapshot], read_only)?;
//! assert!(device.read_only && !device.suspended);
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `model` there is a modelled kernel, `fake::FakeKernel`, for tests without root:
//! `Dm::new(Arc::new(FakeKernel::new()), Settings::without_nodes())` does all of the above in
//! memory. It passes the same contract tests as a real kernel.
//!
//! # Layers
//!
//! Each layer uses only those above it in this list:
//!
//! | layer | what is in it |
//! |---|---|
//! | `interface` | the verbs, flags and version of the kernel's interface |
//! | `error` | what can go wrong, as plain values |
//! | `text` | tables, status lines, messages and log lines as values |
//! | `wire` | requests and replies, how they lie in memory, what an errno means |
//! | `kernel` | the [`Kernel`] trait; the running kernel, the model, those that wrap another |
//! | `host` | the nodes under `/dev/mapper`, and udev |
//! | `verbs` | [`Dm`] |
//!
//! Invariants: every request goes through [`Kernel::submit`]. `unsafe` is in `kernel/ioctl.rs`
//! alone. Replies are read with bounds checks. When a verb fails, it leaves nothing suspended and
//! nothing half-made. This module does not know what devices are for: no pool policy, no database.
#![doc = include_str!("docker.md")]
#![warn(missing_docs)]

mod error;
mod host;
mod interface;
mod kernel;
mod text;
mod verbs;
mod wire;

pub use nix::errno::Errno;

pub use error::{CodecError, Error, MessageError, Misfit, Result, TableError};
pub use host::{udev, Cookie, NodePolicy, NodeSweep, Settings, UdevPolicy};
pub use interface::{DriverVersion, Flags, Verb};
#[cfg(any(test, feature = "model"))]
pub use kernel::model as fake;
pub use kernel::{
    CountingKernel, EventSource, Kernel, LogLevel, LogSink, LoggingKernel, Noticed, PoolLog,
    RealKernel, TracingSink, NODE_DIR, OLDEST_DRIVER,
};
#[cfg(any(test, feature = "model"))]
pub use kernel::{Fault, FaultPlan, FaultyKernel, Verdict};
pub use text::{
    BlockUsage, DeviceRef, DiscardPolicy, LinearTable, NoSpacePolicy, PoolFeatures, PoolMessage,
    PoolMode, PoolNotice, Status, Target, TargetLine, TargetStatus, ThinPoolStatus, ThinPoolTable,
    ThinStatus, ThinTable, WorkingPool, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE,
};
pub use verbs::{
    ActivateOptions, Change, DeviceInfo, Dm, EventWatch, ListedDevice, LoadOptions, Removal,
    StatusOptions, SuspendOptions,
};
pub use wire::{
    codec, EventCookie, Header, ListEntry, Payload, Reply, ReplyData, Request, Selector,
    TargetVersion, UdevFlags, MAX_MINOR,
};

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

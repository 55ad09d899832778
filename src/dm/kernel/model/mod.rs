//! A modelled kernel: device-mapper with thin pools, thins and linear devices, in memory.
//!
//! It passes the same contract tests as a real kernel (tests/dm/contract) and reads tables and
//! messages with the same parsers. What survives a power cut is kept apart from what does not:
//! [`FakeKernel::power_cut`] returns the machine as it would come up again. A
//! [`FaultPlan`](super::FaultPlan) counts what the model makes durable, and can make any of it
//! fail, or be the last thing that happens.
//!
//! The model never waits. I/O on a suspended device is EAGAIN, a full pool that queues answers
//! ENOSPC, and no clock commits metadata. It knows no udev, no nodes and no file systems.

mod answers;
mod commit;
mod disk;
mod events;
mod handle;
mod io;
mod io_error;
mod kernel;
mod log;
mod machine;
mod metadata;
mod pool;
mod replies;
mod tables;
mod targets;
mod verbs;

pub use handle::FakeHandle;
pub use io_error::IoError;
pub use kernel::{FakeKernel, Unflushed};

//! Block devices and the files behind them: open, size, discard, seal, loop devices, mounts nobody
//! else sees.
//!
//! Knows the kernel's block layer and its mount calls. Must not know thin pools, snapshots,
//! databases or which program makes a file system: those are `dm`, `pool`, `store` and `fs`. Runs
//! no program. The room's only `unsafe` is in `ioctl.rs`.
#![warn(missing_docs)]

mod blank;
mod disk;
mod error;
mod growth;
mod holders;
mod ioctl;
mod limit;
mod lookout;
mod loop_nodes;
mod loops;
mod mounts;
mod nodes;
mod process;
mod ranges;
mod sparse;

pub use blank::{find_content, Found, HEAD as BLANK_HEAD};
pub use disk::{discard_all, Access, Disk, Disks, RealDisks, DISCARD_STEP};
pub use error::BlockError;
pub use growth::resize_xfs;
pub use holders::{holders, Found as HoldersFound, Hold, Holder, Watched};
pub use lookout::Lookout;
pub use loops::{LoopDevice, LoopOptions, Loops};
pub use mounts::{with_private_mount, PrivateMount};
pub use nodes::node_of;
pub use process::kill_group;
pub use ranges::{allocate_ranges, punch, without_blocks};
pub use sparse::{allocate, allocated, create_sparse, host_space, set_aside, Space};

#[cfg(test)]
pub(crate) mod memory;

//! Block devices and the files behind them: open, size, flush, discard, read-only; loop devices;
//! private mounts; allocating and freeing the blocks of files; who holds a device.
//!
//! This module knows the kernel's block layer and its mount calls. It must not know thin pools,
//! snapshots, databases or the programs that make file systems: those belong to `dm`, `pool`,
//! `store` and `fs`. It runs no programs. The only `unsafe` code is in `ioctl.rs`.
#![warn(missing_docs)]

mod blank;
mod content;
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
mod space;
mod sparse;

pub use blank::{find_content, HEAD as BLANK_HEAD};
pub use content::Content;
pub use disk::{discard_all, Access, Disk, Disks, RealDisks, DISCARD_STEP};
pub use error::BlockError;
pub use growth::resize_xfs;
pub use holders::{holders, Hold, Holder, HoldersByDevice, Watched};
pub use lookout::Lookout;
pub use loops::{LoopDevice, LoopOptions, Loops};
pub use mounts::{with_private_mount, PrivateMount};
pub use nodes::node_of;
pub use process::kill_group;
pub use ranges::{allocate_ranges, punch, without_blocks};
pub use space::{allocated, host_space, Space};
pub use sparse::{allocate, create_sparse, set_aside};

#[cfg(test)]
pub(crate) mod memory;

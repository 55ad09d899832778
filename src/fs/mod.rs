//! File systems on block devices: make one, grow one, look into one, replay its journal.
//!
//! The only room that runs programs (mke2fs, mkfs.xfs; nothing else). Uses `block/` for devices, private mounts and
//! ioctls. Must not know thin pools, snapshots or databases: to it a device is a path, and what makes a thin
//! special is one fact alone, that what was never written, or was discarded, reads as zeros.

mod bytes;
pub mod cost;
mod error;
mod ext4;
mod ext4_groups;
mod mkfs;
mod options;
mod program;
mod types;
mod xfs;
mod xfs_log;
mod zeros;

pub use error::FsError;
pub use mkfs::{Formatter, Mkfs};
pub use types::{FsSpec, FsState, FsType};

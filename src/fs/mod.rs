//! File systems on block devices: make one, grow one, look into one, replay its journal.
//!
//! Others have written to them: containers, and guests with kernels of their own. So all that is
//! read is checked against the device first; an ext4 of theirs is never mounted here, and an xfs
//! only to replay its log or to grow it.
//!
//! The only room that runs programs (mke2fs, e2fsck, resize2fs, mkfs.xfs; nothing else). Uses
//! `block/` for devices, private mounts and ioctls. Must not know thin pools, snapshots or
//! databases: to it a device is a path, and what makes a thin special is one fact alone, that what
//! was never written, or was discarded, reads as zeros.

mod bytes;
pub mod cost;
mod error;
mod ext4;
mod ext4_groups;
mod ext4_super;
mod inspect;
mod mkfs;
mod mounting;
mod options;
mod program;
mod tools;
mod types;
mod xfs;
mod xfs_log;
mod zeros;

pub use error::FsError;
pub use ext4_groups::{note_zeros_behind, zeroed_ranges};
pub use inspect::inspect;
pub use mkfs::{Formatter, Mkfs};
pub use mounting::MountOptions;
pub use types::{FsSpec, FsState, FsType, NotedErrors, Writer};

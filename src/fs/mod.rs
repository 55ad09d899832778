//! File systems on block devices: make, grow, inspect and replay them.
//!
//! Containers and guest kernels may have written to them. So all data that is read is checked
//! against the device first. An ext4 that others may have written is never mounted by this module;
//! such an xfs is mounted only to replay its log or to grow it.
//!
//! This is the only module that runs programs: mke2fs, e2fsck, resize2fs and mkfs.xfs. It uses
//! `block` for devices, private mounts and ioctls. It must not know thin pools, snapshots or
//! databases. For this module a device is a path, and a thin has one special property: blocks that
//! were never written, or were discarded, read as zeros.

mod bytes;
pub mod cost;
mod error;
mod ext4;
mod formatter;
mod inspect;
mod mkfs;
mod mounting;
mod options;
mod program;
mod tools;
mod types;
mod xfs;
mod zeros;

pub use error::FsError;
pub use ext4::{note_zeros_behind, zeroed_ranges};
pub use formatter::Formatter;
pub use inspect::inspect;
pub use mkfs::Mkfs;
pub use mounting::MountOptions;
pub use types::{FsSpec, FsState, FsType, NotedErrors, UnknownFsType, Writer};

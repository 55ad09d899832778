//! xfs: the options of mkfs.xfs, the superblock and the log.
//!
//! The layouts are the kernel's (fs/xfs/libxfs/xfs_format.h, xfs_log_format.h). Containers and
//! guests may have written all of it, so every number is checked before it is used.

mod log;
mod mkfs_xfs;
mod superblock;

pub(super) use mkfs_xfs::{own_options, SYNTAX};
pub(super) use superblock::Superblock;

//! Reads the state of a file system of any type. With any content of the disk it ends with a result
//! or an error, after a limited number of reads.

use crate::block::Disk;

use super::error::FsError;
use super::types::{FsState, FsType};
use super::{ext4, xfs};

/// Reads the state of the file system on a disk. The disk should not be mounted: see [`FsState`].
///
/// Reads the superblock, the first block of an ext4's journal, and the part of an xfs's log around
/// its head: a few megabytes at most.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub fn inspect(disk: &dyn Disk, fs_type: FsType) -> Result<FsState, FsError> {
    match fs_type {
        FsType::Ext4 => ext4::Superblock::read(disk)?.state(disk),
        FsType::Xfs => xfs::Superblock::read(disk)?.state(disk),
    }
}

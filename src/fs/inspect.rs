//! Looking into a file system: one door for all types, on any disk, that ends in an answer or an
//! error whatever the bytes.

use crate::block::Disk;

use super::error::FsError;
use super::types::{FsState, FsType};
use super::{ext4_super, xfs};

/// Reads what the file system on a disk says of itself. The disk should not be mounted: see
/// [`FsState`].
///
/// Takes no more than some megabytes of reads, and memory for one of them, whatever is on the disk:
/// the superblock, the first block of an ext4's journal, and of an xfs's log what is around its
/// head.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub fn inspect(disk: &dyn Disk, fs_type: FsType) -> Result<FsState, FsError> {
    match fs_type {
        FsType::Ext4 => ext4_super::Superblock::read(disk)?.state(disk),
        FsType::Xfs => xfs::Superblock::read(disk)?.state(disk),
    }
}

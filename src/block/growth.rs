//! Growing a mounted file system into a device that has become larger.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use super::error::BlockError;
use super::ioctl;

/// Grows the xfs mounted at `mounted` to `blocks` of its own blocks (XFS_IOC_FSGROWFSDATA,
/// fs/xfs/xfs_fsops.c).
///
/// `inode_percent` is the superblock's limit for inodes (`sb_imax_pct`), which the call sets anew.
///
/// # Errors
/// [`BlockError::Grow`].
pub fn resize_xfs(mounted: &Path, blocks: u64, inode_percent: u8) -> Result<(), BlockError> {
    let directory = open(mounted)?;
    ioctl::xfs_grow(directory.as_fd(), blocks, u32::from(inode_percent))
        .map_err(|e| failed(mounted, blocks, e))
}

fn open(mounted: &Path) -> Result<File, BlockError> {
    File::open(mounted).map_err(|source| BlockError::Open { path: mounted.to_owned(), source })
}

fn failed(mounted: &Path, blocks: u64, errno: Errno) -> BlockError {
    BlockError::Grow { path: mounted.to_owned(), blocks, source: io::Error::from(errno) }
}

//! Grows a mounted file system after its device has become larger.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use super::error::BlockError;
use super::ioctl;

/// Grows the xfs that is mounted at `mounted` to `blocks` of its own blocks (XFS_IOC_FSGROWFSDATA,
/// fs/xfs/xfs_fsops.c).
///
/// The call also sets the limit for inodes, so pass `inode_percent` as it is in the superblock
/// (`sb_imax_pct`).
///
/// # Errors
/// [`BlockError::Open`], [`BlockError::Grow`].
pub fn resize_xfs(mounted: &Path, blocks: u64, inode_percent: u8) -> Result<(), BlockError> {
    let directory = File::open(mounted).map_err(|source| BlockError::open(mounted, source))?;
    ioctl::xfs_grow(directory.as_fd(), blocks, u32::from(inode_percent)).map_err(|errno| {
        BlockError::Grow { path: mounted.to_owned(), blocks, source: errno.into() }
    })
}

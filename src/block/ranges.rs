//! Frees and allocates the blocks of ranges of a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{fallocate, FallocateFlags};

use super::error::BlockError;
use super::ioctl;
use super::space::host_space;

/// Frees the blocks of these byte ranges of a file (fallocate(2), `FALLOC_FL_PUNCH_HOLE`). The
/// ranges read as zeros afterwards. The length of the file does not change.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::Step`], with `EOPNOTSUPP` if the file system does not
/// support it.
pub fn punch(path: &Path, ranges: &[Range<u64>]) -> Result<(), BlockError> {
    let file = open(path)?;
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punched = ranges.iter().try_for_each(|range| at(&file, mode, range));
    punched.map_err(|errno| BlockError::step("free blocks of", path, errno))
}

/// Allocates the missing blocks of these byte ranges of a file, so that a later write to them does
/// not fail on a full disk. Durable on return. Neither the content nor the length of the file
/// changes. `missing` is an upper limit for the bytes that have no blocks yet.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::Allocate`], with ENOSPC if there is not enough free space.
/// Then some of the blocks may have been allocated.
pub fn allocate_ranges(path: &Path, ranges: &[Range<u64>], missing: u64) -> Result<(), BlockError> {
    let file = open(path)?;
    let error =
        |source: io::Error| BlockError::Allocate { path: path.to_owned(), bytes: missing, source };
    // Otherwise the kernel would fill the disk and then fail.
    if missing > host_space(path)?.free {
        return Err(error(Errno::ENOSPC.into()));
    }
    ranges
        .iter()
        .try_for_each(|range| allocate_range(&file, range))
        .map_err(|errno| error(errno.into()))?;
    file.sync_all().map_err(error)
}

/// The parts of these byte ranges of a file that have no blocks (FS_IOC_FIEMAP). All of them, if
/// the file system does not support the call.
///
/// # Errors
/// [`BlockError::Open`], [`BlockError::Step`].
pub fn without_blocks(path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, BlockError> {
    let file = open(path)?;
    let mut missing = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let extents = match ioctl::extents(file.as_fd(), at, range.end - at) {
                Ok(extents) => extents,
                Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => return Ok(ranges.to_vec()),
                Err(errno) => return Err(BlockError::step("list the blocks of", path, errno)),
            };
            let full = extents.len() == ioctl::FIEMAP_EXTENTS;
            for extent in
                extents.iter().filter(|extent| extent.flags & ioctl::FIEMAP_EXTENT_DELALLOC == 0)
            {
                let start = extent.logical.clamp(at, range.end);
                if start > at {
                    missing.push(at..start);
                }
                at = extent.logical.saturating_add(extent.length).clamp(start, range.end);
            }
            if !full && at < range.end {
                missing.push(at..range.end);
                at = range.end;
            }
        }
    }
    Ok(missing)
}

fn open(path: &Path) -> Result<File, BlockError> {
    OpenOptions::new().write(true).open(path).map_err(|source| BlockError::open(path, source))
}

/// Allocates the blocks of one range. The length of the file does not change.
pub(super) fn allocate_range(file: &File, range: &Range<u64>) -> Result<(), Errno> {
    at(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

fn at(file: &File, mode: FallocateFlags, range: &Range<u64>) -> Result<(), Errno> {
    let offset = |n: u64| i64::try_from(n).map_err(|_| Errno::EFBIG);
    fallocate(file, mode, offset(range.start)?, offset(range.end - range.start)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::allocated;

    const MIB: u64 = 1 << 20;

    #[test]
    fn punched_ranges_have_no_blocks_and_allocated_ranges_have_them_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, vec![7; 8 << 20]).unwrap();
        let ranges = [MIB..2 * MIB, 4 * MIB..6 * MIB];
        punch(&path, &ranges).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, 8 * MIB);
        for (at, byte) in content.iter().enumerate() {
            let punched = ranges.iter().any(|range| range.contains(&(at as u64)));
            assert_eq!(*byte, if punched { 0 } else { 7 }, "byte {at}");
        }
        assert!(allocated(&path).unwrap() < 6 * MIB);
        allocate_ranges(&path, &ranges, 3 * MIB).unwrap();
        let error = allocate_ranges(&path, &ranges, u64::MAX).unwrap_err();
        assert!(error.is_no_space() && error.to_string().contains("data"), "{error}");
        assert!(allocated(&path).unwrap() >= 8 * MIB);
        assert!(std::fs::read(&path).unwrap() == content, "nothing else has changed");
    }

    #[test]
    fn parts_without_blocks_are_found_if_the_file_system_lists_its_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        File::options().write(true).open(&path).unwrap().sync_all().unwrap();
        let all = [0..2 * MIB, 2 * MIB..5 * MIB];
        if without_blocks(&path, &all).unwrap() == all {
            // This file system does not list its blocks.
            return;
        }
        let beyond = [4 * MIB..5 * MIB];
        assert_eq!(without_blocks(&path, &all).unwrap(), beyond);
        punch(&path, &[MIB..MIB + 65_536, 3 * MIB..4 * MIB]).unwrap();
        assert_eq!(without_blocks(&path, &all).unwrap(), [MIB..MIB + 65_536, 3 * MIB..5 * MIB]);
        allocate_ranges(&path, &[MIB..MIB + 65_536, 3 * MIB..4 * MIB], 0).unwrap();
        assert_eq!(without_blocks(&path, &all).unwrap(), beyond);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = punch(Path::new("/no/such/file"), &[0..1]).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}

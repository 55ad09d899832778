//! Backing files, sparse or with all blocks allocated.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{fallocate, FallocateFlags};
use nix::unistd::{lseek, Whence};

use super::error::BlockError;
use super::ioctl;
use super::ranges::{allocate_range, without_blocks};
use super::space::{allocated, host_space};

/// Creates a sparse file of `bytes` bytes. An existing file that is shorter is made that long; a
/// longer one stays as it is. Gives the file's size in bytes.
///
/// The file, its size and its name are durable on return. A new file has mode 0600. The directory
/// must exist.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::SetLength`], with `EFBIG` if the file system does not
/// support files of that size; [`BlockError::Step`] for the syncs.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<u64, BlockError> {
    let (file, metadata) = open_or_create(path)?;
    if metadata.len() < bytes {
        let error = |source| BlockError::SetLength { path: path.to_owned(), bytes, source };
        file.set_len(bytes).map_err(error)?;
    }
    // Always synced: an earlier call may have crashed before its sync.
    file.sync_all().map_err(|e| BlockError::step("sync", path, e))?;
    sync_parent(path)?;
    Ok(metadata.len().max(bytes))
}

fn open_or_create(path: &Path) -> Result<(File, Metadata), BlockError> {
    let open = || -> io::Result<_> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((file, metadata))
    };
    open().map_err(|source| BlockError::open(path, source))
}

/// Allocates the blocks of the first `bytes` bytes of a file, so that a later write to them does
/// not fail on a full disk. It writes nothing and does not make the file longer (fallocate(2),
/// `FALLOC_FL_KEEP_SIZE`). If the file system does not support this (`EOPNOTSUPP`), nothing is
/// allocated and a warning is logged.
///
/// Only the missing blocks are asked for: xfs wants free space for a whole range before it looks
/// which blocks the range has (`xfs_alloc_file_space` in fs/xfs/xfs_bmap_util.c), so on a full disk
/// it would refuse what the file has already.
///
/// # Errors
/// [`BlockError::Allocate`] if there is not enough free space. Then some of the blocks may
/// have been allocated. [`BlockError::Step`] if the blocks cannot be listed.
pub fn set_aside(path: &Path, bytes: u64) -> Result<(), BlockError> {
    let error = |source: io::Error| BlockError::Allocate { path: path.to_owned(), bytes, source };
    let file = OpenOptions::new().write(true).open(path).map_err(error)?;
    // Otherwise the kernel would fill the disk and then fail.
    if bytes.saturating_sub(allocated(path)?) > host_space(path)?.free {
        return Err(error(Errno::ENOSPC.into()));
    }
    for range in without_blocks(path, &[0..bytes])? {
        match allocate_range(&file, &range) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) => {
                tracing::warn!(
                    path = %path.display(),
                    "the file system of this file cannot reserve space for it (no fallocate): do \
                     not let the file system get full"
                );
                return Ok(());
            }
            Err(errno) => return Err(error(errno.into())),
        }
    }
    file.sync_all().map_err(error)
}

/// Makes a file `bytes` bytes long, if it is shorter, and allocates all its blocks from byte `from`
/// on, so that a later write to them does not fail on a full disk. A new file has mode 0600. The
/// content does not change.
///
/// This is done by fallocate(2). If the file system does not support it, zeros are written to the
/// parts that have no blocks. On a copy-on-write file system (btrfs) a new file is marked to be
/// overwritten in place. The file and its blocks are durable on return.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::Allocate`], with ENOSPC if there is not enough free space
/// and EFBIG if the file system does not support files of that size. Then the file may be longer
/// than before; all that was added to it is allocated.
pub fn allocate(path: &Path, from: u64, bytes: u64) -> Result<(), BlockError> {
    let error = |source: io::Error| BlockError::Allocate { path: path.to_owned(), bytes, source };
    let is_new = !path.exists();
    let (file, metadata) = open_or_create(path)?;
    if is_new {
        // Only some file systems know the flag, and only copy-on-write file systems need it.
        let _ = ioctl::set_no_copy_on_write(file.as_fd());
    }
    // Otherwise the kernel would fill the disk and then fail.
    let needed =
        bytes.saturating_sub(from).min(bytes.saturating_sub(metadata.blocks().saturating_mul(512)));
    if needed > 0 && needed > host_space(path)?.free {
        return Err(error(Errno::ENOSPC.into()));
    }
    match fallocate(
        &file,
        FallocateFlags::empty(),
        from as i64,
        bytes.saturating_sub(from).max(1) as i64,
    ) {
        Ok(()) => {}
        Err(Errno::EOPNOTSUPP) => {
            let holes = holes(&file, from..bytes);
            holes
                .and_then(|holes| holes.into_iter().try_for_each(|hole| write_zeros(&file, hole)))
                .map_err(error)?;
        }
        Err(errno) => return Err(error(errno.into())),
    }
    file.sync_all().map_err(error)?;
    sync_parent(path)
}

/// The parts of a range of a file that are holes (lseek(2), `SEEK_HOLE`), and the part beyond the
/// end of the file.
fn holes(file: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let end = file.metadata()?.len().min(range.end);
    let mut holes = Vec::new();
    let mut at = range.start;
    while at < end {
        let start = match lseek(file, at as i64, Whence::SeekHole) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        if start >= end {
            break;
        }
        at = match lseek(file, start as i64, Whence::SeekData) {
            Ok(data) => (data as u64).min(end),
            // The hole reaches to the end of the file.
            Err(Errno::ENXIO) => end,
            Err(errno) => return Err(errno.into()),
        };
        holes.push(start..at);
    }
    if range.end > end {
        holes.push(end.max(range.start)..range.end);
    }
    Ok(holes)
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), BlockError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|e| BlockError::step("sync", parent, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sparse_file_is_long_takes_nothing_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        assert_eq!(create_sparse(&path, 64 * MIB).unwrap(), 64 * MIB);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 64 * MIB);
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert!(allocated(&path).unwrap() < MIB);
    }

    #[test]
    fn space_that_is_set_aside_is_allocated_and_changes_neither_content_nor_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata");
        std::fs::write(&path, b"content").unwrap();
        set_aside(&path, 8 * MIB).unwrap();
        assert!(allocated(&path).unwrap() >= 8 * MIB);
        set_aside(&path, MIB).unwrap();
        let error = set_aside(&path, 2 * host_space(directory.path()).unwrap().total).unwrap_err();
        assert!(error.is_no_space() && error.to_string().contains("metadata"), "{error}");
        assert!(allocated(&path).unwrap() < 10 * MIB);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn an_allocated_file_has_all_its_blocks_and_keeps_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, b"content").unwrap();
        allocate(&path, 0, 4 * MIB).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * MIB);
        assert!(allocated(&path).unwrap() >= 4 * MIB);
        allocate(&path, 4 * MIB, 8 * MIB).unwrap();
        allocate(&path, 0, MIB).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * MIB);
        assert_eq!(&std::fs::read(&path).unwrap()[..8], b"content\0");
        let error =
            allocate(&path, 8 * MIB, 2 * host_space(directory.path()).unwrap().total).unwrap_err();
        assert!(error.is_no_space() && error.to_string().contains("data"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * MIB);
    }

    #[test]
    fn holes_are_found_and_filled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        create_sparse(&path, 8 * MIB).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&[1; 4096], 2 * MIB).unwrap();
        let found = holes(&file, 0..9 * MIB).unwrap();
        assert_eq!(found, [0..2 * MIB, 2 * MIB + 4096..8 * MIB, 8 * MIB..9 * MIB]);
        found.into_iter().try_for_each(|hole| write_zeros(&file, hole)).unwrap();
        assert_eq!(holes(&file, 0..9 * MIB).unwrap(), []);
        assert_eq!(std::fs::read(&path).unwrap()[2 * MIB as usize], 1);
    }

    #[test]
    fn an_existing_file_grows_and_never_shrinks_nor_loses_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, b"content").unwrap();
        assert_eq!(create_sparse(&path, MIB).unwrap(), MIB);
        assert_eq!(create_sparse(&path, 10).unwrap(), MIB);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB);
        assert_eq!(&std::fs::read(&path).unwrap()[..8], b"content\0");
    }

    #[test]
    fn a_missing_directory_and_an_absurd_size_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = create_sparse(&directory.path().join("no/data"), MIB).unwrap_err();
        assert!(matches!(error, BlockError::Open { .. }), "{error}");
        let error = create_sparse(&directory.path().join("data"), u64::MAX).unwrap_err();
        assert!(matches!(error, BlockError::SetLength { bytes: u64::MAX, .. }), "{error}");
    }

    #[test]
    fn a_device_node_is_no_backing_file() {
        let error = create_sparse(Path::new("/dev/null"), MIB).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}

//! Backing files, sparse or with all their blocks, and how much room their file system has left for
//! them.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::statvfs::statvfs;
use nix::unistd::{lseek, Whence};

use super::error::BlockError;
use super::ioctl;

/// Makes a sparse file of `bytes` bytes, or makes an existing one that long if it is shorter; never
/// shortens one. Gives the file's size in bytes afterwards.
///
/// When it returns, the file with its size and its name outlive a power cut (the file and its
/// directory are synced). A new file is for its owner alone (mode 0600); its directory must exist.
///
/// # Errors
/// [`BlockError::Open`], [`BlockError::SetLength`] (`EFBIG`: the file system has no files as large
/// as that), [`BlockError::Step`] for the syncs.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<u64, BlockError> {
    let open_error = |source| BlockError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    if !metadata.is_file() {
        return Err(open_error(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if metadata.len() < bytes {
        let error = |source| BlockError::SetLength { path: path.to_owned(), bytes, source };
        file.set_len(bytes).map_err(error)?;
    }
    // Also when nothing was to be done: the one who made it may have crashed before the sync.
    file.sync_all().map_err(|e| BlockError::step("sync", path, e))?;
    sync_parent(path)?;
    Ok(metadata.len().max(bytes))
}

/// Sees to it that the first `bytes` bytes of a file have their blocks, so that writing them never
/// meets a full disk, without writing them and without making the file longer (fallocate(2),
/// `FALLOC_FL_KEEP_SIZE`). Where the file system cannot do that (`EOPNOTSUPP`), nothing is set
/// aside, and the log says so.
///
/// # Errors
/// [`BlockError::Allocate`] where there is no room for all of it; then nothing is taken.
pub fn set_aside(path: &Path, bytes: u64) -> Result<(), BlockError> {
    let error = |source: io::Error| BlockError::Allocate { path: path.to_owned(), bytes, source };
    let file = OpenOptions::new().write(true).open(path).map_err(error)?;
    // The kernel would fill the disk before it gives up.
    if bytes.saturating_sub(allocated(path)?) > host_space(path)?.free {
        return Err(error(Errno::ENOSPC.into()));
    }
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes as i64) {
        Ok(()) => file.sync_all().map_err(error),
        Err(Errno::EOPNOTSUPP) => {
            tracing::warn!(path = %path.display(), "its file system cannot set room aside: it must not get full");
            Ok(())
        }
        Err(errno) => Err(error(errno.into())),
    }
}

/// Makes a file `bytes` bytes long, if it is shorter, and gives all of it its blocks from byte
/// `from` on: nothing that is written there later meets a full disk. A new file is for its owner
/// alone (mode 0600). What is in the file stays as it is.
///
/// Done by fallocate(2); where the file system cannot do that, what has no blocks yet is written
/// with zeros. On a file system that copies on write, a new file is marked to be overwritten in
/// place (btrfs). When this returns, all of it outlives a power cut.
///
/// # Errors
/// [`BlockError::Open`]; [`BlockError::Allocate`]: ENOSPC without room for all of it, EFBIG when
/// the file system has no files as large as that. Then the file may be longer than before, and what
/// it has is all allocated.
pub fn allocate(path: &Path, from: u64, bytes: u64) -> Result<(), BlockError> {
    let open_error = |source| BlockError::Open { path: path.to_owned(), source };
    let error = |source: io::Error| BlockError::Allocate { path: path.to_owned(), bytes, source };
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = file.map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    if !metadata.is_file() {
        return Err(open_error(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if is_new {
        // Only some file systems know the flag, and only those that copy on write need it.
        let _ = ioctl::set_no_copy_on_write(file.as_fd());
    }
    // The kernel would fill the disk before it gives up.
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

/// The parts of a range of a file that have no blocks, or hold nothing that was ever written; what
/// lies behind its end included (lseek(2), `SEEK_HOLE`).
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
            // Nothing but a hole up to the end.
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

/// How many bytes of disk a file takes; for a sparse file less than its size.
///
/// # Errors
/// [`BlockError::Step`].
pub fn allocated(path: &Path) -> Result<u64, BlockError> {
    // st_blocks counts 512 bytes whatever the file system's block size is (stat(2)).
    let metadata = std::fs::metadata(path).map_err(|e| BlockError::step("look up", path, e))?;
    Ok(metadata.blocks().saturating_mul(512))
}

/// How much of something there is, and how much of it is free, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What is free.
    pub free: u64,
}

/// The size and the free space of the file system that `path` is on (statvfs(3)), without the
/// reserve that only root may use.
///
/// # Errors
/// [`BlockError::Step`].
pub fn host_space(path: &Path) -> Result<Space, BlockError> {
    let stat = statvfs(path).map_err(|e| BlockError::step("read the free space of", path, e))?;
    let unit = stat.fragment_size();
    Ok(Space {
        total: stat.blocks().saturating_mul(unit),
        free: stat.blocks_available().saturating_mul(unit),
    })
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
    fn what_is_set_aside_is_taken_and_neither_written_nor_shown() {
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
    fn what_is_allocated_has_all_its_blocks_and_keeps_its_content() {
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

    #[test]
    fn a_file_system_has_more_room_in_all_than_free() {
        let space = host_space(Path::new("/")).unwrap();
        assert!(space.total >= space.free && space.total > 0, "{space:?}");
        let error = host_space(Path::new("/no/such/place")).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}

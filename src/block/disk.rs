//! An open block device behind a trait, so that tests can use a model in place of a real device.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use nix::libc;

use crate::failpoint;
use crate::units::{DeviceNumber, Sectors};

use super::error::BlockError;
use super::ioctl;

/// The largest range that [`discard_all`] passes to one discard call, 256 MiB, unless a block is
/// larger. A discard cannot be interrupted, so a caller that wants to stop waits for one such call.
pub const DISCARD_STEP: Sectors = Sectors(1 << 19);

/// How a device is opened.
///
/// The exclusive kinds claim the device (`O_EXCL` without `O_CREAT`, open(2)). They fail with
/// [`BlockError::Busy`] while the device is mounted or claimed. As long as the claim lasts, no one
/// else can mount or claim the device; opening it without a claim is still possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, without a claim.
    Read,
    /// Read and write, without a claim.
    Write,
    /// Read, with a claim.
    ReadExclusive,
    /// Read and write, with a claim.
    WriteExclusive,
}

impl Access {
    const fn writes(self) -> bool {
        matches!(self, Access::Write | Access::WriteExclusive)
    }

    const fn claims(self) -> bool {
        matches!(self, Access::ReadExclusive | Access::WriteExclusive)
    }
}

/// Opens disks: those of the real kernel, or those of a model.
pub trait Disks: Send + Sync + Debug {
    /// Opens the block device at `path`.
    ///
    /// # Errors
    /// [`BlockError::Open`], [`BlockError::Busy`] (exclusive access only),
    /// [`BlockError::NotABlockDevice`].
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Disk>, BlockError>;
}

/// An open block device. Dropping it closes it and gives up its claim.
pub trait Disk: Send + Debug {
    /// The path that it was opened by, for messages.
    fn path(&self) -> &Path;

    /// Its size in sectors (BLKGETSIZE64).
    ///
    /// # Errors
    /// [`BlockError::Step`].
    fn size(&self) -> Result<Sectors, BlockError>;

    /// Its device number.
    ///
    /// # Errors
    /// [`BlockError::Step`]; [`BlockError::NotABlockDevice`] for a model that has no number.
    fn number(&self) -> Result<DeviceNumber, BlockError> {
        Err(BlockError::NotABlockDevice { path: self.path().to_owned() })
    }

    /// Makes all earlier writes to the device durable, also those of other openers: writes out the
    /// device's page cache and flushes the device's own cache (fsync(2) on the device).
    ///
    /// # Errors
    /// [`BlockError::Step`]: some earlier write may be lost.
    fn flush(&self) -> Result<(), BlockError>;

    /// Discards `length` sectors from `offset` on, in one call (BLKDISCARD). On a thin, whole pool
    /// blocks inside the range are freed and read as zeros afterwards. A block that is only partly
    /// inside the range stays as it is.
    ///
    /// # Errors
    /// [`BlockError::DiscardUnsupported`]; [`BlockError::Discard`] with the range of the call.
    fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError>;

    /// Makes the device read-only, or writable again (BLKROSET). This holds for the device under
    /// all its names until it is changed back or the device is removed.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    fn set_read_only(&self, read_only: bool) -> Result<(), BlockError>;

    /// Whether the device is read-only, by [`Disk::set_read_only`] or by its nature (BLKROGET).
    ///
    /// # Errors
    /// [`BlockError::Step`].
    fn is_read_only(&self) -> Result<bool, BlockError>;

    /// Drops the device's page cache, so that the next read comes from the device. dm-thin writes
    /// its metadata past the page cache, which keeps old content as long as the pool has the device
    /// open.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    fn forget_cached(&self) -> Result<(), BlockError> {
        Ok(())
    }

    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// [`BlockError::Transfer`], also when the range reaches beyond the device.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError>;

    /// Writes all of `data` at byte `offset`, through the page cache. [`Disk::flush`] makes it
    /// durable.
    ///
    /// # Errors
    /// [`BlockError::Transfer`], also when the range reaches beyond the device.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError>;
}

/// Discards a whole device in steps of about [`DISCARD_STEP`]. Before each step it asks
/// `keep_going`.
///
/// Steps begin and end at multiples of `block`, the unit in which the device can discard (the
/// pool's block size). A block that lies in two steps would not be discarded by either.
///
/// Gives `false` when `keep_going` answered `false` before the end was reached.
///
/// # Errors
/// As [`Disk::size`] and [`Disk::discard`].
pub fn discard_all(
    disk: &dyn Disk,
    block: Sectors,
    mut keep_going: impl FnMut() -> bool,
) -> Result<bool, BlockError> {
    for (offset, length) in steps(disk.size()?, block) {
        if !keep_going() {
            return Ok(false);
        }
        disk.discard(offset, length)?;
    }
    Ok(true)
}

/// Divides `size` into steps of whole blocks: as many as fit into [`DISCARD_STEP`], at least one.
/// The last step is the rest.
fn steps(size: Sectors, block: Sectors) -> impl Iterator<Item = (Sectors, Sectors)> {
    let block = block.0.max(1);
    let most = (DISCARD_STEP.0 / block).max(1) * block;
    let mut next = 0;
    std::iter::from_fn(move || {
        let step = most.min(size.0 - next);
        let piece = (step > 0).then_some((Sectors(next), Sectors(step)));
        next += step;
        piece
    })
}

/// The kernel's own block devices.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisks;

impl Disks for RealDisks {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Disk>, BlockError> {
        Ok(Box::new(RealDisk::open(path, access)?))
    }
}

#[derive(Debug)]
struct RealDisk {
    path: PathBuf,
    file: File,
}

impl RealDisk {
    fn open(path: &Path, access: Access) -> Result<Self, BlockError> {
        // The effect of O_EXCL on other kinds of files is undefined (open(2)), and opening a FIFO
        // would block.
        let metadata = std::fs::metadata(path).map_err(|source| open_error(path, source))?;
        if !metadata.file_type().is_block_device() {
            return Err(BlockError::NotABlockDevice { path: path.to_owned() });
        }
        let exclusive = if access.claims() { libc::O_EXCL } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(access.writes())
            .custom_flags(libc::O_CLOEXEC | exclusive)
            .open(path)
            .map_err(|source| open_error(path, source))?;
        Ok(RealDisk { path: path.to_owned(), file })
    }

    fn step(&self, step: &'static str, source: impl Into<std::io::Error>) -> BlockError {
        BlockError::step(step, &self.path, source)
    }

    fn discard_now(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
        let bytes = |sectors: Sectors| sectors.bytes().map_err(|_| Errno::EINVAL);
        let discarded = bytes(offset)
            .and_then(|start| ioctl::discard(self.file.as_fd(), start, bytes(length)?));
        discarded.map_err(|errno| match errno {
            Errno::EOPNOTSUPP => BlockError::DiscardUnsupported { path: self.path.clone() },
            errno => BlockError::Discard {
                path: self.path.clone(),
                offset,
                length,
                source: errno.into(),
            },
        })
    }
}

fn open_error(path: &Path, source: std::io::Error) -> BlockError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => BlockError::Busy { path: path.to_owned() },
        _ => BlockError::Open { path: path.to_owned(), source },
    }
}

impl Disk for RealDisk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> Result<Sectors, BlockError> {
        let bytes = ioctl::size_in_bytes(self.file.as_fd())
            .map_err(|e| self.step("read the size of", e))?;
        Ok(Sectors::from_bytes_down(bytes))
    }

    fn number(&self) -> Result<DeviceNumber, BlockError> {
        let metadata = self.file.metadata().map_err(|e| self.step("look up", e))?;
        Ok(DeviceNumber::from_u64(metadata.rdev()))
    }

    fn flush(&self) -> Result<(), BlockError> {
        failpoint::reach(|| "before a flush".into());
        self.file.sync_all().map_err(|e| self.step("flush", e))
    }

    fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
        failpoint::reach(|| "before a discard".into());
        self.discard_now(offset, length)
    }

    fn set_read_only(&self, read_only: bool) -> Result<(), BlockError> {
        let step = if read_only { "make read-only" } else { "make writable" };
        failpoint::reach(|| format!("before {step}"));
        ioctl::set_read_only(self.file.as_fd(), read_only).map_err(|e| self.step(step, e))
    }

    fn is_read_only(&self) -> Result<bool, BlockError> {
        ioctl::is_read_only(self.file.as_fd())
            .map_err(|e| self.step("read the read-only state of", e))
    }

    fn forget_cached(&self) -> Result<(), BlockError> {
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|e| self.step("drop the page cache of", e))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let length = buffer.len();
        self.file.read_exact_at(buffer, offset).map_err(|source| BlockError::Transfer {
            step: "read",
            path: self.path.clone(),
            offset,
            length,
            source,
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
        self.file.write_all_at(data, offset).map_err(|source| BlockError::Transfer {
            step: "write",
            path: self.path.clone(),
            offset,
            length: data.len(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    #[test]
    fn steps_of_a_discard_meet_without_gap_or_overlap_and_never_inside_a_block() {
        const MIB: u64 = 2048;
        // The largest block, the smallest, and those that do not divide a step.
        for block in [128, 192, 640, 448 * MIB, 768 * MIB, 1000 * MIB, 1024 * MIB, 1] {
            for size in [0, 1, block, 3 * block, 10_240 * MIB, 10_240 * MIB + 7] {
                let mut end = 0;
                for (offset, length) in steps(Sectors(size), Sectors(block)) {
                    assert_eq!(offset.0, end, "block {block}, size {size}");
                    assert_eq!(
                        offset.0 % block,
                        0,
                        "a seam inside a block of {block}, size {size}"
                    );
                    assert!(length.0 > 0 && length.0 <= DISCARD_STEP.0.max(block));
                    end += length.0;
                }
                assert_eq!(end, size, "block {block}");
            }
        }
    }

    #[test]
    fn a_discard_of_everything_stops_when_told() {
        let disk = MemoryDisk::new(Sectors(16));
        disk.write_at(&[7; 512], 0).unwrap();
        assert!(!discard_all(&disk, Sectors(1), || false).unwrap());
        let mut sector = [0; 512];
        disk.read_at(&mut sector, 0).unwrap();
        assert_eq!(sector, [7; 512], "discarded although told to stop");
        assert!(discard_all(&disk, Sectors(1), || true).unwrap());
        disk.read_at(&mut sector, 0).unwrap();
        assert_eq!(sector, [0; 512]);
    }

    #[test]
    fn only_block_devices_are_opened() {
        for path in ["/dev/null", "/"] {
            let error = RealDisks.open(Path::new(path), Access::Read).unwrap_err();
            assert!(matches!(error, BlockError::NotABlockDevice { .. }), "{error}");
            assert!(error.to_string().contains(path), "{error}");
        }
        let error = RealDisks.open(Path::new("/dev/no-such-device"), Access::Read).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
    }
}

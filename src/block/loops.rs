//! Loop devices: files as block devices, by the kernel's ioctls.
//!
//! A file is identified by its device and inode numbers, never by its name. The name in a loop
//! device's status is cut to 63 bytes, is out of date after a rename, and means another file in
//! another mount namespace.
//!
//! Invariant: each [`LoopDevice`] was checked, after it was attached or found, to be bound to the
//! right file.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::units::{DeviceNumber, Sectors};

use super::error::BlockError;
use super::ioctl::{
    self, LoopConfig, LoopInfo, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY,
};
use super::limit::within;
use super::loop_nodes::LoopNodes;

/// How many free loop devices are tried when other programs take each one first.
const ATTACH_TRIES: u32 = 64;

/// The time limit for the status of one loop device.
const STATUS_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// Options for attaching a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopOptions {
    /// The logical block size in bytes, a power of two from 512 to the page size.
    pub block_size: u32,
    /// Use direct I/O on the file, past the page cache, if the file system supports it.
    pub direct_io: bool,
    /// Let the kernel detach the device at its last close. It stays attached while this
    /// [`LoopDevice`] or another opener holds it open.
    pub autoclear: bool,
    /// Make the device read-only.
    pub read_only: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        LoopOptions { block_size: 512, direct_io: true, autoclear: false, read_only: false }
    }
}

impl LoopOptions {
    fn flags(self) -> u32 {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        flag(self.read_only, LO_FLAGS_READ_ONLY)
            | flag(self.autoclear, LO_FLAGS_AUTOCLEAR)
            | flag(self.direct_io, LO_FLAGS_DIRECT_IO)
    }
}

/// The loop driver of this machine.
#[derive(Debug, Clone, Default)]
pub struct Loops {
    nodes: LoopNodes,
    in_steps: bool,
}

/// An attached loop device, held open. Dropping it closes it. Without [`LoopOptions::autoclear`]
/// the device stays attached.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: File,
    number: DeviceNumber,
    direct_io: bool,
}

impl Loops {
    /// Attaches by LOOP_SET_FD and LOOP_SET_STATUS64, as on kernels before Linux 5.8, without
    /// trying LOOP_CONFIGURE.
    #[must_use]
    pub fn in_steps(self) -> Self {
        Loops { in_steps: true, ..self }
    }

    /// Attaches `file` to a free loop device.
    ///
    /// Call [`Loops::find`] first: a file that is attached already gets a second device, and writes
    /// through two devices damage the content.
    ///
    /// # Errors
    /// [`BlockError::LoopModuleMissing`], [`BlockError::LoopPermission`],
    /// [`BlockError::LoopNoneFree`], [`BlockError::LoopAttach`], [`BlockError::Open`].
    pub fn attach(&self, file: &Path, options: LoopOptions) -> Result<LoopDevice, BlockError> {
        let backing = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(file)
            .map_err(|source| BlockError::open(file, source))?;
        for _ in 0..ATTACH_TRIES {
            let (path, device) = self.nodes.open(self.nodes.free()?, true)?;
            match self.bind(&device, &backing, file, options) {
                Ok(()) => return bound(path, device, options.direct_io, &backing),
                Err(Errno::EBUSY) => continue,
                Err(errno) => {
                    return Err(BlockError::LoopAttach {
                        file: file.to_owned(),
                        device: path,
                        source: errno.into(),
                    })
                }
            }
        }
        Err(BlockError::LoopNoneFree { file: file.to_owned(), tries: ATTACH_TRIES })
    }

    /// All loop devices that are bound to the whole of `file`, ordered by number. A device that is
    /// bound to a part of the file is not listed.
    ///
    /// # Errors
    /// [`BlockError::Open`] for the file, [`BlockError::LoopPermission`], [`BlockError::Step`] when
    /// the kernel's list cannot be read.
    pub fn find(&self, file: &Path) -> Result<Vec<LoopDevice>, BlockError> {
        let metadata = std::fs::metadata(file).map_err(|source| BlockError::open(file, source))?;
        let mut found = Vec::new();
        for index in self.nodes.attached()? {
            let nodes = self.nodes.clone();
            // For the status the kernel asks the file system that holds the backing file
            // (loop_get_status in drivers/block/loop.c). That may be a network file system whose
            // server does not answer. The file system of `file` has just answered.
            let asked = within(STATUS_LIMIT, move || {
                let (path, device) = nodes.open(index, false)?;
                let status = ioctl::loop_status(device.as_fd());
                Ok((path, device, status))
            });
            let Some(asked) = asked else {
                tracing::warn!(
                    "/dev/loop{index} is left out: the file system that its file is on does not \
                     answer"
                );
                continue;
            };
            let (path, device, status) = asked?;
            match status {
                Ok(info) if is_whole(&info, &metadata) => {
                    found.push(LoopDevice::new(path, device, &info)?)
                }
                // It belongs to another file, or was detached in the meantime.
                Ok(_) | Err(Errno::ENXIO) => {}
                Err(errno) => {
                    return Err(BlockError::step("read the loop status of", &path, errno))
                }
            }
        }
        Ok(found)
    }

    /// Detaches all devices that are bound to the whole of `file`. Gives their number.
    ///
    /// # Errors
    /// As [`Loops::find`] and [`LoopDevice::detach`].
    pub fn detach_all(&self, file: &Path) -> Result<usize, BlockError> {
        let found = self.find(file)?;
        let count = found.len();
        found.into_iter().try_for_each(LoopDevice::detach)?;
        Ok(count)
    }

    /// Binds the file, by LOOP_CONFIGURE or, on kernels before Linux 5.8, by several calls.
    fn bind(
        &self,
        device: &File,
        backing: &File,
        name: &Path,
        options: LoopOptions,
    ) -> Result<(), Errno> {
        let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        let info =
            LoopInfo { flags: options.flags(), file_name: status_name(name), ..LoopInfo::zeroed() };
        let config = LoopConfig { fd, block_size: options.block_size, info, reserved: [0; 8] };
        if self.in_steps {
            return bind_in_steps(device, backing, &config);
        }
        match ioctl::loop_configure(device.as_fd(), &config) {
            // Kernels without the call answer -EINVAL or -ENOTTY (drivers/block/loop.c, lo_ioctl).
            Err(Errno::EINVAL | Errno::ENOTTY) => bind_in_steps(device, backing, &config),
            done => done,
        }
    }
}

impl LoopDevice {
    fn new(path: PathBuf, file: File, info: &LoopInfo) -> Result<Self, BlockError> {
        let metadata = file.metadata().map_err(|e| BlockError::step("look up", &path, e))?;
        let number = DeviceNumber::from_u64(metadata.rdev());
        Ok(LoopDevice { path, file, number, direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0 })
    }

    /// Its device node, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its device number, for device-mapper tables.
    #[must_use]
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// Whether it uses direct I/O on its file.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        self.direct_io
    }

    /// Its current size.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    pub fn size(&self) -> Result<Sectors, BlockError> {
        let bytes = ioctl::size_in_bytes(self.file.as_fd())
            .map_err(|e| BlockError::step("read the size of", &self.path, e))?;
        Ok(Sectors::from_bytes_down(bytes))
    }

    /// Updates the device's size after the file has grown (LOOP_SET_CAPACITY). Gives the new size.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    pub fn set_capacity(&self) -> Result<Sectors, BlockError> {
        ioctl::loop_set_capacity(self.file.as_fd())
            .map_err(|e| BlockError::step("update the size of", &self.path, e))?;
        self.size()
    }

    /// Detaches it from its file. While another process has the device open, the kernel detaches it
    /// at the last close instead.
    ///
    /// # Errors
    /// [`BlockError::Step`]. A device that is already detached is no error.
    pub fn detach(self) -> Result<(), BlockError> {
        match ioctl::loop_clear(self.file.as_fd()) {
            Ok(()) | Err(Errno::ENXIO) => Ok(()),
            Err(errno) => Err(BlockError::step("detach", &self.path, errno)),
        }
    }
}

fn bind_in_steps(device: &File, backing: &File, config: &LoopConfig) -> Result<(), Errno> {
    ioctl::loop_set_fd(device.as_fd(), backing.as_fd())?;
    let set_up = || {
        let flags = config.info.flags & LO_FLAGS_AUTOCLEAR;
        ioctl::loop_set_status(device.as_fd(), &LoopInfo { flags, ..config.info })?;
        ioctl::loop_set_block_size(device.as_fd(), config.block_size)?;
        if config.info.flags & LO_FLAGS_DIRECT_IO != 0 {
            // Not every file system supports it; `bound` reads back whether it is on.
            let _ = ioctl::loop_set_direct_io(device.as_fd(), true);
        }
        Ok(())
    };
    set_up().inspect_err(|_| {
        // The first error matters more to the caller than an error of this cleanup.
        let _ = ioctl::loop_clear(device.as_fd());
    })
}

/// Checks a newly bound device: that it is bound to this file and can be read with its settings.
fn bound(
    path: PathBuf,
    device: File,
    direct_io: bool,
    backing: &File,
) -> Result<LoopDevice, BlockError> {
    let failed = |source: io::Error| BlockError::step("check the newly attached", &path, source);
    if direct_io && device.read_at(&mut [0; 512], 0).is_err() {
        // The file system accepted the flag, but its direct I/O does not work.
        ioctl::loop_set_direct_io(device.as_fd(), false).map_err(|e| failed(e.into()))?;
    }
    let info = ioctl::loop_status(device.as_fd()).map_err(|e| failed(e.into()))?;
    let metadata = backing.metadata().map_err(failed)?;
    if !is_whole(&info, &metadata) {
        return Err(failed(io::Error::other("it is bound to another file")));
    }
    LoopDevice::new(path, device, &info)
}

fn is_whole(info: &LoopInfo, file: &Metadata) -> bool {
    let same = info.device == file.dev() && info.inode == file.ino();
    same && info.offset == 0 && info.size_limit == 0
}

/// The file name in a loop device's status, for display only. It is cut to the length of the
/// kernel's field.
fn status_name(file: &Path) -> [u8; 64] {
    let mut name = [0; 64];
    let bytes = file.as_os_str().as_bytes();
    let length = bytes.len().min(name.len() - 1);
    name[..length].copy_from_slice(&bytes[..length]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_status_is_cut_and_ends_in_zero() {
        assert_eq!(&status_name(Path::new("/a/b"))[..5], b"/a/b\0");
        let long = status_name(Path::new(&"x".repeat(80)));
        assert_eq!(&long[..63], "x".repeat(63).as_bytes());
        assert_eq!(long[63], 0);
    }

    #[test]
    fn a_device_with_an_offset_or_a_limit_or_of_another_file_does_not_hold_the_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().metadata().unwrap();
        let whole = LoopInfo { device: file.dev(), inode: file.ino(), ..LoopInfo::zeroed() };
        assert!(is_whole(&whole, &file));
        assert!(!is_whole(&LoopInfo { offset: 512, ..whole }, &file));
        assert!(!is_whole(&LoopInfo { size_limit: 512, ..whole }, &file));
        assert!(!is_whole(&LoopInfo { inode: file.ino() + 1, ..whole }, &file));
        assert!(!is_whole(&LoopInfo { device: file.dev() + 1, ..whole }, &file));
    }
}

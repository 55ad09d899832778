//! Loop devices: files as block devices, straight from the kernel's ioctls.
//!
//! A file is recognised by its device and inode number, never by its name: names in a loop device's status are cut
//! to 63 bytes, go stale when a file is renamed, and mean other files in other mount namespaces.
//!
//! Invariant: a device handed out here was seen, after it was attached or found, to be bound to that very file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{makedev, mknod, Mode, SFlag};

use crate::units::{DeviceNumber, Sectors};

use super::error::BlockError;
use super::ioctl::{self, LoopConfig, LoopInfo, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY};

/// How often a free device is looked for again when somebody else took the last one in between.
const ATTACH_TRIES: u32 = 64;

/// The loop driver's number (Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u32 = 7;

/// How to attach a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopOptions {
    /// The logical block size in bytes, a power of two from 512 to the page size.
    pub block_size: u32,
    /// Read and write the file past the page cache where that works; where it doesn't, it is done without.
    pub direct_io: bool,
    /// Let the kernel detach the device at its last close: it stays only while this [`LoopDevice`] or another
    /// opener holds it.
    pub autoclear: bool,
    /// Refuse writes.
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

/// The loop driver of this machine: where its nodes are and where the kernel lists its devices.
#[derive(Debug, Clone)]
pub struct Loops {
    dev: PathBuf,
    sys_block: PathBuf,
}

impl Default for Loops {
    fn default() -> Self {
        Loops { dev: "/dev".into(), sys_block: "/sys/block".into() }
    }
}

/// An attached loop device, open. Dropping it closes it; without [`LoopOptions::autoclear`] it stays attached.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: File,
    number: DeviceNumber,
    direct_io: bool,
}

impl Loops {
    /// Attaches `file` to a free loop device.
    ///
    /// A file that is attached already gets a second device, and two of them spoil each other's content: ask
    /// [`Loops::find`] first.
    ///
    /// # Errors
    /// [`BlockError::LoopModuleMissing`], [`BlockError::LoopPermission`], [`BlockError::LoopNoneFree`],
    /// [`BlockError::LoopAttach`], [`BlockError::Open`].
    pub fn attach(&self, file: &Path, options: LoopOptions) -> Result<LoopDevice, BlockError> {
        let backing = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(file)
            .map_err(|source| BlockError::Open { path: file.to_owned(), source })?;
        let control = self.control()?;
        for _ in 0..ATTACH_TRIES {
            let index = ioctl::loop_get_free(control.as_fd())
                .map_err(|errno| driver_error(&self.dev.join("loop-control"), errno.into()))?;
            let (path, device) = self.open_node(index)?;
            match bind(&device, &backing, file, options) {
                Ok(()) => return bound(path, device, options.direct_io, &backing),
                Err(Errno::EBUSY) => continue,
                Err(errno) => {
                    return Err(BlockError::LoopAttach { file: file.to_owned(), device: path, source: errno.into() })
                }
            }
        }
        Err(BlockError::LoopNoneFree { file: file.to_owned(), tries: ATTACH_TRIES })
    }

    /// All loop devices that hold the whole of `file`, by number. (A device over a part of it is not listed.)
    ///
    /// # Errors
    /// [`BlockError::Open`] for the file, [`BlockError::LoopPermission`], [`BlockError::Step`] when the kernel's list
    /// cannot be read.
    pub fn find(&self, file: &Path) -> Result<Vec<LoopDevice>, BlockError> {
        let metadata = std::fs::metadata(file).map_err(|source| BlockError::Open { path: file.to_owned(), source })?;
        let mut found = Vec::new();
        for index in self.attached()? {
            let (path, device) = self.open_node(index)?;
            match ioctl::loop_status(device.as_fd()) {
                Ok(info) if is_whole(&info, &metadata) => found.push(LoopDevice::new(path, device, &info)?),
                // Another file's, or detached since it was listed.
                Ok(_) | Err(Errno::ENXIO) => {}
                Err(errno) => return Err(BlockError::step("read the loop status of", &path, errno)),
            }
        }
        Ok(found)
    }

    /// Detaches all devices that hold the whole of `file`, and says how many there were.
    ///
    /// # Errors
    /// As [`Loops::find`] and [`LoopDevice::detach`].
    pub fn detach_all(&self, file: &Path) -> Result<usize, BlockError> {
        let found = self.find(file)?;
        let count = found.len();
        found.into_iter().try_for_each(LoopDevice::detach)?;
        Ok(count)
    }

    fn control(&self) -> Result<File, BlockError> {
        let path = self.dev.join("loop-control");
        OpenOptions::new().read(true).write(true).open(&path).map_err(|source| driver_error(&path, source))
    }

    /// The numbers of the devices that are bound to something: those for which sysfs has a `loop` directory.
    fn attached(&self) -> Result<Vec<u32>, BlockError> {
        let unreadable = |source| BlockError::step("list the block devices in", &self.sys_block, source);
        let mut indices = Vec::new();
        for entry in std::fs::read_dir(&self.sys_block).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let index = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
            if let Some(index) = index.filter(|_| entry.path().join("loop").is_dir()) {
                indices.push(index);
            }
        }
        indices.sort_unstable();
        Ok(indices)
    }

    /// Opens `/dev/loopN`, making the node where nobody else (udev, devtmpfs) has made it.
    fn open_node(&self, index: u32) -> Result<(PathBuf, File), BlockError> {
        let path = self.dev.join(format!("loop{index}"));
        let number = self.number_of(index);
        let device = match open_device(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_node(&path, number)?;
                open_device(&path)
            }
            opened => opened,
        };
        let device = device.map_err(|source| driver_error(&path, source))?;
        let actual = device_number(&path, &device)?;
        if actual == number {
            Ok((path, device))
        } else {
            let message = format!("the node is device {actual}, it should be {number}: remove it");
            Err(BlockError::Open { path, source: io::Error::other(message) })
        }
    }

    /// A loop device's number as sysfs has it; the minor is not the index where `loop.max_part` is set.
    fn number_of(&self, index: u32) -> DeviceNumber {
        let listed = std::fs::read_to_string(self.sys_block.join(format!("loop{index}/dev")));
        let number = listed.ok().and_then(|text| text.trim().parse().ok());
        number.unwrap_or(DeviceNumber { major: LOOP_MAJOR, minor: index })
    }
}

impl LoopDevice {
    fn new(path: PathBuf, file: File, info: &LoopInfo) -> Result<Self, BlockError> {
        let number = device_number(&path, &file)?;
        Ok(LoopDevice { path, file, number, direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0 })
    }

    /// Its node, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its device number, for tables.
    #[must_use]
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// Whether it reads and writes its file past the page cache.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        self.direct_io
    }

    /// Its present size.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    pub fn size(&self) -> Result<Sectors, BlockError> {
        let bytes =
            ioctl::size_in_bytes(self.file.as_fd()).map_err(|e| BlockError::step("read the size of", &self.path, e))?;
        Ok(Sectors::from_bytes_down(bytes))
    }

    /// Takes over the file's size after the file has grown, and gives it.
    ///
    /// # Errors
    /// [`BlockError::Step`].
    pub fn set_capacity(&self) -> Result<Sectors, BlockError> {
        ioctl::loop_set_capacity(self.file.as_fd())
            .map_err(|e| BlockError::step("take over the file's size on", &self.path, e))?;
        self.size()
    }

    /// Detaches it from its file. While somebody else has it open, that happens at the last close instead.
    ///
    /// # Errors
    /// [`BlockError::Step`]; one that is detached already is no error.
    pub fn detach(self) -> Result<(), BlockError> {
        match ioctl::loop_clear(self.file.as_fd()) {
            Ok(()) | Err(Errno::ENXIO) => Ok(()),
            Err(errno) => Err(BlockError::step("detach", &self.path, errno)),
        }
    }
}

/// Binds the file, by LOOP_CONFIGURE or, on kernels before 5.8, by the older pair of calls.
fn bind(device: &File, backing: &File, name: &Path, options: LoopOptions) -> Result<(), Errno> {
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let info = LoopInfo { flags: options.flags(), file_name: status_name(name), ..LoopInfo::zeroed() };
    let config = LoopConfig { fd, block_size: options.block_size, info, reserved: [0; 8] };
    match ioctl::loop_configure(device.as_fd(), &config) {
        // What kernels that do not know the call answer (drivers/block/loop.c, lo_ioctl: -EINVAL or -ENOTTY).
        Err(Errno::EINVAL | Errno::ENOTTY) => bind_in_steps(device, backing, &config),
        done => done,
    }
}

fn bind_in_steps(device: &File, backing: &File, config: &LoopConfig) -> Result<(), Errno> {
    ioctl::loop_set_fd(device.as_fd(), backing.as_fd())?;
    let set_up = || {
        let flags = config.info.flags & LO_FLAGS_AUTOCLEAR;
        ioctl::loop_set_status(device.as_fd(), &LoopInfo { flags, ..config.info })?;
        ioctl::loop_set_block_size(device.as_fd(), config.block_size)?;
        if config.info.flags & LO_FLAGS_DIRECT_IO != 0 {
            // Not every file system has it; whether it came on is read back later.
            let _ = ioctl::loop_set_direct_io(device.as_fd(), true);
        }
        Ok(())
    };
    set_up().inspect_err(|_| {
        // The cause is worth more to the caller than a failed undo.
        let _ = ioctl::loop_clear(device.as_fd());
    })
}

/// Checks a device just bound: it is this file's, and it can be read the way it is set up.
fn bound(path: PathBuf, device: File, direct_io: bool, backing: &File) -> Result<LoopDevice, BlockError> {
    let failed = |source: io::Error| BlockError::step("check the newly attached", &path, source);
    if direct_io && device.read_at(&mut [0; 512], 0).is_err() {
        // The file system took the flag and then could not do it.
        ioctl::loop_set_direct_io(device.as_fd(), false).map_err(|e| failed(e.into()))?;
    }
    let info = ioctl::loop_status(device.as_fd()).map_err(|e| failed(e.into()))?;
    let metadata = backing.metadata().map_err(failed)?;
    if !is_whole(&info, &metadata) {
        return Err(failed(io::Error::other("it is bound to another file")));
    }
    LoopDevice::new(path, device, &info)
}

fn is_whole(info: &LoopInfo, file: &std::fs::Metadata) -> bool {
    let same = info.device == file.dev() && info.inode == file.ino();
    same && info.offset == 0 && info.size_limit == 0
}

/// The name a loop device shows in its status: for people only, cut to what the kernel's field holds.
fn status_name(file: &Path) -> [u8; 64] {
    let mut name = [0; 64];
    let bytes = file.as_os_str().as_bytes();
    let length = bytes.len().min(name.len() - 1);
    name[..length].copy_from_slice(&bytes[..length]);
    name
}

fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn make_node(path: &Path, number: DeviceNumber) -> Result<(), BlockError> {
    let device = makedev(u64::from(number.major), u64::from(number.minor));
    match mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device) {
        // Somebody else made it a moment ago.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::EPERM | Errno::EACCES) => {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            Err(BlockError::LoopPermission { path: path.to_owned(), source })
        }
        Err(errno) => Err(BlockError::step("make the device node", path, errno)),
    }
}

fn device_number(path: &Path, device: &File) -> Result<DeviceNumber, BlockError> {
    let metadata = device.metadata().map_err(|e| BlockError::step("look up", path, e))?;
    Ok(DeviceNumber::from_u64(metadata.rdev()))
}

/// A failure to reach the driver, told apart by what the user can do about it.
fn driver_error(path: &Path, source: io::Error) -> BlockError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => BlockError::LoopModuleMissing { path, source },
        Some(libc::EPERM | libc::EACCES) => BlockError::LoopPermission { path, source },
        _ => BlockError::Open { path, source },
    }
}

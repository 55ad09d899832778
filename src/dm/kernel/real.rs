//! The running kernel, through `/dev/mapper/control`.
//!
//! It opens the control node (and makes it where it is missing), checks the interface's version,
//! and runs requests. It does not know what the requests are for.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::stat::{makedev, mknod, Mode, SFlag};

use super::api::{EventSource, Kernel, PoolLog};
use super::ioctl;
use super::kmsg::RealLog;
use crate::dm::error::{Error, Result};
use crate::dm::interface::{DriverVersion, Flags, Verb};
use crate::dm::wire::{codec, Reply, Request};
use crate::failpoint;
use crate::units::{DeviceNumber, Sectors};

/// The oldest interface that this library works on: 4.38, of kernel 4.14, the first with event
/// numbers in lists and with `DM_DEV_ARM_POLL`.
pub const OLDEST_DRIVER: DriverVersion = DriverVersion::new(4, 38, 0);

/// Where the control node and the devices' nodes are by default.
pub const NODE_DIR: &str = "/dev/mapper";

/// The control device's number is fixed since kernel 2.6.36 (`MISC_MAJOR`, `MAPPER_CTRL_MINOR` in
/// linux/miscdevice.h); opening it makes the kernel load the module.
const CONTROL: DeviceNumber = DeviceNumber { major: 10, minor: 236 };

/// An answer larger than this is refused. 5,000 devices list in 250 KiB.
const LARGEST_REPLY: usize = 64 << 20;

/// The running kernel's device-mapper.
#[derive(Debug)]
pub struct RealKernel {
    control: File,
    path: PathBuf,
}

impl RealKernel {
    /// Opens `/dev/mapper/control`; makes it when it is missing.
    ///
    /// # Errors
    /// [`Error::NoDeviceMapper`] when the kernel has none, [`Error::NoControlNode`] when the node
    /// cannot be made or opened, [`Error::NoPermission`] without root, [`Error::DriverTooOld`]
    /// before [`OLDEST_DRIVER`].
    pub fn open() -> Result<RealKernel> {
        RealKernel::open_in(Path::new(NODE_DIR), OLDEST_DRIVER)
    }

    /// Opens `control` in another directory than `/dev/mapper`, or asks for a newer interface.
    ///
    /// # Errors
    /// As [`RealKernel::open`].
    pub fn open_in(node_dir: &Path, needed: DriverVersion) -> Result<RealKernel> {
        let path = node_dir.join("control");
        let control = open_node(&path)?;
        let kernel = RealKernel { control, path };
        let found = kernel.submit(&Request::new(Verb::Version))?.header.version;
        if found < needed {
            return Err(Error::DriverTooOld { found, needed });
        }
        Ok(kernel)
    }
}

/// Opens the control node; makes it first when there is none.
fn open_node(path: &Path) -> Result<File> {
    match open_control(path) {
        Err(Errno::ENOENT) => {
            let made = make_node(path);
            match (made, open_control(path)) {
                (_, Ok(control)) => Ok(control),
                (Err(error), Err(_)) => Err(error),
                (Ok(()), Err(errno)) => {
                    // A node that cannot be opened is worse than none.
                    let _ = fs::remove_file(path);
                    Err(open_error(path, errno))
                }
            }
        }
        Ok(control) => Ok(control),
        Err(errno) => Err(open_error(path, errno)),
    }
}

fn open_control(path: &Path) -> std::result::Result<File, Errno> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn open_error(path: &Path, errno: Errno) -> Error {
    let path = path.to_owned();
    match errno {
        Errno::ENODEV | Errno::ENXIO => Error::NoDeviceMapper { path, errno },
        Errno::EACCES | Errno::EPERM => {
            Error::NoPermission { what: format!("control node {}", path.display()), errno }
        }
        _ => Error::NoControlNode { path, errno },
    }
}

/// Makes the control node with the number that /proc/misc gives it, or with the well-known one:
/// opening that loads the module.
fn make_node(path: &Path) -> Result<()> {
    let no_node = |errno| match errno {
        Errno::EACCES | Errno::EPERM => {
            Error::NoPermission { what: format!("control node {}", path.display()), errno }
        }
        _ => Error::NoControlNode { path: path.to_owned(), errno },
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)
            .map_err(|error| no_node(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    }
    let minor = fs::read_to_string("/proc/misc")
        .ok()
        .and_then(|misc| misc_minor(&misc, "device-mapper"))
        .unwrap_or(CONTROL.minor);
    let number = makedev(CONTROL.major.into(), minor.into());
    match mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), number) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(no_node(errno)),
    }
}

/// The minor number that /proc/misc gives `name`: lines of a number and a name.
fn misc_minor(misc: &str, name: &str) -> Option<u32> {
    misc.lines().find_map(|line| {
        let (minor, found) = line.trim().split_once(' ')?;
        (found.trim() == name).then(|| minor.parse().ok()).flatten()
    })
}

/// Space for the answer, in bytes. A request whose answer is larger is made again.
fn first_space(verb: Verb) -> usize {
    match verb {
        Verb::List => 16 << 10,
        Verb::Status
        | Verb::Table
        | Verb::Wait
        | Verb::Deps
        | Verb::ListVersions
        | Verb::TargetVersion
        | Verb::Message => 4 << 10,
        _ => 0,
    }
}

/// Runs one request on an open control node.
fn submit(control: &File, request: &Request) -> Result<Reply> {
    let verb = request.verb();
    let device = || request.subject();
    let mut space = first_space(verb);
    loop {
        let codec_error = |source| Error::Codec { verb, device: device(), source };
        let mut buffer = codec::encode(request, space).map_err(codec_error)?;
        match ioctl::control(control.as_fd(), verb.command(), &mut buffer) {
            Ok(()) => {}
            // A signal does not concern a request. It ends a wait for events.
            Err(Errno::EINTR) if verb != Verb::Wait => continue,
            Err(errno) => return Err(Error::from_errno(request, errno)),
        }
        let flags = codec::decode_flags(&buffer).map_err(codec_error)?;
        if !flags.contains(Flags::BUFFER_FULL) {
            return codec::decode(verb, &buffer).map_err(codec_error);
        }
        if buffer.len() >= LARGEST_REPLY {
            return Err(Error::ReplyTooLarge { verb, device: device(), limit: buffer.len() });
        }
        space = buffer.len() * 4;
    }
}

impl Kernel for RealKernel {
    fn submit(&self, request: &Request) -> Result<Reply> {
        let verb = request.verb();
        if !verb.changes_something() {
            return submit(&self.control, request);
        }
        failpoint::reach(|| format!("before {verb}"));
        let reply = submit(&self.control, request);
        failpoint::reach(|| format!("after {verb}"));
        reply
    }

    fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
        let size = fs::read_to_string(format!("/sys/dev/block/{device}/size")).ok()?;
        size.trim().parse().ok().map(Sectors)
    }

    fn logical_block_size(&self, device: DeviceNumber) -> Option<u32> {
        // A partition has no queue in sysfs; its directory lies in its disk's.
        ["queue", "../queue"].iter().find_map(|queue| {
            let size =
                fs::read_to_string(format!("/sys/dev/block/{device}/{queue}/logical_block_size"))
                    .ok()?;
            size.trim().parse().ok()
        })
    }

    fn event_source(&self) -> Result<Box<dyn EventSource>> {
        let control = open_node(&self.path)?;
        Ok(Box::new(RealEvents { control, path: self.path.clone() }))
    }

    fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
        Some(Box::new(RealLog::open()?))
    }

    /// The boot's id, the device's number and its `diskseq`, which no two disks of one boot share
    /// (kernel 5.15 and later).
    fn incarnation(&self, device: DeviceNumber) -> String {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let boot = read("/proc/sys/kernel/random/boot_id");
        format!("{boot} {device} {}", read(&format!("/sys/dev/block/{device}/diskseq")))
            .trim_end()
            .to_owned()
    }
}

/// A second open control node: the kernel remembers for each open file up to which event it has
/// been armed.
#[derive(Debug)]
struct RealEvents {
    control: File,
    path: PathBuf,
}

impl EventSource for RealEvents {
    fn arm(&mut self) -> Result<()> {
        submit(&self.control, &Request::new(Verb::ArmPoll)).map(drop)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.control.as_fd())
    }

    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a wait of a fraction of a millisecond must not become a busy loop.
            let millis = left.as_micros().div_ceil(1000);
            let timeout = PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX));
            let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() || Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => {
                    return Err(Error::Node { action: "poll", path: self.path.clone(), errno })
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_minor_is_found_in_proc_misc() {
        let misc = "183 hw_random\n236 device-mapper\n 59 network_latency\n";
        assert_eq!(misc_minor(misc, "device-mapper"), Some(236));
        assert_eq!(misc_minor(misc, "network_latency"), Some(59));
        assert_eq!(misc_minor(misc, "mapper"), None);
        assert_eq!(misc_minor("", "device-mapper"), None);
    }

    #[test]
    fn a_node_directory_that_cannot_be_is_named() {
        let error =
            RealKernel::open_in(Path::new("/proc/no-such/mapper"), OLDEST_DRIVER).unwrap_err();
        assert!(error.to_string().contains("/proc/no-such/mapper/control"), "{error}");
    }
}

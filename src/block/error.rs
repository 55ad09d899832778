//! What can go wrong with a block device, named after the step that failed.

use std::io;
use std::path::{Path, PathBuf};

use crate::units::{DeviceNumber, Sectors};

use super::blank::Found;

/// A failed step on a block device, a loop device, a backing file or a private mount.
///
/// Every message names the path, and the kernel's reason stands at its end; [`BlockError::errno`]
/// gives the number to those who decide by it.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The device could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The device or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody has the device mounted, or claims it for himself.
    #[error("{} is in use: it is mounted, or another device or program claims it; release it first", path.display())]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// The path leads to something else than a block device.
    #[error("{} is not a block device", path.display())]
    NotABlockDevice {
        /// What was given.
        path: PathBuf,
    },
    /// A call on an open device failed.
    #[error("cannot {step} {}: {source}", path.display())]
    Step {
        /// What was tried, as a verb: "read the size of", "flush", …
        step: &'static str,
        /// The device or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Reading or writing failed, or met the end of the device.
    #[error("cannot {step} {length} bytes at byte {offset} of {}: {source}", path.display())]
    Transfer {
        /// "read" or "write".
        step: &'static str,
        /// The device.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// How much, in bytes.
        length: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A discard failed half-way; everything before `offset` is discarded.
    #[error("cannot discard {length} at sector {} of {}: {source}", offset.0, path.display())]
    Discard {
        /// The device.
        path: PathBuf,
        /// Where the failed call began.
        offset: Sectors,
        /// What that call was to discard.
        length: Sectors,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device has no discard at all.
    #[error("{} does not support discard", path.display())]
    DiscardUnsupported {
        /// The device.
        path: PathBuf,
    },
    /// Something is on a device that was to be taken as empty.
    #[error("{} is not empty: it holds {found}; nothing was written. Choose another device, or erase this one ('blkdiscard -z', which writes zeros all over it) if its content may go", path.display())]
    NotBlank {
        /// The device.
        path: PathBuf,
        /// What was found.
        found: Found,
    },
    /// The kernel has no loop devices.
    #[error("this kernel has no loop devices ({}: {source}): load the module with `modprobe loop`", path.display())]
    LoopModuleMissing {
        /// The control node that was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Loop devices are there, but not for this caller.
    #[error("no permission to use loop devices ({}: {source}): run as root, or give the container access to /dev/loop-control and /dev/loop*", path.display())]
    LoopPermission {
        /// The node that was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A loop device's node leads to something else.
    #[error("{} is not block device {number}, as it should be: remove it, and it will be made anew", path.display())]
    LoopWrongNode {
        /// The node.
        path: PathBuf,
        /// What it should be.
        number: DeviceNumber,
    },
    /// All loop devices found free were taken by others in the meantime.
    #[error("no free loop device for {} after {tries} tries: other programs took each one first", file.display())]
    LoopNoneFree {
        /// The file that was to be attached.
        file: PathBuf,
        /// How often it was tried.
        tries: u32,
    },
    /// The kernel refused to bind the file to the device.
    #[error("cannot attach {} to {}: {source}", file.display(), device.display())]
    LoopAttach {
        /// The file.
        file: PathBuf,
        /// The loop device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system does not hold a file of that size, or has no room for it.
    #[error("cannot make {} {bytes} bytes long: {source}", path.display())]
    SetLength {
        /// The file.
        path: PathBuf,
        /// The size asked for, in bytes.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file's blocks could not all be set aside.
    #[error("cannot set {bytes} bytes aside for {}: {source}", path.display())]
    Allocate {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A private mount namespace could not be made.
    #[error("cannot make a private mount namespace to mount {}: {source}; it takes CAP_SYS_ADMIN", device.display())]
    Namespace {
        /// The device that was to be mounted.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device could not be mounted.
    #[error("cannot mount {} as {fs_type}: {source} (the kernel log may say more)", device.display())]
    Mount {
        /// The device.
        device: PathBuf,
        /// The file system's type.
        fs_type: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device could not be unmounted.
    #[error("cannot unmount {}: {source}", device.display())]
    Unmount {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system could not be grown.
    #[error("cannot grow the file system at {} to {blocks} blocks: {source} (the kernel log may say more)", path.display())]
    Grow {
        /// Where it is mounted.
        path: PathBuf,
        /// The size asked for, in blocks of the file system.
        blocks: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl BlockError {
    pub(super) fn step(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        BlockError::Step { step, path: path.to_owned(), source: source.into() }
    }

    /// The file system or the pool below has no room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.errno() == Some(nix::libc::ENOSPC)
    }

    /// The kernel's error number, where the failure came from the kernel.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        use BlockError as E;
        match self {
            E::Open { source, .. }
            | E::Step { source, .. }
            | E::Transfer { source, .. }
            | E::Discard { source, .. }
            | E::LoopModuleMissing { source, .. }
            | E::LoopPermission { source, .. }
            | E::LoopAttach { source, .. }
            | E::SetLength { source, .. }
            | E::Allocate { source, .. }
            | E::Namespace { source, .. }
            | E::Mount { source, .. }
            | E::Unmount { source, .. }
            | E::Grow { source, .. } => source.raw_os_error(),
            E::Busy { .. } => Some(nix::libc::EBUSY),
            E::DiscardUnsupported { .. } => Some(nix::libc::EOPNOTSUPP),
            E::NotABlockDevice { .. } => Some(nix::libc::ENOTBLK),
            E::NotBlank { .. } | E::LoopNoneFree { .. } | E::LoopWrongNode { .. } => None,
        }
    }
}

//! The errors of this module, named after the step that failed.

use std::io;
use std::path::{Path, PathBuf};

use crate::units::{DeviceNumber, Sectors};

use super::content::Content;

/// A failed step on a block device, a loop device, a backing file or a private mount.
///
/// Every message names the path and gives the kernel's reason. [`BlockError::errno`] gives the
/// error number to callers that decide by it.
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
    /// The device is mounted, or another opener has claimed it.
    #[error(
        "{} is in use: it is mounted, or another device or program has claimed it; release it first",
        path.display()
    )]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// The path does not lead to a block device.
    #[error("{} is not a block device", path.display())]
    NotABlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// A call on an open device or file failed.
    #[error("cannot {step} {}: {source}", path.display())]
    Step {
        /// The step as the message has it: "read the size of", "flush", …
        step: &'static str,
        /// The device or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A read or a write failed, or reached beyond the device.
    #[error("cannot {step} {length} bytes at byte {offset} of {}: {source}", path.display())]
    Transfer {
        /// "read" or "write".
        step: &'static str,
        /// The device.
        path: PathBuf,
        /// Its first byte.
        offset: u64,
        /// Its length in bytes.
        length: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A discard failed. Earlier steps of [`discard_all`](super::discard_all) stay discarded.
    #[error("cannot discard {length} at sector {} of {}: {source}", offset.0, path.display())]
    Discard {
        /// The device.
        path: PathBuf,
        /// The start of the failed call.
        offset: Sectors,
        /// The length of the failed call.
        length: Sectors,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device does not support discard.
    #[error("{} does not support discard", path.display())]
    DiscardUnsupported {
        /// The device.
        path: PathBuf,
    },
    /// The device had to be blank and is not.
    #[error(
        "{} is not empty: it holds {found}; nothing was written. Choose another device. If the \
         content is not needed, erase it with 'blkdiscard -z', which writes zeros to the whole \
         device",
        path.display()
    )]
    NotBlank {
        /// The device.
        path: PathBuf,
        /// What is on it.
        found: Content,
    },
    /// The kernel has no loop devices.
    #[error(
        "this kernel has no loop devices ({}: {source}): load the module with `modprobe loop`",
        path.display()
    )]
    LoopModuleMissing {
        /// The node that was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller may not use loop devices.
    #[error(
        "no permission to use loop devices ({}: {source}): run as root, or give the container \
         access to /dev/loop-control and /dev/loop*",
        path.display()
    )]
    LoopPermission {
        /// The node that was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A loop device's node leads to another device, or to no device.
    #[error(
        "{} is not block device {number}, as it should be: remove it, and it will be created again",
        path.display()
    )]
    LoopWrongNode {
        /// The node.
        path: PathBuf,
        /// The number that it should have.
        number: DeviceNumber,
    },
    /// Other programs took each free loop device first.
    #[error(
        "no free loop device for {} after {tries} tries: other programs took each one first",
        file.display()
    )]
    LoopNoneFree {
        /// The file.
        file: PathBuf,
        /// The number of tries.
        tries: u32,
    },
    /// The kernel did not bind the file to the loop device.
    #[error("cannot attach {} to {}: {source}", file.display(), device.display())]
    LoopAttach {
        /// The file.
        file: PathBuf,
        /// The loop device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system cannot hold a file of that size.
    #[error("cannot make {} {bytes} bytes long: {source}", path.display())]
    SetLength {
        /// The file.
        path: PathBuf,
        /// The wanted size in bytes.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The blocks of a file could not be allocated.
    #[error("cannot allocate {bytes} bytes for {}: {source}", path.display())]
    Allocate {
        /// The file.
        path: PathBuf,
        /// How many bytes were to have their blocks.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A private mount namespace could not be created.
    #[error(
        "cannot create a private mount namespace to mount {}: {source}; this needs CAP_SYS_ADMIN",
        device.display()
    )]
    Namespace {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device could not be mounted.
    #[error(
        "cannot mount {} as {fs_type}: {source} (the kernel log may say more)",
        device.display()
    )]
    Mount {
        /// The device.
        device: PathBuf,
        /// The file system type.
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
    #[error(
        "cannot grow the file system at {} to {blocks} blocks: {source} (the kernel log may say \
         more)",
        path.display()
    )]
    Grow {
        /// The mount point.
        path: PathBuf,
        /// The wanted size in blocks of the file system.
        blocks: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl BlockError {
    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        BlockError::Open { path: path.to_owned(), source }
    }

    pub(super) fn step(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        BlockError::Step { step, path: path.to_owned(), source: source.into() }
    }

    /// Whether the file system or the pool below has no free space.
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

#[cfg(test)]
mod tests {
    use super::*;
    use BlockError as E;

    fn source(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn every_message_names_its_device_or_file_and_every_kernel_error_has_its_number() {
        let path = || PathBuf::from("/dev/x");
        let eio = || source(nix::libc::EIO);
        let found = Content { offset: 0, kind: Some("an xfs file system") };
        let (offset, length) = (Sectors(8), Sectors(16));
        let number = DeviceNumber { major: 7, minor: 3 };
        let kernel = [
            (E::Open { path: path(), source: eio() }, "cannot open /dev/x: "),
            (E::step("flush", &path(), eio()), "cannot flush /dev/x: "),
            (
                E::Transfer { step: "read", path: path(), offset: 7, length: 9, source: eio() },
                "cannot read 9 bytes at byte 7 of /dev/x: ",
            ),
            (
                E::Discard { path: path(), offset, length, source: eio() },
                "cannot discard 16 sectors at sector 8 of /dev/x: ",
            ),
            (
                E::LoopModuleMissing { path: path(), source: eio() },
                "this kernel has no loop devices (/dev/x: ",
            ),
            (
                E::LoopPermission { path: path(), source: eio() },
                "no permission to use loop devices (/dev/x: ",
            ),
            (
                E::LoopAttach { file: "/f".into(), device: path(), source: eio() },
                "cannot attach /f to /dev/x: ",
            ),
            (
                E::SetLength { path: "/f".into(), bytes: 5, source: eio() },
                "cannot make /f 5 bytes long: ",
            ),
            (
                E::Allocate { path: "/f".into(), bytes: 5, source: eio() },
                "cannot allocate 5 bytes for /f: ",
            ),
            (
                E::Namespace { device: path(), source: eio() },
                "cannot create a private mount namespace to mount /dev/x: ",
            ),
            (
                E::Mount { device: path(), fs_type: "ext4".into(), source: eio() },
                "cannot mount /dev/x as ext4: ",
            ),
            (E::Unmount { device: path(), source: eio() }, "cannot unmount /dev/x: "),
            (
                E::Grow { path: "/mnt".into(), blocks: 5, source: eio() },
                "cannot grow the file system at /mnt to 5 blocks: ",
            ),
        ];
        for (error, start) in kernel {
            let text = error.to_string();
            assert!(text.starts_with(start) && text.contains("os error 5"), "{text}");
            assert_eq!(error.errno(), Some(nix::libc::EIO), "{text}");
            assert!(!error.is_no_space(), "{text}");
        }
        for (error, start, errno) in [
            (E::Busy { path: path() }, "/dev/x is in use: ", Some(nix::libc::EBUSY)),
            (
                E::NotABlockDevice { path: path() },
                "/dev/x is not a block device",
                Some(nix::libc::ENOTBLK),
            ),
            (
                E::DiscardUnsupported { path: path() },
                "/dev/x does not support discard",
                Some(nix::libc::EOPNOTSUPP),
            ),
            (
                E::NotBlank { path: path(), found },
                "/dev/x is not empty: it holds an xfs file system (at byte 0)",
                None,
            ),
            (
                E::LoopWrongNode { path: path(), number },
                "/dev/x is not block device 7:3, as it should be",
                None,
            ),
            (
                E::LoopNoneFree { file: "/f".into(), tries: 64 },
                "no free loop device for /f after 64 tries",
                None,
            ),
        ] {
            let text = error.to_string();
            assert!(text.starts_with(start), "{text}");
            assert_eq!(error.errno(), errno, "{text}");
        }
        let full = E::Allocate { path: path(), bytes: 1, source: source(nix::libc::ENOSPC) };
        assert!(full.is_no_space());
    }
}

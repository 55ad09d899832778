//! The loop driver's device nodes under /dev and its list of devices in sysfs.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{makedev, mknod, Mode, SFlag};

use crate::units::DeviceNumber;

use super::error::BlockError;
use super::ioctl;

/// The loop driver's major number (Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u32 = 7;

/// The directory of the device nodes, and the one in which sysfs lists block devices.
#[derive(Debug, Clone)]
pub(super) struct LoopNodes {
    dev: PathBuf,
    sys_block: PathBuf,
}

impl Default for LoopNodes {
    fn default() -> Self {
        LoopNodes { dev: "/dev".into(), sys_block: "/sys/block".into() }
    }
}

impl LoopNodes {
    /// The number of a loop device that is not bound at the moment.
    pub(super) fn free(&self) -> Result<u32, BlockError> {
        let path = self.dev.join("loop-control");
        let control = OpenOptions::new().read(true).write(true).open(&path);
        control
            .and_then(|control| Ok(ioctl::loop_get_free(control.as_fd())?))
            .map_err(|source| driver_error(&path, source))
    }

    /// The numbers of the bound loop devices: those for which sysfs has a `loop` directory.
    pub(super) fn attached(&self) -> Result<Vec<u32>, BlockError> {
        let unreadable =
            |source| BlockError::step("list the block devices in", &self.sys_block, source);
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

    /// Opens `/dev/loopN`, and creates the node if udev or devtmpfs has not.
    ///
    /// Ask for `writes` only in order to write: when a descriptor that may write is closed, udev
    /// probes the device again.
    pub(super) fn open(&self, index: u32, writes: bool) -> Result<(PathBuf, File), BlockError> {
        let path = self.dev.join(format!("loop{index}"));
        let number = self.number_of(index);
        let node = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_node(&path, number)?;
                std::fs::metadata(&path)
            }
            found => found,
        };
        let node = node.map_err(|source| driver_error(&path, source))?;
        if !is_device(&node, number) {
            return Err(BlockError::LoopWrongNode { path, number });
        }
        let device = OpenOptions::new().read(true).write(writes).open(&path);
        device.map(|device| (path.clone(), device)).map_err(|source| driver_error(&path, source))
    }

    /// A loop device's number, from sysfs. With `loop.max_part` the minor number is not the index.
    fn number_of(&self, index: u32) -> DeviceNumber {
        let listed = std::fs::read_to_string(self.sys_block.join(format!("loop{index}/dev")));
        let number = listed.ok().and_then(|text| text.trim().parse().ok());
        number.unwrap_or(DeviceNumber { major: LOOP_MAJOR, minor: index })
    }
}

fn is_device(node: &Metadata, number: DeviceNumber) -> bool {
    node.file_type().is_block_device() && DeviceNumber::from_u64(node.rdev()) == number
}

fn make_node(path: &Path, number: DeviceNumber) -> Result<(), BlockError> {
    let device = makedev(u64::from(number.major), u64::from(number.minor));
    match mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device) {
        // EEXIST: another program created it a moment ago.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(match errno {
            Errno::EPERM | Errno::EACCES => {
                BlockError::LoopPermission { path: path.to_owned(), source: errno.into() }
            }
            errno => BlockError::step("create the device node", path, errno),
        }),
    }
}

/// The error for a loop driver that cannot be used, by what the operator can do about it.
fn driver_error(path: &Path, source: io::Error) -> BlockError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            BlockError::LoopModuleMissing { path, source }
        }
        Some(libc::EPERM | libc::EACCES) => BlockError::LoopPermission { path, source },
        _ => BlockError::Open { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(directory: &Path) -> LoopNodes {
        let nodes = LoopNodes { dev: directory.join("dev"), sys_block: directory.join("sys") };
        std::fs::create_dir(&nodes.dev).unwrap();
        std::fs::create_dir(&nodes.sys_block).unwrap();
        nodes
    }

    #[test]
    fn without_the_driver_its_module_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = nodes(directory.path()).free().unwrap_err();
        assert!(matches!(error, BlockError::LoopModuleMissing { .. }), "{error}");
        assert!(error.to_string().contains("modprobe loop"), "{error}");
    }

    #[test]
    fn a_refusal_asks_for_permission_and_not_for_a_module() {
        for errno in [libc::EPERM, libc::EACCES] {
            let error = driver_error(Path::new("/dev/loop7"), io::Error::from_raw_os_error(errno));
            assert!(matches!(error, BlockError::LoopPermission { .. }), "{error}");
            assert!(error.to_string().contains("/dev/loop7"), "{error}");
        }
    }

    #[test]
    fn a_node_that_is_something_else_is_named_and_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes(directory.path());
        std::fs::write(nodes.dev.join("loop3"), "").unwrap();
        let error = nodes.open(3, true).unwrap_err();
        assert!(error.to_string().contains("dev/loop3 is not block device 7:3"), "{error}");
        std::fs::create_dir(nodes.sys_block.join("loop3")).unwrap();
        std::fs::write(nodes.sys_block.join("loop3/dev"), "7:48\n").unwrap();
        let error = nodes.open(3, true).unwrap_err();
        assert!(error.to_string().contains("dev/loop3 is not block device 7:48"), "{error}");
    }

    #[test]
    fn only_bound_loop_devices_are_listed_in_the_order_of_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes(directory.path());
        for name in ["loop10/loop", "loop2/loop", "loop3", "sda/loop", "loopy/loop"] {
            std::fs::create_dir_all(nodes.sys_block.join(name)).unwrap();
        }
        assert_eq!(nodes.attached().unwrap(), [2, 10]);
    }
}

//! Finds the device node of a device number.

use std::path::{Path, PathBuf};

use crate::units::DeviceNumber;

/// The node of a block device under `/dev`, by the device's name in sysfs. `None` when there is no
/// such device or no such node.
pub fn node_of(number: DeviceNumber) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/sys/dev/block/{number}")).ok()?;
    let node = Path::new("/dev").join(link.file_name()?);
    node.exists().then_some(node)
}

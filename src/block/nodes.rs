//! From a device number to the node that opens it.

use std::path::{Path, PathBuf};

use crate::units::DeviceNumber;

/// The node of a block device under `/dev`, by the name the kernel gives it in sysfs; `None` when
/// there is no such device.
pub fn node_of(number: DeviceNumber) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/sys/dev/block/{number}")).ok()?;
    let node = Path::new("/dev").join(link.file_name()?);
    node.exists().then_some(node)
}

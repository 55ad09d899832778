//! What is wrong between a table and the devices that it names.

use nix::errno::Errno;

use crate::units::{DeviceNumber, Sectors};

/// What is wrong between a table and the devices that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The table ends or begins within a sector of the device below (EINVAL).
    #[error(
        "the table's {what} of {value} is no multiple of the {block}-byte sectors of the device \
         below, {below}; use a size that is"
    )]
    NotAligned {
        /// "length", "start" or "offset".
        what: &'static str,
        /// Its value.
        value: Sectors,
        /// The device below.
        below: DeviceNumber,
        /// The size of its sectors in bytes.
        block: u32,
    },
    /// Data and metadata of a pool are one device (EINVAL).
    #[error("{below} is named both for data and for metadata; they need a device each")]
    OneDeviceTwice {
        /// The device.
        below: DeviceNumber,
    },
    /// A device below may not be written to (EACCES, EPERM), though the caller may use
    /// device-mapper.
    #[error(
        "a device that its table names cannot be opened for writing; is it read-only? {table}"
    )]
    ReadOnly {
        /// The table.
        table: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Misfit {
    /// The kernel's errno.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Misfit::NotAligned { .. } | Misfit::OneDeviceTwice { .. } => Errno::EINVAL,
            Misfit::ReadOnly { errno, .. } => *errno,
        }
    }
}

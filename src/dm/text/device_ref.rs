//! A device as a table names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::units::DeviceNumber;

/// A device in a table: by number, or by a path that the kernel looks up when it loads the table.
/// The kernel itself always prints numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceRef {
    /// By number.
    Number(DeviceNumber),
    /// By the path of its node.
    Path(PathBuf),
}

impl DeviceRef {
    /// The number, when it is one.
    #[must_use]
    pub fn number(&self) -> Option<DeviceNumber> {
        match self {
            DeviceRef::Number(number) => Some(*number),
            DeviceRef::Path(_) => None,
        }
    }
}

impl From<DeviceNumber> for DeviceRef {
    fn from(number: DeviceNumber) -> Self {
        DeviceRef::Number(number)
    }
}

impl From<&Path> for DeviceRef {
    fn from(path: &Path) -> Self {
        DeviceRef::Path(path.to_owned())
    }
}

impl From<PathBuf> for DeviceRef {
    fn from(path: PathBuf) -> Self {
        DeviceRef::Path(path)
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceRef::Number(number) => number.fmt(f),
            DeviceRef::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for DeviceRef {
    type Err = std::convert::Infallible;

    /// `major:minor` is a number, anything else is a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| DeviceRef::Path(PathBuf::from(text)), DeviceRef::Number))
    }
}

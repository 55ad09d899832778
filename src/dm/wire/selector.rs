//! Which device a request is about.

use std::fmt;

use crate::names::{DmName, DmUuid};
use crate::units::DeviceNumber;

/// Which device a request is about. Verbs take `impl Into<Selector>`: a `&DmName`, a `&DmUuid` or a
/// `DeviceNumber` can be given as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The device of this name.
    Name(DmName),
    /// The device of this uuid.
    Uuid(DmUuid),
    /// The device of this number.
    Number(DeviceNumber),
}

impl From<&DmName> for Selector {
    fn from(name: &DmName) -> Selector {
        Selector::Name(name.clone())
    }
}

impl From<&DmUuid> for Selector {
    fn from(uuid: &DmUuid) -> Selector {
        Selector::Uuid(uuid.clone())
    }
}

impl From<DeviceNumber> for Selector {
    fn from(number: DeviceNumber) -> Selector {
        Selector::Number(number)
    }
}

impl From<&Selector> for Selector {
    fn from(selector: &Selector) -> Selector {
        selector.clone()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Name(name) => name.fmt(f),
            Selector::Uuid(uuid) => write!(f, "uuid {uuid}"),
            Selector::Number(number) => number.fmt(f),
        }
    }
}

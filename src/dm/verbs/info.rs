//! What the kernel says of a device, as callers want it.

use crate::dm::error::{CodecError, Error, Result};
use crate::dm::interface::{Flags, Verb};
use crate::dm::wire::Header;
use crate::names::{DmName, DmUuid};
use crate::units::DeviceNumber;

/// What is known of a device, at the time of the request. Other programs may have changed it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: DmName,
    /// Its uuid, if it was given one.
    pub uuid: Option<DmUuid>,
    /// Its number.
    pub device: DeviceNumber,
    /// How often it is open: by files, mounts, and tables of other devices.
    pub open_count: u32,
    /// How many events it has had.
    pub event_nr: u32,
    /// How many targets its live table has.
    pub target_count: u32,
    /// I/O waits until it is resumed. A loaded device is suspended until its first resume.
    pub suspended: bool,
    /// It has a live table.
    pub live_table: bool,
    /// It has a table in the inactive slot, which the next resume puts in place.
    pub inactive_table: bool,
    /// Writes fail with EPERM.
    pub read_only: bool,
    /// It is removed when its last user closes it.
    pub deferred_remove: bool,
    /// The kernel itself has suspended it.
    pub internal_suspend: bool,
}

impl DeviceInfo {
    pub(super) fn from_header(verb: Verb, header: &Header) -> Result<DeviceInfo> {
        let unusable = |field, text: &str| Error::Codec {
            verb,
            device: header.name.clone(),
            source: CodecError::DoesNotFit { field, text: text.to_owned(), limit: 0 },
        };
        let flags = header.flags;
        let uuid = match header.uuid.as_str() {
            "" => None,
            uuid => Some(DmUuid::new(uuid).map_err(|_| unusable("uuid", uuid))?),
        };
        Ok(DeviceInfo {
            name: DmName::new(header.name.as_str()).map_err(|_| unusable("name", &header.name))?,
            uuid,
            device: DeviceNumber::from_u64(header.device),
            open_count: header.open_count,
            event_nr: header.event_nr,
            target_count: header.target_count,
            suspended: flags.contains(Flags::SUSPEND),
            live_table: flags.contains(Flags::ACTIVE_PRESENT),
            inactive_table: flags.contains(Flags::INACTIVE_PRESENT),
            read_only: flags.contains(Flags::READ_ONLY),
            deferred_remove: flags.contains(Flags::DEFERRED_REMOVE),
            internal_suspend: flags.contains(Flags::INTERNAL_SUSPEND),
        })
    }

    /// Whether `other`, read at another time, is about the same device, as far as its identity
    /// tells: number, and uuid or name.
    pub(super) fn is_same_device(&self, other: &DeviceInfo) -> bool {
        let same_uuid = self.uuid.is_some() && self.uuid == other.uuid;
        self.device == other.device && (same_uuid || self.name == other.name)
    }
}

/// A device in the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// Its name.
    pub name: DmName,
    /// Its number.
    pub device: DeviceNumber,
    /// How many events it has had.
    pub event_nr: u32,
    /// Its uuid, if it has one. The kernel lists uuids since 5.13.
    pub uuid: Option<DmUuid>,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The device is removed.
    Done,
    /// The device is still in use, and is removed when its last user closes it.
    Deferred,
}

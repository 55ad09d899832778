//! What the kernel answers, as plain values.

#[cfg(doc)]
use crate::dm::interface::Verb;
use crate::dm::interface::{DriverVersion, Flags};
use crate::dm::text::TargetLine;
use crate::units::DeviceNumber;

/// A target that the kernel has, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetVersion {
    /// The target's type: `thin-pool`, `linear`.
    pub name: String,
    /// Its version.
    pub version: DriverVersion,
}

/// A device as the kernel lists it. Name and uuid are bytes, since other programs may have chosen
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// Its number.
    pub device: DeviceNumber,
    /// Its name.
    pub name: Vec<u8>,
    /// How many events it has had.
    pub event_nr: u32,
    /// Its uuid, when it has one and the list was asked for with [`Flags::UUID`]; interface 4.45
    /// (kernel 5.13) and later.
    pub uuid: Option<Vec<u8>>,
}

/// The header of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The kernel's interface version; it is filled in even when the request failed.
    pub version: DriverVersion,
    /// The state of the device.
    pub flags: Flags,
    /// How many targets the live table has (or the inactive one, when that was asked for).
    pub target_count: u32,
    /// How often the device is open, tables of other devices included.
    pub open_count: u32,
    /// How many events the device has had.
    pub event_nr: u32,
    /// The device's number as the kernel encodes it; 0 when the answer is about no
    /// device.
    pub device: u64,
    /// The device's name; empty when the answer is about no device.
    pub name: String,
    /// The device's uuid; empty when it has none.
    pub uuid: String,
}

/// What an answer carries after its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReplyData {
    /// Nothing.
    #[default]
    None,
    /// To [`Verb::List`].
    Devices(Vec<ListEntry>),
    /// To [`Verb::Status`], [`Verb::Table`] and [`Verb::Wait`].
    Targets(Vec<TargetLine>),
    /// To [`Verb::ListVersions`] and [`Verb::TargetVersion`].
    Versions(Vec<TargetVersion>),
    /// To [`Verb::Deps`].
    Deps(Vec<DeviceNumber>),
    /// To a [`Verb::Message`] that produced text.
    Text(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The header.
    pub header: Header,
    /// What comes after the header.
    pub data: ReplyData,
}

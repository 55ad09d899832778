//! What can be asked of the kernel, and what it answers, as plain values.
//!
//! One [`Request`] is one ioctl on `/dev/mapper/control`; its [`Reply`] is what came back. Nothing here
//! touches the kernel: [`codec`](super::codec) lays the values out in memory and a
//! [`Kernel`](super::Kernel) answers them. Source of the names and numbers: linux/dm-ioctl.h.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use super::udev::EventCookie;
use crate::names::{DmName, DmUuid};
use crate::units::{DeviceNumber, Sectors};

/// What a request does. Two verbs may share an ioctl and differ in a flag ([`Verb::Suspend`] and
/// [`Verb::Resume`], [`Verb::Status`] and [`Verb::Table`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `DM_VERSION`: the interface's version.
    Version,
    /// `DM_REMOVE_ALL`: removes every unused device of the machine, whoever made it. For tests alone.
    RemoveAll,
    /// `DM_LIST_DEVICES`: all devices.
    List,
    /// `DM_DEV_CREATE`: a device without a table.
    Create,
    /// `DM_DEV_REMOVE`: takes a device away.
    Remove,
    /// `DM_DEV_RENAME`: a new name, or (with [`Flags::UUID`]) a first uuid.
    Rename,
    /// `DM_DEV_SUSPEND` with the suspend flag.
    Suspend,
    /// `DM_DEV_SUSPEND` without it: puts a loaded table in place, and I/O goes on.
    Resume,
    /// `DM_DEV_STATUS`: what is known of a device.
    Info,
    /// `DM_DEV_WAIT`: blocks until the device's event number moves past the given one.
    Wait,
    /// `DM_TABLE_LOAD`: a table into the inactive slot.
    Load,
    /// `DM_TABLE_CLEAR`: empties the inactive slot.
    Clear,
    /// `DM_TABLE_DEPS`: the devices that a table stands on.
    Deps,
    /// `DM_TABLE_STATUS`: each target's status.
    Status,
    /// `DM_TABLE_STATUS` with the table flag: each target's table line.
    Table,
    /// `DM_LIST_VERSIONS`: the targets that are loaded, with their versions.
    ListVersions,
    /// `DM_TARGET_MSG`: a message to a target, or (starting with `@`) to the device.
    Message,
    /// `DM_DEV_SET_GEOMETRY`: cylinders, heads and sectors, for boot loaders.
    SetGeometry,
    /// `DM_DEV_ARM_POLL`: poll(2) on this file now waits for what happens from here on.
    ArmPoll,
    /// `DM_GET_TARGET_VERSION`: one target's version; loads its module.
    TargetVersion,
}

impl Verb {
    /// Every verb, in the kernel's order.
    pub const ALL: [Verb; 20] = [
        Verb::Version,
        Verb::RemoveAll,
        Verb::List,
        Verb::Create,
        Verb::Remove,
        Verb::Rename,
        Verb::Suspend,
        Verb::Resume,
        Verb::Info,
        Verb::Wait,
        Verb::Load,
        Verb::Clear,
        Verb::Deps,
        Verb::Status,
        Verb::Table,
        Verb::ListVersions,
        Verb::Message,
        Verb::SetGeometry,
        Verb::ArmPoll,
        Verb::TargetVersion,
    ];

    /// The ioctl's number within type 0xfd (`DM_*_CMD`).
    #[must_use]
    pub const fn command(self) -> u8 {
        match self {
            Verb::Version => 0,
            Verb::RemoveAll => 1,
            Verb::List => 2,
            Verb::Create => 3,
            Verb::Remove => 4,
            Verb::Rename => 5,
            Verb::Suspend | Verb::Resume => 6,
            Verb::Info => 7,
            Verb::Wait => 8,
            Verb::Load => 9,
            Verb::Clear => 10,
            Verb::Deps => 11,
            Verb::Status | Verb::Table => 12,
            Verb::ListVersions => 13,
            Verb::Message => 14,
            Verb::SetGeometry => 15,
            Verb::ArmPoll => 16,
            Verb::TargetVersion => 17,
        }
    }

    /// The flags that make the verb what it is.
    #[must_use]
    pub const fn implied_flags(self) -> Flags {
        match self {
            Verb::Suspend => Flags::SUSPEND,
            Verb::Table => Flags::STATUS_TABLE,
            _ => Flags::NONE,
        }
    }

    /// How an error message calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Version => "version",
            Verb::RemoveAll => "remove all",
            Verb::List => "list",
            Verb::Create => "create",
            Verb::Remove => "remove",
            Verb::Rename => "rename",
            Verb::Suspend => "suspend",
            Verb::Resume => "resume",
            Verb::Info => "info",
            Verb::Wait => "wait",
            Verb::Load => "load",
            Verb::Clear => "clear",
            Verb::Deps => "deps",
            Verb::Status => "status",
            Verb::Table => "table",
            Verb::ListVersions => "list versions",
            Verb::Message => "message",
            Verb::SetGeometry => "set geometry",
            Verb::ArmPoll => "arm poll",
            Verb::TargetVersion => "target version",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `DM_*_FLAG` bits of linux/dm-ioctl.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// In: make the table read-only. Out: the device is read-only.
    pub const READ_ONLY: Flags = Flags(1);
    /// In: suspend rather than resume. Out: the device is suspended.
    pub const SUSPEND: Flags = Flags(1 << 1);
    /// In: use the minor number given in the request.
    pub const PERSISTENT_DEV: Flags = Flags(1 << 3);
    /// In: status means the table.
    pub const STATUS_TABLE: Flags = Flags(1 << 4);
    /// Out: there is a live table.
    pub const ACTIVE_PRESENT: Flags = Flags(1 << 5);
    /// Out: there is a table in the inactive slot.
    pub const INACTIVE_PRESENT: Flags = Flags(1 << 6);
    /// Out: the answer did not fit.
    pub const BUFFER_FULL: Flags = Flags(1 << 8);
    /// In: do not freeze the file system on suspend.
    pub const SKIP_LOCKFS: Flags = Flags(1 << 10);
    /// In: do not wait for queued I/O on suspend; do not commit metadata before a status.
    pub const NO_FLUSH: Flags = Flags(1 << 11);
    /// In: the question is about the inactive table.
    pub const QUERY_INACTIVE: Flags = Flags(1 << 12);
    /// Out: udev has been sent an event that carries the request's cookie.
    pub const UEVENT_GENERATED: Flags = Flags(1 << 13);
    /// In: a rename sets the uuid; a list includes uuids.
    pub const UUID: Flags = Flags(1 << 14);
    /// In: the kernel wipes its copy of the request and of the answer.
    pub const SECURE_DATA: Flags = Flags(1 << 15);
    /// Out: a message produced text.
    pub const DATA_OUT: Flags = Flags(1 << 16);
    /// In: remove when the last user closes it. Out: that is going to happen.
    pub const DEFERRED_REMOVE: Flags = Flags(1 << 17);
    /// Out: suspended by the kernel itself.
    pub const INTERNAL_SUSPEND: Flags = Flags(1 << 18);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and, when `condition` holds, `other`'s.
    #[must_use]
    pub const fn with_if(self, condition: bool, other: Flags) -> Flags {
        if condition {
            Flags(self.0 | other.0)
        } else {
            self
        }
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// One line of a table or of a status, as text: what the kernel itself deals in. Typed forms are
/// [`Target`](super::Target) and [`TargetStatus`](super::TargetStatus).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLine {
    /// First sector of the device that the target answers for.
    pub start: Sectors,
    /// How many sectors it answers for.
    pub length: Sectors,
    /// The target's type, 15 bytes at the most.
    pub kind: String,
    /// The rest of the line.
    pub params: String,
}

/// What a request carries besides its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// A table, for [`Verb::Load`].
    Table(Vec<TargetLine>),
    /// A message to the target that answers for `sector`, for [`Verb::Message`].
    Message {
        /// A sector of the target; any for messages to the device.
        sector: Sectors,
        /// The words of the message.
        text: String,
    },
    /// A new name or uuid, for [`Verb::Rename`], or a geometry, for [`Verb::SetGeometry`].
    Text(String),
}

/// Which device a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selector {
    /// None.
    #[default]
    None,
    /// The device of this name. With [`Verb::Create`], the name it gets, and with
    /// [`Verb::TargetVersion`] a target's.
    Name(DmName),
    /// The device of this uuid.
    Uuid(DmUuid),
    /// The device of this number.
    Number(DeviceNumber),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::None => f.write_str("no device"),
            Selector::Name(name) => name.fmt(f),
            Selector::Uuid(uuid) => write!(f, "uuid {uuid}"),
            Selector::Number(number) => number.fmt(f),
        }
    }
}

/// One ioctl, as values: the low-level request builder. Docker's package calls this a task.
///
/// ```
/// use devmapper_snapshotter::dm::{Request, Verb};
/// use devmapper_snapshotter::names::DmName;
///
/// let request = Request::new(Verb::Info).name(DmName::new("vg-pool")?);
/// assert_eq!(request.to_string(), "info of vg-pool");
/// # Ok::<(), devmapper_snapshotter::names::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    verb: Verb,
    flags: Flags,
    device: Selector,
    create_uuid: Option<DmUuid>,
    minor: Option<u32>,
    event_nr: u32,
    payload: Payload,
}

impl Request {
    /// A request that does `verb` to no device yet.
    #[must_use]
    pub fn new(verb: Verb) -> Request {
        Request {
            verb,
            flags: verb.implied_flags(),
            device: Selector::None,
            create_uuid: None,
            minor: None,
            event_nr: 0,
            payload: Payload::None,
        }
    }

    /// About the device of this name.
    #[must_use]
    pub fn name(self, name: DmName) -> Request {
        self.device(Selector::Name(name))
    }

    /// About this device.
    #[must_use]
    pub fn device(mut self, device: Selector) -> Request {
        self.device = device;
        self
    }

    /// The uuid that a device is created with, for [`Verb::Create`]. (Other verbs look a device up by
    /// [`Selector::Uuid`]: the kernel ignores the name when a uuid is there.)
    #[must_use]
    pub fn create_uuid(mut self, uuid: DmUuid) -> Request {
        self.create_uuid = Some(uuid);
        self
    }

    /// The minor number that a device is created with, for [`Verb::Create`].
    #[must_use]
    pub fn minor(mut self, minor: u32) -> Request {
        self.minor = Some(minor);
        self.flags |= Flags::PERSISTENT_DEV;
        self
    }

    /// With these flags too.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Request {
        self.flags |= flags;
        self
    }

    /// Waits for the event after this one, for [`Verb::Wait`].
    #[must_use]
    pub fn event_nr(mut self, event_nr: u32) -> Request {
        self.event_nr = event_nr;
        self
    }

    /// Udev is told this with the event, for [`Verb::Resume`], [`Verb::Remove`] and [`Verb::Rename`].
    #[must_use]
    pub fn cookie(mut self, cookie: EventCookie) -> Request {
        self.event_nr = cookie.to_event_nr();
        self
    }

    /// Carries this.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Request {
        self.payload = payload;
        self
    }

    /// What it does.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// All its flags, those that its verb implies among them.
    #[must_use]
    pub fn all_flags(&self) -> Flags {
        self.flags
    }

    /// Whether it has these flags.
    #[must_use]
    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Which device it is about.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.device
    }

    /// The name it is about, if it names its device so.
    #[must_use]
    pub fn device_name(&self) -> Option<&DmName> {
        match &self.device {
            Selector::Name(name) => Some(name),
            _ => None,
        }
    }

    /// The uuid for a new device.
    #[must_use]
    pub fn new_uuid(&self) -> Option<&DmUuid> {
        self.create_uuid.as_ref()
    }

    /// The minor number for a new device.
    #[must_use]
    pub fn new_minor(&self) -> Option<u32> {
        self.minor
    }

    /// The event number or the cookie, as the kernel gets it.
    #[must_use]
    pub fn raw_event_nr(&self) -> u32 {
        self.event_nr
    }

    /// What it carries.
    #[must_use]
    pub fn carried(&self) -> &Payload {
        &self.payload
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verb)?;
        if self.device != Selector::None {
            write!(f, " of {}", self.device)?;
        }
        if let Payload::Message { text, .. } = &self.payload {
            write!(f, " ({text})")?;
        }
        Ok(())
    }
}

/// A version of the ioctl interface, major.minor.patch. The kernel refuses another major than its own,
/// and a minor above its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DriverVersion {
    /// Not compatible across.
    pub major: u32,
    /// Grows with what the interface can do.
    pub minor: u32,
    /// Changes nothing.
    pub patch: u32,
}

impl DriverVersion {
    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> DriverVersion {
        DriverVersion { major, minor, patch }
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A target that the kernel has, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetVersion {
    /// The target's type: `thin-pool`, `linear`.
    pub name: String,
    /// Its version.
    pub version: DriverVersion,
}

/// A device as the kernel lists it. The texts are bytes: whoever made the device chose them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// Its number.
    pub device: DeviceNumber,
    /// Its name.
    pub name: Vec<u8>,
    /// Its event number; interface 4.38 (kernel 4.14) and later.
    pub event_nr: Option<u32>,
    /// Its uuid, when it has one and the list was asked for with [`Flags::UUID`]; interface 4.45
    /// (kernel 5.13) and later.
    pub uuid: Option<Vec<u8>>,
}

/// The header of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The kernel's interface version; it is filled in even when the request failed.
    pub version: DriverVersion,
    /// What holds of the device.
    pub flags: Flags,
    /// How many targets the live table has (or the inactive one, when that was asked for).
    pub target_count: u32,
    /// How many hold the device open, tables of other devices among them.
    pub open_count: u32,
    /// How many events the device has had.
    pub event_nr: u32,
    /// The device's number as the kernel encodes it; 0 when the answer is about none.
    pub device: u64,
    /// The device's name; empty when the answer is about none.
    pub name: String,
    /// The device's uuid; empty when it has none.
    pub uuid: String,
}

/// What an answer carries besides its header.
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

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The header.
    pub header: Header,
    /// The rest.
    pub data: ReplyData,
}

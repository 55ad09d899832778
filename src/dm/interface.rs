//! The verbs, flags and version of the kernel's interface. Source: linux/dm-ioctl.h.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// What a request does. Two verbs may share an ioctl and differ in a flag ([`Verb::Suspend`] and
/// [`Verb::Resume`], [`Verb::Status`] and [`Verb::Table`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `DM_VERSION`: the interface's version.
    Version,
    /// `DM_REMOVE_ALL`: removes every unused device of the machine, also those of other programs.
    /// For tests only.
    RemoveAll,
    /// `DM_LIST_DEVICES`: all devices.
    List,
    /// `DM_DEV_CREATE`: a device without a table.
    Create,
    /// `DM_DEV_REMOVE`: removes a device.
    Remove,
    /// `DM_DEV_RENAME`: a new name, or (with [`Flags::UUID`]) a first uuid.
    Rename,
    /// `DM_DEV_SUSPEND` with the suspend flag.
    Suspend,
    /// `DM_DEV_SUSPEND` without the flag: puts a loaded table in place and starts I/O.
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
    /// `DM_DEV_ARM_POLL`: from here on poll(2) on this file waits for later events.
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

    /// Whether it changes the kernel's state, or can.
    #[must_use]
    pub const fn changes_something(self) -> bool {
        !matches!(
            self,
            Verb::Version
                | Verb::List
                | Verb::Info
                | Verb::Wait
                | Verb::Deps
                | Verb::Status
                | Verb::Table
                | Verb::ListVersions
                | Verb::ArmPoll
                | Verb::TargetVersion
        )
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
    /// In: the kernel wipes its copy of the request and of the answer, for tables with keys. This
    /// library does not wipe its own copy.
    pub const SECURE_DATA: Flags = Flags(1 << 15);
    /// Out: a message produced text.
    pub const DATA_OUT: Flags = Flags(1 << 16);
    /// In: remove the device when its last user closes it. Out: the removal is deferred.
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

/// A version of the ioctl interface, major.minor.patch. The kernel refuses another major than its
/// own, and a minor above its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DriverVersion {
    /// Versions with different majors are not compatible.
    pub major: u32,
    /// Grows with what the interface can do.
    pub minor: u32,
    /// Changes nothing for callers.
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

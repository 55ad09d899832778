//! What a uevent carries: flags for udev's rules, and a semaphore's name.

/// What a uevent carries in `DM_COOKIE`: flags for udev's rules and the name of a semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EventCookie {
    /// What udev's rules leave out.
    pub flags: UdevFlags,
    /// Low half of the semaphore's key (the high half is 0x0D4D); 0 when no process waits.
    pub base: u16,
}

impl EventCookie {
    /// As the kernel takes it in `event_nr`.
    #[must_use]
    pub const fn to_event_nr(self) -> u32 {
        ((self.flags.0 as u32) << 16) | self.base as u32
    }
}

/// The `DM_UDEV_*` flags: what udev's rules do not do with a device (libdevmapper.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct UdevFlags(pub u16);

impl UdevFlags {
    /// Everything as usual.
    pub const NONE: UdevFlags = UdevFlags(0);
    /// `DM_UDEV_DISABLE_DM_RULES_FLAG`: no symlink under /dev/mapper.
    pub const DISABLE_DM_RULES: UdevFlags = UdevFlags(0x01);
    /// `DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG`: no rules of LVM and the like.
    pub const DISABLE_SUBSYSTEM_RULES: UdevFlags = UdevFlags(0x02);
    /// `DM_UDEV_DISABLE_DISK_RULES_FLAG`: no blkid, no symlinks under /dev/disk.
    pub const DISABLE_DISK_RULES: UdevFlags = UdevFlags(0x04);
    /// `DM_UDEV_DISABLE_OTHER_RULES_FLAG`: no rules of other packages.
    pub const DISABLE_OTHER_RULES: UdevFlags = UdevFlags(0x08);
    /// `DM_UDEV_LOW_PRIORITY_FLAG`: symlinks of other devices take precedence.
    pub const LOW_PRIORITY: UdevFlags = UdevFlags(0x10);
    /// `DM_UDEV_DISABLE_LIBRARY_FALLBACK`: the library does not make the node that udev failed to
    /// make.
    pub const DISABLE_LIBRARY_FALLBACK: UdevFlags = UdevFlags(0x20);
    /// `DM_UDEV_PRIMARY_SOURCE_FLAG`: the event comes from a device-mapper tool, and not from
    /// `udevadm trigger`, so that the rules take its flags as the device's.
    pub const PRIMARY_SOURCE: UdevFlags = UdevFlags(0x40);
    /// All rules off: udev makes no node, no symlink, and looks at nothing.
    pub const KEEP_OUT: UdevFlags = UdevFlags(0x6f);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: UdevFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: UdevFlags) -> UdevFlags {
        UdevFlags(self.0 | other.0)
    }
}

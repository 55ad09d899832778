//! The mount options of a snapshot's file system: for mounts by this program, and for the mounts
//! that callers get.
//!
//! This file alone decides them. A guest may have written the superblock, with its error policy,
//! its default options and its options as text. An explicit option overrides all three
//! (fs/ext4/super.c, `__ext4_fill_super`: first the superblock's defaults, then `s_mount_opts`,
//! then the options of the mount).

use super::types::FsType;

/// The options of one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountOptions {
    fs_type: FsType,
    read_only: bool,
}

impl MountOptions {
    /// The options of a writable mount.
    #[must_use]
    pub const fn of(fs_type: FsType) -> Self {
        MountOptions { fs_type, read_only: false }
    }

    /// The same options, for a read-only mount if `read_only`.
    #[must_use]
    pub const fn read_only(self, read_only: bool) -> Self {
        MountOptions { read_only, ..self }
    }

    /// All options, for containerd's mounts and `mount -o`. Every kernel since 2.6 knows them,
    /// because virtual machines pass them to their own kernels.
    #[must_use]
    pub fn list(self) -> Vec<String> {
        let own = self.of_the_file_system().iter();
        self.read_only.then_some(&"ro").into_iter().chain(own).map(ToString::to_string).collect()
    }

    /// The options that the file system itself parses, separated by commas (the `data` of
    /// mount(2)): all except `ro`.
    #[must_use]
    pub fn data(self) -> String {
        self.of_the_file_system().join(",")
    }

    const fn of_the_file_system(self) -> &'static [&'static str] {
        match self.fs_type {
            // Otherwise the superblock could ask for a kernel panic at the first error.
            FsType::Ext4 => &["errors=remount-ro"],
            // Snapshots of one template have the same UUID, and without this option xfs mounts only
            // one of them at a time. xfs's superblock has no error policy: the file system shuts
            // down on metadata errors.
            FsType::Xfs => &["nouuid"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mount_leaves_the_error_policy_to_the_superblock() {
        assert_eq!(MountOptions::of(FsType::Ext4).list(), ["errors=remount-ro"]);
        assert_eq!(
            MountOptions::of(FsType::Ext4).read_only(true).list(),
            ["ro", "errors=remount-ro"]
        );
        assert_eq!(MountOptions::of(FsType::Xfs).read_only(true).list(), ["ro", "nouuid"]);
        assert_eq!(MountOptions::of(FsType::Ext4).read_only(true).data(), "errors=remount-ro");
    }
}

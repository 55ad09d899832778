//! With which options a layer's file system is mounted: by this program, and by whoever is told how
//! to mount a snapshot.
//!
//! The one place that decides them. What stands in the superblock was perhaps written by a guest:
//! its error policy, its default options and its string of options. An explicit option wins over
//! all three (fs/ext4/super.c, `__ext4_fill_super`: superblock's defaults, then `s_mount_opts`,
//! then the caller's).

use super::types::FsType;

/// The options of one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountOptions {
    fs_type: FsType,
    read_only: bool,
}

impl MountOptions {
    /// Those of a writable mount.
    #[must_use]
    pub const fn of(fs_type: FsType) -> Self {
        MountOptions { fs_type, read_only: false }
    }

    /// The same for a mount that is read-only, or is not.
    #[must_use]
    pub const fn read_only(self, read_only: bool) -> Self {
        MountOptions { read_only, ..self }
    }

    /// All of them as containerd's mount type and `mount -o` want them. Each is known to every
    /// kernel since 2.6, since virtual machines hand them on to kernels of their own.
    #[must_use]
    pub fn list(self) -> Vec<String> {
        let own = self.of_the_file_system().iter();
        self.read_only.then_some(&"ro").into_iter().chain(own).map(ToString::to_string).collect()
    }

    /// Those that the file system itself reads, separated by commas (mount(2)'s `data`): all but
    /// `ro`.
    #[must_use]
    pub fn data(self) -> String {
        self.of_the_file_system().join(",")
    }

    const fn of_the_file_system(self) -> &'static [&'static str] {
        match self.fs_type {
            // The superblock may ask for a panic of the kernel at the first error.
            FsType::Ext4 => &["errors=remount-ro"],
            // Snapshots of one template share a UUID, of which xfs mounts one at a time otherwise.
            // Its superblock has no error policy: errors in metadata shut the file system down.
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

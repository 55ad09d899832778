//! Which file systems there are, how one is asked for, and what can be read off one.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::units::Sectors;

use super::error::FsError;

/// Goes up when the options that this crate itself gives to mkfs change, so that no template made by other options is
/// taken for one of these.
const RECIPE: u32 = 1;

/// A file system type that layers can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FsType {
    /// The default.
    Ext4,
    /// At least 300 MiB, and a log of 64 MiB in each.
    Xfs,
}

impl FsType {
    /// All of them.
    pub const ALL: [FsType; 2] = [FsType::Ext4, FsType::Xfs];

    /// The kernel's name of it, which is also containerd's mount type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
        }
    }

    /// The mount options that every mount of it needs: snapshots of one template share a UUID, and xfs refuses the
    /// second mount of a UUID without `nouuid`.
    #[must_use]
    pub const fn mount_options(self) -> &'static [&'static str] {
        match self {
            FsType::Ext4 => &[],
            FsType::Xfs => &["nouuid"],
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FsType {
    type Err = FsError;

    fn from_str(name: &str) -> Result<Self, FsError> {
        let found = FsType::ALL.into_iter().find(|fs_type| fs_type.name() == name);
        found.ok_or_else(|| FsError::UnknownType { name: name.to_owned() })
    }
}

/// What file system to make, its size apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FsSpec {
    /// The type.
    pub fs_type: FsType,
    /// More arguments for its mkfs, each one as it stands; they come after this crate's own and win over them.
    pub options: Vec<String>,
    /// Whether the device reads as zeros wherever nothing was written: not only as long as it is blank, but also in the rest of
    /// a larger block of its own that is written in part.
    pub zeroed: bool,
}

impl FsSpec {
    /// A file system of this type with no further options.
    #[must_use]
    pub fn plain(fs_type: FsType) -> Self {
        FsSpec { fs_type, options: Vec::new(), zeroed: true }
    }

    /// A short text that is the same for the same specification, in every process and release that makes the same file
    /// system of it, and different for different ones: part of a template's key. The size is not in it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Fnv::new();
        hash.add(&RECIPE.to_le_bytes());
        for option in &self.options {
            // The length first, so that ["a", "b"] and ["ab"] differ.
            hash.add(&(option.len() as u64).to_le_bytes());
            hash.add(option.as_bytes());
        }
        if !self.zeroed {
            hash.add(b"not zeroed");
        }
        format!("{}-{:016x}", self.fs_type, hash.0)
    }
}

/// FNV-1a, 64 bits: fixed for ever, which the standard library's hashers are not.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What an unmounted file system says of itself.
///
/// While it is mounted the numbers on the disk are old ones: both file systems keep them in memory and write them
/// at unmount or freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsState {
    /// Which it is.
    pub fs_type: FsType,
    /// How far it reaches on its device.
    pub size: Sectors,
    /// Its block size in bytes.
    pub block_size: u32,
    /// Inodes in use, the file system's own included.
    pub used_inodes: u64,
    /// Whether it was unmounted or frozen in good order: nothing to replay, no error noted.
    pub clean: bool,
    /// Its UUID; snapshots share it.
    pub uuid: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(fs_type: FsType, options: &[&str]) -> FsSpec {
        FsSpec { options: options.iter().map(ToString::to_string).collect(), ..FsSpec::plain(fs_type) }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_listed() {
        for fs_type in FsType::ALL {
            assert_eq!(fs_type.to_string().parse::<FsType>().unwrap(), fs_type);
        }
        let error = "Ext4".parse::<FsType>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown file system type "Ext4": known are ext4, xfs"#);
    }

    #[test]
    fn a_digest_stays_what_it_was_in_earlier_releases() {
        assert_eq!(FsSpec::plain(FsType::Ext4).digest(), "ext4-ad2aca7747985764");
        assert_eq!(spec(FsType::Xfs, &["-i", "size=1024"]).digest(), "xfs-5d0db9489966ae38");
    }

    #[test]
    fn different_specifications_have_different_digests() {
        let specs = [
            spec(FsType::Ext4, &[]),
            spec(FsType::Xfs, &[]),
            spec(FsType::Ext4, &[""]),
            spec(FsType::Ext4, &["a", "b"]),
            spec(FsType::Ext4, &["b", "a"]),
            spec(FsType::Ext4, &["ab"]),
        ];
        let digests: std::collections::HashSet<_> = specs.iter().map(FsSpec::digest).collect();
        assert_eq!(digests.len(), specs.len());
    }
}

//! The types of this module: kinds of file systems, specifications and states.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::units::Sectors;

/// The type of a snapshot's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FsType {
    /// The default.
    Ext4,
    /// Needs at least 300 MiB; its log takes 64 MiB.
    Xfs,
}

/// A name that is not the name of an [`FsType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown file system type {name:?}: known are {}",
    FsType::ALL.map(FsType::name).join(", ")
)]
pub struct UnknownFsType {
    /// The name.
    pub name: String,
}

impl FsType {
    /// All types.
    pub const ALL: [FsType; 2] = [FsType::Ext4, FsType::Xfs];

    /// A number that goes up when this crate makes the file system in another way, so that older
    /// templates are not used any more.
    const fn recipe(self) -> u32 {
        match self {
            FsType::Ext4 => 2,
            FsType::Xfs => 1,
        }
    }

    /// The kernel's name of the type, which is also containerd's mount type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FsType {
    type Err = UnknownFsType;

    fn from_str(name: &str) -> Result<Self, UnknownFsType> {
        let found = FsType::ALL.into_iter().find(|fs_type| fs_type.name() == name);
        found.ok_or_else(|| UnknownFsType { name: name.to_owned() })
    }
}

/// How to make a file system, except for its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FsSpec {
    /// The type.
    pub fs_type: FsType,
    /// The operator's arguments for mkfs. They come after this crate's arguments and override them.
    pub options: Vec<String>,
    /// Whether all unwritten parts of the device read as zeros, also the rest of a pool block that
    /// is partly written.
    pub zeroed: bool,
}

impl FsSpec {
    /// A file system of this type without further options, on a device that reads as zeros.
    #[must_use]
    pub fn plain(fs_type: FsType) -> Self {
        FsSpec { fs_type, options: Vec::new(), zeroed: true }
    }

    /// A short text that identifies the specification; part of a template's key. It is the same in
    /// every process, and in every release that makes the same file system from the specification.
    /// The size is not part of it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Fnv::new();
        hash.add(&self.fs_type.recipe().to_le_bytes());
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

/// FNV-1a with 64 bits. The standard library's hashers may change between releases.
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

/// The state of an unmounted file system.
///
/// While a file system is mounted, the numbers on the disk are out of date: the kernel keeps them
/// in memory and writes them at unmount or freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsState {
    /// Its type.
    pub fs_type: FsType,
    /// Its size.
    pub size: Sectors,
    /// Its block size in bytes.
    pub block_size: u32,
    /// Inodes in use, including the file system's internal ones.
    pub used_inodes: u64,
    /// Whether it was properly unmounted or frozen: no journal to replay, no recorded error.
    pub clean: bool,
    /// Its UUID. A snapshot has the UUID of its origin.
    pub uuid: Uuid,
    /// The errors that it has recorded, if any. Then a write may be lost or content may be damaged,
    /// even if there is nothing to replay.
    pub errors: Option<NotedErrors>,
}

/// The errors that an ext4 has recorded while it was mounted: in its superblock (`s_state`,
/// `s_error_count` and the following fields) and in its journal (`s_errno`). xfs has no such
/// record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotedErrors {
    /// The number of errors; 0 if only the state or the journal shows that there was one.
    pub count: u32,
    /// The time of the first error in seconds since 1970.
    pub first: u32,
    /// The time of the last error in seconds since 1970.
    pub last: u32,
    /// The kernel function that found the first error, padded with zeros.
    pub function: [u8; 32],
    /// The errno that aborted the journal; 0 for none.
    pub journal: i32,
}

impl fmt::Display for NotedErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A guest may have written this text. Only characters of a function name are printed.
        let name: String = self
            .function
            .iter()
            .map(|byte| char::from(*byte))
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        match self.count {
            0 => f.write_str("errors noted")?,
            count => {
                let plural = if count == 1 { "error" } else { "errors" };
                write!(f, "{count} {plural} noted")?;
                if !name.is_empty() {
                    write!(f, ", the first by {name}")?;
                }
                write!(f, " at {} (seconds since 1970), the last at {}", self.first, self.last)?;
            }
        }
        match self.journal {
            0 => Ok(()),
            errno => {
                write!(f, "; its journal ended on {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// Who may have written the content of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Only this program: a template, or a new snapshot of one that was never handed out.
    Us,
    /// Any container or guest kernel.
    Anybody,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(fs_type: FsType, options: &[&str]) -> FsSpec {
        FsSpec {
            options: options.iter().map(ToString::to_string).collect(),
            ..FsSpec::plain(fs_type)
        }
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
        assert_eq!(FsSpec::plain(FsType::Ext4).digest(), "ext4-8d1ace904a398d17");
        assert_eq!(spec(FsType::Xfs, &["-i", "size=1024"]).digest(), "xfs-5d0db9489966ae38");
    }

    #[test]
    fn noted_errors_say_what_is_known_and_nothing_that_a_guest_wrote_there() {
        assert_eq!(NotedErrors::default().to_string(), "errors noted");
        let mut function = [0; 32];
        function[..20].copy_from_slice(b"ext4_put_super\x1b[2J\n\n");
        let noted = NotedErrors { count: 2, first: 7, last: 9, function, journal: 5 };
        assert_eq!(
            noted.to_string(),
            "2 errors noted, the first by ext4_put_super at 7 (seconds since 1970), the last at 9; its journal ended on Input/output error (os error 5)"
        );
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

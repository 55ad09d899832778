//! Which file systems there are, how one is asked for, and what can be read off one.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::units::Sectors;

use super::error::FsError;

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

    /// Goes up when what this crate itself does at mkfs changes, so that no template made otherwise
    /// is taken for one of these.
    const fn recipe(self) -> u32 {
        match self {
            FsType::Ext4 => 2,
            FsType::Xfs => 1,
        }
    }

    /// The kernel's name of it, which is also containerd's mount type.
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
    /// More arguments for its mkfs, each one as it stands; they come after this crate's own and win
    /// over them.
    pub options: Vec<String>,
    /// Whether the device reads as zeros wherever nothing was written: not only as long as it is
    /// blank, but also in the rest of a larger block of its own that is written in part.
    pub zeroed: bool,
}

impl FsSpec {
    /// A file system of this type with no further options.
    #[must_use]
    pub fn plain(fs_type: FsType) -> Self {
        FsSpec { fs_type, options: Vec::new(), zeroed: true }
    }

    /// A short text that is the same for the same specification, in every process and release that
    /// makes the same file system of it, and different for different ones: part of a template's
    /// key. The size is not in it.
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
/// While it is mounted the numbers on the disk are old ones: both file systems keep them in memory
/// and write them at unmount or freeze.
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
    /// The errors that it has noted, if any. Then a write may be lost or its content damaged, also
    /// where it is clean otherwise.
    pub errors: Option<NotedErrors>,
}

/// What an ext4 has noted of the errors that it met while it was mounted: in its superblock
/// (`s_state`, `s_error_count` and what follows) and in that of its journal (`s_errno`). xfs keeps
/// no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotedErrors {
    /// How many errors; 0 where only the state or the journal tells of one.
    pub count: u32,
    /// When the first of them was, in seconds since 1970.
    pub first: u32,
    /// When the last of them was, in seconds since 1970.
    pub last: u32,
    /// The kernel's function that found the first one, padded with zeros.
    pub function: [u8; 32],
    /// The errno that ended the journal; 0 for none.
    pub journal: i32,
}

impl fmt::Display for NotedErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written by whoever wrote the superblock: no more than what a function's name can have.
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

/// Who may have written what is on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// This program alone: a template, or a snapshot of one that was handed to nobody yet.
    Us,
    /// Whoever had it: a container, a guest's kernel.
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

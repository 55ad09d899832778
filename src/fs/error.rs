//! What can go wrong with a file system, named after the step that failed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::block::BlockError;
use crate::units::Sectors;

use super::types::FsType;

/// A failed step on a file system.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A name that is no file system type of [`FsType::ALL`].
    #[error("unknown file system type {name:?}: known are {}", FsType::ALL.map(FsType::name).join(", "))]
    UnknownType {
        /// What was given.
        name: String,
    },
    /// A program for this kind of file system is not installed.
    #[error("{program} is not installed: install the package {package} (looked in {searched})")]
    MkfsMissing {
        /// The program.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
        /// Where it was looked for, directories separated by colons.
        searched: String,
    },
    /// The program is there and could not be started.
    #[error("cannot run {}: {source}", program.display())]
    MkfsStart {
        /// The program's path.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program failed; what it said is in the message.
    #[error("{} failed on {} ({status}): {stderr}", program.display(), device.display())]
    MkfsFailed {
        /// The program's path.
        program: PathBuf,
        /// The device.
        device: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote, without its usage text.
        stderr: String,
    },
    /// The program did not end in time and was killed, with all that it had started.
    #[error("{} did not finish on {} within {} s and was killed{}", program.display(), device.display(), limit.as_secs_f32(), said(stderr))]
    MkfsTimedOut {
        /// The program's path.
        program: PathBuf,
        /// The device.
        device: PathBuf,
        /// The time it was given.
        limit: Duration,
        /// What it had written.
        stderr: String,
    },
    /// A user's mkfs option that stands for nothing.
    #[error("the mkfs option {option:?} needs a value after it")]
    OptionWithoutValue {
        /// The option.
        option: String,
    },
    /// A user's mkfs argument that is neither an option nor an option's value; mkfs would take it
    /// for the device.
    #[error("{argument:?} is not an mkfs option: options begin with `-`, and each option and each value is an item of its own")]
    StrayArgument {
        /// The argument.
        argument: String,
    },
    /// The device is too small for the size asked for.
    #[error("{} has {actual}, too small for a file system of {wanted}", device.display())]
    DeviceTooSmall {
        /// The device.
        device: PathBuf,
        /// What the device has.
        actual: Sectors,
        /// What was asked for.
        wanted: Sectors,
    },
    /// An xfs would have to have more allocation groups than the kernel's memory bears.
    #[error("the xfs on {} was made small, and would have {groups} allocation groups at that size; {most} are the most. Make it with a larger base_image_size, or without options that make its groups small", device.display())]
    TooManyGroups {
        /// The device.
        device: PathBuf,
        /// How many it would have.
        groups: u64,
        /// How many it may have.
        most: u64,
    },
    /// What is on the device is not the file system it should be, or is damaged.
    #[error("no sound {fs_type} on {}: {problem}", device.display())]
    Superblock {
        /// The device.
        device: PathBuf,
        /// What was looked for.
        fs_type: FsType,
        /// What is wrong.
        problem: String,
    },
    /// `lost+found` of a new file system could not be removed.
    #[error("cannot remove lost+found from the new file system on {}: {source}", device.display())]
    LostFound {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Replaying its journal did not make it clean: it is damaged, or it has no journal.
    #[error("the {fs_type} on {} is damaged: it was not unmounted, and replaying its journal did not make it clean; check it with fsck (the kernel log may say more){}", device.display(), said(program_said))]
    NotClean {
        /// The device.
        device: PathBuf,
        /// What it is.
        fs_type: FsType,
        /// What the program that replayed it said.
        program_said: String,
    },
    /// It would have to be mounted on this host, which the configuration forbids for what others
    /// have written to.
    #[error("the {fs_type} on {} would have to be mounted on this host to {what}, and mount_untrusted = false forbids that, since others may have written to it: {instead}, or set mount_untrusted = true", device.display())]
    MountForbidden {
        /// The device.
        device: PathBuf,
        /// What it is.
        fs_type: FsType,
        /// What it would have been mounted for.
        what: &'static str,
        /// What can be done without.
        instead: &'static str,
    },
    /// Any damage in it would end this host's kernel.
    #[error("the {fs_type} on {} is not mounted: fs.xfs.panic_mask is {mask}, so that damage that somebody wrote there would end this host's kernel; set it to 0", device.display())]
    PanicMask {
        /// The device.
        device: PathBuf,
        /// What it is.
        fs_type: FsType,
        /// The mask, as the kernel shows it.
        mask: String,
    },
    /// A step on the device below failed.
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl FsError {
    /// The file system or the pool below the device has no room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, FsError::Block(source) if source.is_no_space())
    }

    /// What was written to it is lost or damaged, for all that can be known.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, FsError::NotClean { .. })
    }

    /// It was not tried, by a rule of the operator's or for the host's safety.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, FsError::MountForbidden { .. } | FsError::PanicMask { .. })
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; it said: {stderr}")
    }
}

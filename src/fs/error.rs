//! The errors of this module, named after the step that failed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::block::{BlockError, Disk};
use crate::units::Sectors;

use super::types::FsType;

/// A failed step on a file system.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A program for this type of file system is not installed.
    #[error("{program} is not installed: install the package {package} (looked in {searched})")]
    ProgramMissing {
        /// The program.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// The directories that were searched, separated by colons.
        searched: String,
    },
    /// The program could not be started.
    #[error("cannot run {}: {source}", program.display())]
    ProgramStart {
        /// The program's path.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program failed.
    #[error("{} failed on {} ({status}): {stderr}", program.display(), device.display())]
    ProgramFailed {
        /// The program's path.
        program: PathBuf,
        /// The device.
        device: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its output, without its usage text.
        stderr: String,
    },
    /// The program reached the time limit and was killed with its child processes.
    #[error(
        "{} did not finish on {} within {} s and was killed{}",
        program.display(), device.display(), limit.as_secs_f32(), said(stderr)
    )]
    ProgramTimedOut {
        /// The program's path.
        program: PathBuf,
        /// The device.
        device: PathBuf,
        /// The time limit.
        limit: Duration,
        /// Its output.
        stderr: String,
    },
    /// An item of `fs_options` is an option that needs a value, and has none.
    #[error("the mkfs option {option:?} needs a value after it")]
    OptionWithoutValue {
        /// The option.
        option: String,
    },
    /// An item of `fs_options` is neither an option nor the value of one; mkfs would take it for
    /// the device.
    #[error(
        "{argument:?} is not an mkfs option: options begin with `-`, and each option and each \
         value is an item of its own"
    )]
    StrayArgument {
        /// The argument.
        argument: String,
    },
    /// The device is smaller than the wanted file system.
    #[error("{} has {actual}, too small for a file system of {wanted}", device.display())]
    DeviceTooSmall {
        /// The device.
        device: PathBuf,
        /// The size of the device.
        actual: Sectors,
        /// The wanted size.
        wanted: Sectors,
    },
    /// With more allocation groups an xfs would need too much of the kernel's memory.
    #[error(
        "the xfs on {} was made small and would have {groups} allocation groups at that size; the \
         maximum is {most}. Make it with a larger base_image_size, or without options that make \
         its groups small",
        device.display()
    )]
    TooManyGroups {
        /// The device.
        device: PathBuf,
        /// The number of groups that it would have.
        groups: u64,
        /// The maximum.
        most: u64,
    },
    /// The device does not have the expected file system, or it is damaged.
    #[error("no sound {fs_type} on {}: {problem}", device.display())]
    Superblock {
        /// The device.
        device: PathBuf,
        /// The expected type.
        fs_type: FsType,
        /// What is wrong.
        problem: String,
    },
    /// `lost+found` of a new file system could not be removed.
    #[error(
        "cannot remove lost+found from the new file system on {}: {source}",
        device.display()
    )]
    LostFound {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system is not clean after the replay of its journal: it is damaged, or it has no
    /// journal.
    #[error(
        "the {fs_type} on {} is damaged: it was not unmounted, and replaying its journal did not \
         make it clean; check it with fsck (the kernel log may say more){}",
        device.display(), said(program_said)
    )]
    NotClean {
        /// The device.
        device: PathBuf,
        /// The type.
        fs_type: FsType,
        /// The output of the program that replayed the journal.
        program_said: String,
    },
    /// The step needs a mount on this host, and the configuration forbids to mount a file system
    /// that others may have written.
    #[error(
        "the {fs_type} on {} would have to be mounted on this host to {what}, and \
         mount_untrusted = false forbids that, because others may have written to it: {instead}, \
         or set mount_untrusted = true",
        device.display()
    )]
    MountForbidden {
        /// The device.
        device: PathBuf,
        /// The type.
        fs_type: FsType,
        /// The purpose of the mount.
        what: &'static str,
        /// What the user can do instead.
        instead: &'static str,
    },
    /// Any damage in the file system would make this host's kernel panic.
    #[error(
        "the {fs_type} on {} is not mounted: fs.xfs.panic_mask is {mask}, so damage in this file \
         system would make this host's kernel panic; set it to 0",
        device.display()
    )]
    PanicMask {
        /// The device.
        device: PathBuf,
        /// The type.
        fs_type: FsType,
        /// The value of fs.xfs.panic_mask.
        mask: String,
    },
    /// A step on the device below failed.
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl FsError {
    pub(super) fn superblock(disk: &dyn Disk, fs_type: FsType, problem: String) -> Self {
        FsError::Superblock { device: disk.path().to_owned(), fs_type, problem }
    }

    /// Refuses a file system whose superblock gives it a `size` larger than its device.
    pub(super) fn check_fit(disk: &dyn Disk, fs_type: FsType, size: Sectors) -> Result<(), Self> {
        let device = disk.size()?;
        if size <= device {
            return Ok(());
        }
        let problem = format!("its superblock says {size}, but the device has {device}");
        Err(FsError::superblock(disk, fs_type, problem))
    }

    /// Whether the file system or the pool below the device has no free space.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, FsError::Block(source) if source.is_no_space())
    }

    /// Whether data in the file system is lost or damaged, or may be.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, FsError::NotClean { .. })
    }

    /// Whether the step was refused by the configuration or for the host's safety.
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use FsError as E;

    #[test]
    fn every_message_names_its_device_program_or_option() {
        let device = || PathBuf::from("/dev/x");
        let program = || PathBuf::from("/sbin/mke2fs");
        let eio = || io::Error::from_raw_os_error(5);
        for (error, part) in [
            (
                E::ProgramMissing {
                    program: "mke2fs",
                    package: "e2fsprogs",
                    searched: "/a".into(),
                },
                "mke2fs is not installed: install the package e2fsprogs (looked in /a)",
            ),
            (E::ProgramStart { program: program(), source: eio() }, "cannot run /sbin/mke2fs: "),
            (
                E::ProgramFailed {
                    program: program(),
                    device: device(),
                    status: ExitStatus::from_raw(256),
                    stderr: "bad".into(),
                },
                "/sbin/mke2fs failed on /dev/x (exit status: 1): bad",
            ),
            (
                E::ProgramTimedOut {
                    program: program(),
                    device: device(),
                    limit: Duration::from_secs(3),
                    stderr: String::new(),
                },
                "/sbin/mke2fs did not finish on /dev/x within 3 s and was killed",
            ),
            (E::OptionWithoutValue { option: "-m".into() }, "the mkfs option \"-m\" needs"),
            (E::StrayArgument { argument: "x".into() }, "\"x\" is not an mkfs option"),
            (
                E::DeviceTooSmall { device: device(), actual: Sectors(1), wanted: Sectors(2) },
                "/dev/x has 1 sector, too small for a file system of 2 sectors",
            ),
            (
                E::TooManyGroups { device: device(), groups: 5000, most: 1024 },
                "the xfs on /dev/x was made small and would have 5000 allocation groups",
            ),
            (
                E::Superblock { device: device(), fs_type: FsType::Ext4, problem: "bad".into() },
                "no sound ext4 on /dev/x: bad",
            ),
            (
                E::LostFound { device: device(), source: eio() },
                "cannot remove lost+found from the new file system on /dev/x: ",
            ),
            (
                E::NotClean { device: device(), fs_type: FsType::Ext4, program_said: "bad".into() },
                "the ext4 on /dev/x is damaged: ",
            ),
            (
                E::MountForbidden {
                    device: device(),
                    fs_type: FsType::Xfs,
                    what: "grow it",
                    instead: "do not",
                },
                "the xfs on /dev/x would have to be mounted on this host to grow it",
            ),
            (
                E::PanicMask { device: device(), fs_type: FsType::Xfs, mask: "7".into() },
                "the xfs on /dev/x is not mounted: fs.xfs.panic_mask is 7",
            ),
            (
                E::Block(BlockError::DiscardUnsupported { path: device() }),
                "/dev/x does not support discard",
            ),
        ] {
            let text = error.to_string();
            assert!(text.starts_with(part), "{text}");
        }
    }
}

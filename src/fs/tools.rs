//! The programs of this module: where they are found, their time limit, and the errors when they
//! fail.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::FsError;
use super::program::{self, Ended, Outcome};

/// The default time limit of a program.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Directories that are searched after PATH, which in a daemon may lack them.
const MORE_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program of e2fsprogs or xfsprogs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tool {
    /// Makes an ext4.
    Mke2fs,
    /// Replays an ext4's journal, without the kernel.
    E2fsck,
    /// Grows an ext4, without the kernel.
    Resize2fs,
    /// Makes an xfs.
    MkfsXfs,
}

impl Tool {
    /// The program's name and Debian's package of it.
    const fn name_and_package(self) -> (&'static str, &'static str) {
        match self {
            Tool::Mke2fs => ("mke2fs", "e2fsprogs"),
            Tool::E2fsck => ("e2fsck", "e2fsprogs"),
            Tool::Resize2fs => ("resize2fs", "e2fsprogs"),
            Tool::MkfsXfs => ("mkfs.xfs", "xfsprogs"),
        }
    }
}

/// The directories that are searched for programs, and the time limit of each program.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) directories: Vec<PathBuf>,
    pub(super) time_limit: Duration,
}

impl Tools {
    /// Searches PATH, /usr/sbin and /sbin; the time limit is five minutes.
    pub(super) fn new() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories =
            std::env::split_paths(&path).chain(MORE_DIRECTORIES.map(PathBuf::from)).collect();
        Tools { directories, time_limit: TIME_LIMIT }
    }

    pub(super) fn find(&self, tool: Tool) -> Result<PathBuf, FsError> {
        let (program, package) = tool.name_and_package();
        program::find(program, &self.directories).ok_or_else(|| FsError::ProgramMissing {
            program,
            package,
            searched: self
                .directories
                .iter()
                .map(|path| path.to_string_lossy())
                .collect::<Vec<_>>()
                .join(":"),
        })
    }

    /// Runs a program on a device. A failed exit status is no error.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[OsString],
        device: &Path,
    ) -> Result<Ended, FsError> {
        tracing::debug!(program = %program.display(), ?arguments, "running a program");
        match program::run(program, arguments, self.time_limit)? {
            Outcome::Ended(ended) => Ok(ended),
            Outcome::TimedOut { stderr } => Err(FsError::ProgramTimedOut {
                program: program.to_owned(),
                device: device.to_owned(),
                limit: self.time_limit,
                stderr,
            }),
        }
    }

    /// Runs a program on a device. Any exit status except 0 is an error.
    pub(super) fn run_well(
        &self,
        program: &Path,
        arguments: &[OsString],
        device: &Path,
    ) -> Result<(), FsError> {
        let Ended { status, stderr } = self.run(program, arguments, device)?;
        if status.success() {
            return Ok(());
        }
        Err(FsError::ProgramFailed {
            program: program.to_owned(),
            device: device.to_owned(),
            status,
            stderr,
        })
    }
}

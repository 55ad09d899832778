//! The programs that this room runs: where they are found, how long they may take, and what it
//! means when they fail.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::FsError;
use super::program::{self, Ended, Outcome};

/// How long a program may take unless told otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Where programs of this kind are besides PATH, which in a daemon may be short.
const MORE_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program.
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
    /// Its name, and Debian's package that has it.
    const fn name_and_package(self) -> (&'static str, &'static str) {
        match self {
            Tool::Mke2fs => ("mke2fs", "e2fsprogs"),
            Tool::E2fsck => ("e2fsck", "e2fsprogs"),
            Tool::Resize2fs => ("resize2fs", "e2fsprogs"),
            Tool::MkfsXfs => ("mkfs.xfs", "xfsprogs"),
        }
    }
}

/// Where programs are looked for, and how long each may take.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) directories: Vec<PathBuf>,
    pub(super) time_limit: Duration,
}

impl Tools {
    /// PATH and the directories for administrators; five minutes.
    pub(super) fn new() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories =
            std::env::split_paths(&path).chain(MORE_DIRECTORIES.map(PathBuf::from)).collect();
        Tools { directories, time_limit: TIME_LIMIT }
    }

    pub(super) fn find(&self, tool: Tool) -> Result<PathBuf, FsError> {
        let (program, package) = tool.name_and_package();
        program::find(program, &self.directories).ok_or_else(|| FsError::MkfsMissing {
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

    /// Runs a program on a device; gives how it ended, whether well or not.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[OsString],
        device: &Path,
    ) -> Result<Ended, FsError> {
        tracing::debug!(program = %program.display(), ?arguments, "running");
        match program::run(program, arguments, self.time_limit)? {
            Outcome::Ended(ended) => Ok(ended),
            Outcome::TimedOut { stderr } => Err(FsError::MkfsTimedOut {
                program: program.to_owned(),
                device: device.to_owned(),
                limit: self.time_limit,
                stderr,
            }),
        }
    }

    /// Runs a program on a device that must end with status 0.
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
        Err(FsError::MkfsFailed {
            program: program.to_owned(),
            device: device.to_owned(),
            status,
            stderr,
        })
    }
}

//! The trait that makes, grows and inspects file systems, and the real one, by mke2fs and mkfs.xfs.

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::block::{
    find_content, resize_ext4, resize_xfs, with_private_mount, Access, BlockError, Disk, Disks, PrivateMount, RealDisks,
};
use crate::units::Sectors;

use super::error::FsError;
use super::options;
use super::program::{self, Ended, Outcome};
use super::types::{FsSpec, FsState, FsType};
use super::{cost, ext4, ext4_groups, xfs, zeros};

/// How long a mkfs may take unless told otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Where programs of this kind are besides PATH, which in a daemon may be short.
const MORE_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What the layers' file systems are made and kept by.
pub trait Formatter: Send + Sync + Debug {
    /// Makes a file system of `size` on a blank device that reads as zeros. Afterwards it is empty (no `lost+found`), clean,
    /// unmounted and on the disk, and takes as little of a thin pool as can be.
    ///
    /// # Errors
    /// [`FsError`]; a device that is not blank is left as it is ([`BlockError::NotBlank`]). After other errors it may be
    /// half written.
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError>;

    /// Grows the file system on a device that has become larger to `size`, and leaves one that reaches there already
    /// as it is. What the device has beyond the old size must read as zeros, as it does on a thin that never was
    /// larger. It may be mounted elsewhere at the time; then it takes more of the pool.
    ///
    /// # Errors
    /// [`FsError`].
    fn grow(&self, device: &Path, fs_type: FsType, size: Sectors) -> Result<(), FsError>;

    /// Reads the file system's superblock. The device should not be mounted: see [`FsState`].
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError>;

    /// Makes a file system clean that was not unmounted: mounts it for a moment, whereby the kernel replays its journal.
    ///
    /// # Errors
    /// [`FsError::NotClean`] for one that is damaged; [`FsError`].
    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError>;
}

/// Makes file systems by the programs that come with them, and does the rest itself.
#[derive(Debug)]
pub struct Mkfs {
    directories: Vec<PathBuf>,
    time_limit: Duration,
    /// Whether mke2fs knows that storage may be zero already; unknown until asked.
    prezeroed: Mutex<Option<bool>>,
}

impl Default for Mkfs {
    fn default() -> Self {
        Mkfs::new()
    }
}

impl Mkfs {
    /// Looks for programs on PATH and in the directories for administrators; gives each five minutes.
    #[must_use]
    pub fn new() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(MORE_DIRECTORIES.map(PathBuf::from)).collect();
        Mkfs { directories, time_limit: TIME_LIMIT, prezeroed: Mutex::new(None) }
    }

    /// Looks for programs in these directories only.
    #[must_use]
    pub fn with_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.directories = directories;
        self
    }

    /// Kills a program that takes longer than this.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    fn find(&self, fs_type: FsType) -> Result<PathBuf, FsError> {
        let (program, package) = match fs_type {
            FsType::Ext4 => ("mke2fs", "e2fsprogs"),
            FsType::Xfs => ("mkfs.xfs", "xfsprogs"),
        };
        program::find(program, &self.directories).ok_or_else(|| FsError::MkfsMissing {
            program,
            package,
            searched: self.directories.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(":"),
        })
    }

    /// Runs a program on a device; gives how it ended, whether well or not.
    fn run(&self, program: &Path, arguments: &[OsString], device: &Path) -> Result<Ended, FsError> {
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

    fn run_well(&self, program: &Path, arguments: &[OsString], device: &Path) -> Result<(), FsError> {
        let Ended { status, stderr } = self.run(program, arguments, device)?;
        if status.success() {
            return Ok(());
        }
        Err(FsError::MkfsFailed { program: program.to_owned(), device: device.to_owned(), status, stderr })
    }

    fn format_ext4(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        let program = self.find(FsType::Ext4)?;
        let prezeroed = self.knows_prezeroed(&program, device, size)?;
        let mut arguments = options::arguments(ext4::SYNTAX, &ext4::own_options(size, prezeroed), &spec.options)?;
        arguments.extend(ext4_place(device, size));
        self.run_well(&program, &arguments, device)?;
        remove_lost_and_found(device)?;
        if !prezeroed {
            let disk = RealDisks.open(device, Access::Write)?;
            let freed = zeros::punch(disk.as_ref(), &ext4_groups::zeroed_ranges(disk.as_ref())?)?;
            tracing::info!(device = %device.display(), freed, "this mke2fs (before 1.47) wrote zeros; they were discarded");
        }
        Ok(())
    }

    /// Whether mke2fs takes [`ext4::PREZEROED`], found out by a run that writes nothing (`-n`).
    fn knows_prezeroed(&self, program: &Path, device: &Path, size: Sectors) -> Result<bool, FsError> {
        let mut known = self.prezeroed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let dry = |more: &[&str]| -> Vec<OsString> {
            let fixed = ["-n", "-q", "-t", "ext4"].iter().chain(more).map(OsString::from);
            fixed.chain(ext4_place(device, size)).collect()
        };
        let knows = self.run(program, &dry(&["-E", ext4::PREZEROED]), device)?.status.success();
        if !knows {
            // Was it the option? Without it the same must work.
            self.run_well(program, &dry(&[]), device)?;
        }
        *known = Some(knows);
        Ok(knows)
    }

    fn format_xfs(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        let program = self.find(FsType::Xfs)?;
        let mut arguments = options::arguments(xfs::SYNTAX, &xfs::own_options(size), &spec.options)?;
        arguments.push(device.into());
        self.run_well(&program, &arguments, device)?;
        // The log is written with zeros, and this is nearly all that is mapped.
        let disk = RealDisks.open(device, Access::Write)?;
        let log = xfs::Superblock::read(disk.as_ref())?.log();
        zeros::punch(disk.as_ref(), log.as_slice())?;
        Ok(())
    }
}

impl Formatter for Mkfs {
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        refuse_unless_fit(device, size)?;
        match spec.fs_type {
            FsType::Ext4 => self.format_ext4(device, spec, size)?,
            FsType::Xfs => self.format_xfs(device, spec, size)?,
        }
        if !self.inspect(device, spec.fs_type)?.clean {
            return Err(FsError::NotClean { device: device.to_owned(), fs_type: spec.fs_type });
        }
        Ok(RealDisks.open(device, Access::Write)?.flush()?)
    }

    fn grow(&self, device: &Path, fs_type: FsType, size: Sectors) -> Result<(), FsError> {
        refuse_if_small(RealDisks.open(device, Access::Read)?.as_ref(), size)?;
        match fs_type {
            FsType::Ext4 => grow_ext4(device, size)?,
            FsType::Xfs => grow_xfs(device, size)?,
        }
        Ok(())
    }

    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError> {
        let disk = RealDisks.open(device, Access::Read)?;
        match fs_type {
            FsType::Ext4 => Ok(ext4::Superblock::read(disk.as_ref())?.state()),
            FsType::Xfs => xfs::Superblock::read(disk.as_ref())?.state(disk.as_ref()),
        }
    }

    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError> {
        mounted(device, fs_type, |_| Ok(()))?;
        if self.inspect(device, fs_type)?.clean {
            Ok(())
        } else {
            Err(FsError::NotClean { device: device.to_owned(), fs_type })
        }
    }
}

/// Refuses what mkfs must not be let loose on.
fn refuse_unless_fit(device: &Path, size: Sectors) -> Result<(), FsError> {
    let disk = RealDisks.open(device, Access::ReadExclusive)?;
    refuse_if_small(disk.as_ref(), size)?;
    match find_content(disk.as_ref())? {
        None => Ok(()),
        Some(found) => Err(BlockError::NotBlank { path: device.to_owned(), found }.into()),
    }
}

fn refuse_if_small(disk: &dyn Disk, wanted: Sectors) -> Result<(), FsError> {
    let actual = disk.size()?;
    if actual < wanted {
        return Err(FsError::DeviceTooSmall { device: disk.path().to_owned(), actual, wanted });
    }
    Ok(())
}

/// Device and size as mke2fs wants them.
fn ext4_place(device: &Path, size: Sectors) -> [OsString; 2] {
    [device.into(), format!("{}k", size.0 / 2).into()]
}

/// Mounts a device privately for the length of `work`, then flushes it.
fn mounted(
    device: &Path,
    fs_type: FsType,
    work: impl FnOnce(&Path) -> Result<(), FsError> + Send,
) -> Result<(), FsError> {
    let options = fs_type.mount_options().join(",");
    let mount = PrivateMount { device, fs_type: fs_type.name(), read_only: false, options: &options };
    with_private_mount(&mount, work)?;
    Ok(RealDisks.open(device, Access::Read)?.flush()?)
}

fn remove_lost_and_found(device: &Path) -> Result<(), FsError> {
    mounted(device, FsType::Ext4, |directory| match std::fs::remove_dir(directory.join("lost+found")) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FsError::LostFound { device: device.to_owned(), source })
        }
        _ => Ok(()),
    })
}

fn grow_ext4(device: &Path, size: Sectors) -> Result<(), FsError> {
    let superblock = ext4::Superblock::read(RealDisks.open(device, Access::Read)?.as_ref())?;
    let blocks = size.0 / u64::from(superblock.block_size / 512);
    if superblock.blocks >= blocks {
        return Ok(());
    }
    mounted(device, FsType::Ext4, |directory| Ok(resize_ext4(directory, blocks)?))?;
    match RealDisks.open(device, Access::WriteExclusive) {
        Ok(disk) => ext4_groups::note_zeros_behind(disk.as_ref(), superblock.blocks).map(drop),
        // Mounted elsewhere: the kernel will clear the new inode tables by and by.
        Err(BlockError::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn grow_xfs(device: &Path, size: Sectors) -> Result<(), FsError> {
    let superblock = xfs::Superblock::read(RealDisks.open(device, Access::Read)?.as_ref())?;
    let blocks = size.0 / u64::from(superblock.block_size / 512);
    if superblock.blocks >= blocks {
        return Ok(());
    }
    let groups = blocks.div_ceil(u64::from(superblock.group_blocks).max(1));
    if groups > cost::XFS_GROUPS_MOST {
        return Err(FsError::TooManyGroups { device: device.to_owned(), groups, most: cost::XFS_GROUPS_MOST });
    }
    mounted(device, FsType::Xfs, |directory| Ok(resize_xfs(directory, blocks, superblock.inode_percent)?))
}

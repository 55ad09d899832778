//! Makes and maintains file systems with the programs of e2fsprogs and xfsprogs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::block::{
    find_content, resize_xfs, with_private_mount, Access, BlockError, Disk, Disks, PrivateMount,
    RealDisks,
};
use crate::units::Sectors;

use super::error::FsError;
use super::formatter::Formatter;
use super::mounting::MountOptions;
use super::program::Ended;
use super::tools::{Tool, Tools};
use super::types::{FsSpec, FsState, FsType, Writer};
use super::{cost, ext4, inspect, options, xfs, zeros};

/// The kinds of damage in an xfs on which the kernel panics. The file does not exist before the xfs
/// module is loaded.
const XFS_PANIC_MASK: &str = "/proc/sys/fs/xfs/panic_mask";

/// The [`Formatter`] for real devices.
#[derive(Debug)]
pub struct Mkfs {
    tools: Tools,
    mount_untrusted: bool,
    /// Whether mke2fs knows [`ext4::PREZEROED`]; `None` until it was tried.
    prezeroed: Mutex<Option<bool>>,
}

impl Default for Mkfs {
    fn default() -> Self {
        Mkfs::new()
    }
}

impl Mkfs {
    /// Looks for programs in the directories of PATH, /usr/sbin and /sbin. Each program may take
    /// five minutes.
    #[must_use]
    pub fn new() -> Self {
        Mkfs { tools: Tools::new(), mount_untrusted: true, prezeroed: Mutex::new(None) }
    }

    /// Looks for programs only in these directories.
    #[must_use]
    pub fn with_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.tools.directories = directories;
        self
    }

    /// Kills a program that runs longer than `limit`.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.tools.time_limit = limit;
        self
    }

    /// Whether an xfs that containers or guests may have written may be mounted on this host
    /// (default: yes).
    #[must_use]
    pub fn mounting_untrusted(mut self, allowed: bool) -> Self {
        self.mount_untrusted = allowed;
        self
    }

    fn format_ext4(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        let program = self.tools.find(Tool::Mke2fs)?;
        let prezeroed = spec.zeroed && self.knows_prezeroed(&program, device, size)?;
        let mut arguments = options::arguments(
            ext4::SYNTAX,
            &ext4::own_options(size, prezeroed, &spec.options),
            &spec.options,
        )?;
        arguments.extend(ext4_place(device, size));
        self.tools.run_well(&program, &arguments, device)?;
        ext4::note_lost_writes(RealDisks.open(device, Access::WriteExclusive)?.as_ref())?;
        remove_lost_and_found(device)?;
        if spec.zeroed && !prezeroed {
            let disk = RealDisks.open(device, Access::Write)?;
            let freed = zeros::punch(disk.as_ref(), &ext4::zeroed_ranges(disk.as_ref())?)?;
            tracing::info!(
                device = %device.display(),
                freed,
                "mke2fs is older than 1.47 and wrote zeros; they were discarded"
            );
        }
        Ok(())
    }

    /// Whether mke2fs knows [`ext4::PREZEROED`], found out by a dry run (`-n`).
    fn knows_prezeroed(
        &self,
        program: &Path,
        device: &Path,
        size: Sectors,
    ) -> Result<bool, FsError> {
        let mut known = self.prezeroed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let dry = |more: &[&str]| -> Vec<OsString> {
            let fixed = ["-n", "-q", "-t", "ext4"].iter().chain(more).map(OsString::from);
            fixed.chain(ext4_place(device, size)).collect()
        };
        let knows =
            self.tools.run(program, &dry(&["-E", ext4::PREZEROED]), device)?.status.success();
        if !knows {
            // Without the option the dry run must work; otherwise something else is wrong.
            self.tools.run_well(program, &dry(&[]), device)?;
        }
        *known = Some(knows);
        Ok(knows)
    }

    /// Replays with e2fsck, so that the kernel does not mount the file system. `journal_only`
    /// replays the journal and frees the files that were deleted while open. It repairs nothing
    /// else: the result is the same as after a mount and an unmount. A file system that is not
    /// clean afterwards is damaged.
    fn replay_ext4(&self, device: &Path) -> Result<(), FsError> {
        let program = self.tools.find(Tool::E2fsck)?;
        let disk = RealDisks.open(device, Access::Read)?;
        ext4::Superblock::read(disk.as_ref())?.must_be_known(disk.as_ref())?;
        drop(disk);
        let arguments =
            ["-p", "-E", "journal_only"].map(OsString::from).into_iter().chain([device.into()]);
        let Ended { status, stderr } =
            self.tools.run(&program, &arguments.collect::<Vec<_>>(), device)?;
        // Exit codes of e2fsck(8): 1, 2 and 4 stand for damage, repaired or not. For example, an
        // invalid journal is created again. The error is marked in the superblock, so that a later
        // Commit does not accept the rest as a whole layer.
        if status.code().is_some_and(|code| code & 7 != 0) {
            ext4::note_error(RealDisks.open(device, Access::WriteExclusive)?.as_ref())?;
            let (device, fs_type) = (device.to_owned(), FsType::Ext4);
            return Err(FsError::NotClean { device, fs_type, program_said: stderr });
        }
        if !status.success() {
            return Err(FsError::ProgramFailed {
                program,
                device: device.to_owned(),
                status,
                stderr,
            });
        }
        Ok(RealDisks.open(device, Access::Read)?.flush()?)
    }

    /// Grows with resize2fs, so that the kernel does not mount the file system.
    fn grow_ext4(&self, device: &Path, size: Sectors) -> Result<(), FsError> {
        let disk = RealDisks.open(device, Access::Read)?;
        let superblock = ext4::Superblock::read(disk.as_ref())?;
        if superblock.blocks >= size.0 / u64::from(superblock.block_size / 512) {
            return Ok(());
        }
        superblock.must_be_known(disk.as_ref())?;
        drop(disk);
        let program = self.tools.find(Tool::Resize2fs)?;
        // Without -f resize2fs asks for a full check first. The file system is known to be clean.
        let arguments = [OsString::from("-f"), device.into(), format!("{}s", size.0).into()];
        self.tools.run_well(&program, &arguments, device)?;
        match RealDisks.open(device, Access::WriteExclusive) {
            Ok(disk) => ext4::note_zeros_behind(disk.as_ref(), superblock.blocks).map(drop),
            // It is mounted elsewhere; the kernel zeroes the new inode tables in the background.
            Err(BlockError::Busy { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn grow_xfs(&self, device: &Path, size: Sectors, writer: Writer) -> Result<(), FsError> {
        let superblock = xfs::Superblock::read(RealDisks.open(device, Access::Read)?.as_ref())?;
        let blocks = size.0 / u64::from(superblock.block_size / 512);
        if superblock.blocks >= blocks {
            return Ok(());
        }
        let groups = blocks.div_ceil(u64::from(superblock.group_blocks).max(1));
        if groups > cost::XFS_GROUPS_MOST {
            return Err(FsError::TooManyGroups {
                device: device.to_owned(),
                groups,
                most: cost::XFS_GROUPS_MOST,
            });
        }
        let instead = "ask for no more than its parent's size (the label \
                       containerd.io/snapshot/max-size, base_image_size)";
        self.may_mount(device, FsType::Xfs, writer, "grow it", instead)?;
        mounted(device, FsType::Xfs, |directory| {
            Ok(resize_xfs(directory, blocks, superblock.inode_percent)?)
        })
    }

    /// Refuses to mount a device on this host if it is not safe or not allowed, by the `writer` of
    /// its content.
    fn may_mount(
        &self,
        device: &Path,
        fs_type: FsType,
        writer: Writer,
        what: &'static str,
        instead: &'static str,
    ) -> Result<(), FsError> {
        if writer == Writer::Us {
            return Ok(());
        }
        let device = device.to_owned();
        if !self.mount_untrusted {
            return Err(FsError::MountForbidden { device, fs_type, what, instead });
        }
        match std::fs::read_to_string(XFS_PANIC_MASK).ok().map(|mask| mask.trim().to_owned()) {
            Some(mask) if fs_type == FsType::Xfs && mask != "0" => {
                Err(FsError::PanicMask { device, fs_type, mask })
            }
            _ => Ok(()),
        }
    }

    fn format_xfs(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        let program = self.tools.find(Tool::MkfsXfs)?;
        let mut arguments =
            options::arguments(xfs::SYNTAX, &xfs::own_options(size), &spec.options)?;
        arguments.push(device.into());
        self.tools.run_well(&program, &arguments, device)?;
        if !spec.zeroed {
            return Ok(());
        }
        // mkfs.xfs writes zeros to the log, which are nearly all blocks that are mapped.
        let disk = RealDisks.open(device, Access::Write)?;
        let log = xfs::Superblock::read(disk.as_ref())?.log();
        zeros::punch(disk.as_ref(), log.as_slice())?;
        Ok(())
    }
}

impl Formatter for Mkfs {
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        refuse_unfit(device, size)?;
        match spec.fs_type {
            FsType::Ext4 => self.format_ext4(device, spec, size)?,
            FsType::Xfs => self.format_xfs(device, spec, size)?,
        }
        if !self.inspect(device, spec.fs_type)?.clean {
            let device = device.to_owned();
            return Err(FsError::NotClean {
                device,
                fs_type: spec.fs_type,
                program_said: String::new(),
            });
        }
        Ok(RealDisks.open(device, Access::Write)?.flush()?)
    }

    fn grow(
        &self,
        device: &Path,
        fs_type: FsType,
        size: Sectors,
        writer: Writer,
    ) -> Result<(), FsError> {
        refuse_if_small(RealDisks.open(device, Access::Read)?.as_ref(), size)?;
        match fs_type {
            FsType::Ext4 => self.grow_ext4(device, size),
            FsType::Xfs => self.grow_xfs(device, size, writer),
        }
    }

    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError> {
        inspect::inspect(RealDisks.open(device, Access::Read)?.as_ref(), fs_type)
    }

    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError> {
        let not_clean =
            |program_said| FsError::NotClean { device: device.to_owned(), fs_type, program_said };
        if let Some(errors) = self.inspect(device, fs_type)?.errors {
            return Err(not_clean(errors.to_string()));
        }
        match fs_type {
            FsType::Ext4 => self.replay_ext4(device)?,
            FsType::Xfs => {
                let instead = "where it is mounted (in the virtual machine), unmount it before it \
                               is committed";
                self.may_mount(device, fs_type, Writer::Anybody, "replay its log", instead)?;
                mounted(device, fs_type, |_| Ok(()))?;
            }
        }
        match self.inspect(device, fs_type)? {
            FsState { clean: true, .. } => Ok(()),
            FsState { errors: Some(errors), .. } => Err(not_clean(errors.to_string())),
            FsState { errors: None, .. } => Err(not_clean(String::new())),
        }
    }
}

/// Refuses a device that is mounted, claimed, too small or not blank.
fn refuse_unfit(device: &Path, size: Sectors) -> Result<(), FsError> {
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

/// The device and the size as arguments of mke2fs.
fn ext4_place(device: &Path, size: Sectors) -> [OsString; 2] {
    [device.into(), format!("{}k", size.0 / 2).into()]
}

/// Mounts a device privately, calls `work`, unmounts and flushes the device.
fn mounted(
    device: &Path,
    fs_type: FsType,
    work: impl FnOnce(&Path) -> Result<(), FsError> + Send,
) -> Result<(), FsError> {
    let options = MountOptions::of(fs_type).data();
    let mount =
        PrivateMount { device, fs_type: fs_type.name(), read_only: false, options: &options };
    with_private_mount(&mount, work)?;
    Ok(RealDisks.open(device, Access::Read)?.flush()?)
}

fn remove_lost_and_found(device: &Path) -> Result<(), FsError> {
    mounted(device, FsType::Ext4, |directory| {
        match std::fs::remove_dir(directory.join("lost+found")) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(FsError::LostFound { device: device.to_owned(), source })
            }
            _ => Ok(()),
        }
    })
}

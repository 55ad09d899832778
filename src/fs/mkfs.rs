//! The trait that makes, grows and inspects file systems, and the real one, by the programs of
//! e2fsprogs and xfsprogs.

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::block::{
    find_content, resize_xfs, with_private_mount, Access, BlockError, Disk, Disks, PrivateMount,
    RealDisks,
};
use crate::units::Sectors;

use super::error::FsError;
use super::mounting::MountOptions;
use super::options;
use super::program::Ended;
use super::tools::{Tool, Tools};
use super::types::{FsSpec, FsState, FsType, Writer};
use super::{cost, ext4, ext4_groups, ext4_super, xfs, zeros};

/// Where the kernel shows which kinds of damage in an xfs are to end it; there is none before xfs
/// is loaded.
const XFS_PANIC_MASK: &str = "/proc/sys/fs/xfs/panic_mask";

/// What the layers' file systems are made and kept by.
pub trait Formatter: Send + Sync + Debug {
    /// Makes a file system of `size` on a blank device that reads as zeros. Afterwards it is empty
    /// (no `lost+found`), clean, unmounted and on the disk, and takes as little of a thin pool as
    /// can be.
    ///
    /// # Errors
    /// [`FsError`]; a device that is not blank is left as it is ([`BlockError::NotBlank`]). After
    /// other errors it may be half written.
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError>;

    /// Grows the file system on a device that has become larger to `size`, and leaves one that
    /// reaches there already as it is. `writer` says who may have written what is there. What the
    /// device has beyond the old size must read as zeros, as it does on a thin that never was
    /// larger. It may be mounted elsewhere at the time; then it takes more of the pool.
    ///
    /// # Errors
    /// [`FsError::MountForbidden`]; [`FsError`].
    fn grow(
        &self,
        device: &Path,
        fs_type: FsType,
        size: Sectors,
        writer: Writer,
    ) -> Result<(), FsError>;

    /// Reads the file system's superblock. The device should not be mounted: see [`FsState`].
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError>;

    /// Makes a file system clean that was not unmounted and that anybody may have written, by
    /// replaying its journal. One that has noted errors ([`FsState::errors`]) is left as it is.
    ///
    /// # Errors
    /// [`FsError::NotClean`] for one that has noted errors, is damaged or has no journal;
    /// [`FsError::MountForbidden`]; [`FsError`].
    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError>;
}

/// Makes and keeps file systems by the programs that come with them, and does the rest itself.
#[derive(Debug)]
pub struct Mkfs {
    tools: Tools,
    mount_untrusted: bool,
    /// Whether mke2fs knows that storage may be zero already; unknown until asked.
    prezeroed: Mutex<Option<bool>>,
}

impl Default for Mkfs {
    fn default() -> Self {
        Mkfs::new()
    }
}

impl Mkfs {
    /// Looks for programs on PATH and in the directories for administrators; gives each five
    /// minutes.
    #[must_use]
    pub fn new() -> Self {
        Mkfs { tools: Tools::new(), mount_untrusted: true, prezeroed: Mutex::new(None) }
    }

    /// Looks for programs in these directories only.
    #[must_use]
    pub fn with_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.tools.directories = directories;
        self
    }

    /// Kills a program that takes longer than this.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.tools.time_limit = limit;
        self
    }

    /// Whether a file system may be mounted on this host that others than this program may have
    /// written (default: yes).
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
        ext4_super::note_lost_writes(RealDisks.open(device, Access::WriteExclusive)?.as_ref())?;
        remove_lost_and_found(device)?;
        if spec.zeroed && !prezeroed {
            let disk = RealDisks.open(device, Access::Write)?;
            let freed = zeros::punch(disk.as_ref(), &ext4_groups::zeroed_ranges(disk.as_ref())?)?;
            tracing::info!(device = %device.display(), freed, "this mke2fs (before 1.47) wrote zeros; they were discarded");
        }
        Ok(())
    }

    /// Whether mke2fs takes [`ext4::PREZEROED`], found out by a run that writes nothing (`-n`).
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
            // Was it the option? Without it the same must work.
            self.tools.run_well(program, &dry(&[]), device)?;
        }
        *known = Some(knows);
        Ok(knows)
    }

    /// By e2fsck, so that the kernel never mounts it. `journal_only` replays the journal and works
    /// off the list of files that were deleted while open, and mends nothing else; what it leaves
    /// is what mounting and unmounting leaves. One that is not clean afterwards is damaged.
    fn replay_ext4(&self, device: &Path) -> Result<(), FsError> {
        let program = self.tools.find(Tool::E2fsck)?;
        let disk = RealDisks.open(device, Access::Read)?;
        ext4_super::Superblock::read(disk.as_ref())?.must_be_known(disk.as_ref())?;
        drop(disk);
        let arguments =
            ["-p", "-E", "journal_only"].map(OsString::from).into_iter().chain([device.into()]);
        let Ended { status, stderr } =
            self.tools.run(&program, &arguments.collect::<Vec<_>>(), device)?;
        // Exit codes of e2fsck(8): 1, 2 and 4 stand for damage, mended or not. A journal that is
        // none is made anew, for one; the next Commit must not take what is left for a whole layer.
        if status.code().is_some_and(|code| code & 7 != 0) {
            ext4_super::note_error(RealDisks.open(device, Access::WriteExclusive)?.as_ref())?;
            let (device, fs_type) = (device.to_owned(), FsType::Ext4);
            return Err(FsError::NotClean { device, fs_type, program_said: stderr });
        }
        if !status.success() {
            return Err(FsError::MkfsFailed { program, device: device.to_owned(), status, stderr });
        }
        Ok(RealDisks.open(device, Access::Read)?.flush()?)
    }

    /// By resize2fs, so that the kernel does not mount what others may have written.
    fn grow_ext4(&self, device: &Path, size: Sectors) -> Result<(), FsError> {
        let disk = RealDisks.open(device, Access::Read)?;
        let superblock = ext4_super::Superblock::read(disk.as_ref())?;
        if superblock.blocks >= size.0 / u64::from(superblock.block_size / 512) {
            return Ok(());
        }
        superblock.must_be_known(disk.as_ref())?;
        drop(disk);
        let program = self.tools.find(Tool::Resize2fs)?;
        // It is clean, and -f says that this is known: without it resize2fs wants a full check
        // first.
        let arguments = [OsString::from("-f"), device.into(), format!("{}s", size.0).into()];
        self.tools.run_well(&program, &arguments, device)?;
        match RealDisks.open(device, Access::WriteExclusive) {
            Ok(disk) => ext4_groups::note_zeros_behind(disk.as_ref(), superblock.blocks).map(drop),
            // Mounted elsewhere: the kernel will clear the new inode tables by and by.
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
        let instead =
            "ask for no more than its parent's size (the label containerd.io/snapshot/max-size, base_image_size)";
        self.may_mount(device, FsType::Xfs, writer, "grow it", instead)?;
        mounted(device, FsType::Xfs, |directory| {
            Ok(resize_xfs(directory, blocks, superblock.inode_percent)?)
        })
    }

    /// Whether a device may be mounted on this host whose content `writer` wrote.
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
        super::inspect(RealDisks.open(device, Access::Read)?.as_ref(), fs_type)
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
                let instead = "have whoever mounts it (the virtual machine) unmount it before it is committed";
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

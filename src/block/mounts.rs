//! Mounting a device for a moment where nobody else can see it.
//!
//! A dedicated thread enters a mount namespace of its own, mounts, works, unmounts and ends. The
//! mount never shows in any other namespace, so no container and no shell can be started into it
//! and keep the device busy; and if the process is killed in the middle, the kernel drops the
//! namespace with the thread and the mount with the namespace.
//!
//! Invariant: nothing outside the thread ever depends on the mount being there.

use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{mount, umount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::unistd::syncfs;

use super::error::BlockError;

/// Directories that can be mounted over inside the private namespace: the first that exists is
/// taken. What they hold stays visible to everybody else.
const MOUNT_POINTS: [&str; 4] = ["/mnt", "/run", "/tmp", "/proc"];

/// What to mount.
#[derive(Debug, Clone)]
pub struct PrivateMount<'a> {
    /// The block device.
    pub device: &'a Path,
    /// The kernel's name of the file system type.
    pub fs_type: &'a str,
    /// Whether to mount it read-only. (On a writable device that still replays a journal.)
    pub read_only: bool,
    /// Options of the file system, separated by commas; may be empty.
    pub options: &'a str,
}

/// Mounts a device in a namespace of its own, runs `work` with the directory it is mounted at,
/// syncs and unmounts.
///
/// `work` runs on a thread of its own; only there does the directory mean the mounted file system.
/// When this returns, the device is not mounted any more and, unless mounted read-only, all that
/// was written is on the disk. A panic in `work` unmounts, then goes on in the caller.
///
/// # Errors
/// [`BlockError::Namespace`], [`BlockError::Mount`], [`BlockError::Step`] for the sync,
/// [`BlockError::Unmount`], or what `work` gave; `work`'s own error comes before those of tidying
/// up.
pub fn with_private_mount<T, E>(
    what: &PrivateMount<'_>,
    work: impl FnOnce(&Path) -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<BlockError> + Send,
{
    thread::scope(|scope| {
        let spawned = thread::Builder::new()
            .name("private-mount".to_owned())
            .spawn_scoped(scope, || mounted(what, work));
        match spawned.map_err(|source| namespace_error(what, source))?.join() {
            Ok(result) => result,
            Err(panicked) => panic::resume_unwind(panicked),
        }
    })
}

fn mounted<T, E: From<BlockError>>(
    what: &PrivateMount<'_>,
    work: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let guard = Mounted::new(what)?;
    let done = work(&guard.directory)?;
    guard.finish()?;
    Ok(done)
}

/// A mount of this thread's namespace; unmounted on drop where `finish` was not reached.
struct Mounted<'a> {
    what: &'a PrivateMount<'a>,
    directory: PathBuf,
    finished: bool,
}

impl<'a> Mounted<'a> {
    fn new(what: &'a PrivateMount<'a>) -> Result<Self, BlockError> {
        enter_namespace().map_err(|source| namespace_error(what, source))?;
        let directory = mount_point().map_err(|source| namespace_error(what, source))?;
        let mut flags =
            MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        flags.set(MsFlags::MS_RDONLY, what.read_only);
        let options = (!what.options.is_empty()).then_some(what.options);
        mount(Some(what.device), &directory, Some(what.fs_type), flags, options).map_err(|e| {
            BlockError::Mount {
                device: what.device.to_owned(),
                fs_type: what.fs_type.to_owned(),
                source: e.into(),
            }
        })?;
        Ok(Mounted { what, directory, finished: false })
    }

    /// Syncs and unmounts, and says whether both went well.
    fn finish(mut self) -> Result<(), BlockError> {
        self.finished = true;
        let synced = self.sync();
        let unmounted = umount(&self.directory).map_err(|e| BlockError::Unmount {
            device: self.what.device.to_owned(),
            source: e.into(),
        });
        synced.and(unmounted)
    }

    /// Unmounting writes everything too, but does not report what it could not write.
    fn sync(&self) -> Result<(), BlockError> {
        let opened = std::fs::File::open(&self.directory);
        opened
            .and_then(|directory| Ok(syncfs(&directory)?))
            .map_err(|e| BlockError::step("sync the file system on", self.what.device, e))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // The work's error is on its way to the caller. The thread ends next, and the mount
            // with it.
            let _ = umount(&self.directory);
        }
    }
}

/// Gives the calling thread mounts of its own. Slave, not private: a mount made here stays here,
/// while what others unmount goes from here as well, so that this thread never keeps a stranger's
/// device busy.
fn enter_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

fn mount_point() -> io::Result<PathBuf> {
    let found = MOUNT_POINTS.iter().map(Path::new).find(|directory| directory.is_dir());
    found.map(Path::to_owned).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("none of {MOUNT_POINTS:?} is a directory to mount on"),
        )
    })
}

fn namespace_error(what: &PrivateMount<'_>, source: io::Error) -> BlockError {
    BlockError::Namespace { device: what.device.to_owned(), source }
}

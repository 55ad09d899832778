//! Mounts a device for a short time in a mount namespace that no other process is in.
//!
//! A dedicated thread enters its own mount namespace, mounts, works, unmounts and ends. The mount
//! is not visible in any other namespace, so no container or shell can start in it and keep the
//! device busy. If the process is killed, the kernel drops the namespace with the thread, and the
//! mount with the namespace.
//!
//! Invariant: no code outside the thread depends on the mount.

use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{mount, umount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::unistd::syncfs;

use super::error::BlockError;

/// Candidates for the mount point in the private namespace; the first one that exists is used.
/// Other namespaces are not affected.
const MOUNT_POINTS: [&str; 4] = ["/mnt", "/run", "/tmp", "/proc"];

/// A mount for [`with_private_mount`].
#[derive(Debug, Clone)]
pub struct PrivateMount<'a> {
    /// The block device.
    pub device: &'a Path,
    /// The kernel's name of the file system type.
    pub fs_type: &'a str,
    /// Whether to mount it read-only. On a writable device the kernel still replays the journal.
    pub read_only: bool,
    /// The file system's own options, separated by commas; may be empty.
    pub options: &'a str,
}

/// Mounts a device in a private mount namespace, calls `work` with the mount point, syncs and
/// unmounts.
///
/// `work` runs on its own thread. The mount is visible only on that thread. When this function
/// returns, the device is unmounted and, if the mount was writable, all writes are on the disk. A
/// panic in `work` unmounts the device and then continues in the caller.
///
/// # Errors
/// [`BlockError::Namespace`], [`BlockError::Mount`], [`BlockError::Step`] for the sync,
/// [`BlockError::Unmount`], or the error of `work`, which comes before an error of the unmount.
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

/// A mount in this thread's namespace. Unmounted on drop if `finish` was not called.
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

    fn finish(mut self) -> Result<(), BlockError> {
        self.finished = true;
        let synced = self.sync();
        let unmounted = umount(&self.directory).map_err(|e| BlockError::Unmount {
            device: self.what.device.to_owned(),
            source: e.into(),
        });
        synced.and(unmounted)
    }

    /// Unmounting writes everything too, but does not report failed writes.
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
            // The caller gets the error of the work. The mount ends with the thread in any case.
            let _ = umount(&self.directory);
        }
    }
}

/// Gives the calling thread its own mount namespace. The mounts are slaves and not private: a mount
/// made here is not visible elsewhere, and an unmount elsewhere also takes effect here, so that
/// this thread does not keep the device of another mount busy.
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

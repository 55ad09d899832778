//! Device nodes under `/dev/mapper`, made and removed without udev.
//!
//! A node is a block device file with the name of the device. Where udev made a symlink of that
//! name, the symlink stays as long as it leads to the right device.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{mknod, Mode, SFlag};

use crate::dm::error::{Error, Result};
use crate::names::DmName;
use crate::units::DeviceNumber;

/// A directory of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir {
    dir: PathBuf,
}

/// What [`Dm::sweep_nodes`](crate::dm::Dm::sweep_nodes) did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSweep {
    /// Nodes that were missing, or led to another device.
    pub made: Vec<DmName>,
    /// Nodes without a device.
    pub removed: Vec<PathBuf>,
}

impl NodeDir {
    pub(in crate::dm) fn new(dir: PathBuf) -> NodeDir {
        NodeDir { dir }
    }

    /// Where the node of `name` is.
    #[must_use]
    pub fn path(&self, name: &DmName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// The device that the node of `name` leads to, through symlinks; `None` when there is no such
    /// node.
    #[must_use]
    pub fn device(&self, name: &DmName) -> Option<DeviceNumber> {
        block_device(&self.path(name))
    }

    /// Makes the node of `name` lead to `device`; returns whether it had to be made. The node is
    /// for root only, mode 0600.
    ///
    /// # Errors
    /// [`Error::Node`] when it cannot be made.
    pub fn make(&self, name: &DmName, device: DeviceNumber) -> Result<bool> {
        let path = self.path(name);
        let mut tries = 0;
        loop {
            // Usually there is none, so that the first try succeeds.
            match mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), device.to_u64()) {
                Ok(()) => return Ok(true),
                Err(Errno::EEXIST) if block_device(&path) == Some(device) => return Ok(false),
                // Left by another device of this name.
                Err(Errno::EEXIST) if tries < 3 => drop(remove(&path)?),
                Err(Errno::ENOENT) if tries < 3 => {
                    fs::create_dir_all(&self.dir)
                        .map_err(|error| node_error("make", &self.dir, &error))?;
                }
                Err(errno) => return Err(Error::Node { action: "make", path, errno }),
            }
            tries += 1;
        }
    }

    /// Removes the node of `name`; returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Node`] when it cannot be removed.
    pub fn remove(&self, name: &DmName) -> Result<bool> {
        remove(&self.path(name))
    }

    /// The names of all nodes that start with `prefix`. A symlink counts: udev makes them. Anything
    /// else in the directory does not.
    ///
    /// # Errors
    /// [`Error::Node`] when the directory cannot be read. A missing one has no nodes.
    pub fn names(&self, prefix: &str) -> Result<Vec<DmName>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(node_error("list", &self.dir, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| node_error("list", &self.dir, &error))?;
            let Some(name) = entry.file_name().to_str().and_then(|n| DmName::new(n).ok()) else {
                continue;
            };
            let kind = entry.file_type().map_err(|e| node_error("look at", &entry.path(), &e))?;
            if name.as_str().starts_with(prefix) && (kind.is_block_device() || kind.is_symlink()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

fn block_device(path: &Path) -> Option<DeviceNumber> {
    let metadata = fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| DeviceNumber::from_u64(metadata.rdev()))
}

fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(node_error("remove", path, &error)),
    }
}

fn node_error(action: &'static str, path: &Path, error: &io::Error) -> Error {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    Error::Node { action, path: path.to_owned(), errno }
}

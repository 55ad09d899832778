//! The trait that makes, grows, inspects and replays file systems.

use std::fmt::Debug;
use std::path::Path;

use crate::units::Sectors;

use super::error::FsError;
use super::types::{FsSpec, FsState, FsType, Writer};

/// Makes and maintains the file systems of snapshots and templates.
pub trait Formatter: Send + Sync + Debug {
    /// Makes a file system of `size` on a blank device that reads as zeros. Afterwards the file
    /// system is empty (without `lost+found`), clean, unmounted and on the disk, and maps as few
    /// blocks of a thin pool as possible.
    ///
    /// # Errors
    /// [`FsError`]. A device that is not blank stays as it is
    /// ([`BlockError::NotBlank`](crate::block::BlockError::NotBlank)). After other errors the
    /// device may be partly written.
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError>;

    /// Grows the file system on a device that has become larger to `size`. A file system that
    /// already has this size stays as it is. `writer` says who may have written its content. The
    /// device must read as zeros beyond the old size, as a thin does that was never larger. The
    /// file system may be mounted elsewhere; then it maps more of the pool.
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

    /// Reads the state of the file system. The device should not be mounted: see [`FsState`].
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError>;

    /// Replays the journal of a file system that was not unmounted, so that it is clean. Any
    /// container or guest may have written it. A file system with recorded errors
    /// ([`FsState::errors`]) stays as it is.
    ///
    /// # Errors
    /// [`FsError::NotClean`] if it has recorded errors, is damaged or has no journal;
    /// [`FsError::MountForbidden`]; [`FsError`].
    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError>;
}

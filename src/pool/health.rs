//! Pools that take no changes, and what to do about them.

use super::advice::MetadataPlace;
use super::error::PoolError;
use crate::dm::{PoolMode, WorkingPool};
use crate::names::DmName;

/// dm-thin counts its metadata in blocks of 4 KiB.
pub const METADATA_BLOCK: u64 = 4096;

/// Whether the kernel could not write metadata, and so refuses every change.
pub fn must_be_checked(status: &WorkingPool) -> bool {
    status.needs_check || status.mode == PoolMode::ReadOnly
}

/// The error for a pool that [`must_be_checked`]. `active` says that it is assembled. A pool whose
/// metadata is merely full needs more of it.
pub fn sick(
    status: &WorkingPool,
    pool: DmName,
    metadata: &MetadataPlace,
    active: bool,
) -> PoolError {
    let MetadataPlace { path, growth } = metadata.clone();
    if status.metadata.free() > 0 {
        return PoolError::NeedsCheck { pool, metadata: path, active };
    }
    PoolError::MetadataFull {
        pool,
        total: status.metadata.total * METADATA_BLOCK,
        growth,
        check: status.needs_check.then_some(path),
        active,
    }
}

//! Whether the kernel takes changes to a pool, and what to say if it does not.

use super::room::METADATA_BLOCK;
use super::{Backer, DeviceNames, PoolError};
use crate::dm::{PoolMode, WorkingPool};
use crate::names::DmName;

/// The kernel could not write metadata, and refuses every change from then on.
pub(super) fn must_be_checked(status: &WorkingPool) -> bool {
    status.needs_check || status.mode == PoolMode::ReadOnly
}

/// What to say of a pool that [`must_be_checked`]. Where its metadata is merely full, the way out
/// is more of it.
pub(super) fn sick(
    status: &WorkingPool,
    pool: DmName,
    backer: &Backer,
    names: &DeviceNames,
    active: bool,
) -> PoolError {
    let metadata = backer.metadata_path(names);
    if status.metadata.free() > 0 {
        return PoolError::NeedsCheck { pool, metadata, active };
    }
    let (total, growth) = (status.metadata.total * METADATA_BLOCK, backer.metadata_growth());
    PoolError::MetadataFull {
        pool,
        total,
        growth,
        check: status.needs_check.then_some(metadata),
        active,
    }
}

//! The table of a pool that this daemon assembles.

use super::areas::Areas;
use crate::dm::{DiscardPolicy, NoSpacePolicy, PoolFeatures, ThinPoolTable};
use crate::pool::backing::EmbeddedFiles;
use crate::units::Sectors;

/// The table of a pool on these areas. `files` are those of an embedded pool.
///
/// Blocks are zeroed, so that no snapshot shows old data of another.
///
/// All blocks of the embedded pool's files are allocated. Discards must not free them below the
/// pool, since the next write to such a block could meet a full file system. While the embedded
/// pool can grow, a write that needs a block waits for it. Any other full pool refuses the write at
/// once.
pub fn of_pool(areas: &Areas, block_size: Sectors, files: Option<&EmbeddedFiles>) -> ThinPoolTable {
    let blocks = areas.data_size.0 / block_size.0;
    let length = Sectors(blocks * block_size.0);
    let step = files.and_then(EmbeddedFiles::growth_step);
    let can_grow = files.is_some_and(|files| files.growable(length).0 > 0);
    ThinPoolTable {
        start: Sectors(0),
        length,
        metadata: areas.metadata.into(),
        data: areas.data.into(),
        block_size,
        low_water_blocks: step.map_or(blocks / 20, |step| low_water(step, block_size)),
        features: PoolFeatures {
            discard: if step.is_some() {
                DiscardPolicy::NoPassDown
            } else {
                DiscardPolicy::PassDown
            },
            no_space: if can_grow { NoSpacePolicy::Queue } else { NoSpacePolicy::Error },
            ..PoolFeatures::default()
        },
    }
}

/// The free blocks below which a pool that grows by `step` grows: half a step.
pub fn low_water(step: Sectors, block_size: Sectors) -> u64 {
    (step.0 / 2 / block_size.0).max(1)
}

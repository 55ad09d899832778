//! The table of a pool that this daemon assembles.

use super::areas::Areas;
use super::Backer;
use crate::dm::{DiscardPolicy, NoSpacePolicy, PoolFeatures, ThinPoolTable};
use crate::units::Sectors;

/// Zeroing stays on, so that nobody reads another's old blocks.
///
/// The embedded pool has space set aside for all its blocks, so discards must not give it back
/// below the pool: the next write to such a block could meet a full disk. While it can grow, who
/// needs a block waits for that; otherwise a full pool answers at once.
pub fn of_pool(areas: &Areas, block_size: Sectors, backer: &Backer) -> ThinPoolTable {
    let blocks = areas.data_size.0 / block_size.0;
    let length = Sectors(blocks * block_size.0);
    let step = backer.growth_step();
    let can_grow = backer.room_to_grow(length).0 > 0;
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

/// A pool that grows by `step` does so when less than half of that is free.
pub fn low_water(step: Sectors, block_size: Sectors) -> u64 {
    (step.0 / 2 / block_size.0).max(1)
}

//! How large the areas of a pool are.

use crate::units::Sectors;

/// A mapped block takes about 48 bytes of metadata. Twice that is enough for snapshots that share
/// little.
const METADATA_BYTES_PER_BLOCK: u64 = 96;
const METADATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// The kernel needs this much of a metadata area (thin_metadata_size says 2 MiB).
pub const METADATA_USABLE: Sectors = Sectors((2 << 20) / 512);
/// dm-thin uses at most 255 × 64 MiB less a little (dm-thin-metadata.h, THIN_METADATA_MAX_SECTORS).
const METADATA_MOST: Sectors = Sectors(255 * ((1 << 14) - 64) * 8);
pub const DATA_LEAST: Sectors = Sectors((64 << 20) / 512);
/// Areas begin and end on whole blocks of 64 KiB, whatever the sector size of the disk is.
const ALIGNMENT: u64 = 128;
/// The embedded pool's data area grows by a 32nd of its limit, but by no less and no more than
/// this.
const STEP_LEAST: Sectors = Sectors((64 << 20) / 512);
const STEP_MOST: Sectors = Sectors((1 << 30) / 512);

/// What the sizes depend on.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub block: Sectors,
    /// The length of the metadata area, if the operator has set it.
    pub metadata: Option<Sectors>,
}

impl Sizes {
    /// The length of the metadata area of a new pool that can have this much data.
    pub fn metadata_for(&self, data: Sectors) -> Sectors {
        let blocks = data.0 / self.block.0;
        let derived = Sectors((blocks * METADATA_BYTES_PER_BLOCK).div_ceil(512));
        let size = self.metadata.unwrap_or(derived.clamp(METADATA_LEAST, METADATA_MOST));
        Sectors(size.0.div_ceil(ALIGNMENT) * ALIGNMENT)
    }

    /// The step by which a data area grows that can get as long as `limit`.
    pub fn step(&self, limit: Sectors) -> Sectors {
        let step = Sectors(limit.0 / 32).clamp(STEP_LEAST, STEP_MOST).0.div_ceil(self.block.0);
        Sectors(step * self.block.0).min(limit)
    }

    /// The whole blocks in a length.
    pub fn whole_blocks(&self, length: Sectors) -> Sectors {
        Sectors(length.0 / self.block.0 * self.block.0)
    }
}

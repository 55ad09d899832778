//! How full a pool is, and whether new snapshots fit.

use super::state::PoolState;
use crate::block::Space;
use crate::dm::ThinPoolStatus;
use crate::pool::health::METADATA_BLOCK;
use crate::units::Sectors;

/// How full the pool was at a look.
#[derive(Debug, Clone)]
pub struct FreeSpace {
    pub state: PoolState,
    /// Whether the kernel writes no metadata before thin_check has run.
    pub needs_check: bool,
    /// The space for data and for metadata. `None` for a pool that has failed.
    pub data: Option<Space>,
    pub metadata: Option<Space>,
    /// The file system under the embedded pool.
    pub host: Option<Space>,
    pub(in crate::pool) status: ThinPoolStatus,
    /// Whether the data area could be longer if the host's file system had more free space.
    held_back: bool,
    /// Whether each block that the pool can hand out is allocated in the file.
    backed: bool,
}

/// What the file system under an embedded pool adds. The default is for all other pools.
#[derive(Debug, Clone, Copy)]
pub struct Below {
    pub host: Option<Space>,
    /// What the balloon holds. It has no space on the host, and the pool counts it as used.
    pub held: Sectors,
    /// By how much the data area can grow, and what of the balloon can have space again. It counts
    /// as free.
    pub growable: Sectors,
    /// See [`FreeSpace`], as for `backed`.
    pub held_back: bool,
    pub backed: bool,
}

impl Default for Below {
    fn default() -> Below {
        let (held, growable) = (Sectors(0), Sectors(0));
        Below { host: None, held, growable, held_back: false, backed: true }
    }
}

/// What was last seen, for callers that must not wait for a look.
#[derive(Debug, Default)]
pub struct Seen {
    pub free: Option<FreeSpace>,
    pub lapses: u64,
    /// How often the pool was seen with blocks to hand out that the host's file system does not
    /// have.
    pub host_lapses: u64,
}

impl FreeSpace {
    pub(super) fn new(status: ThinPoolStatus, block_size: Sectors, below: Below) -> FreeSpace {
        let (growable, held) = (below.growable.0 * 512, below.held.0 * 512);
        let space =
            |free: u64, total: u64, block: u64| Space { free: free * block, total: total * block };
        let working = status.working();
        FreeSpace {
            state: PoolState::of(&status),
            needs_check: working.is_some_and(|status| status.needs_check),
            data: working
                .map(|status| space(status.data.free(), status.data.total, block_size.0 * 512))
                .map(|data| Space {
                    free: data.free + growable,
                    total: data.total.saturating_sub(held) + growable,
                }),
            metadata: working
                .map(|status| space(status.metadata.free(), status.metadata.total, METADATA_BLOCK)),
            host: below.host,
            held_back: below.held_back,
            backed: below.backed,
            status,
        }
    }

    /// Whether the embedded pool may hand out a block that is not allocated in its file.
    pub(super) fn is_unbacked(&self) -> bool {
        !self.backed
    }

    /// The space that is less than `percent` free, or full, with its name.
    pub(super) fn short_of(&self, percent: u8) -> Option<(&'static str, Space)> {
        let low = |space: Space| {
            space.free == 0
                || space.free.saturating_mul(100) < space.total.saturating_mul(percent.into())
        };
        // If the data area cannot grow because of the host, the operator has to free space there.
        let data =
            if self.held_back { ("host file system", self.host) } else { ("data", self.data) };
        let short = |space: Option<Space>| space.is_some_and(low);
        let all = [
            (short(self.data), data),
            (short(self.metadata), ("metadata", self.metadata)),
            (!self.backed, ("host file system", self.host)),
        ];
        all.into_iter()
            .find(|(is_short, _)| *is_short)
            .and_then(|(_, (what, space))| Some((what, space?)))
    }
}

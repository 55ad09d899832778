//! How full a pool is, and whether that leaves room for more.

use crate::block::Space;
use crate::dm::{BlockUsage, ThinPoolStatus};
use crate::units::Sectors;

/// dm-thin counts its metadata in blocks of 4 KiB.
pub(super) const METADATA_BLOCK: u64 = 4096;

/// How full the pool was when it was last looked at.
#[derive(Debug, Clone)]
pub struct Room {
    pub status: ThinPoolStatus,
    /// What the pool has for data and for metadata; not known of one that has failed.
    pub data: Option<Space>,
    pub metadata: Option<Space>,
    /// The file system under the embedded pool.
    pub host: Option<Space>,
    /// The data area could be longer if the file system below had more room.
    held_back: bool,
    /// All that the pool can hand out has its place in the file system below.
    backed: bool,
}

/// What is known of the file system under an embedded pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Below {
    pub host: Option<Space>,
    /// What of the data area has no space, which the pool counts as used.
    pub held: Sectors,
    /// How much longer the data area can get, or what of it can have space again; that counts as
    /// free.
    pub growable: Sectors,
    /// It could get longer if the file system had more room.
    pub held_back: bool,
    /// See [`Room`].
    pub backed: bool,
}

impl Room {
    pub(super) fn new(status: ThinPoolStatus, block_size: Sectors, below: Below) -> Room {
        let (growable, held) = (below.growable.0 * 512, below.held.0 * 512);
        let space = |usage: BlockUsage, block: u64| Space {
            free: usage.free() * block,
            total: usage.total * block,
        };
        let working = status.working();
        Room {
            data: working.map(|status| space(status.data, block_size.0 * 512)).map(|data| Space {
                free: data.free + growable,
                total: data.total.saturating_sub(held) + growable,
            }),
            metadata: working.map(|status| space(status.metadata, METADATA_BLOCK)),
            host: below.host,
            held_back: below.held_back,
            backed: below.backed,
            status,
        }
    }

    /// Whether the embedded pool may hand out a block that has no place in the file system below
    /// it.
    pub(super) fn is_unbacked(&self) -> bool {
        !self.backed
    }

    /// What has less than `percent` of its size free, or nothing at all, and how it is called.
    pub(super) fn short_of(&self, percent: u8) -> Option<(&'static str, Space)> {
        let low = |space: Space| {
            space.free == 0
                || space.free.saturating_mul(100) < space.total.saturating_mul(percent.into())
        };
        // Why it cannot grow is what there is something to do about.
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

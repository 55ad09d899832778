//! How full a pool is, and whether that leaves room for more.

use crate::block::Space;
use crate::dm::{ThinPoolStatus, Usage};
use crate::units::Sectors;

/// dm-thin counts its metadata in blocks of 4 KiB.
const METADATA_BLOCK: u64 = 4096;

/// How full the pool was when it was last looked at.
#[derive(Debug, Clone)]
pub struct Room {
    pub status: ThinPoolStatus,
    /// What the pool has for data and for metadata; not known of one that has failed.
    pub data: Option<Space>,
    pub metadata: Option<Space>,
    /// The file system under the embedded pool.
    pub host: Option<Space>,
}

impl Room {
    pub(super) fn new(status: ThinPoolStatus, block_size: Sectors, host: Option<Space>) -> Room {
        let space = |usage: Usage, block: u64| Space { free: usage.free() * block, total: usage.total * block };
        let working = status.working();
        Room {
            data: working.map(|status| space(status.data, block_size.0 * 512)),
            metadata: working.map(|status| space(status.metadata, METADATA_BLOCK)),
            host,
            status,
        }
    }

    /// Whether the file system under the embedded pool has nothing left for a block that dm-thin gives out.
    pub(super) fn host_is_full(&self) -> bool {
        self.host.is_some_and(|host| host.free == 0)
    }

    /// What has less than `percent` of its size free, or nothing at all, and how it is called.
    pub(super) fn short_of(&self, percent: u8) -> Option<(&'static str, Space)> {
        let low = |space: Space| {
            space.free == 0 || space.free.saturating_mul(100) < space.total.saturating_mul(percent.into())
        };
        let all = [("data", self.data), ("metadata", self.metadata), ("host file system", self.host)];
        all.into_iter().filter_map(|(what, space)| Some((what, space?))).find(|(_, space)| low(*space))
    }
}

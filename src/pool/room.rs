//! How full a pool is, and whether that leaves room for more.

use crate::block::Space;
use crate::dm::{PoolMode, ThinPoolStatus, Usage};
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

    /// Whether a write to a block that has no place yet gets one.
    fn takes_writes(&self) -> bool {
        let is_open = self.status.working().is_some_and(|status| status.mode == PoolMode::ReadWrite);
        is_open && self.host.is_none_or(|host| host.free > 0)
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

/// What looks at the pool have shown so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub room: Option<Room>,
    /// The number of the pool's events at the last look; they are counted from its assembly, which may be before this run.
    events: u32,
    /// How often the pool was seen, or must have been, in a state in which it refuses writes.
    pub lapses: u64,
}

impl Seen {
    /// A pool that gets full and has room again between two looks is known by its events: each change of its mode is one
    /// (notify_of_pool_mode_change in drivers/md/dm-thin.c). A single one may also be a low water mark, of data or of metadata.
    pub fn note(&mut self, room: &Room, events: u32) {
        let has_begun = !room.takes_writes() && self.room.as_ref().is_none_or(Room::takes_writes);
        if has_begun || events > self.events.saturating_add(1) {
            self.lapses += 1;
        }
        self.events = self.events.max(events);
        self.room = Some(room.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::{DiscardPolicy, NoSpacePolicy, WorkingPool};
    use PoolMode::{OutOfDataSpace, ReadOnly, ReadWrite};

    fn room(mode: PoolMode, host_free: u64) -> Room {
        let usage = Usage { used: 1, total: 100 };
        let status = WorkingPool {
            transaction_id: 0,
            metadata: usage,
            data: usage,
            held_metadata_root: None,
            mode,
            discard: DiscardPolicy::PassDown,
            no_space: NoSpacePolicy::Error,
            needs_check: false,
            metadata_low_water: None,
        };
        Room::new(ThinPoolStatus::Working(status), Sectors(128), Some(Space { free: host_free, total: 1 << 30 }))
    }

    /// The lapses counted after each of these looks.
    fn lapses(looks: &[(PoolMode, u64, u32)]) -> Vec<u64> {
        let mut seen = Seen::default();
        let mut note = |&(mode, host_free, events): &(PoolMode, u64, u32)| {
            seen.note(&room(mode, host_free), events);
            seen.lapses
        };
        looks.iter().map(&mut note).collect()
    }

    #[test]
    fn a_lapse_is_counted_when_it_begins_whatever_is_full() {
        assert_eq!(lapses(&[(ReadWrite, 9, 0), (OutOfDataSpace, 9, 1), (OutOfDataSpace, 9, 1)]), [0, 1, 1]);
        assert_eq!(lapses(&[(ReadWrite, 9, 0), (ReadWrite, 0, 0), (ReadWrite, 9, 0), (ReadWrite, 0, 0)]), [0, 1, 1, 2]);
        assert_eq!(lapses(&[(ReadOnly, 9, 1)]), [1]);
    }

    #[test]
    fn a_lapse_that_nobody_saw_is_known_by_its_events() {
        assert_eq!(lapses(&[(ReadWrite, 9, 1), (ReadWrite, 9, 1), (ReadWrite, 9, 3)]), [0, 0, 1]);
        assert_eq!(lapses(&[(OutOfDataSpace, 9, 1), (OutOfDataSpace, 9, 3)]), [1, 2]);
        // It was before this run.
        assert_eq!(lapses(&[(ReadWrite, 9, 3), (ReadWrite, 9, 4)]), [1, 1]);
    }

    #[test]
    fn the_low_water_mark_and_the_end_of_a_lapse_are_none() {
        assert_eq!(lapses(&[(ReadWrite, 9, 0), (ReadWrite, 9, 1), (ReadWrite, 9, 2)]), [0, 0, 0]);
        assert_eq!(lapses(&[(OutOfDataSpace, 9, 1), (ReadWrite, 9, 2)]), [1, 1]);
        // Two looks side by side may be noted in either order.
        assert_eq!(lapses(&[(ReadWrite, 9, 1), (ReadWrite, 9, 0), (ReadWrite, 9, 2)]), [0, 0, 0]);
    }
}

//! ext4's block groups: the places of the inode tables, and the flag that a table is zeroed.
//!
//! Layout: Documentation/filesystems/ext4/group_descr.rst and blockgroup.rst; all of it is
//! little-endian.

use std::ops::Range;

use crate::block::Disk;
use crate::fs::bytes::Fields;
use crate::fs::error::FsError;

use super::crc32c::crc32c;
use super::journal;
use super::superblock::{Layout, Superblock};

/// The first byte of a descriptor's checksum.
const CHECKSUM: usize = 30;
/// The first byte of a descriptor's flags.
const FLAGS: usize = 18;

/// `EXT4_BG_INODE_ZEROED`: the inode table is zeroed.
const INODE_TABLE_ZEROED: u16 = 4;

/// The byte ranges to which mke2fs writes zeros if it cannot assume zeroed storage: the inode
/// tables and the journal. The whole file system, if their places are unknown.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub fn zeroed_ranges(disk: &dyn Disk) -> Result<Vec<Range<u64>>, FsError> {
    let superblock = Superblock::read(disk)?;
    let groups = Groups::new(disk, &superblock);
    let bytes = |block: u64| block.saturating_mul(groups.block_size);
    let journal = superblock.layout.journal.and_then(|map| journal::extents(&map));
    let tables = groups.inode_tables(0..groups.count)?;
    let (Some(mut extents), Some(tables)) = (journal, tables) else {
        let everything = 0..bytes(superblock.blocks);
        return Ok(vec![everything]);
    };
    extents.extend(tables);
    Ok(extents.into_iter().map(|extent| bytes(extent.start)..bytes(extent.end)).collect())
}

/// Marks the inode tables of all groups after the first `old_blocks` blocks as zeroed. Gives the
/// number of groups that were marked.
///
/// The kernel zeroes the inode tables of new groups in the background after the next mount: 16 MiB
/// for each GiB, and again in each snapshot. On a thin that has grown, these blocks already read as
/// zeros. Nothing is done for a file system without metadata checksums, which is rare.
///
/// The file system must be unmounted and clean. Each mark is within one sector and valid by itself,
/// so a crash between two of them does no harm.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub fn note_zeros_behind(disk: &dyn Disk, old_blocks: u64) -> Result<u64, FsError> {
    let superblock = Superblock::read(disk)?;
    let groups = Groups::new(disk, &superblock);
    let Some(seed) = superblock.layout.checksum_seed else {
        return Ok(0);
    };
    let mut noted = 0;
    for group in old_blocks.div_ceil(u64::from(superblock.layout.blocks_per_group))..groups.count {
        let Some((place, mut descriptor)) = groups.read(group)? else {
            return Ok(noted);
        };
        let flags = Fields(&descriptor).le16(FLAGS).unwrap_or_default();
        // With a wrong checksum these bytes may be no descriptor, so they are left alone.
        if Fields(&descriptor).le16(CHECKSUM) != Some(checksum(seed, group, &descriptor)) {
            return Ok(noted);
        }
        if flags & INODE_TABLE_ZEROED == 0 {
            descriptor[FLAGS..FLAGS + 2]
                .copy_from_slice(&(flags | INODE_TABLE_ZEROED).to_le_bytes());
            let sum = checksum(seed, group, &descriptor);
            descriptor[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_le_bytes());
            disk.write_at(&descriptor, place)?;
            noted += 1;
        }
    }
    disk.flush()?;
    Ok(noted)
}

struct Groups<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    block_size: u64,
    count: u64,
}

impl<'a> Groups<'a> {
    fn new(disk: &'a dyn Disk, superblock: &'a Superblock) -> Self {
        let (layout, block_size) = (&superblock.layout, u64::from(superblock.block_size));
        Groups { disk, layout, block_size, count: superblock.groups() }
    }

    /// The inode tables of these groups, in blocks. `None` when the place of a descriptor is
    /// unknown.
    fn inode_tables(&self, groups: Range<u64>) -> Result<Option<Vec<Range<u64>>>, FsError> {
        let table = u64::from(self.layout.inodes_per_group) * u64::from(self.layout.inode_size);
        let length = table.div_ceil(self.block_size);
        let mut tables = Vec::new();
        for group in groups {
            let Some((_, descriptor)) = self.read(group)? else {
                return Ok(None);
            };
            let fields = Fields(&descriptor);
            let high = fields.le32(40).unwrap_or(0);
            let start = u64::from(high) << 32 | u64::from(fields.le32(8).unwrap_or(0));
            tables.push(start..start.saturating_add(length));
        }
        Ok(Some(tables))
    }

    /// A group's descriptor and its first byte on the disk. `None` when its place is unknown.
    fn read(&self, group: u64) -> Result<Option<(u64, Vec<u8>)>, FsError> {
        let Some(place) = self.place(group) else {
            return Ok(None);
        };
        let mut descriptor = vec![0; usize::from(self.layout.descriptor_size)];
        self.disk.read_at(&mut descriptor, place)?;
        Ok(Some((place, descriptor)))
    }

    /// The first byte of a group's descriptor.
    ///
    /// The descriptors follow the superblock's block. With meta_bg, each descriptor block from the
    /// first meta block on is at the start of the groups that it describes instead
    /// (fs/ext4/super.c, `descriptor_loc`).
    fn place(&self, group: u64) -> Option<u64> {
        let size = u64::from(self.layout.descriptor_size);
        let per_block = self.block_size / size;
        let (index, within) = (group / per_block, group % per_block * size);
        let first = u64::from(self.layout.first_block);
        let block = match self.layout.first_meta_block {
            Some(meta) if index >= u64::from(meta) => {
                let leader = index * per_block;
                let copy = u64::from(self.has_superblock(leader)?);
                leader * u64::from(self.layout.blocks_per_group) + first + copy
            }
            _ => first + 1 + index,
        };
        Some(block * self.block_size + within)
    }

    /// Whether a group begins with a copy of the superblock. `None` when the copies are not in the
    /// usual groups.
    fn has_superblock(&self, group: u64) -> Option<bool> {
        let power_of = |base: u64| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .any(|power| power == group)
        };
        self.layout.sparse_copies.then(|| group < 2 || [3, 5, 7].into_iter().any(power_of))
    }
}

/// A descriptor's checksum (fs/ext4/super.c, `ext4_group_desc_csum`). The checksum field itself
/// counts as zero.
fn checksum(seed: u32, group: u64, descriptor: &[u8]) -> u16 {
    // A group number has 32 bits on the disk.
    let crc = crc32c(seed, &(group as u32).to_le_bytes());
    let crc = crc32c(crc, &descriptor[..CHECKSUM]);
    let crc = crc32c(crc, &[0, 0]);
    crc32c(crc, &descriptor[CHECKSUM + 2..]) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::memory::MemoryDisk;
    use crate::units::Sectors;

    const SEED: u32 = 0x1234_5678;

    fn layout() -> Layout {
        Layout {
            first_block: 0,
            blocks_per_group: 32_768,
            inodes_per_group: 8192,
            inode_size: 256,
            descriptor_size: 64,
            first_meta_block: None,
            sparse_copies: true,
            checksum_seed: Some(SEED),
            journal: None,
        }
    }

    fn with_groups<T>(layout: &Layout, count: u64, work: impl FnOnce(Groups<'_>) -> T) -> T {
        let disk = MemoryDisk::new(Sectors(64));
        work(Groups { disk: &disk, layout, block_size: 4096, count })
    }

    #[test]
    fn superblock_copies_are_in_groups_0_and_1_and_the_powers_of_3_5_and_7() {
        let copies: Vec<_> = with_groups(&layout(), 400, |groups| {
            (0..400).filter(|group| groups.has_superblock(*group) == Some(true)).collect()
        });
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
        let unknown = Layout { sparse_copies: false, ..layout() };
        assert_eq!(with_groups(&unknown, 400, |groups| groups.has_superblock(3)), None);
    }

    #[test]
    fn descriptors_follow_the_superblocks_block_or_lie_in_their_meta_group() {
        let places =
            |layout: &Layout, group: u64| with_groups(layout, 10_000, |groups| groups.place(group));
        assert_eq!(places(&layout(), 0), Some(4096));
        assert_eq!(places(&layout(), 65), Some(2 * 4096 + 64));
        let small_blocks = Layout { first_block: 1, ..layout() };
        assert_eq!(places(&small_blocks, 0), Some(2 * 4096));
        // Two blocks of 64 descriptors at the front, then each at the start of its own 64 groups.
        let meta = Layout { first_meta_block: Some(2), ..layout() };
        assert_eq!(places(&meta, 127), Some(2 * 4096 + 63 * 64));
        assert_eq!(places(&meta, 129), Some(128 * 32_768 * 4096 + 64));
        assert_eq!(places(&Layout { sparse_copies: false, ..meta }, 129), None);
    }

    /// A map of two extents: 4096 blocks at 77, and 3 unwritten blocks far behind.
    fn journal_map() -> Vec<u8> {
        let mut map = vec![0; 60];
        map[..8].copy_from_slice(&[0x0A, 0xF3, 2, 0, 4, 0, 0, 0]);
        map[16..24].copy_from_slice(&[0, 16, 0, 0, 77, 0, 0, 0]);
        map[28..36].copy_from_slice(&[3, 0x80, 1, 0, 5, 0, 0, 0]);
        map
    }

    /// A disk with a superblock for `groups` groups and their descriptors, none marked as zeroed.
    fn grown(groups: u32) -> MemoryDisk {
        let disk = MemoryDisk::new(Sectors(u64::from(groups) * 32_768 * 8));
        let mut superblock = vec![0; 1024];
        let mut put = |offset: usize, value: &[u8]| {
            superblock[offset..offset + value.len()].copy_from_slice(value)
        };
        put(0, &(groups * 8192).to_le_bytes());
        put(4, &(groups * 32_768).to_le_bytes());
        put(24, &[2]);
        put(32, &32_768_u32.to_le_bytes());
        put(40, &8192_u32.to_le_bytes());
        put(56, &[0x53, 0xEF, 1]);
        put(76, &[1]);
        put(88, &256_u16.to_le_bytes());
        put(96, &0x2080_u32.to_le_bytes());
        put(100, &0x401_u32.to_le_bytes());
        put(254, &[64]);
        put(624, &SEED.to_le_bytes());
        disk.write_at(&superblock, 1024).unwrap();
        for group in 0..u64::from(groups) {
            let mut descriptor = [group as u8; 64];
            descriptor[32..].fill(0);
            descriptor[FLAGS..FLAGS + 2].copy_from_slice(&[3, 0]);
            let sum = checksum(SEED, group, &descriptor);
            descriptor[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_le_bytes());
            disk.write_at(&descriptor, 4096 + group * 64).unwrap();
        }
        disk
    }

    fn flags(disk: &MemoryDisk, group: u64) -> u16 {
        let mut descriptor = [0; 64];
        disk.read_at(&mut descriptor, 4096 + group * 64).unwrap();
        let fields = Fields(&descriptor);
        assert_eq!(
            fields.le16(CHECKSUM),
            Some(checksum(SEED, group, &descriptor)),
            "checksum of group {group}"
        );
        fields.le16(FLAGS).unwrap()
    }

    #[test]
    fn only_groups_wholly_behind_the_old_end_are_marked_and_once() {
        let disk = grown(6);
        assert_eq!(note_zeros_behind(&disk, 2 * 32_768 + 1).unwrap(), 3);
        assert_eq!((0..6).map(|group| flags(&disk, group)).collect::<Vec<_>>(), [3, 3, 3, 7, 7, 7]);
        assert_eq!(note_zeros_behind(&disk, 2 * 32_768 + 1).unwrap(), 0);
    }

    #[test]
    fn a_descriptor_with_a_wrong_checksum_is_left_alone() {
        let disk = grown(4);
        disk.write_at(&[0xFF], 4096 + 2 * 64 + 40).unwrap();
        assert_eq!(note_zeros_behind(&disk, 32_768).unwrap(), 1);
        let mut descriptor = [0; 64];
        disk.read_at(&mut descriptor, 4096 + 2 * 64).unwrap();
        assert_eq!(descriptor[FLAGS], 3);
    }

    #[test]
    fn in_an_unknown_layout_zeros_may_be_anywhere() {
        let disk = grown(2);
        let everything = 0..2 * 32_768 * 4096;
        assert_eq!(zeroed_ranges(&disk).unwrap(), [everything]);
        disk.write_at(&journal_map(), 1024 + 268).unwrap();
        disk.write_at(&[1], 1024 + 253).unwrap();
        let ranges = zeroed_ranges(&disk).unwrap();
        assert_eq!(ranges.len(), 4, "two extents of the journal and two inode tables");
        assert_eq!(ranges[0], 77 * 4096..(77 + 4096) * 4096);
        assert_eq!(ranges[3].end - ranges[3].start, 8192 * 256);
    }

    proptest! {
        #[test]
        fn no_layout_makes_it_panic(
            noise in proptest::collection::vec((0..1024_u64, any::<u8>()), 0..32),
        ) {
            let disk = grown(3);
            for (offset, value) in noise {
                disk.write_at(&[value], 1024 + offset).unwrap();
            }
            // An invalid layout is refused, or a read beyond the disk's end fails.
            let _ = zeroed_ranges(&disk);
            let _ = note_zeros_behind(&disk, 1);
        }
    }
}

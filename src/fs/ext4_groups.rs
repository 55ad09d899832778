//! ext4's block groups: where the inode tables and the journal are, and which tables the kernel need not clear.
//!
//! The layout is the kernel's (Documentation/filesystems/ext4/group_descr.rst, blockgroup.rst, ifork.rst); all of it
//! little-endian.

use std::ops::Range;

use crate::block::Disk;

use super::bytes::Fields;
use super::error::FsError;
use super::ext4::{crc32c, Layout, Superblock};

/// Where a descriptor has its checksum, and its flags.
const CHECKSUM: usize = 30;
const FLAGS: usize = 18;

/// `EXT4_BG_INODE_ZEROED`: the inode table holds zeros already.
const INODE_TABLE_ZEROED: u16 = 4;

/// Where mke2fs writes zeros when it may not assume that they are there: inode tables and journal, in bytes.
/// All of the file system, where that cannot be told.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(super) fn zeroed_ranges(disk: &dyn Disk) -> Result<Vec<Range<u64>>, FsError> {
    let superblock = Superblock::read(disk)?;
    let groups = Groups::new(disk, &superblock);
    let bytes = |block: u64| block.saturating_mul(groups.block_size);
    let journal = superblock.layout.journal.and_then(|map| journal_extents(Fields(&map)));
    let tables = groups.inode_tables(0..groups.count)?;
    let (Some(mut extents), Some(tables)) = (journal, tables) else {
        let everything = 0..bytes(superblock.blocks);
        return Ok(vec![everything]);
    };
    extents.extend(tables);
    Ok(extents.into_iter().map(|extent| bytes(extent.start)..bytes(extent.end)).collect())
}

/// Notes for all groups behind the first `old_blocks` blocks that their inode tables hold zeros, and says for how many.
///
/// A file system that has grown has groups whose tables the kernel would clear behind the next mounts: 16 MiB for
/// each GiB, and in each snapshot again. Behind the old end of a thin there is nothing but zeros. Without checksums
/// over all metadata (a choice of mke2fs.conf that is rare by now) nothing is done.
///
/// The file system must be unmounted and clean. Each note is within one sector and right by itself, so that a crash in
/// the middle does no harm.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(super) fn note_zeros_behind(disk: &dyn Disk, old_blocks: u64) -> Result<u64, FsError> {
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
        // One whose checksum is not what it should be is not what it is taken for, and is left alone.
        if Fields(&descriptor).le16(CHECKSUM) != Some(checksum(seed, group, &descriptor)) {
            return Ok(noted);
        }
        if flags & INODE_TABLE_ZEROED == 0 {
            descriptor[FLAGS..FLAGS + 2].copy_from_slice(&(flags | INODE_TABLE_ZEROED).to_le_bytes());
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
        let layout = &superblock.layout;
        let data_blocks = superblock.blocks.saturating_sub(u64::from(layout.first_block));
        let count = data_blocks.div_ceil(u64::from(layout.blocks_per_group));
        Groups { disk, layout, block_size: u64::from(superblock.block_size), count }
    }

    /// The inode tables of these groups in blocks; `None` when the place of a descriptor is unknown.
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

    /// A group's descriptor and its place in bytes; `None` when that is unknown.
    fn read(&self, group: u64) -> Result<Option<(u64, Vec<u8>)>, FsError> {
        let Some(place) = self.place(group) else {
            return Ok(None);
        };
        let mut descriptor = vec![0; usize::from(self.layout.descriptor_size)];
        self.disk.read_at(&mut descriptor, place)?;
        Ok(Some((place, descriptor)))
    }

    /// Where a group's descriptor is, in bytes.
    ///
    /// All descriptors follow the superblock's block, but for those from the first meta block on: each block of these is at
    /// the start of the groups that it describes (fs/ext4/super.c, `descriptor_loc`).
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

    /// Whether a group begins with a copy of the superblock; `None` for layouts of copies that are rarely used.
    fn has_superblock(&self, group: u64) -> Option<bool> {
        let power_of =
            |base: u64| std::iter::successors(Some(base), |power| power.checked_mul(base)).any(|power| power == group);
        self.layout.sparse_copies.then(|| group < 2 || [3, 5, 7].into_iter().any(power_of))
    }
}

/// A descriptor's checksum (fs/ext4/super.c, `ext4_group_desc_csum`): its own field counts as zero.
fn checksum(seed: u32, group: u64, descriptor: &[u8]) -> u16 {
    // Group numbers are 32 bits wide on the disk.
    let crc = crc32c(seed, &(group as u32).to_le_bytes());
    let crc = crc32c(crc, &descriptor[..CHECKSUM]);
    let crc = crc32c(crc, &[0, 0]);
    crc32c(crc, &descriptor[CHECKSUM + 2..]) as u16
}

/// The journal in blocks, if its map is the root of an extent tree that has no further level.
fn journal_extents(map: Fields<'_>) -> Option<Vec<Range<u64>>> {
    const EXTENT_MAGIC: u16 = 0xF30A;
    let (magic, entries, depth) = (map.le16(0)?, map.le16(2)?, map.le16(6)?);
    if magic != EXTENT_MAGIC || depth != 0 || entries > 4 {
        return None;
    }
    (0..usize::from(entries))
        .map(|entry| {
            let extent = map.from(12 * (entry + 1))?;
            let start = u64::from(extent.le16(6)?) << 32 | u64::from(extent.le32(8)?);
            // Lengths above 32768 mean allocated but unwritten, and count from there.
            let length = extent.le16(4).map(|length| if length > 32768 { length - 32768 } else { length })?;
            Some(start..start + u64::from(length))
        })
        .collect()
}

//! ext4's journal: its blocks and the error that it has recorded.
//!
//! Layouts: Documentation/filesystems/ext4/ifork.rst for the block map (little-endian) and
//! include/linux/jbd2.h, `journal_superblock_s`, for the journal itself (big-endian).

use std::ops::Range;

use crate::block::Disk;
use crate::fs::bytes::Fields;
use crate::fs::error::FsError;

/// The block map of the journal's inode: the root of an extent tree.
pub(super) type BlockMap = [u8; 60];

/// `JBD2_MAGIC_NUMBER`.
const JOURNAL_MAGIC: u32 = 0xC03B_3998;

const EXTENT_MAGIC: u16 = 0xF30A;

/// The journal's extents in blocks. `None` if the extent tree has more than one level or is
/// malformed.
pub(super) fn extents(map: &BlockMap) -> Option<Vec<Range<u64>>> {
    let map = Fields(map);
    let (magic, entries, depth) = (map.le16(0)?, map.le16(2)?, map.le16(6)?);
    if magic != EXTENT_MAGIC || depth != 0 || entries > 4 {
        return None;
    }
    (0..usize::from(entries))
        .map(|entry| {
            let extent = map.from(12 * (entry + 1))?;
            let start = u64::from(extent.le16(6)?) << 32 | u64::from(extent.le32(8)?);
            // A length above 32768 marks an unwritten extent: 32768 is added to its length.
            let length =
                extent
                    .le16(4)
                    .map(|length| if length > 32768 { length - 32768 } else { length })?;
            Some(start..start + u64::from(length))
        })
        .collect()
}

/// The errno with which the kernel aborted the journal (`s_errno` in the journal's superblock). 0
/// if there is none, or if the journal's first block is unknown or beyond `blocks`.
///
/// # Errors
/// [`FsError::Block`].
pub(super) fn errno(
    disk: &dyn Disk,
    map: &BlockMap,
    block_size: u32,
    blocks: u64,
) -> Result<i32, FsError> {
    let first = extents(map).and_then(|extents| extents.first().map(|extent| extent.start));
    let Some(first) = first.filter(|block| *block < blocks) else {
        return Ok(0);
    };
    let mut bytes = [0; 64];
    disk.read_at(&mut bytes, first * u64::from(block_size))?;
    let fields = Fields(&bytes);
    if fields.be32(0) != Some(JOURNAL_MAGIC) {
        return Ok(0);
    }
    // The kernel stores it negated.
    Ok(fields.be32(32).unwrap_or_default().cast_signed().saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extents_are_read_from_a_tree_of_one_level() {
        // 4096 blocks at 77, and 3 unwritten blocks far behind.
        let mut map = [0; 60];
        map[..8].copy_from_slice(&[0x0A, 0xF3, 2, 0, 4, 0, 0, 0]);
        map[16..24].copy_from_slice(&[0, 16, 0, 0, 77, 0, 0, 0]);
        map[28..36].copy_from_slice(&[3, 0x80, 1, 0, 5, 0, 0, 0]);
        let far = (1 << 32) + 5;
        assert_eq!(extents(&map), Some(vec![77..77 + 4096, far..far + 3]));
        for (offset, value) in [(0, 0), (2, 5), (6, 1)] {
            let mut map = map;
            map[offset] = value;
            assert_eq!(extents(&map), None, "byte {offset}");
        }
    }
}

//! Questions that the metadata of a pool answers and no ioctl does: which thins there are, and
//! which blocks they map.

use std::collections::BTreeMap;

use super::btree::Trees;
use super::error::MetadataError;
use super::format::{superblock, Block, BLOCK, TIME_BITS};
use crate::block::Disk;
use crate::units::{Sectors, ThinId};

/// How often metadata that changes meanwhile is read. dm-thin commits at most once a second unless
/// it is told to.
const TRIES: u32 = 20;

/// Reads something below the superblock on `disk`, again until no commit comes in between.
pub fn of_one_commit<T>(
    disk: &dyn Disk,
    read: impl Fn(&dyn Disk) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    for _ in 0..TRIES {
        disk.forget_cached()?;
        let before = Block::read(disk, 0)?;
        let found = read(disk);
        disk.forget_cached()?;
        if Block::read(disk, 0)?.bytes == before.bytes {
            return found;
        }
    }
    Err(MetadataError::Changing)
}

/// The thins below the superblock at `root`, each with the number of data blocks that it maps.
pub fn thins(disk: &dyn Disk, root: u64) -> Result<BTreeMap<ThinId, u64>, MetadataError> {
    let mut found = BTreeMap::new();
    Trees::new(disk).walk(
        superblock(disk, root)?.u64(superblock::DEVICE_DETAILS_ROOT)?,
        &mut |leaf, key, value| {
            let id = u32::try_from(key).ok().and_then(|id| ThinId::new(id).ok());
            found.insert(id.ok_or_else(|| leaf.wrong(format!("{key} is no thin id")))?, value);
            Ok(())
        },
    )?;
    Ok(found)
}

/// How many of the pool's `total` data blocks are in use, and mapped neither by a thin nor by a
/// held metadata snapshot. Reads every mapping, which is 16 bytes or more for each block in use.
pub fn unmapped(disk: &dyn Disk, total: u64) -> Result<u64, MetadataError> {
    let superblock = superblock(disk, 0)?;
    let used = superblock.u64(superblock::DATA_BLOCKS_USED)?;
    let held = superblock.u64(superblock::HELD_ROOT)?;
    let roots = if held == 0 { vec![0] } else { vec![0, held] };
    Ok(used.saturating_sub(mapped(disk, &roots, total)?))
}

/// How many of the pool's `total` data blocks the thins below the superblocks at `roots` map. Each
/// block counts once.
fn mapped(disk: &dyn Disk, roots: &[u64], total: u64) -> Result<u64, MetadataError> {
    let mut devices = Vec::new();
    let mut trees = Trees::new(disk);
    for root in roots {
        trees.walk_once(
            superblock(disk, *root)?.u64(superblock::DATA_MAPPING_ROOT)?,
            &mut |_, _, tree| {
                devices.push(tree);
                Ok(())
            },
        )?;
    }
    let mut blocks = Bits { words: vec![0; total.div_ceil(64) as usize], total, count: 0 };
    for tree in devices {
        trees.walk_once(tree, &mut |leaf, _, value| {
            let block = value >> TIME_BITS;
            blocks.set(block).ok_or_else(|| {
                leaf.wrong(format!("data block {block} is beyond the pool's {total}"))
            })
        })?;
    }
    Ok(blocks.count)
}

/// The superblock of a pool that is not assembled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub transaction_id: u64,
    pub block_size: Sectors,
    /// The number of blocks in the data area.
    pub data_blocks: u64,
}

/// The superblock of the metadata that begins at the sector `at` of a disk. `None` if there are
/// only zeros.
pub fn find_superblock(disk: &dyn Disk, at: Sectors) -> Result<Option<Superblock>, MetadataError> {
    let mut bytes = vec![0; BLOCK];
    disk.read_at(&mut bytes, at.0 * 512)?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let block = Block { number: 0, bytes };
    block.must_be_superblock()?;
    Ok(Some(Superblock {
        transaction_id: block.u64(superblock::TRANSACTION_ID)?,
        block_size: Sectors(block.u32(superblock::DATA_BLOCK_SIZE)?.into()),
        data_blocks: block.u64(superblock::DATA_BLOCKS)?,
    }))
}

/// The data block that the first block of the thin `id` maps to, below the superblock at `root`.
/// `None` if it maps to none, or if there is no such thin. Reads every mapping of that thin.
pub fn first_block(disk: &dyn Disk, root: u64, id: ThinId) -> Result<Option<u64>, MetadataError> {
    let mut tree = None;
    let mut trees = Trees::new(disk);
    trees.walk(
        superblock(disk, root)?.u64(superblock::DATA_MAPPING_ROOT)?,
        &mut |_, thin, mappings| {
            tree = tree.or((thin == u64::from(id.get())).then_some(mappings));
            Ok(())
        },
    )?;
    let Some(tree) = tree else { return Ok(None) };
    let mut first = None;
    trees.walk(tree, &mut |_, block, value| {
        first = first.or((block == 0).then_some(value >> TIME_BITS));
        Ok(())
    })?;
    Ok(first)
}

/// The blocks that a thin maps from its block `from` on, in order: each block of the thin with the
/// pool's data block. Empty if there is no such thin.
pub fn mappings(
    disk: &dyn Disk,
    root: u64,
    thin: ThinId,
    from: u64,
) -> Result<Vec<(u64, u64)>, MetadataError> {
    let id = u64::from(thin.get());
    let mut trees = Trees::new(disk);
    let mut tree = None;
    trees.walk_from(
        superblock(disk, root)?.u64(superblock::DATA_MAPPING_ROOT)?,
        id..id + 1,
        &mut |_, _, value| {
            tree = Some(value);
            Ok(())
        },
    )?;
    let mut found = Vec::new();
    if let Some(tree) = tree {
        trees.walk_from(tree, from..u64::MAX, &mut |_, block, value| {
            found.push((block, value >> TIME_BITS));
            Ok(())
        })?;
    }
    found.sort_unstable();
    Ok(found)
}

fn superblock(disk: &dyn Disk, root: u64) -> Result<Block, MetadataError> {
    let superblock = Block::read(disk, root)?;
    superblock.must_be_superblock()?;
    Ok(superblock)
}

/// A set of block numbers.
struct Bits {
    words: Vec<u64>,
    total: u64,
    count: u64,
}

impl Bits {
    /// `None` for a number that is `total` or more.
    fn set(&mut self, block: u64) -> Option<()> {
        if block >= self.total {
            return None;
        }
        let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
        Some(())
    }
}

#[cfg(test)]
mod tests;

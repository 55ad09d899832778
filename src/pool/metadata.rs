//! Which thins a pool holds and which blocks they map, which no ioctl tells: read from the pool's
//! metadata while it goes on working.
//!
//! Nothing is written for that, as it is for a snapshot of the metadata. dm-thin writes the
//! superblock last in each commit, and never writes to a block of the commit before until the next
//! is whole (drivers/md/persistent-data/dm-space-map-disk.c takes blocks that are free in both). So
//! what hangs below a superblock is whole as long as that superblock is the one on disk.
//!
//! Sources of the format: drivers/md/dm-thin-metadata.c (`thin_disk_superblock`,
//! `disk_device_details`, `pack_block_time`) and drivers/md/persistent-data/dm-btree-internal.h
//! (`node_header`). All numbers are little-endian, blocks are 4 KiB. Every offset is checked; what
//! makes no sense is an error that names the block.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::block::{BlockError, Disk};
use crate::units::{Sectors, ThinId};

/// dm-thin's metadata block size in bytes.
const BLOCK: usize = 4096;
/// THIN_SUPERBLOCK_MAGIC.
const MAGIC: u64 = 27_022_010;
/// A mapping's value is the data block above 24 bits of time (`pack_block_time`).
const TIME_BITS: u32 = 24;

mod superblock {
    pub const MAGIC: usize = 32;
    pub const TRANSACTION_ID: usize = 48;
    /// The superblock of a metadata snapshot that is held; 0 for none.
    pub const HELD_ROOT: usize = 56;
    /// In the root of the data's space map (`struct disk_sm_root` of dm-space-map-common.h), as is
    /// the next.
    pub const DATA_BLOCKS: usize = 64;
    pub const DATA_BLOCKS_USED: usize = 72;
    pub const DATA_MAPPING_ROOT: usize = 320;
    pub const DEVICE_DETAILS_ROOT: usize = 328;
    pub const DATA_BLOCK_SIZE: usize = 336;
}

mod node {
    pub const FLAGS: usize = 4;
    pub const BLOCK_NUMBER: usize = 8;
    pub const ENTRIES: usize = 16;
    pub const MAX_ENTRIES: usize = 20;
    pub const VALUE_SIZE: usize = 24;
    pub const KEYS: usize = 32;
    pub const INTERNAL: u32 = 1;
    pub const LEAF: u32 = 2;
}

/// Why the metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("metadata block {block}: {what}")]
    Format { block: u64, what: String },
    #[error("it changes faster than it can be read; try again while less is written to the pool")]
    Changing,
}

/// How often metadata that changes meanwhile is read anew. dm-thin commits once a second at the
/// most unless it is told to.
const TRIES: u32 = 20;

/// Reads something below the superblock on `disk` that no commit comes in between of.
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

/// The thins whose details hang below the superblock at `root`, each with the number of data blocks
/// it maps.
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

/// How many of the pool's `total` data blocks are in use that no thin maps, nor a snapshot of the
/// metadata that is held. Reads every mapping, which is 16 bytes or more for each block in use.
pub fn unmapped(disk: &dyn Disk, total: u64) -> Result<u64, MetadataError> {
    let superblock = superblock(disk, 0)?;
    let used = superblock.u64(superblock::DATA_BLOCKS_USED)?;
    let held = superblock.u64(superblock::HELD_ROOT)?;
    let roots = if held == 0 { vec![0] } else { vec![0, held] };
    Ok(used.saturating_sub(mapped(disk, &roots, total)?))
}

/// How many of the pool's `total` data blocks the thins below the superblocks at `roots` map, each
/// counted once.
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

/// What a pool's superblock says that is not assembled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub transaction_id: u64,
    pub block_size: Sectors,
    /// How many blocks the data area has had.
    pub data_blocks: u64,
}

/// The superblock of the metadata that begins at the sector `at` of a disk; `None` where there are
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

/// The data block that holds the first block of the thin `id`, below the superblock at `root`;
/// `None` when it has none, or when there is no such thin. Reads every mapping of that thin.
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

/// The blocks that one thin maps from its block `from` on, in order: its own block and the pool's
/// data block, for each. None where there is no such thin.
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

/// Walks B-trees, which may share nodes, but have no node twice.
struct Trees<'a> {
    disk: &'a dyn Disk,
    seen: BTreeSet<u64>,
}

/// Every key there is.
const ALL: Range<u64> = 0..u64::MAX;

/// Called with each leaf, and a key and the first eight bytes of its value.
type Leaf<'f> = dyn FnMut(&Block, u64, u64) -> Result<(), MetadataError> + 'f;

impl<'a> Trees<'a> {
    fn new(disk: &'a dyn Disk) -> Self {
        Trees { disk, seen: BTreeSet::new() }
    }

    /// Visits every entry of the tree at `root`; a node that was seen before makes no sense.
    fn walk(&mut self, root: u64, leaf: &mut Leaf<'_>) -> Result<(), MetadataError> {
        let twice =
            |block| Err(MetadataError::Format { block, what: "stands in the tree twice".into() });
        self.visit(root, &ALL, leaf, twice)
    }

    /// Visits the entries of the tree at `root` with these keys, and reads no more of it than they
    /// need.
    fn walk_from(
        &mut self,
        root: u64,
        keys: Range<u64>,
        leaf: &mut Leaf<'_>,
    ) -> Result<(), MetadataError> {
        let twice =
            |block| Err(MetadataError::Format { block, what: "stands in the tree twice".into() });
        self.visit(root, &keys, leaf, twice)
    }

    /// Visits every entry of the tree at `root` but for the nodes that were seen before: snapshots
    /// share theirs.
    fn walk_once(&mut self, root: u64, leaf: &mut Leaf<'_>) -> Result<(), MetadataError> {
        self.visit(root, &ALL, leaf, |_| Ok(()))
    }

    fn visit(
        &mut self,
        root: u64,
        keys: &Range<u64>,
        leaf: &mut Leaf<'_>,
        seen: impl Fn(u64) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let mut ahead = vec![root];
        while let Some(at) = ahead.pop() {
            if self.seen.insert(at) {
                read_node(self.disk, at, keys, &mut ahead, leaf)?;
            } else {
                seen(at)?;
            }
        }
        Ok(())
    }
}

/// Reads one node: a leaf's entries with these keys go to `leaf`, an inner node's children that may
/// hold such to `ahead`.
fn read_node(
    disk: &dyn Disk,
    at: u64,
    keys: &Range<u64>,
    ahead: &mut Vec<u64>,
    leaf: &mut Leaf<'_>,
) -> Result<(), MetadataError> {
    let block = Block::read(disk, at)?;
    let own_number = block.u64(node::BLOCK_NUMBER)?;
    if own_number != at {
        return Err(block.wrong(format!("it says that it is block {own_number}")));
    }
    let (entries, most) = (block.u32(node::ENTRIES)?, block.u32(node::MAX_ENTRIES)?);
    if entries > most {
        return Err(block.wrong(format!("{entries} entries where {most} fit")));
    }
    let value_size = block.u32(node::VALUE_SIZE)? as usize;
    let values = node::KEYS + most as usize * 8;
    let flags = block.u32(node::FLAGS)?;
    let key = |entry: usize| block.u64(node::KEYS + entry * 8);
    for entry in 0..entries as usize {
        let value = block.u64(values + entry * value_size)?;
        if flags & node::INTERNAL != 0 {
            // A child's keys reach from its own to the next one's.
            let begins_behind = entry > 0 && key(entry)? >= keys.end;
            let ends_before = entry + 1 < entries as usize && key(entry + 1)? <= keys.start;
            if !begins_behind && !ends_before {
                ahead.push(value);
            }
        } else if flags & node::LEAF != 0 {
            let key = key(entry)?;
            if keys.contains(&key) || *keys == ALL {
                leaf(&block, key, value)?;
            }
        } else {
            return Err(block.wrong(format!("flags {flags:#x} say neither leaf nor internal node")));
        }
    }
    Ok(())
}

/// A set of block numbers.
struct Bits {
    words: Vec<u64>,
    total: u64,
    count: u64,
}

impl Bits {
    /// `None` for a number that is not below the total.
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

struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn read(disk: &dyn Disk, number: u64) -> Result<Block, MetadataError> {
        let mut bytes = vec![0; BLOCK];
        let offset = number
            .checked_mul(BLOCK as u64)
            .filter(|offset| disk.size().is_ok_and(|size| offset / 512 < size.0));
        let Some(offset) = offset else {
            return Err(MetadataError::Format {
                block: number,
                what: "lies beyond the end of the metadata".into(),
            });
        };
        disk.read_at(&mut bytes, offset)?;
        Ok(Block { number, bytes })
    }

    fn must_be_superblock(&self) -> Result<(), MetadataError> {
        match self.u64(superblock::MAGIC)? {
            MAGIC => Ok(()),
            magic => {
                Err(self.wrong(format!("its magic number is {magic}, a superblock's is {MAGIC}")))
            }
        }
    }

    fn u32(&self, at: usize) -> Result<u32, MetadataError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, MetadataError> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], MetadataError> {
        let bytes = self.bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| self.wrong(format!("{N} bytes at {at} are not in it")))
    }

    fn wrong(&self, what: String) -> MetadataError {
        MetadataError::Format { block: self.number, what }
    }
}

#[cfg(test)]
mod tests;

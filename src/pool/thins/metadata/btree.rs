//! The B-trees of dm-thin's metadata.

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::MetadataError;
use super::format::{node, Block};
use crate::block::Disk;

/// Walks B-trees. Two trees may share nodes, but no tree has a node twice.
pub struct Trees<'a> {
    disk: &'a dyn Disk,
    seen: BTreeSet<u64>,
}

/// All keys.
const ALL: Range<u64> = 0..u64::MAX;

/// Called with a leaf, a key in it, and the first eight bytes of the value.
type Leaf<'f> = dyn FnMut(&Block, u64, u64) -> Result<(), MetadataError> + 'f;

impl<'a> Trees<'a> {
    pub fn new(disk: &'a dyn Disk) -> Self {
        Trees { disk, seen: BTreeSet::new() }
    }

    /// Visits every entry of the tree at `root`. Fails at a node that was seen before.
    pub fn walk(&mut self, root: u64, leaf: &mut Leaf<'_>) -> Result<(), MetadataError> {
        self.visit(root, &ALL, leaf, twice)
    }

    /// Visits the entries of the tree at `root` with these keys. Reads only the nodes that may hold
    /// them.
    pub fn walk_from(
        &mut self,
        root: u64,
        keys: Range<u64>,
        leaf: &mut Leaf<'_>,
    ) -> Result<(), MetadataError> {
        self.visit(root, &keys, leaf, twice)
    }

    /// Visits every entry of the tree at `root`, and skips nodes that were seen before, which
    /// snapshots share.
    pub fn walk_once(&mut self, root: u64, leaf: &mut Leaf<'_>) -> Result<(), MetadataError> {
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

fn twice(block: u64) -> Result<(), MetadataError> {
    Err(MetadataError::Format { block, what: "stands in the tree twice".into() })
}

/// Reads one node. The entries of a leaf that have these keys go to `leaf`, and the children of an
/// inner node that may hold such entries go to `ahead`.
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

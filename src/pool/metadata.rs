//! Which thins a pool holds, which no ioctl tells: read from a snapshot of the pool's metadata while it goes on working.
//!
//! Sources of the format: drivers/md/dm-thin-metadata.c (`thin_disk_superblock`, `disk_device_details`) and
//! drivers/md/persistent-data/dm-btree-internal.h (`node_header`). All numbers are little-endian, blocks are 4 KiB.
//! Every offset is checked; what makes no sense is an error that names the block.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{BlockError, Disk};
use crate::units::ThinId;

/// dm-thin's metadata block size in bytes.
const BLOCK: usize = 4096;
/// THIN_SUPERBLOCK_MAGIC.
const MAGIC: u64 = 27_022_010;

mod superblock {
    pub const MAGIC: usize = 32;
    pub const DEVICE_DETAILS_ROOT: usize = 328;
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
}

/// The thins whose details hang below the superblock at `root`, each with the number of data blocks it maps.
pub fn thins(disk: &dyn Disk, root: u64) -> Result<BTreeMap<ThinId, u64>, MetadataError> {
    let superblock = Block::read(disk, root)?;
    let magic = superblock.u64(superblock::MAGIC)?;
    if magic != MAGIC {
        return Err(superblock.wrong(format!("its magic number is {magic}, a superblock's is {MAGIC}")));
    }
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut ahead = vec![superblock.u64(superblock::DEVICE_DETAILS_ROOT)?];
    while let Some(at) = ahead.pop() {
        if !seen.insert(at) {
            return Err(MetadataError::Format { block: at, what: "stands in the tree twice".into() });
        }
        read_node(disk, at, &mut ahead, &mut found)?;
    }
    Ok(found)
}

/// Reads one node: a leaf's thins into `found`, an inner node's children into `ahead`.
fn read_node(
    disk: &dyn Disk,
    at: u64,
    ahead: &mut Vec<u64>,
    found: &mut BTreeMap<ThinId, u64>,
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
    for entry in 0..entries as usize {
        let value = block.u64(values + entry * value_size)?;
        if flags & node::INTERNAL != 0 {
            ahead.push(value);
        } else if flags & node::LEAF != 0 {
            let key = block.u64(node::KEYS + entry * 8)?;
            let id = u32::try_from(key).ok().and_then(|id| ThinId::new(id).ok());
            found.insert(id.ok_or_else(|| block.wrong(format!("{key} is no thin id")))?, value);
        } else {
            return Err(block.wrong(format!("flags {flags:#x} say neither leaf nor internal node")));
        }
    }
    Ok(())
}

struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn read(disk: &dyn Disk, number: u64) -> Result<Block, MetadataError> {
        let mut bytes = vec![0; BLOCK];
        let offset =
            number.checked_mul(BLOCK as u64).filter(|offset| disk.size().is_ok_and(|size| offset / 512 < size.0));
        let Some(offset) = offset else {
            return Err(MetadataError::Format { block: number, what: "lies beyond the end of the metadata".into() });
        };
        disk.read_at(&mut bytes, offset)?;
        Ok(Block { number, bytes })
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
mod tests {
    use super::*;
    use crate::block::memory::MemoryDisk;
    use crate::units::Sectors;
    use proptest::prelude::*;

    /// A metadata image of a few blocks: superblock 0, root 1, leaves from 2 on.
    fn image(leaves: &[&[(u64, u64)]]) -> Vec<u8> {
        let mut image = vec![0; BLOCK * (2 + leaves.len())];
        image[superblock::MAGIC..][..8].copy_from_slice(&MAGIC.to_le_bytes());
        image[superblock::DEVICE_DETAILS_ROOT..][..8].copy_from_slice(&1u64.to_le_bytes());
        let children: Vec<(u64, u64)> = leaves.iter().enumerate().map(|(n, leaf)| (leaf[0].0, n as u64 + 2)).collect();
        put_node(&mut image, 1, node::INTERNAL, 8, &children);
        for (n, leaf) in leaves.iter().enumerate() {
            put_node(&mut image, n + 2, node::LEAF, 24, leaf);
        }
        image
    }

    fn disk(image: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::new(Sectors(image.len() as u64 / 512));
        disk.write_at(image, 0).unwrap();
        disk
    }

    fn put_node(image: &mut [u8], block: usize, flags: u32, value_size: usize, entries: &[(u64, u64)]) {
        let most = 126;
        let node = &mut image[block * BLOCK..][..BLOCK];
        node[node::FLAGS..][..4].copy_from_slice(&flags.to_le_bytes());
        node[node::BLOCK_NUMBER..][..8].copy_from_slice(&(block as u64).to_le_bytes());
        node[node::ENTRIES..][..4].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        node[node::MAX_ENTRIES..][..4].copy_from_slice(&(most as u32).to_le_bytes());
        node[node::VALUE_SIZE..][..4].copy_from_slice(&(value_size as u32).to_le_bytes());
        for (n, (key, value)) in entries.iter().enumerate() {
            node[node::KEYS + n * 8..][..8].copy_from_slice(&key.to_le_bytes());
            node[node::KEYS + most * 8 + n * value_size..][..8].copy_from_slice(&value.to_le_bytes());
        }
    }

    #[test]
    fn all_leaves_are_read() {
        let disk = disk(&image(&[&[(0, 14), (3, 20)], &[(7, 1), (0x00ff_ffff, 9)]]));
        let found: Vec<_> = thins(&disk, 0).unwrap().into_iter().map(|(id, blocks)| (id.get(), blocks)).collect();
        assert_eq!(found, [(0, 14), (3, 20), (7, 1), (0x00ff_ffff, 9)]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, Damage); 5] = [
            ("magic", |image| image[superblock::MAGIC] ^= 1),
            ("beyond the end", |image| image[superblock::DEVICE_DETAILS_ROOT + 3] = 1),
            ("is no thin id", |image| image[2 * BLOCK + node::KEYS + 4] = 1),
            ("neither leaf nor", |image| image[2 * BLOCK + node::FLAGS] = 0),
            ("it is block", |image| image[2 * BLOCK + node::BLOCK_NUMBER] = 9),
        ];
        for (what, damage) in cases {
            let mut damaged = image(&[&[(1, 2)]]);
            damage(&mut damaged);
            let error = thins(&disk(&damaged), 0).unwrap_err().to_string();
            assert!(error.contains(what), "{what:?} is not in {error:?}");
        }
    }

    #[test]
    fn a_cycle_ends() {
        let mut image = image(&[&[(1, 2)]]);
        put_node(&mut image, 1, node::INTERNAL, 8, &[(1, 1)]);
        assert!(thins(&disk(&image), 0).unwrap_err().to_string().contains("twice"));
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0..3 * BLOCK, byte: u8, more in proptest::collection::vec((0..3 * BLOCK, any::<u8>()), 0..8)) {
            let mut image = image(&[&[(1, 2), (5, 6)]]);
            image[at] = byte;
            for (at, byte) in more {
                image[at] = byte;
            }
            let _ = thins(&disk(&image), 0);
        }
    }
}

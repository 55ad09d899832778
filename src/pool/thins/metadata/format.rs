//! The format of dm-thin's metadata.
//!
//! Sources: drivers/md/dm-thin-metadata.c (`thin_disk_superblock`, `disk_device_details`,
//! `pack_block_time`) and drivers/md/persistent-data/dm-btree-internal.h (`node_header`). All
//! numbers are little-endian. Blocks are 4 KiB. Every offset is checked, and a value that makes no
//! sense is an error that names the block.

use super::error::MetadataError;
use crate::block::Disk;

/// dm-thin's metadata block size in bytes.
pub const BLOCK: usize = 4096;
/// THIN_SUPERBLOCK_MAGIC.
pub const MAGIC: u64 = 27_022_010;
/// A mapping's value is the data block above 24 bits of time (`pack_block_time`).
pub const TIME_BITS: u32 = 24;

pub mod superblock {
    pub const MAGIC: usize = 32;
    pub const TRANSACTION_ID: usize = 48;
    /// The block of the superblock of a held metadata snapshot. 0 for none.
    pub const HELD_ROOT: usize = 56;
    /// This and the next are in the root of the data space map (`struct disk_sm_root` of
    /// dm-space-map-common.h).
    pub const DATA_BLOCKS: usize = 64;
    pub const DATA_BLOCKS_USED: usize = 72;
    pub const DATA_MAPPING_ROOT: usize = 320;
    pub const DEVICE_DETAILS_ROOT: usize = 328;
    pub const DATA_BLOCK_SIZE: usize = 336;
}

pub mod node {
    pub const FLAGS: usize = 4;
    pub const BLOCK_NUMBER: usize = 8;
    pub const ENTRIES: usize = 16;
    pub const MAX_ENTRIES: usize = 20;
    pub const VALUE_SIZE: usize = 24;
    pub const KEYS: usize = 32;
    pub const INTERNAL: u32 = 1;
    pub const LEAF: u32 = 2;
}

/// A block of the metadata.
pub struct Block {
    pub number: u64,
    pub bytes: Vec<u8>,
}

impl Block {
    pub fn read(disk: &dyn Disk, number: u64) -> Result<Block, MetadataError> {
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

    pub fn must_be_superblock(&self) -> Result<(), MetadataError> {
        match self.u64(superblock::MAGIC)? {
            MAGIC => Ok(()),
            magic => {
                Err(self.wrong(format!("its magic number is {magic}, a superblock's is {MAGIC}")))
            }
        }
    }

    pub fn u32(&self, at: usize) -> Result<u32, MetadataError> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub fn u64(&self, at: usize) -> Result<u64, MetadataError> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], MetadataError> {
        let bytes = self.bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| self.wrong(format!("{N} bytes at {at} are not in it")))
    }

    pub fn wrong(&self, what: String) -> MetadataError {
        MetadataError::Format { block: self.number, what }
    }
}

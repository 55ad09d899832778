//! xfs: its mkfs options and its superblock.
//!
//! The layout is the kernel's (fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`); all of it big-endian.

use std::ops::Range;

use uuid::Uuid;

use crate::block::Disk;
use crate::units::Sectors;

use super::bytes::Fields;
use super::error::FsError;
use super::options::{Own, Syntax};
use super::types::{FsState, FsType};
use super::xfs_log;

const MAGIC: [u8; 4] = *b"XFSB";

/// How mkfs.xfs reads its arguments (mkfs/xfs_mkfs.c, the string given to getopt).
pub(super) const SYNTAX: Syntax = Syntax { with_value: "bcdiLlmnprs", joined: None };

/// This crate's own options: no discard, and the smallest log that mkfs.xfs allows since xfsprogs 5.19, 64 MiB. (For
/// file systems of up to some 130 GiB that is its default too; larger ones would get up to 2 GiB.)
pub(super) fn own_options(size: Sectors) -> Vec<Own> {
    let with = |letter, value: String| Own { letter, value: Some(value) };
    vec![
        Own { letter: 'q', value: None },
        Own { letter: 'K', value: None },
        with('l', "size=64m".to_owned()),
        with('d', format!("size={}k", size.0 / 2)),
    ]
}

/// The part of an xfs superblock that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    /// The share of the space that inodes may take, in percent.
    pub(super) inode_percent: u8,
    allocated_inodes: u64,
    free_inodes: u64,
    uuid: Uuid,
    log_start: u64,
    log_blocks: u32,
    group_blocks: u32,
    group_bits: u8,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        let mut bytes = [0; 512];
        disk.read_at(&mut bytes, 0)?;
        parse(Fields(&bytes)).map_err(|problem| FsError::Superblock {
            device: disk.path().to_owned(),
            fs_type: FsType::Xfs,
            problem,
        })
    }

    /// What it says of the file system; whether that is clean is read from the log.
    ///
    /// # Errors
    /// [`FsError::Block`].
    pub(super) fn state(&self, disk: &dyn Disk) -> Result<FsState, FsError> {
        Ok(FsState {
            fs_type: FsType::Xfs,
            size: Sectors(self.blocks.saturating_mul(u64::from(self.block_size / 512))),
            block_size: self.block_size,
            used_inodes: self.allocated_inodes - self.free_inodes,
            clean: self.log().map_or(Ok(false), |log| xfs_log::is_clean(disk, log))?,
            uuid: self.uuid,
        })
    }

    /// Where the log is, in bytes; `None` when it is on another device.
    pub(super) fn log(&self) -> Option<Range<u64>> {
        if self.log_start == 0 {
            return None;
        }
        // A block's number is its group's in the high bits and its place in the group in the low ones (XFS_FSB_TO_DADDR).
        let group = self.log_start >> self.group_bits;
        let block = group * u64::from(self.group_blocks) + (self.log_start & ((1 << self.group_bits) - 1));
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(self.block_size));
        Some(bytes(block)..bytes(block.saturating_add(u64::from(self.log_blocks))))
    }
}

fn parse(fields: Fields<'_>) -> Result<Superblock, String> {
    let found: [u8; 4] = fields.bytes(0).unwrap_or_default();
    if found != MAGIC {
        return Err(format!("the magic number is {found:02x?}, it should be {MAGIC:02x?}"));
    }
    let block = parse_fields(fields).ok_or("the superblock is cut short")?;
    if !block.block_size.is_power_of_two() || !(512..=65536).contains(&block.block_size) {
        return Err(format!("its blocks have {} bytes", block.block_size));
    }
    if block.free_inodes > block.allocated_inodes {
        return Err("it has more free inodes than inodes".to_owned());
    }
    if block.blocks == 0 || block.group_bits >= 32 || block.log_start >> block.group_bits > u64::from(u32::MAX) {
        return Err("its allocation groups or its log lie nowhere".to_owned());
    }
    Ok(block)
}

fn parse_fields(fields: Fields<'_>) -> Option<Superblock> {
    Some(Superblock {
        block_size: fields.be32(4)?,
        blocks: fields.be64(8)?,
        uuid: Uuid::from_bytes(fields.bytes(32)?),
        log_start: fields.be64(48)?,
        group_blocks: fields.be32(84)?,
        log_blocks: fields.be32(96)?,
        group_bits: fields.u8(124)?,
        inode_percent: fields.u8(127)?,
        allocated_inodes: fields.be64(128)?,
        free_inodes: fields.be64(136)?,
    })
}

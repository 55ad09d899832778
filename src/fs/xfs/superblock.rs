//! xfs's superblock: reading it and checking it before any of it is used.
//!
//! Layout: fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`; all of it is big-endian.

use std::ops::Range;

use uuid::Uuid;

use crate::block::Disk;
use crate::fs::bytes::Fields;
use crate::fs::error::FsError;
use crate::fs::types::{FsState, FsType};
use crate::units::Sectors;

use super::log;

const MAGIC: [u8; 4] = *b"XFSB";

/// The maximum length of a log in bytes: 2 GiB (fs/xfs/libxfs/xfs_fs.h, `XFS_MAX_LOG_BYTES`).
const LOG_MAX: u64 = 1 << 31;

/// The fields of an xfs superblock that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    /// The share of the space that inodes may use, in percent.
    pub(crate) inode_percent: u8,
    allocated_inodes: u64,
    free_inodes: u64,
    uuid: Uuid,
    log_start: u64,
    log_blocks: u32,
    pub(crate) group_blocks: u32,
    group_bits: u8,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(crate) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        let mut bytes = [0; 512];
        disk.read_at(&mut bytes, 0)?;
        let wrong = |problem| FsError::superblock(disk, FsType::Xfs, problem);
        let block = parse(Fields(&bytes)).map_err(wrong)?;
        FsError::check_fit(disk, FsType::Xfs, block.size())?;
        Ok(block)
    }

    fn size(&self) -> Sectors {
        // Both factors are limited by the checks, to 47 bits and to 7 bits.
        Sectors(self.blocks * u64::from(self.block_size / 512))
    }

    /// The state of the file system. Whether it is clean is read from the log.
    ///
    /// # Errors
    /// [`FsError::Block`].
    pub(crate) fn state(&self, disk: &dyn Disk) -> Result<FsState, FsError> {
        Ok(FsState {
            fs_type: FsType::Xfs,
            size: self.size(),
            block_size: self.block_size,
            used_inodes: self.allocated_inodes - self.free_inodes,
            clean: self.log().map_or(Ok(false), |place| log::is_clean(disk, place))?,
            uuid: self.uuid,
            // xfs records no errors: it shuts down, and the log then has no unmount record.
            errors: None,
        })
    }

    /// The log's byte range on the disk; `None` when the log is on another device.
    pub(crate) fn log(&self) -> Option<Range<u64>> {
        if self.log_start == 0 {
            return None;
        }
        // The high bits of a block number are the group, the low bits the block in the group
        // (XFS_FSB_TO_DADDR).
        let group = self.log_start >> self.group_bits;
        let block =
            group * u64::from(self.group_blocks) + (self.log_start & ((1 << self.group_bits) - 1));
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(self.block_size));
        Some(bytes(block)..bytes(block.saturating_add(u64::from(self.log_blocks))))
    }
}

fn parse(fields: Fields<'_>) -> Result<Superblock, String> {
    let found: [u8; 4] = fields.bytes(0).unwrap_or_default();
    if found != MAGIC {
        return Err(format!("the magic number is {found:02x?}, it should be {MAGIC:02x?}"));
    }
    let block = parse_fields(fields).ok_or("the superblock is too short")?;
    if !block.block_size.is_power_of_two() || !(512..=65536).contains(&block.block_size) {
        return Err(format!("its blocks have {} bytes", block.block_size));
    }
    if block.free_inodes > block.allocated_inodes {
        return Err("it has more free inodes than inodes".to_owned());
    }
    if block.blocks == 0
        || block.blocks >> 47 != 0
        || block.group_bits >= 32
        || block.log_start >> block.group_bits > u64::from(u32::MAX)
    {
        return Err("the places of its allocation groups or of its log are invalid".to_owned());
    }
    let end = block.blocks.saturating_mul(u64::from(block.block_size));
    match block.log() {
        Some(log) if log.end > end => Err("its log ends beyond its last block".to_owned()),
        Some(log) if log.end - log.start > LOG_MAX => {
            Err("its log is longer than xfs allows".to_owned())
        }
        _ => Ok(block),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::memory::MemoryDisk;

    /// A superblock as mkfs.xfs writes it, with the fields that this file reads.
    fn superblock() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value)
        };
        put(0, &MAGIC);
        put(4, &4096_u32.to_be_bytes());
        put(8, &2_621_440_u64.to_be_bytes());
        put(32, &[7; 16]);
        put(48, &((2 << 20) + 5_u64).to_be_bytes());
        put(84, &655_360_u32.to_be_bytes());
        put(96, &16_384_u32.to_be_bytes());
        put(124, &[20]);
        put(127, &[25]);
        put(128, &64_u64.to_be_bytes());
        put(136, &61_u64.to_be_bytes());
        bytes
    }

    fn changed(offset: usize, value: &[u8]) -> Result<Superblock, String> {
        let mut bytes = superblock();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        parse(Fields(&bytes))
    }

    #[test]
    fn the_fields_of_a_superblock_are_read() {
        let disk = MemoryDisk::new(Sectors(10 << 21));
        disk.write_at(&changed(48, &[0; 8]).map(|_| superblock()).unwrap(), 0).unwrap();
        disk.write_at(&[0; 8], 48).unwrap();
        let superblock = Superblock::read(&disk).unwrap();
        assert_eq!(superblock.inode_percent, 25);
        let state = superblock.state(&disk).unwrap();
        assert_eq!((state.size, state.block_size, state.used_inodes), (Sectors(10 << 21), 4096, 3));
        assert_eq!(state.uuid, Uuid::from_bytes([7; 16]));
        assert!(!state.clean, "a log on another device was called clean");
    }

    #[test]
    fn the_place_of_the_log_is_computed_from_group_and_block() {
        let log = parse(Fields(&superblock())).unwrap().log().unwrap();
        let start = (2 * 655_360 + 5) * 4096;
        assert_eq!(log, start..start + (64 << 20));
        assert_eq!(changed(48, &[0; 8]).unwrap().log(), None);
    }

    #[test]
    fn an_invalid_field_is_refused_with_a_reason() {
        for (offset, value, reason) in [
            (0, &b"ext4"[..], "magic"),
            (4, &[0, 0, 16, 1], "blocks have"),
            (4, &[0, 0, 1, 0], "blocks have"),
            (8, &[0; 8], "are invalid"),
            (8, &[1; 8], "are invalid"),
            (124, &[32], "are invalid"),
            (48, &[0xFF; 8], "are invalid"),
            (96, &[0xFF; 4], "ends beyond"),
            (48, &[0, 0, 0, 0, 0, 0x40, 0, 0], "ends beyond"),
            (136, &[1; 8], "free inodes"),
        ] {
            let problem = changed(offset, value).unwrap_err();
            assert!(problem.contains(reason), "{offset}: {problem}");
        }
    }

    #[test]
    fn a_file_system_larger_than_its_device_is_refused() {
        let disk = MemoryDisk::new(Sectors((10 << 21) - 1));
        disk.write_at(&superblock(), 0).unwrap();
        let error = Superblock::read(&disk).unwrap_err().to_string();
        assert!(error.contains("but the device has 20971519 sectors"), "{error}");
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(
            noise in proptest::collection::vec((0..512_usize, any::<u8>()), 0..64),
        ) {
            let mut bytes = superblock();
            for (offset, value) in noise {
                bytes[offset] = value;
            }
            let disk = MemoryDisk::new(Sectors(10 << 21));
            disk.write_at(&bytes, 0).unwrap();
            if let Ok(superblock) = Superblock::read(&disk) {
                prop_assert!(superblock.state(&disk).unwrap().size <= disk.size().unwrap());
            }
        }
    }
}

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

/// The longest log there is, in bytes: 2 GiB (fs/xfs/libxfs/xfs_fs.h, `XFS_MAX_LOG_BYTES`).
const LOG_MAX: u64 = 1 << 31;

/// How mkfs.xfs reads its arguments (mkfs/xfs_mkfs.c, the string given to getopt).
pub(super) const SYNTAX: Syntax = Syntax { with_value: "bcdiLlmnprs", joined: None };

/// This crate's own options: no discard, and the smallest log that mkfs.xfs allows since xfsprogs
/// 5.19, 64 MiB. (For file systems of up to some 130 GiB that is its default too; larger ones would
/// get up to 2 GiB.)
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
    pub(super) group_blocks: u32,
    group_bits: u8,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        let wrong = |problem| FsError::Superblock {
            device: disk.path().to_owned(),
            fs_type: FsType::Xfs,
            problem,
        };
        let mut bytes = [0; 512];
        disk.read_at(&mut bytes, 0)?;
        let block = parse(Fields(&bytes)).map_err(wrong)?;
        let (size, device) = (block.size(), disk.size()?);
        if size > device {
            return Err(wrong(format!("it says that it has {size}, and the device has {device}")));
        }
        Ok(block)
    }

    fn size(&self) -> Sectors {
        // Both are bounded: 47 bits and 7 bits.
        Sectors(self.blocks * u64::from(self.block_size / 512))
    }

    /// What it says of the file system; whether that is clean is read from the log.
    ///
    /// # Errors
    /// [`FsError::Block`].
    pub(super) fn state(&self, disk: &dyn Disk) -> Result<FsState, FsError> {
        Ok(FsState {
            fs_type: FsType::Xfs,
            size: self.size(),
            block_size: self.block_size,
            used_inodes: self.allocated_inodes - self.free_inodes,
            clean: self.log().map_or(Ok(false), |log| xfs_log::is_clean(disk, log))?,
            uuid: self.uuid,
            // xfs writes no record of errors; it shuts down, and its log ends without an unmount.
            errors: None,
        })
    }

    /// Where the log is, in bytes; `None` when it is on another device.
    pub(super) fn log(&self) -> Option<Range<u64>> {
        if self.log_start == 0 {
            return None;
        }
        // A block's number is its group's in the high bits and its place in the group in the low
        // ones (XFS_FSB_TO_DADDR).
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
    let block = parse_fields(fields).ok_or("the superblock is cut short")?;
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
        return Err("its allocation groups or its log lie nowhere".to_owned());
    }
    let end = block.blocks.saturating_mul(u64::from(block.block_size));
    match block.log() {
        Some(log) if log.end > end => Err("its log ends behind its last block".to_owned()),
        Some(log) if log.end - log.start > LOG_MAX => {
            Err("its log is longer than one can be".to_owned())
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

    /// A superblock as mkfs.xfs makes it, as far as it is read here.
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
    fn what_a_superblock_says_is_read() {
        let disk = MemoryDisk::new(Sectors(10 << 21));
        disk.write_at(&changed(48, &[0; 8]).map(|_| superblock()).unwrap(), 0).unwrap();
        disk.write_at(&[0; 8], 48).unwrap();
        let superblock = Superblock::read(&disk).unwrap();
        assert_eq!(superblock.inode_percent, 25);
        let state = superblock.state(&disk).unwrap();
        assert_eq!((state.size, state.block_size, state.used_inodes), (Sectors(10 << 21), 4096, 3));
        assert_eq!(state.uuid, Uuid::from_bytes([7; 16]));
        assert!(!state.clean, "a log that is elsewhere was called clean");
    }

    #[test]
    fn the_log_is_where_group_and_block_say() {
        let log = parse(Fields(&superblock())).unwrap().log().unwrap();
        let start = (2 * 655_360 + 5) * 4096;
        assert_eq!(log, start..start + (64 << 20));
        assert_eq!(changed(48, &[0; 8]).unwrap().log(), None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (offset, value, reason) in [
            (0, &b"ext4"[..], "magic"),
            (4, &[0, 0, 16, 1], "blocks have"),
            (4, &[0, 0, 1, 0], "blocks have"),
            (8, &[0; 8], "lie nowhere"),
            (8, &[1; 8], "lie nowhere"),
            (124, &[32], "lie nowhere"),
            (48, &[0xFF; 8], "lie nowhere"),
            (96, &[0xFF; 4], "ends behind"),
            (48, &[0, 0, 0, 0, 0, 0x40, 0, 0], "ends behind"),
            (136, &[1; 8], "free inodes"),
        ] {
            let problem = changed(offset, value).unwrap_err();
            assert!(problem.contains(reason), "{offset}: {problem}");
        }
    }

    #[test]
    fn one_that_ends_behind_its_device_is_refused() {
        let disk = MemoryDisk::new(Sectors((10 << 21) - 1));
        disk.write_at(&superblock(), 0).unwrap();
        let error = Superblock::read(&disk).unwrap_err().to_string();
        assert!(error.contains("and the device has 20971519 sectors"), "{error}");
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(noise in proptest::collection::vec((0..512_usize, any::<u8>()), 0..64)) {
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

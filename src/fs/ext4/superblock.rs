//! ext4's superblock: reading it and checking it before any of it is used.
//!
//! Layout: Documentation/filesystems/ext4/super.rst; all of it is little-endian.

use uuid::Uuid;

use crate::block::Disk;
use crate::fs::bytes::Fields;
use crate::fs::error::FsError;
use crate::fs::types::{FsState, FsType, NotedErrors};
use crate::units::Sectors;

use super::crc32c::crc32c;
use super::journal::{self, BlockMap};

/// The byte at which the superblock starts.
pub(super) const PLACE: u64 = 1024;

/// The superblock's bytes.
pub(super) type RawSuperblock = [u8; 1024];

const MAGIC: u16 = 0xEF53;
/// The first byte of `s_state`.
pub(super) const STATE: usize = 58;
const STATE_VALID: u16 = 1;
pub(super) const STATE_ERRORS: u16 = 2;
const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER_2: u32 = 0x200;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CHECKSUM_SEED: u32 = 0x2000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
const RO_COMPAT_METADATA_CHECKSUMS: u32 = 0x400;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// The incompatible features that a file system may have when a program or the kernel works on it:
/// filetype, recover, meta_bg, extent, 64bit, flex_bg, ea_inode, csum_seed, large_dir, inline_data,
/// encrypt, casefold. Missing are compression (no kernel supports it), a journal on another device,
/// and mmp (an opener waits as long as the superblock says).
const INCOMPAT_KNOWN: u32 = 0x2
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | 0x40
    | INCOMPAT_64BIT
    | 0x200
    | 0x400
    | INCOMPAT_CHECKSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

/// The inode of a journal inside the file system.
const JOURNAL_INODE: u32 = 8;

/// The fields of an ext4 superblock that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    inodes: u32,
    free_inodes: u32,
    clean: bool,
    errors: Option<NotedErrors>,
    uuid: Uuid,
    incompat: u32,
    pub(super) has_journal: bool,
    pub(super) layout: Layout,
}

/// The fields from which the places of block groups, inode tables and journal are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) first_block: u32,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) descriptor_size: u16,
    /// With meta_bg: the number of the first descriptor block that is in its own meta group.
    pub(super) first_meta_block: Option<u32>,
    /// Whether only groups 0, 1 and the powers of 3, 5 and 7 have copies of the superblock.
    pub(super) sparse_copies: bool,
    /// The initial value of metadata checksums, with metadata_csum.
    pub(super) checksum_seed: Option<u32>,
    /// `s_jnl_blocks`: the superblock's copy of the journal's block map, if it has one.
    pub(super) journal: Option<BlockMap>,
}

impl Superblock {
    /// Reads and checks it. The result has plausible geometry and ends within the device.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(crate) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        Ok(Superblock::read_raw(disk)?.0)
    }

    /// As [`Superblock::read`], with the bytes that were read.
    pub(super) fn read_raw(disk: &dyn Disk) -> Result<(Self, RawSuperblock), FsError> {
        let mut bytes = [0; 1024];
        disk.read_at(&mut bytes, PLACE)?;
        let wrong = |problem| FsError::superblock(disk, FsType::Ext4, problem);
        let block = parse(Fields(&bytes)).map_err(wrong)?;
        FsError::check_fit(disk, FsType::Ext4, block.size())?;
        Ok((block, bytes))
    }

    fn size(&self) -> Sectors {
        // Both factors are limited by the checks, to 48 bits and to 7 bits.
        Sectors(self.blocks * u64::from(self.block_size / 512))
    }

    /// The state of the file system. An error that the journal has recorded is read from the
    /// journal.
    ///
    /// # Errors
    /// [`FsError::Block`].
    pub(crate) fn state(&self, disk: &dyn Disk) -> Result<FsState, FsError> {
        let journal = match self.layout.journal.filter(|_| self.has_journal) {
            Some(map) => journal::errno(disk, &map, self.block_size, self.blocks)?,
            None => 0,
        };
        let aborted =
            (journal != 0).then(|| NotedErrors { journal, ..self.errors.unwrap_or_default() });
        Ok(FsState {
            fs_type: FsType::Ext4,
            size: self.size(),
            block_size: self.block_size,
            used_inodes: u64::from(self.inodes - self.free_inodes),
            clean: self.clean,
            uuid: self.uuid,
            errors: aborted.or(self.errors),
        })
    }

    /// Refuses a file system with features on which no program and no kernel should work here.
    ///
    /// # Errors
    /// [`FsError::Superblock`].
    pub(crate) fn must_be_known(&self, disk: &dyn Disk) -> Result<(), FsError> {
        match self.incompat & !INCOMPAT_KNOWN {
            0 => Ok(()),
            unknown => Err(FsError::superblock(
                disk,
                FsType::Ext4,
                format!("it has features that are not known or not allowed here ({unknown:#x})"),
            )),
        }
    }

    /// The number of block groups; `u64::MAX` if a group has no blocks.
    pub(super) fn groups(&self) -> u64 {
        let blocks = self.blocks.saturating_sub(u64::from(self.layout.first_block));
        match self.layout.blocks_per_group {
            0 => u64::MAX,
            in_group => blocks.div_ceil(u64::from(in_group)),
        }
    }
}

fn parse(fields: Fields<'_>) -> Result<Superblock, String> {
    let found = fields.le16(56).unwrap_or_default();
    if found != MAGIC {
        return Err(format!("the magic number is {found:#06x}, it should be {MAGIC:#06x}"));
    }
    let block =
        parse_fields(fields).ok_or("the superblock is too short or its block size is invalid")?;
    let problem = check(&block, fields).or_else(|| check_journal(&block, fields));
    problem.map_or(Ok(block), |problem| Err(problem.to_owned()))
}

fn parse_fields(fields: Fields<'_>) -> Option<Superblock> {
    let incompat = fields.le32(96)?;
    let high = if incompat & INCOMPAT_64BIT != 0 { fields.le32(336)? } else { 0 };
    let state = fields.le16(STATE)?;
    let orphans = fields.le32(232)? != 0 || fields.le32(100)? & RO_COMPAT_ORPHAN_PRESENT != 0;
    let errors = parse_errors(fields, state)?;
    let in_order = state & STATE_VALID != 0 && errors.is_none();
    Some(Superblock {
        // ext4 has blocks of 1 to 64 KiB.
        block_size: 1024 << fields.le32(24).filter(|log| *log <= 6)?,
        blocks: u64::from(high) << 32 | u64::from(fields.le32(4)?),
        inodes: fields.le32(0)?,
        free_inodes: fields.le32(16)?,
        clean: in_order && incompat & INCOMPAT_RECOVER == 0 && !orphans,
        errors,
        uuid: Uuid::from_bytes(fields.bytes(104)?),
        incompat,
        has_journal: fields.le32(92)? & COMPAT_HAS_JOURNAL != 0,
        layout: parse_layout(fields)?,
    })
}

/// The outer `None` means that the superblock is too short, the inner one that no error is
/// recorded.
fn parse_errors(fields: Fields<'_>, state: u16) -> Option<Option<NotedErrors>> {
    let noted = NotedErrors {
        count: fields.le32(404)?,
        first: fields.le32(408)?,
        last: fields.le32(460)?,
        function: fields.bytes(424)?,
        journal: 0,
    };
    Some((noted.count != 0 || state & STATE_ERRORS != 0).then_some(noted))
}

fn parse_layout(fields: Fields<'_>) -> Option<Layout> {
    let (compat, incompat, ro_compat) = (fields.le32(92)?, fields.le32(96)?, fields.le32(100)?);
    let seed = if incompat & INCOMPAT_CHECKSUM_SEED != 0 {
        fields.le32(624)?
    } else {
        crc32c(!0, &fields.bytes::<16>(104)?)
    };
    // Revision 0 has no such field; its inodes have 128 bytes.
    let inode_size = if fields.le32(76)? == 0 { 128 } else { fields.le16(88)? };
    Some(Layout {
        first_block: fields.le32(20)?,
        blocks_per_group: fields.le32(32)?,
        inodes_per_group: fields.le32(40)?,
        inode_size,
        descriptor_size: if incompat & INCOMPAT_64BIT != 0 { fields.le16(254)? } else { 32 },
        first_meta_block: (incompat & INCOMPAT_META_BG != 0).then_some(fields.le32(260)?),
        sparse_copies: ro_compat & RO_COMPAT_SPARSE_SUPER != 0
            && compat & COMPAT_SPARSE_SUPER_2 == 0,
        checksum_seed: (ro_compat & RO_COMPAT_METADATA_CHECKSUMS != 0).then_some(seed),
        // With s_jnl_backup_type 1 the copy is the inode's i_block, followed by its size.
        journal: if fields.u8(253)? == 1 { fields.bytes(268) } else { None },
    })
}

/// The kernel's checks of the geometry (fs/ext4/super.c), so that all numbers computed from it are
/// limited: a group has at least 256 blocks (mke2fs's minimum) and at most as many as a bitmap has
/// bits; the size of an inode is a power of two; the groups have as many inodes as the superblock
/// says; the size of a descriptor is a power of two.
fn check(block: &Superblock, fields: Fields<'_>) -> Option<&'static str> {
    let Layout {
        first_block, blocks_per_group, inodes_per_group, inode_size, descriptor_size, ..
    } = block.layout;
    let bits = block.block_size * 8;
    // With bigalloc each bit stands for a cluster. Clusters of more than 2^16 blocks are refused.
    let bigalloc = fields.le32(100)? & RO_COMPAT_BIGALLOC != 0;
    let (cluster_log, block_log) = (fields.le32(28)?, fields.le32(24)?);
    let cluster_bits =
        if bigalloc { cluster_log.checked_sub(block_log).unwrap_or(u32::MAX) } else { 0 };
    let groups = block.groups();
    // Block numbers have 48 bits (extents), group numbers 32.
    if block.blocks == 0 || block.blocks >> 48 != 0 || block.inodes == 0 {
        Some("its numbers of blocks and inodes are invalid")
    } else if block.free_inodes > block.inodes {
        Some("it has more free inodes than inodes")
    } else if cluster_bits > 16 {
        Some("its clusters have an invalid size")
    } else if blocks_per_group < 256
        || u64::from(blocks_per_group) > u64::from(bits) << cluster_bits
    {
        Some("its block groups have an invalid number of blocks")
    } else if u64::from(first_block) >= block.blocks || first_block > 1 {
        Some("its first block is beyond its blocks")
    } else if inodes_per_group == 0 || inodes_per_group > bits {
        Some("its block groups have an invalid number of inodes")
    } else if groups.checked_mul(u64::from(inodes_per_group)) != Some(u64::from(block.inodes)) {
        Some("its numbers of inodes and of block groups do not fit together")
    } else if !inode_size.is_power_of_two()
        || inode_size < 128
        || u32::from(inode_size) > block.block_size
    {
        Some("its inodes have an invalid size")
    } else if !descriptor_size.is_power_of_two() || !(32..=1024).contains(&descriptor_size) {
        Some("its group descriptors have an invalid size")
    } else {
        None
    }
}

/// Refuses a journal in another inode or on another device. The kernel would write to any device
/// that the superblock names.
fn check_journal(block: &Superblock, fields: Fields<'_>) -> Option<&'static str> {
    let (inode, device) = (fields.le32(224)?, fields.le32(228)?);
    (block.has_journal && (inode != JOURNAL_INODE || device != 0))
        .then_some("its journal is not in its own inode 8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::{disk_with, superblock};
    use super::*;
    use crate::block::memory::MemoryDisk;

    fn changed(offset: usize, value: &[u8]) -> Result<Superblock, String> {
        let mut bytes = superblock();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        parse(Fields(&bytes))
    }

    #[test]
    fn the_fields_of_a_superblock_are_read_from_its_place_on_the_disk() {
        let disk = disk_with(&superblock());
        let state = Superblock::read(&disk).unwrap().state(&disk).unwrap();
        assert_eq!((state.size, state.block_size), (Sectors(10 << 21), 4096));
        assert_eq!((state.used_inodes, state.clean), (10, true));
        assert_eq!(state.uuid, Uuid::from_bytes([7; 16]));
    }

    #[test]
    fn with_64_bits_the_number_of_blocks_has_a_high_part() {
        let blocks = |incompat: u32| {
            let mut bytes = superblock();
            bytes[96..100].copy_from_slice(&incompat.to_le_bytes());
            bytes[336] = 1;
            parse_fields(Fields(&bytes)).unwrap().blocks
        };
        assert_eq!(blocks(INCOMPAT_64BIT), (1 << 32) + 2_621_440);
        assert_eq!(blocks(0), 2_621_440);
    }

    #[test]
    fn only_a_properly_unmounted_file_system_is_clean() {
        let clean = |offset, value: &[u8]| changed(offset, value).unwrap().clean;
        assert!(!clean(58, &0_u16.to_le_bytes()), "not unmounted");
        assert!(!clean(58, &(STATE_VALID | STATE_ERRORS).to_le_bytes()), "errors recorded");
        assert!(
            !clean(96, &(INCOMPAT_64BIT | INCOMPAT_RECOVER).to_le_bytes()),
            "journal to replay"
        );
        assert!(!clean(232, &12_u32.to_le_bytes()), "orphans");
        assert!(
            !clean(100, &RO_COMPAT_ORPHAN_PRESENT.to_le_bytes()),
            "orphans in the file for them"
        );
    }

    #[test]
    fn an_invalid_field_is_refused_with_a_reason() {
        for (offset, value, reason) in [
            (56, &[0; 4][..], "magic"),
            (24, &[7, 0, 0, 0], "block size"),
            (4, &[0; 4], "numbers of blocks"),
            (336, &[0, 0, 1, 0], "numbers of blocks"),
            (0, &[0; 4], "numbers of blocks"),
            (16, &[0xFF; 4], "free inodes"),
            (32, &[0; 4], "blocks"),
            (32, &[0, 1, 0, 0], "do not fit together"),
            (32, &[1, 128, 0, 0], "number of blocks"),
            (40, &[0; 4], "number of inodes"),
            (40, &[0, 0, 1, 0], "number of inodes"),
            (20, &[2, 0, 0, 0], "first block"),
            (88, &[0xFF; 2], "inodes have"),
            (224, &[9, 0, 0, 0], "journal is not in its own"),
            (228, &[1, 8, 0, 0], "journal is not in its own"),
            (254, &[0; 2], "group descriptors"),
            (254, &[33; 1], "group descriptors"),
        ] {
            let problem = changed(offset, value).unwrap_err();
            assert!(problem.contains(reason), "{offset}: {problem}");
        }
    }

    #[test]
    fn a_disk_without_a_superblock_is_named() {
        let error = Superblock::read(&MemoryDisk::new(Sectors(8))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no sound ext4 on memory: the magic number is 0x0000, it should be 0xef53"
        );
        assert!(Superblock::read(&MemoryDisk::new(Sectors(3))).is_err());
    }

    #[test]
    fn a_file_system_larger_than_its_device_is_refused() {
        let disk = MemoryDisk::new(Sectors((10 << 21) - 1));
        disk.write_at(&superblock(), 1024).unwrap();
        let error = Superblock::read(&disk).unwrap_err().to_string();
        assert!(
            error.contains(
                "its superblock says 20971520 sectors, but the device has 20971519 sectors"
            ),
            "{error}"
        );
    }

    #[test]
    fn errors_recorded_in_the_superblock_or_the_journal_are_read() {
        let errors = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = superblock();
            change(&mut bytes);
            let disk = disk_with(&bytes);
            // The journal's superblock, in block 77.
            disk.write_at(&[0xC0, 0x3B, 0x39, 0x98], 77 * 4096).unwrap();
            disk.write_at(&(-5_i32).to_be_bytes(), 77 * 4096 + 32).unwrap();
            Superblock::read(&disk).unwrap().state(&disk).unwrap().errors
        };
        assert_eq!(errors(&|_| ()), None, "its place is not known");
        assert_eq!(errors(&|bytes| bytes[58] = 3), Some(NotedErrors::default()));
        let counted = errors(&|bytes| bytes[404] = 2).unwrap();
        assert_eq!((counted.count, counted.journal), (2, 0));
        let map = [
            &[0x0A, 0xF3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 16, 0, 0, 77, 0, 0, 0],
        ]
        .concat();
        let ended = errors(&|bytes| {
            bytes[253] = 1;
            bytes[268..268 + map.len()].copy_from_slice(&map);
        });
        assert_eq!(ended, Some(NotedErrors { journal: 5, ..NotedErrors::default() }));
    }

    #[test]
    fn only_known_features_are_accepted() {
        let known = |incompat: u32| {
            changed(96, &incompat.to_le_bytes()).unwrap().must_be_known(&disk_with(&[]))
        };
        known(INCOMPAT_64BIT | 0x2C2).unwrap();
        for incompat in [0x1, 0x8, 0x100, 0x8000_0000] {
            let error = known(INCOMPAT_64BIT | incompat).unwrap_err().to_string();
            assert!(error.contains("features that are not known or not allowed"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(
            noise in proptest::collection::vec((0..1024_usize, any::<u8>()), 0..64),
        ) {
            let mut bytes = superblock();
            for (offset, value) in noise {
                bytes[offset] = value;
            }
            let disk = disk_with(&bytes);
            if let Ok(superblock) = Superblock::read(&disk) {
                let state = superblock.state(&disk).unwrap();
                prop_assert!(state.used_inodes <= u64::from(superblock.inodes));
                prop_assert!(state.size <= disk.size().unwrap());
                prop_assert!(superblock.groups() <= superblock.blocks.div_ceil(256));
            }
        }
    }
}

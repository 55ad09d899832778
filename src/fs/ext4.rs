//! ext4: its mke2fs options and its superblock.
//!
//! The layout is the kernel's (Documentation/filesystems/ext4/super.rst); all of it little-endian.

use uuid::Uuid;

use crate::block::Disk;
use crate::units::Sectors;

use super::bytes::Fields;
use super::error::FsError;
use super::options::{Own, Syntax};
use super::types::{FsState, FsType};

/// Where the superblock starts, and how long it is, in bytes.
const SUPERBLOCK: (u64, usize) = (1024, 1024);

const MAGIC: u16 = 0xEF53;
const STATE_VALID: u16 = 1;
const STATE_ERRORS: u16 = 2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CHECKSUM_SEED: u32 = 0x2000;
const COMPAT_SPARSE_SUPER_2: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_METADATA_CHECKSUMS: u32 = 0x400;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// How mke2fs reads its arguments (misc/mke2fs.c, the string given to getopt).
pub(super) const SYNTAX: Syntax = Syntax { with_value: "bCdeEgGiIJlLmMNoOrRtTUz", joined: Some('E') };

/// Room to grow online without a change of layout, in blocks of 4 KiB: 100 GiB, or ten times the size.
const GROWTH_FLOOR: u64 = 26_214_400;
const GROWTH_FACTOR: u64 = 10;

/// The most blocks that `resize=` can name; what lies beyond takes another layout, which the kernel makes by itself.
const GROWTH_CEILING: u64 = u32::MAX as u64;

/// The most that is reserved for growth beyond the size, in blocks of 4 KiB: 4 TiB, 512 blocks of descriptors (64 groups of
/// 32,768 blocks in each). The kernel adds all of them in one transaction when it grows, and a journal of 16 MiB takes no more
/// than 1024 blocks in one: with 1024 reserved, growing failed with ENOSPC (1 TiB to 2 TiB, Linux 6.1).
const GROWTH_RESERVE: u64 = 512 * 64 * 32_768;

/// Below this, 512 MiB, mke2fs makes blocks of 1 KiB instead of 4 (mke2fs.conf, type "small").
const SMALL: Sectors = Sectors(512 << 11);

/// What tells mke2fs (e2fsprogs 1.47 and later) that unwritten blocks read as zeros, so that it need not write them.
pub(super) const PREZEROED: &str = "assume_storage_prezeroed=1";

/// This crate's own options.
///
/// Measured on thins of 10 GiB with blocks of 64 KiB (mke2fs 1.47.0, User-Mode Linux 6.1), always with `-m 0 -J size=16` and
/// `assume_storage_prezeroed=1,nodiscard,resize=26214400`; "200 files" is what a layer of 200 files of 10 kB in ten
/// directories takes beyond the template, "1 TiB" is all that is mapped after growing to 1000 GiB:
///
/// | options | template | 200 files | 1 TiB |
/// |---|---|---|---|
/// | none | 19 | 57 | 815 |
/// | `packed_meta_blocks=1` | 14 | 64 | 811 |
/// | `-G 64 packed_meta_blocks=1` | 14 | 42 | 489 |
/// | `-G 128` | 16 | 42 | 417 |
/// | `-G 128 packed_meta_blocks=1` (taken) | 14 | 43 | 416 |
/// | `-O sparse_super2 packed_meta_blocks=1` | 8 | | refuses to grow |
/// | `-O ^resize_inode packed_meta_blocks=1` | 14 | 58 | 821 |
///
/// Linux 7.2 grows the one taken as well. The size of the journal (4 to 64 MiB) changes none of these: what of it is not written yet is not mapped. 16 MiB
/// bounds what a long-lived layer can map for it. Without `assume_storage_prezeroed` the kernel or mke2fs writes
/// the inode tables (2641 to 3664 blocks); both kinds of lazy initialisation are off, since the kernel would write the
/// same zeros behind the first mount of every layer.
pub(super) fn own_options(size: Sectors, prezeroed: bool) -> Vec<Own> {
    let with = |letter, value: &str| Own { letter, value: Some(value.to_owned()) };
    let mut options = vec![Own { letter: 'q', value: None }, with('t', "ext4"), with('m', "0"), with('G', "128")];
    let journal = journal_size(size).map(|mebibytes| with('J', &format!("size={mebibytes}")));
    options.extend(journal);
    options.push(with('E', &extended_options(size, prezeroed).join(",")));
    options
}

fn extended_options(size: Sectors, prezeroed: bool) -> Vec<String> {
    let blocks = size.0 / 8;
    let room = blocks.saturating_mul(GROWTH_FACTOR).clamp(GROWTH_FLOOR, GROWTH_CEILING).min(blocks + GROWTH_RESERVE);
    let mut options = vec!["nodiscard".to_owned()];
    if size >= SMALL {
        // With the blocks of 1 KiB that smaller ones get, mke2fs 1.47 trips over it and says so.
        options.push("packed_meta_blocks=1".to_owned());
    }
    let zeros = if prezeroed { &[PREZEROED][..] } else { &["lazy_itable_init=0", "lazy_journal_init=0"] };
    options.extend(zeros.iter().map(ToString::to_string));
    if room > blocks {
        options.push(format!("resize={room}"));
    }
    options
}

/// The journal's size in MiB; `None` leaves the choice to mke2fs, for file systems too small for any of ours.
fn journal_size(size: Sectors) -> Option<u32> {
    const MIB: u64 = 2048;
    match size.0 / MIB {
        0..16 => None,
        16..48 => Some(4),
        _ => Some(16),
    }
}

/// The part of an ext4 superblock that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    inodes: u32,
    free_inodes: u32,
    clean: bool,
    uuid: Uuid,
    pub(super) layout: Layout,
}

/// What of a superblock tells where the block groups' things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) first_block: u32,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) descriptor_size: u16,
    /// The first block of descriptors that lies in its own meta group, if that is the layout.
    pub(super) first_meta_block: Option<u32>,
    /// Whether superblock copies lie in groups whose numbers are powers of 3, 5 and 7.
    pub(super) sparse_copies: bool,
    /// What checksums start from, where all metadata has them.
    pub(super) checksum_seed: Option<u32>,
    /// `s_jnl_blocks`: the journal inode's block map, where there is a copy of it.
    pub(super) journal: Option<[u8; 60]>,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        let mut bytes = [0; SUPERBLOCK.1];
        disk.read_at(&mut bytes, SUPERBLOCK.0)?;
        parse(Fields(&bytes)).map_err(|problem| FsError::Superblock {
            device: disk.path().to_owned(),
            fs_type: FsType::Ext4,
            problem,
        })
    }

    pub(super) fn state(&self) -> FsState {
        FsState {
            fs_type: FsType::Ext4,
            size: Sectors(self.blocks.saturating_mul(u64::from(self.block_size / 512))),
            block_size: self.block_size,
            used_inodes: u64::from(self.inodes - self.free_inodes),
            clean: self.clean,
            uuid: self.uuid,
        }
    }
}

fn parse(fields: Fields<'_>) -> Result<Superblock, String> {
    let found = fields.le16(56).unwrap_or_default();
    if found != MAGIC {
        return Err(format!("the magic number is {found:#06x}, it should be {MAGIC:#06x}"));
    }
    let block = parse_fields(fields).ok_or("the superblock is cut short or its block size is absurd")?;
    check(&block).map_or(Ok(block), |problem| Err(problem.to_owned()))
}

fn parse_fields(fields: Fields<'_>) -> Option<Superblock> {
    let incompat = fields.le32(96)?;
    let high = if incompat & INCOMPAT_64BIT != 0 { fields.le32(336)? } else { 0 };
    let state = fields.le16(58)?;
    let orphans = fields.le32(232)? != 0 || fields.le32(100)? & RO_COMPAT_ORPHAN_PRESENT != 0;
    let in_order = state & (STATE_VALID | STATE_ERRORS) == STATE_VALID;
    Some(Superblock {
        // ext4 has blocks of 1 to 64 KiB.
        block_size: 1024 << fields.le32(24).filter(|log| *log <= 6)?,
        blocks: u64::from(high) << 32 | u64::from(fields.le32(4)?),
        inodes: fields.le32(0)?,
        free_inodes: fields.le32(16)?,
        clean: in_order && incompat & INCOMPAT_RECOVER == 0 && !orphans,
        uuid: Uuid::from_bytes(fields.bytes(104)?),
        layout: parse_layout(fields)?,
    })
}

fn parse_layout(fields: Fields<'_>) -> Option<Layout> {
    let (compat, incompat, ro_compat) = (fields.le32(92)?, fields.le32(96)?, fields.le32(100)?);
    let seed =
        if incompat & INCOMPAT_CHECKSUM_SEED != 0 { fields.le32(624)? } else { crc32c(!0, &fields.bytes::<16>(104)?) };
    Some(Layout {
        first_block: fields.le32(20)?,
        blocks_per_group: fields.le32(32)?,
        inodes_per_group: fields.le32(40)?,
        inode_size: fields.le16(88)?,
        descriptor_size: if incompat & INCOMPAT_64BIT != 0 { fields.le16(254)? } else { 32 },
        first_meta_block: (incompat & INCOMPAT_META_BG != 0).then_some(fields.le32(260)?),
        sparse_copies: ro_compat & RO_COMPAT_SPARSE_SUPER != 0 && compat & COMPAT_SPARSE_SUPER_2 == 0,
        checksum_seed: (ro_compat & RO_COMPAT_METADATA_CHECKSUMS != 0).then_some(seed),
        // s_jnl_backup_type 1: the copy is i_block, the inode's size behind it.
        journal: if fields.u8(253)? == 1 { fields.bytes(268) } else { None },
    })
}

fn check(block: &Superblock) -> Option<&'static str> {
    // Block numbers have 48 bits (extents).
    if block.blocks == 0 || block.blocks >> 48 != 0 || block.inodes == 0 {
        Some("its numbers of blocks and inodes are absurd")
    } else if block.free_inodes > block.inodes {
        Some("it has more free inodes than inodes")
    } else if block.layout.blocks_per_group == 0 {
        Some("its block groups have no blocks")
    } else if !(32..=1024).contains(&block.layout.descriptor_size) {
        Some("its group descriptors have an absurd size")
    } else {
        None
    }
}

/// CRC-32C without the last inversion, as the kernel's `ext4_chksum` has it.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::memory::MemoryDisk;

    /// A superblock as mke2fs makes it, as far as it is read here.
    fn superblock() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &655_360_u32.to_le_bytes());
        put(4, &2_621_440_u32.to_le_bytes());
        put(16, &655_350_u32.to_le_bytes());
        put(24, &2_u32.to_le_bytes());
        put(32, &32_768_u32.to_le_bytes());
        put(40, &8192_u32.to_le_bytes());
        put(56, &MAGIC.to_le_bytes());
        put(58, &STATE_VALID.to_le_bytes());
        put(88, &256_u16.to_le_bytes());
        put(96, &INCOMPAT_64BIT.to_le_bytes());
        put(100, &(RO_COMPAT_METADATA_CHECKSUMS | RO_COMPAT_SPARSE_SUPER).to_le_bytes());
        put(104, &[7; 16]);
        put(254, &64_u16.to_le_bytes());
        bytes
    }

    fn changed(offset: usize, value: &[u8]) -> Result<Superblock, String> {
        let mut bytes = superblock();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        parse(Fields(&bytes))
    }

    #[test]
    fn what_a_superblock_says_is_read_from_its_place_on_the_disk() {
        let disk = MemoryDisk::new(Sectors(8));
        disk.write_at(&superblock(), 1024).unwrap();
        let state = Superblock::read(&disk).unwrap().state();
        assert_eq!((state.size, state.block_size), (Sectors(10 << 21), 4096));
        assert_eq!((state.used_inodes, state.clean), (10, true));
        assert_eq!(state.uuid, Uuid::from_bytes([7; 16]));
    }

    #[test]
    fn with_64_bits_the_number_of_blocks_has_a_high_part() {
        assert_eq!(changed(336, &1_u32.to_le_bytes()).unwrap().blocks, (1 << 32) + 2_621_440);
        let narrow = [&0_u32.to_le_bytes()[..], &[0; 236], &1_u32.to_le_bytes()].concat();
        assert_eq!(changed(96, &narrow).unwrap().blocks, 2_621_440);
    }

    #[test]
    fn only_one_that_was_put_away_in_order_is_clean() {
        let clean = |offset, value: &[u8]| changed(offset, value).unwrap().clean;
        assert!(!clean(58, &0_u16.to_le_bytes()), "not unmounted");
        assert!(!clean(58, &(STATE_VALID | STATE_ERRORS).to_le_bytes()), "errors noted");
        assert!(!clean(96, &(INCOMPAT_64BIT | INCOMPAT_RECOVER).to_le_bytes()), "journal to replay");
        assert!(!clean(232, &12_u32.to_le_bytes()), "orphans");
        assert!(!clean(100, &RO_COMPAT_ORPHAN_PRESENT.to_le_bytes()), "orphans in the file for them");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (offset, value, reason) in [
            (56, &[0; 4][..], "magic"),
            (24, &[7, 0, 0, 0], "block size"),
            (4, &[0; 4], "numbers of blocks"),
            (336, &[0, 0, 1, 0], "numbers of blocks"),
            (0, &[0; 4], "numbers of blocks"),
            (16, &[0xFF; 4], "free inodes"),
            (32, &[0; 4], "block groups"),
            (254, &[0; 2], "group descriptors"),
        ] {
            let problem = changed(offset, value).unwrap_err();
            assert!(problem.contains(reason), "{offset}: {problem}");
        }
    }

    #[test]
    fn a_disk_without_one_is_named() {
        let error = Superblock::read(&MemoryDisk::new(Sectors(8))).unwrap_err();
        assert_eq!(error.to_string(), "no sound ext4 on memory: the magic number is 0x0000, it should be 0xef53");
        assert!(Superblock::read(&MemoryDisk::new(Sectors(3))).is_err());
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the standard (RFC 3720), which has a last inversion.
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    }

    fn value(options: &[Own], letter: char) -> &str {
        let option = options.iter().find(|option| option.letter == letter).unwrap();
        option.value.as_deref().unwrap()
    }

    #[test]
    fn there_is_room_to_grow_to_100_gib_or_tenfold_as_far_as_there_are_blocks() {
        let room = |gib: u64| {
            let options = own_options(Sectors(gib << 21), true);
            value(&options, 'E').split(',').find_map(|item| item.strip_prefix("resize=")?.parse::<u64>().ok())
        };
        assert_eq!(room(1), Some(100 << 18));
        assert_eq!(room(64), Some(640 << 18));
        assert_eq!(room(4000), Some(u64::from(u32::MAX)));
        assert_eq!(room(20_000), None, "beyond the largest there is nothing to reserve");
    }

    #[test]
    fn without_prezeroed_storage_nothing_is_left_for_the_kernel_to_do_later() {
        let options = own_options(Sectors(1 << 21), false);
        let extended = value(&options, 'E');
        assert!(!extended.contains(PREZEROED), "{extended}");
        assert!(extended.contains("lazy_itable_init=0,lazy_journal_init=0"), "{extended}");
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(noise in proptest::collection::vec((0..1024_usize, any::<u8>()), 0..64)) {
            let mut bytes = superblock();
            for (offset, value) in noise {
                bytes[offset] = value;
            }
            if let Ok(superblock) = parse(Fields(&bytes)) {
                let state = superblock.state();
                prop_assert!(state.used_inodes <= u64::from(superblock.inodes));
                prop_assert!(state.size.bytes().is_ok());
            }
        }
    }
}

//! ext4: its mke2fs options, its superblock, and where mke2fs puts the zeros it writes.
//!
//! The layout is the kernel's (Documentation/filesystems/ext4/super.rst and group_descr.rst); all of it little-endian.

use std::ops::Range;

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
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// How mke2fs reads its arguments (misc/mke2fs.c, the string given to getopt).
pub(super) const SYNTAX: Syntax = Syntax { with_value: "bCdeEgGiIJlLmMNoOrRtTUz", joined: Some('E') };

/// Room to grow online without a change of layout, in blocks of 4 KiB: 100 GiB, or ten times the size.
const GROWTH_FLOOR: u64 = 26_214_400;
const GROWTH_FACTOR: u64 = 10;

/// The most blocks that `resize=` can name; what lies beyond takes another layout, which the kernel makes by itself.
const GROWTH_CEILING: u64 = u32::MAX as u64;

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
/// The size of the journal (4 to 64 MiB) changes none of these: what of it is not written yet is not mapped. 16 MiB
/// bounds what a long-lived layer can map for it. Without `assume_storage_prezeroed` the kernel or mke2fs writes
/// the inode tables (2641 to 3664 blocks); both kinds of lazy initialisation are off, since the kernel would write the
/// same zeros behind the first mount of every layer.
pub(super) fn own_options(size: Sectors, prezeroed: bool) -> Vec<Own> {
    let blocks = size.0 / 8;
    let room = blocks.saturating_mul(GROWTH_FACTOR).clamp(GROWTH_FLOOR, GROWTH_CEILING);
    let mut extended = vec!["nodiscard", "packed_meta_blocks=1"];
    extended.extend(if prezeroed { &[PREZEROED][..] } else { &["lazy_itable_init=0", "lazy_journal_init=0"] });
    let resize = (room > blocks).then(|| format!("resize={room}"));
    extended.extend(resize.as_deref());
    let with = |letter, value: &str| Own { letter, value: Some(value.to_owned()) };
    vec![
        Own { letter: 'q', value: None },
        with('t', "ext4"),
        with('m', "0"),
        with('J', "size=16"),
        with('G', "128"),
        with('E', &extended.join(",")),
    ]
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
    first_block: u32,
    blocks_per_group: u32,
    inodes_per_group: u32,
    inode_size: u16,
    descriptor_size: u16,
    meta_groups: bool,
    /// `s_jnl_blocks`: the journal inode's block map, where there is a copy of it.
    journal: Option<[u8; 68]>,
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
    let wide = incompat & INCOMPAT_64BIT != 0;
    let high = if wide { fields.le32(336)? } else { 0 };
    let state = fields.le16(58)?;
    let orphans = fields.le32(232)? != 0 || fields.le32(100)? & RO_COMPAT_ORPHAN_PRESENT != 0;
    Some(Superblock {
        // ext4 has blocks of 1 to 64 KiB.
        block_size: 1024_u32.checked_shl(fields.le32(24).filter(|log| *log <= 6)?)?,
        blocks: u64::from(high) << 32 | u64::from(fields.le32(4)?),
        inodes: fields.le32(0)?,
        free_inodes: fields.le32(16)?,
        clean: state & (STATE_VALID | STATE_ERRORS) == STATE_VALID && incompat & INCOMPAT_RECOVER == 0 && !orphans,
        uuid: Uuid::from_bytes(fields.bytes(104)?),
        first_block: fields.le32(20)?,
        blocks_per_group: fields.le32(32)?,
        inodes_per_group: fields.le32(40)?,
        inode_size: fields.le16(88)?,
        descriptor_size: if wide { fields.le16(254)? } else { 32 },
        meta_groups: incompat & INCOMPAT_META_BG != 0,
        // s_jnl_backup_type 1: the copy holds i_block and the size.
        journal: if fields.u8(253)? == 1 { fields.bytes(268) } else { None },
    })
}

fn check(block: &Superblock) -> Option<&'static str> {
    if block.blocks == 0 || block.inodes == 0 {
        Some("it has no blocks or no inodes")
    } else if block.free_inodes > block.inodes {
        Some("it has more free inodes than inodes")
    } else if block.blocks_per_group == 0 || block.descriptor_size < 32 {
        Some("its block groups have no size")
    } else {
        None
    }
}

/// Where mke2fs writes zeros when it may not assume that they are there: inode tables and journal, in bytes.
/// Of a layout that it does not know, all of the file system.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(super) fn zeroed_ranges(disk: &dyn Disk) -> Result<Vec<Range<u64>>, FsError> {
    let superblock = Superblock::read(disk)?;
    let block_size = u64::from(superblock.block_size);
    let journal = superblock.journal.and_then(|map| journal_extents(Fields(&map)));
    let Some(mut extents) = journal.filter(|_| !superblock.meta_groups) else {
        return Ok(vec![0..superblock.blocks.saturating_mul(block_size)]);
    };
    extents.extend(inode_tables(disk, &superblock)?);
    let bytes = |block: u64| block.saturating_mul(block_size);
    Ok(extents.into_iter().map(|extent| bytes(extent.start)..bytes(extent.end)).collect())
}

/// The inode tables in blocks, from the group descriptors, which follow the superblock's block.
fn inode_tables(disk: &dyn Disk, superblock: &Superblock) -> Result<Vec<Range<u64>>, FsError> {
    let block_size = u64::from(superblock.block_size);
    let groups = superblock.blocks.div_ceil(u64::from(superblock.blocks_per_group));
    let size = u64::from(superblock.descriptor_size);
    let length = (u64::from(superblock.inodes_per_group) * u64::from(superblock.inode_size)).div_ceil(block_size);
    let start = (u64::from(superblock.first_block) + 1) * block_size;
    let mut tables = Vec::new();
    let mut descriptor = vec![0; usize::from(superblock.descriptor_size)];
    for group in 0..groups {
        disk.read_at(&mut descriptor, start + group * size)?;
        let fields = Fields(&descriptor);
        let high = fields.le32(40).unwrap_or(0);
        let table = u64::from(high) << 32 | u64::from(fields.le32(8).unwrap_or(0));
        tables.push(table..table.saturating_add(length));
    }
    Ok(tables)
}

/// The journal in blocks, if its map is the root of an extent tree that has no further level.
fn journal_extents(map: Fields<'_>) -> Option<Vec<Range<u64>>> {
    const EXTENT_MAGIC: u16 = 0xF30A;
    let (magic, entries, depth) = (map.le16(0)?, map.le16(2)?, map.le16(6)?);
    if magic != EXTENT_MAGIC || depth != 0 || entries > 4 {
        return None;
    }
    (0..usize::from(entries))
        .map(|entry| {
            let extent = map.from(12 * (entry + 1))?;
            let start = u64::from(extent.le16(6)?) << 32 | u64::from(extent.le32(8)?);
            // Lengths above 32768 mean allocated but unwritten, and count from there.
            let length = extent.le16(4).map(|length| if length > 32768 { length - 32768 } else { length })?;
            Some(start..start + u64::from(length))
        })
        .collect()
}

//! ext4's superblock: what is read of it, how it is checked before anything is believed, and what
//! is noted in it.
//!
//! The layout is the kernel's (Documentation/filesystems/ext4/super.rst); all of it little-endian.
//! Whoever had the layer mounted may have written it, so that every number is held to the device's
//! size first.

use uuid::Uuid;

use crate::block::Disk;
use crate::units::Sectors;

use super::bytes::Fields;
use super::error::FsError;
use super::types::{FsState, FsType, NotedErrors};

/// Where the superblock starts, and how long it is, in bytes.
const SUPERBLOCK: (u64, usize) = (1024, 1024);

const MAGIC: u16 = 0xEF53;
const STATE_VALID: u16 = 1;
const STATE_ERRORS: u16 = 2;
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

/// The incompatible features that a file system may have before a program or the kernel is let
/// loose on it: filetype, recover, meta_bg, extent, 64bit, flex_bg, ea_inode, csum_seed, large_dir,
/// inline_data, encrypt, casefold. Not compression (no kernel has it), a journal that is a device
/// of its own, mmp (whoever opens it waits as long as the superblock says).
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

/// The inode that a journal inside the file system has.
const JOURNAL_INODE: u32 = 8;

/// Where the superblock keeps mount options as text, and for how many bytes (`s_mount_opts`).
const MOUNT_OPTIONS: (usize, usize) = (512, 64);

/// Where its state is (`s_state`).
const STATE: usize = 58;

/// Where its checksum is, over all that is before it.
const CHECKSUM: usize = 1020;

/// The part of an ext4 superblock that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    inodes: u32,
    free_inodes: u32,
    clean: bool,
    errors: Option<NotedErrors>,
    uuid: Uuid,
    incompat: u32,
    has_journal: bool,
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
    /// Reads and checks it. What comes back has sane geometry and ends within the device.
    ///
    /// # Errors
    /// [`FsError::Superblock`], [`FsError::Block`].
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, FsError> {
        let mut bytes = [0; SUPERBLOCK.1];
        disk.read_at(&mut bytes, SUPERBLOCK.0)?;
        let block = parse(Fields(&bytes)).map_err(|problem| wrong(disk, problem))?;
        let (size, device) = (block.size(), disk.size()?);
        if size > device {
            return Err(wrong(
                disk,
                format!("it says that it has {size}, and the device has {device}"),
            ));
        }
        Ok(block)
    }

    fn size(&self) -> Sectors {
        // Both are bounded: 48 bits and 7 bits.
        Sectors(self.blocks * u64::from(self.block_size / 512))
    }

    /// What it says of the file system; whether the journal has noted an error is read from there.
    ///
    /// # Errors
    /// [`FsError::Block`].
    pub(super) fn state(&self, disk: &dyn Disk) -> Result<FsState, FsError> {
        let journal = self.journal_errno(disk)?;
        let ended =
            (journal != 0).then(|| NotedErrors { journal, ..self.errors.unwrap_or_default() });
        Ok(FsState {
            fs_type: FsType::Ext4,
            size: self.size(),
            block_size: self.block_size,
            used_inodes: u64::from(self.inodes - self.free_inodes),
            clean: self.clean,
            uuid: self.uuid,
            errors: ended.or(self.errors),
        })
    }

    /// The errno in the journal's superblock, by which the kernel ended it (`s_errno`); 0 for none,
    /// and where its place is not known.
    fn journal_errno(&self, disk: &dyn Disk) -> Result<i32, FsError> {
        /// `JBD2_MAGIC_NUMBER`; the journal is big-endian (include/linux/jbd2.h,
        /// `journal_superblock_s`).
        const MAGIC: u32 = 0xC03B_3998;
        let map = self.layout.journal.filter(|_| self.has_journal);
        let extents = map.and_then(|map| super::ext4_groups::journal_extents(Fields(&map)));
        let first = extents.and_then(|extents| extents.first().map(|extent| extent.start));
        let Some(first) = first.filter(|block| *block < self.blocks) else {
            return Ok(0);
        };
        let mut bytes = [0; 64];
        disk.read_at(&mut bytes, first * u64::from(self.block_size))?;
        let fields = Fields(&bytes);
        if fields.be32(0) != Some(MAGIC) {
            return Ok(0);
        }
        // The kernel writes it negated.
        Ok(fields.be32(32).unwrap_or_default().cast_signed().saturating_neg())
    }

    /// Makes sure that a program or the kernel may be let loose on it.
    ///
    /// # Errors
    /// [`FsError::Superblock`].
    pub(super) fn must_be_known(&self, disk: &dyn Disk) -> Result<(), FsError> {
        match self.incompat & !INCOMPAT_KNOWN {
            0 => Ok(()),
            unknown => Err(wrong(
                disk,
                format!("it has features that are not known or not allowed here ({unknown:#x})"),
            )),
        }
    }
}

/// Has the file system abort its journal when a write of a file's new data fails, and leave that
/// behind for Commit to see: writes `data_err=abort,dioread_lock` to the superblock's mount
/// options, if there are none yet and there is a journal.
///
/// They stand in the superblock rather than in each mount's options since a file system without a
/// journal cannot be mounted with them (Linux 6.15 and later), and since this way they hold whoever
/// mounts it; a kernel that does not know an option in there says so and goes on. `data_err=abort`
/// alone does nothing from Linux 5.6 to 6.14, where new blocks are unwritten ones until their data
/// is on the disk (`dioread_nolock`), and wait for nothing.
///
/// The file system must be unmounted.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(super) fn note_lost_writes(disk: &dyn Disk) -> Result<(), FsError> {
    const OPTIONS: &[u8] = b"data_err=abort,dioread_lock";
    let superblock = Superblock::read(disk)?;
    let mut bytes = [0; SUPERBLOCK.1];
    disk.read_at(&mut bytes, SUPERBLOCK.0)?;
    let (start, length) = MOUNT_OPTIONS;
    if !superblock.has_journal || bytes[start..start + length].iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    bytes[start..start + OPTIONS.len()].copy_from_slice(OPTIONS);
    write(disk, &superblock, bytes)
}

/// Notes in the superblock that there is damage (`s_state`), as the kernel does, so that nobody
/// takes it for sound.
///
/// The file system must be unmounted.
///
/// # Errors
/// [`FsError::Superblock`], [`FsError::Block`].
pub(super) fn note_error(disk: &dyn Disk) -> Result<(), FsError> {
    let superblock = Superblock::read(disk)?;
    let mut bytes = [0; SUPERBLOCK.1];
    disk.read_at(&mut bytes, SUPERBLOCK.0)?;
    bytes[STATE] |= STATE_ERRORS as u8;
    write(disk, &superblock, bytes)
}

fn write(
    disk: &dyn Disk,
    superblock: &Superblock,
    mut bytes: [u8; SUPERBLOCK.1],
) -> Result<(), FsError> {
    if superblock.layout.checksum_seed.is_some() {
        let sum = crc32c(!0, &bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    }
    disk.write_at(&bytes, SUPERBLOCK.0)?;
    Ok(disk.flush()?)
}

fn wrong(disk: &dyn Disk, problem: String) -> FsError {
    FsError::Superblock { device: disk.path().to_owned(), fs_type: FsType::Ext4, problem }
}

fn parse(fields: Fields<'_>) -> Result<Superblock, String> {
    let found = fields.le16(56).unwrap_or_default();
    if found != MAGIC {
        return Err(format!("the magic number is {found:#06x}, it should be {MAGIC:#06x}"));
    }
    let block =
        parse_fields(fields).ok_or("the superblock is cut short or its block size is absurd")?;
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

/// The outer `None` is for a superblock that is cut short, the inner one for none noted.
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
    // Revision 0 has no field for it, and inodes of 128 bytes.
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
        // s_jnl_backup_type 1: the copy is i_block, the inode's size behind it.
        journal: if fields.u8(253)? == 1 { fields.bytes(268) } else { None },
    })
}

/// The kernel's own checks of the geometry (fs/ext4/super.c), so that all that is computed of it is
/// bounded: at least 256 blocks in a group (mke2fs's least) and no more than a bitmap has bits,
/// inodes of a power of two bytes, as many of them as the groups have, descriptors that fill a
/// block.
fn check(block: &Superblock, fields: Fields<'_>) -> Option<&'static str> {
    let Layout {
        first_block, blocks_per_group, inodes_per_group, inode_size, descriptor_size, ..
    } = block.layout;
    let bits = block.block_size * 8;
    // With bigalloc a bit stands for a cluster, of at most 2^16 blocks here.
    let bigalloc = fields.le32(100)? & RO_COMPAT_BIGALLOC != 0;
    let (cluster_log, block_log) = (fields.le32(28)?, fields.le32(24)?);
    let cluster_bits =
        if bigalloc { cluster_log.checked_sub(block_log).unwrap_or(u32::MAX) } else { 0 };
    let groups = block.groups();
    // Block numbers have 48 bits (extents), group numbers 32.
    if block.blocks == 0 || block.blocks >> 48 != 0 || block.inodes == 0 {
        Some("its numbers of blocks and inodes are absurd")
    } else if block.free_inodes > block.inodes {
        Some("it has more free inodes than inodes")
    } else if cluster_bits > 16 {
        Some("its clusters have an absurd size")
    } else if blocks_per_group < 256
        || u64::from(blocks_per_group) > u64::from(bits) << cluster_bits
    {
        Some("its block groups have an absurd number of blocks")
    } else if u64::from(first_block) >= block.blocks || first_block > 1 {
        Some("its first block is beyond its blocks")
    } else if inodes_per_group == 0 || inodes_per_group > bits {
        Some("its block groups have an absurd number of inodes")
    } else if groups.checked_mul(u64::from(inodes_per_group)) != Some(u64::from(block.inodes)) {
        Some("its numbers of inodes and of block groups do not fit together")
    } else if !inode_size.is_power_of_two()
        || inode_size < 128
        || u32::from(inode_size) > block.block_size
    {
        Some("its inodes have an absurd size")
    } else if !descriptor_size.is_power_of_two() || !(32..=1024).contains(&descriptor_size) {
        Some("its group descriptors have an absurd size")
    } else {
        None
    }
}

impl Superblock {
    /// How many block groups it has; more than there can be for one without blocks in a group.
    pub(super) fn groups(&self) -> u64 {
        let blocks = self.blocks.saturating_sub(u64::from(self.layout.first_block));
        match self.layout.blocks_per_group {
            0 => u64::MAX,
            in_group => blocks.div_ceil(u64::from(in_group)),
        }
    }
}

/// A journal elsewhere, by an inode or a device of the writer's choice, would be another disk for
/// the kernel to write to.
fn check_journal(block: &Superblock, fields: Fields<'_>) -> Option<&'static str> {
    let (inode, device) = (fields.le32(224)?, fields.le32(228)?);
    (block.has_journal && (inode != JOURNAL_INODE || device != 0))
        .then_some("its journal is not in its own inode 8")
}

/// CRC-32C without the last inversion, as the kernel's `ext4_chksum` has it.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
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
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value)
        };
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
        put(76, &1_u32.to_le_bytes());
        put(92, &COMPAT_HAS_JOURNAL.to_le_bytes());
        put(224, &JOURNAL_INODE.to_le_bytes());
        put(254, &64_u16.to_le_bytes());
        bytes
    }

    fn changed(offset: usize, value: &[u8]) -> Result<Superblock, String> {
        let mut bytes = superblock();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        parse(Fields(&bytes))
    }

    fn disk_with(superblock: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::new(Sectors(10 << 21));
        disk.write_at(superblock, 1024).unwrap();
        disk
    }

    #[test]
    fn what_a_superblock_says_is_read_from_its_place_on_the_disk() {
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
    fn only_one_that_was_put_away_in_order_is_clean() {
        let clean = |offset, value: &[u8]| changed(offset, value).unwrap().clean;
        assert!(!clean(58, &0_u16.to_le_bytes()), "not unmounted");
        assert!(!clean(58, &(STATE_VALID | STATE_ERRORS).to_le_bytes()), "errors noted");
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
    fn what_cannot_be_is_refused_with_a_reason() {
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
    fn a_disk_without_one_is_named() {
        let error = Superblock::read(&MemoryDisk::new(Sectors(8))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no sound ext4 on memory: the magic number is 0x0000, it should be 0xef53"
        );
        assert!(Superblock::read(&MemoryDisk::new(Sectors(3))).is_err());
    }

    #[test]
    fn one_that_ends_behind_its_device_is_refused() {
        let disk = MemoryDisk::new(Sectors((10 << 21) - 1));
        disk.write_at(&superblock(), 1024).unwrap();
        let error = Superblock::read(&disk).unwrap_err().to_string();
        assert!(
            error.contains(
                "it says that it has 20971520 sectors, and the device has 20971519 sectors"
            ),
            "{error}"
        );
    }

    #[test]
    fn errors_noted_in_the_superblock_or_by_the_journal_are_seen() {
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
        let noted = errors(&|bytes| {
            let disk = disk_with(bytes);
            note_error(&disk).unwrap();
            disk.read_at(bytes, 1024).unwrap();
        });
        assert_eq!(noted, Some(NotedErrors::default()));
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
    fn only_known_features_are_let_loose_on() {
        let known = |incompat: u32| {
            changed(96, &incompat.to_le_bytes()).unwrap().must_be_known(&disk_with(&[]))
        };
        known(INCOMPAT_64BIT | 0x2C2).unwrap();
        for incompat in [0x1, 0x8, 0x100, 0x8000_0000] {
            let error = known(INCOMPAT_64BIT | incompat).unwrap_err().to_string();
            assert!(error.contains("features that are not known or not allowed"), "{error}");
        }
    }

    #[test]
    fn a_journal_gets_told_to_end_on_a_lost_write_unless_there_are_options_already() {
        let options = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = superblock();
            change(&mut bytes);
            let disk = disk_with(&bytes);
            note_lost_writes(&disk).unwrap();
            let mut after = vec![0; 1024];
            disk.read_at(&mut after, 1024).unwrap();
            let sum = crc32c(!0, &after[..CHECKSUM]).to_le_bytes();
            assert!(after == bytes || after[CHECKSUM..] == sum, "the checksum is wrong");
            String::from_utf8(
                after[512..576].iter().copied().take_while(|byte| *byte != 0).collect(),
            )
            .unwrap()
        };
        assert_eq!(options(&|_| ()), "data_err=abort,dioread_lock");
        assert_eq!(options(&|bytes| bytes[92] = 0), "");
        assert_eq!(options(&|bytes| bytes[512] = b'x'), "x");
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the standard (RFC 3720), which has a last inversion.
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(noise in proptest::collection::vec((0..1024_usize, any::<u8>()), 0..64)) {
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

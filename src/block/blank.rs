//! Finds out whether a block device is blank, and if not, what is on it.

use super::content::Content;
use super::disk::Disk;
use super::error::BlockError;

/// How many bytes are read at the start of a device. File systems, volume managers and partition
/// tables have their labels there, and so has a first partition whose table was wiped.
pub const HEAD: u64 = 4 << 20;
/// How many bytes are read at the end of a device.
const TAIL: u64 = 1 << 20;
/// The byte at which partitioning programs put the first partition.
const PARTITION: usize = 1 << 20;

/// How many bytes are read at once.
const CHUNK: usize = 64 << 10;

/// Looks for content in the first 4 MiB and the last 1 MiB of a device. `None` when all of these
/// bytes are zero.
///
/// # Errors
/// As [`Disk::size`] and [`Disk::read_at`].
pub fn find_content(disk: &dyn Disk) -> Result<Option<Content>, BlockError> {
    let size = disk.size()?.bytes().unwrap_or(u64::MAX);
    let head = read(disk, 0, size.min(HEAD))?;
    let partition = head.get(PARTITION..).unwrap_or_default();
    let known = recognise(&head, SIGNATURES, 0)
        .or_else(|| recognise(partition, SIGNATURES, PARTITION as u64));
    if known.is_some() {
        return Ok(known);
    }
    let tail_start = size.saturating_sub(TAIL);
    let tail = read(disk, tail_start, size - tail_start)?;
    Ok(recognise_at_end(&tail, tail_start)
        .or_else(|| first_nonzero(&head, 0))
        .or_else(|| first_nonzero(&tail, tail_start)))
}

fn read(disk: &dyn Disk, start: u64, length: u64) -> Result<Vec<u8>, BlockError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(CHUNK)];
    let mut offset = start;
    for chunk in bytes.chunks_mut(CHUNK) {
        disk.read_at(chunk, offset)?;
        offset += chunk.len() as u64;
    }
    Ok(bytes)
}

struct Signature {
    offset: u64,
    magic: &'static [u8],
    kind: &'static str,
}

const fn signature(offset: u64, magic: &'static [u8], kind: &'static str) -> Signature {
    Signature { offset, magic, kind }
}

const LVM: &str = "an LVM physical volume";
const GPT: &str = "a GPT partition table";
const MD: &str = "a member of a Linux software RAID";
const MD_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// Labels near the start, from the headers of the programs that write them. The first match wins,
/// so the boot record that protects a GPT comes after the GPT.
const SIGNATURES: &[Signature] = &[
    // drivers/md/dm-thin-metadata.c: THIN_SUPERBLOCK_MAGIC 27022010, little-endian, behind csum,
    // flags, blocknr, uuid.
    signature(32, &27_022_010_u64.to_le_bytes(), "the metadata of a device-mapper thin pool"),
    signature(1024 + 56, &[0x53, 0xEF], "an ext2, ext3 or ext4 file system"),
    signature(0, b"XFSB", "an xfs file system"),
    signature(65536 + 64, b"_BHRfS_M", "a btrfs file system"),
    signature(0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    signature(16384, b"SKUL\xba\xbe", "a LUKS encrypted volume"),
    signature(0, b"LABELONE", LVM),
    signature(512, b"LABELONE", LVM),
    signature(1024, b"LABELONE", LVM),
    signature(1536, b"LABELONE", LVM),
    signature(4096 - 10, b"SWAPSPACE2", "swap space"),
    signature(4096 - 10, b"SWAP-SPACE", "swap space"),
    signature(0, &MD_MAGIC, MD),
    signature(4096, &MD_MAGIC, MD),
    signature(0, b"bluestore block device", "a Ceph BlueStore device"),
    signature(0, b"hsqs", "a squashfs file system"),
    signature(1024, &0xe0f5_e1e2_u32.to_le_bytes(), "an EROFS file system"),
    signature(32769, b"CD001", "an ISO 9660 file system"),
    signature(512, b"EFI PART", GPT),
    signature(4096, b"EFI PART", GPT),
    signature(510, &[0x55, 0xAA], "a partition table or a boot sector"),
];

fn recognise(bytes: &[u8], signatures: &[Signature], start: u64) -> Option<Content> {
    let matching = signatures.iter().find(|signature| {
        let from = usize::try_from(signature.offset).ok();
        from.and_then(|from| bytes.get(from..))
            .is_some_and(|rest| rest.starts_with(signature.magic))
    })?;
    Some(Content { offset: start + matching.offset, kind: Some(matching.kind) })
}

/// Labels whose place counts from the end: the backup GPT in the last sector, and old RAID
/// superblocks.
fn recognise_at_end(tail: &[u8], start: u64) -> Option<Content> {
    let length = tail.len() as u64;
    // md 0.90: 64 KiB before the end, after the end is rounded down to 64 KiB. md 1.0: 8 KiB before
    // the end, after the end is rounded down to 4 KiB.
    let md_0_90 = ((start + length) & !0xFFFF).checked_sub(start + 0x10000);
    let md_1_0 = ((start + length) & !0xFFF).checked_sub(start + 0x2000);
    let labels: [(Option<u64>, &[u8], &'static str); 4] = [
        (length.checked_sub(512), b"EFI PART", GPT),
        (length.checked_sub(4096), b"EFI PART", GPT),
        (md_0_90, &MD_MAGIC, MD),
        (md_1_0, &MD_MAGIC, MD),
    ];
    labels.into_iter().find_map(|(offset, magic, kind)| {
        let offset = offset?;
        let rest = tail.get(usize::try_from(offset).ok()?..)?;
        rest.starts_with(magic).then_some(Content { offset: start + offset, kind: Some(kind) })
    })
}

fn first_nonzero(bytes: &[u8], start: u64) -> Option<Content> {
    let position = bytes.iter().position(|byte| *byte != 0)?;
    Some(Content { offset: start + position as u64, kind: None })
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;
    use crate::units::Sectors;

    const SIZE: u64 = 16 << 20;

    fn disk_with(offset: u64, bytes: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::new(Sectors(SIZE / 512));
        disk.write_at(bytes, offset).unwrap();
        disk
    }

    fn kind_at(offset: u64, bytes: &[u8]) -> Option<&'static str> {
        find_content(&disk_with(offset, bytes)).unwrap().unwrap().kind
    }

    #[test]
    fn zeros_at_both_ends_are_blank_whatever_the_size() {
        for sectors in [0, 1, 8, 2048, 2049, 8192, 8193, 10_000, 40_000] {
            let disk = MemoryDisk::new(Sectors(sectors));
            assert_eq!(find_content(&disk).unwrap(), None, "{sectors} sectors");
        }
        assert_eq!(
            find_content(&disk_with(SIZE / 2, b"x")).unwrap(),
            None,
            "the middle is not looked at"
        );
    }

    #[test]
    fn any_byte_near_an_end_counts() {
        for offset in [0, 5, HEAD - 1, SIZE - TAIL, SIZE - 1] {
            let found = find_content(&disk_with(offset, b"x")).unwrap();
            assert_eq!(found, Some(Content { offset, kind: None }));
        }
    }

    #[test]
    fn every_signature_is_recognised_where_it_belongs_and_not_beside_it() {
        for signature in SIGNATURES {
            assert_eq!(kind_at(signature.offset, signature.magic), Some(signature.kind));
            assert_eq!(
                kind_at(signature.offset + 3, signature.magic),
                None,
                "{} moved",
                signature.kind
            );
        }
    }

    #[test]
    fn what_a_partition_held_is_recognised_when_its_table_is_gone() {
        let found = find_content(&disk_with(PARTITION as u64, b"XFSB")).unwrap().unwrap();
        assert_eq!(found.to_string(), "an xfs file system (at byte 1048576)");
    }

    #[test]
    fn labels_at_the_end_are_recognised() {
        assert_eq!(kind_at(SIZE - 512, b"EFI PART"), Some(GPT));
        assert_eq!(kind_at(SIZE - 0x2000, &MD_MAGIC), Some(MD));
        assert_eq!(kind_at(SIZE - 0x10000, &MD_MAGIC), Some(MD));
    }

    #[test]
    fn a_gpt_is_not_taken_for_its_protective_boot_record() {
        let disk = disk_with(510, &[0x55, 0xAA]);
        disk.write_at(b"EFI PART", 512).unwrap();
        let found = find_content(&disk).unwrap().unwrap();
        assert_eq!(found.to_string(), "a GPT partition table (at byte 512)");
    }
}

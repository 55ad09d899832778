//! A superblock for unit tests.

use crate::block::memory::MemoryDisk;
use crate::block::Disk;
use crate::units::Sectors;

/// A superblock as mke2fs writes it, with the fields that this module reads.
pub(super) fn superblock() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(0, &655_360_u32.to_le_bytes());
    put(4, &2_621_440_u32.to_le_bytes());
    put(16, &655_350_u32.to_le_bytes());
    put(24, &2_u32.to_le_bytes());
    put(32, &32_768_u32.to_le_bytes());
    put(40, &8192_u32.to_le_bytes());
    put(56, &0xEF53_u16.to_le_bytes());
    // Unmounted in good order.
    put(58, &1_u16.to_le_bytes());
    put(76, &1_u32.to_le_bytes());
    put(88, &256_u16.to_le_bytes());
    // has_journal; 64bit; metadata_csum and sparse_super.
    put(92, &4_u32.to_le_bytes());
    put(96, &0x80_u32.to_le_bytes());
    put(100, &0x401_u32.to_le_bytes());
    put(104, &[7; 16]);
    // The journal's inode.
    put(224, &8_u32.to_le_bytes());
    put(254, &64_u16.to_le_bytes());
    bytes
}

/// A disk of 10 GiB with this superblock.
pub(super) fn disk_with(superblock: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(Sectors(10 << 21));
    disk.write_at(superblock, 1024).unwrap();
    disk
}

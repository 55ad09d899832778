//! Metadata made by hand, and damaged.

use proptest::prelude::*;

use super::super::format::{node, MAGIC};
use super::*;
use crate::block::memory::MemoryDisk;

/// A metadata image of a few blocks: superblock 0, root 1, leaves from 2 on.
fn image(leaves: &[&[(u64, u64)]]) -> Vec<u8> {
    let mut image = vec![0; BLOCK * (2 + leaves.len())];
    image[superblock::MAGIC..][..8].copy_from_slice(&MAGIC.to_le_bytes());
    image[superblock::DEVICE_DETAILS_ROOT..][..8].copy_from_slice(&1u64.to_le_bytes());
    let children: Vec<(u64, u64)> =
        leaves.iter().enumerate().map(|(n, leaf)| (leaf[0].0, n as u64 + 2)).collect();
    put_node(&mut image, 1, node::INTERNAL, 8, &children);
    for (n, leaf) in leaves.iter().enumerate() {
        put_node(&mut image, n + 2, node::LEAF, 24, leaf);
    }
    image
}

fn disk(image: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(Sectors(image.len() as u64 / 512));
    disk.write_at(image, 0).unwrap();
    disk
}

fn put_node(image: &mut [u8], block: usize, flags: u32, value_size: usize, entries: &[(u64, u64)]) {
    let most = 126;
    let node = &mut image[block * BLOCK..][..BLOCK];
    node[node::FLAGS..][..4].copy_from_slice(&flags.to_le_bytes());
    node[node::BLOCK_NUMBER..][..8].copy_from_slice(&(block as u64).to_le_bytes());
    node[node::ENTRIES..][..4].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    node[node::MAX_ENTRIES..][..4].copy_from_slice(&(most as u32).to_le_bytes());
    node[node::VALUE_SIZE..][..4].copy_from_slice(&(value_size as u32).to_le_bytes());
    for (n, (key, value)) in entries.iter().enumerate() {
        node[node::KEYS + n * 8..][..8].copy_from_slice(&key.to_le_bytes());
        node[node::KEYS + most * 8 + n * value_size..][..8].copy_from_slice(&value.to_le_bytes());
    }
}

/// Two thins that share a leaf, each with one of its own.
fn mappings() -> Vec<u8> {
    let mut image = image(&[&[(0, 3), (1, 3)]]);
    image[superblock::DATA_MAPPING_ROOT..][..8].copy_from_slice(&3u64.to_le_bytes());
    image.resize(BLOCK * 9, 0);
    let at = |block: u64| block << TIME_BITS | 5;
    put_node(&mut image, 3, node::LEAF, 8, &[(0, 4), (1, 5)]);
    put_node(&mut image, 4, node::INTERNAL, 8, &[(0, 6), (9, 7)]);
    put_node(&mut image, 5, node::INTERNAL, 8, &[(0, 6), (9, 8)]);
    put_node(&mut image, 6, node::LEAF, 8, &[(0, at(100)), (1, at(101))]);
    put_node(&mut image, 7, node::LEAF, 8, &[(9, at(7))]);
    put_node(&mut image, 8, node::LEAF, 8, &[(9, at(100_000)), (10, at(101))]);
    image
}

#[test]
fn blocks_that_several_thins_map_are_counted_once() {
    assert_eq!(mapped(&disk(&mappings()), &[0], 100_001).unwrap(), 4);
}

#[test]
fn blocks_in_use_that_nothing_maps_are_counted_and_those_of_a_held_snapshot_are_not() {
    let mut image = mappings();
    image[superblock::DATA_BLOCKS_USED..][..8].copy_from_slice(&6u64.to_le_bytes());
    assert_eq!(unmapped(&disk(&image), 100_001).unwrap(), 2);
    // A held snapshot with a thin whose leaf, of its own, maps one block more.
    image.resize(BLOCK * 13, 0);
    let superblock = image[..BLOCK].to_vec();
    image[9 * BLOCK..][..BLOCK].copy_from_slice(&superblock);
    image[9 * BLOCK + superblock::DATA_MAPPING_ROOT..][..8].copy_from_slice(&10u64.to_le_bytes());
    put_node(&mut image, 10, node::LEAF, 8, &[(0, 11)]);
    put_node(&mut image, 11, node::INTERNAL, 8, &[(0, 6), (9, 12)]);
    put_node(&mut image, 12, node::LEAF, 8, &[(9, 50 << TIME_BITS)]);
    image[superblock::HELD_ROOT..][..8].copy_from_slice(&9u64.to_le_bytes());
    assert_eq!(unmapped(&disk(&image), 100_001).unwrap(), 1);
}

#[test]
fn what_is_read_while_a_commit_comes_is_read_again() {
    let disk = disk(&image(&[&[(1, 2)]]));
    let commits = std::cell::Cell::new(0u8);
    let read = |disk: &dyn Disk| {
        commits.set(commits.get() + 1);
        if commits.get() < 3 {
            disk.write_at(&[commits.get()], 48)?;
            return Err(MetadataError::Format { block: 9, what: "half of two commits".into() });
        }
        thins(disk, 0)
    };
    assert_eq!(of_one_commit(&disk, read).unwrap().len(), 1);
    let never = |disk: &dyn Disk| {
        commits.set(commits.get() + 1);
        Ok(disk.write_at(&[commits.get()], 48)?)
    };
    assert!(matches!(of_one_commit(&disk, never), Err(MetadataError::Changing)));
}

#[test]
fn the_first_block_of_a_thin_is_found() {
    let disk = disk(&mappings());
    let first = |id| first_block(&disk, 0, ThinId::new(id).unwrap()).unwrap();
    assert_eq!((first(0), first(1), first(2)), (Some(100), Some(100), None));
}

#[test]
fn the_mappings_of_one_thin_are_found_from_any_block_on() {
    let disk = disk(&mappings());
    let id = |id| ThinId::new(id).unwrap();
    assert_eq!(super::mappings(&disk, 0, id(0), 0).unwrap(), [(0, 100), (1, 101), (9, 7)]);
    assert_eq!(
        super::mappings(&disk, 0, id(1), 0).unwrap(),
        [(0, 100), (1, 101), (9, 100_000), (10, 101)]
    );
    assert_eq!(super::mappings(&disk, 0, id(1), 1).unwrap(), [(1, 101), (9, 100_000), (10, 101)]);
    assert_eq!(super::mappings(&disk, 0, id(1), 10).unwrap(), [(10, 101)]);
    assert_eq!(super::mappings(&disk, 0, id(1), 11).unwrap(), []);
    assert_eq!(super::mappings(&disk, 0, id(2), 0).unwrap(), []);
}

#[test]
fn what_lies_before_is_not_read() {
    let mut image = mappings();
    // The leaf of blocks 0 to 8.
    image[6 * BLOCK + node::FLAGS] = 0;
    let disk = disk(&image);
    assert_eq!(
        super::mappings(&disk, 0, ThinId::new(1).unwrap(), 9).unwrap(),
        [(9, 100_000), (10, 101)]
    );
    super::mappings(&disk, 0, ThinId::new(1).unwrap(), 8).unwrap_err();
}

#[test]
fn a_mapping_beyond_the_pool_is_named() {
    let mut image = mappings();
    put_node(&mut image, 7, node::LEAF, 8, &[(9, u64::MAX)]);
    let error = mapped(&disk(&image), &[0], 100_001).unwrap_err().to_string();
    assert!(error.contains("metadata block 7: data block"), "{error}");
}

#[test]
fn all_leaves_are_read() {
    let disk = disk(&image(&[&[(0, 14), (3, 20)], &[(7, 1), (0x00ff_ffff, 9)]]));
    let found: Vec<_> =
        thins(&disk, 0).unwrap().into_iter().map(|(id, blocks)| (id.get(), blocks)).collect();
    assert_eq!(found, [(0, 14), (3, 20), (7, 1), (0x00ff_ffff, 9)]);
}

#[test]
fn what_makes_no_sense_is_named() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 5] = [
        ("magic", |image| image[superblock::MAGIC] ^= 1),
        ("beyond the end", |image| image[superblock::DEVICE_DETAILS_ROOT + 3] = 1),
        ("is no thin id", |image| image[2 * BLOCK + node::KEYS + 4] = 1),
        ("neither leaf nor", |image| image[2 * BLOCK + node::FLAGS] = 0),
        ("it is block", |image| image[2 * BLOCK + node::BLOCK_NUMBER] = 9),
    ];
    for (what, damage) in cases {
        let mut damaged = image(&[&[(1, 2)]]);
        damage(&mut damaged);
        let error = thins(&disk(&damaged), 0).unwrap_err().to_string();
        assert!(error.contains(what), "{what:?} is not in {error:?}");
    }
}

#[test]
fn a_cycle_ends() {
    let mut image = image(&[&[(1, 2)]]);
    put_node(&mut image, 1, node::INTERNAL, 8, &[(1, 1)]);
    assert!(thins(&disk(&image), 0).unwrap_err().to_string().contains("twice"));
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        at in 0..9 * BLOCK,
        byte: u8,
        more in proptest::collection::vec((0..9 * BLOCK, any::<u8>()), 0..8),
    ) {
        let mut image = mappings();
        image[at] = byte;
        for (at, byte) in more {
            image[at] = byte;
        }
        let _ = thins(&disk(&image), 0);
        let _ = mapped(&disk(&image), &[0], 100_001);
        let _ = super::mappings(&disk(&image), 0, ThinId::new(1).unwrap(), 5);
    }
}

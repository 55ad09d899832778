//! A modelled disk: sectors, a write cache that a power cut empties, and the pools whose metadata
//! is on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::metadata::Metadata;
use crate::units::{Sectors, SECTOR_SIZE};

const SECTOR: usize = SECTOR_SIZE as usize;

type Sector = Arc<[u8; SECTOR]>;

/// The content of a sector that was never written.
static ZEROS: [u8; SECTOR] = [0; SECTOR];

/// Length of a thin pool's superblock in sectors: one metadata block of 4 KiB.
const SUPERBLOCK: u64 = 8;

/// `THIN_SUPERBLOCK_MAGIC` of dm-thin-metadata.c, at byte 32 of the superblock.
const MAGIC: (usize, u64) = (32, 27_022_010);
/// Where the superblock has the transaction id, the number of data blocks and (32 bits of it) the
/// block size.
const TRANSACTION_ID: usize = 48;
const DATA_BLOCKS: usize = 64;
const BLOCK_SIZE: usize = 336;

/// A disk. Sectors that were never written read as zeros.
#[derive(Debug, Clone)]
pub struct Disk {
    size: Sectors,
    sectors: BTreeMap<u64, Sector>,
    /// What each sector had before it was written and not flushed yet.
    undo: BTreeMap<u64, Option<Sector>>,
    /// The metadata of the pools on this disk, by first sector, as last committed.
    pools: BTreeMap<u64, Arc<Metadata>>,
}

/// What is in the place of a pool's superblock.
pub enum Superblock {
    /// Zeros: the kernel formats it.
    Blank,
    /// A pool.
    Pool(Arc<Metadata>),
    /// Anything else: the kernel refuses it.
    Foreign,
}

impl Disk {
    pub fn new(size: Sectors) -> Disk {
        Disk { size, sectors: BTreeMap::new(), undo: BTreeMap::new(), pools: BTreeMap::new() }
    }

    pub fn size(&self) -> Sectors {
        self.size
    }

    /// Grows or shrinks the disk, as a loop device does when its file has changed.
    pub fn set_size(&mut self, size: Sectors) {
        self.size = size;
        self.sectors.retain(|sector, _| *sector < size.0);
    }

    /// Reads whole sectors.
    pub fn read(&self, start: u64, buffer: &mut [u8]) {
        for (sector, piece) in (start..).zip(buffer.chunks_mut(SECTOR)) {
            let content = self.sectors.get(&sector).map_or(&ZEROS, |content| content.as_ref());
            piece.copy_from_slice(&content[..piece.len()]);
        }
    }

    /// Writes whole sectors, into the cache.
    pub fn write(&mut self, start: u64, bytes: &[u8]) {
        for (sector, piece) in (start..).zip(bytes.chunks(SECTOR)) {
            let content = (piece != &ZEROS[..piece.len()]).then(|| {
                let mut content = [0; SECTOR];
                content[..piece.len()].copy_from_slice(piece);
                Arc::new(content)
            });
            self.put(sector, content);
        }
    }

    /// Makes sectors read as zeros.
    pub fn zero(&mut self, start: u64, length: u64) {
        let there: Vec<u64> = self.sectors.range(start..start + length).map(|(s, _)| *s).collect();
        for sector in there {
            self.put(sector, None);
        }
    }

    fn put(&mut self, sector: u64, content: Option<Sector>) {
        let old = match content {
            Some(content) => self.sectors.insert(sector, content),
            None => self.sectors.remove(&sector),
        };
        self.undo.entry(sector).or_insert(old);
    }

    /// Whether there is anything that a flush would make durable.
    pub fn is_dirty(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Makes everything written durable.
    pub fn flush(&mut self) {
        self.undo.clear();
    }

    /// Forgets everything written since the last flush.
    pub fn lose_cache(&mut self) {
        for (sector, old) in std::mem::take(&mut self.undo) {
            match old {
                Some(content) => self.sectors.insert(sector, content),
                None => self.sectors.remove(&sector),
            };
        }
    }

    /// Reads the superblock that begins at sector `start`.
    pub fn superblock(&self, start: u64) -> Superblock {
        let mut bytes = [0; SUPERBLOCK as usize * SECTOR];
        self.read(start, &mut bytes);
        if bytes.iter().all(|byte| *byte == 0) {
            return Superblock::Blank;
        }
        let (at, magic) = MAGIC;
        match self.pools.get(&start) {
            Some(pool) if bytes[at..at + 8] == magic.to_le_bytes() => {
                Superblock::Pool(Arc::clone(pool))
            }
            _ => Superblock::Foreign,
        }
    }

    /// Puts a pool's metadata on the disk, durably; the kernel flushes it.
    pub fn put_superblock(&mut self, start: u64, metadata: Arc<Metadata>) {
        let mut bytes = [0; SECTOR];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(MAGIC.0, &MAGIC.1.to_le_bytes());
        put(TRANSACTION_ID, &metadata.transaction_id.to_le_bytes());
        put(DATA_BLOCKS, &metadata.data_blocks.to_le_bytes());
        put(BLOCK_SIZE, &(metadata.block_size.0 as u32).to_le_bytes());
        if !matches!(self.superblock(start), Superblock::Pool(_)) {
            self.zero(start, SUPERBLOCK);
        }
        self.write(start, &bytes);
        for sector in start..start + SUPERBLOCK {
            self.undo.remove(&sector);
        }
        self.pools.insert(start, metadata);
    }
}

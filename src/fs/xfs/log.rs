//! xfs's log: whether it ends with an unmount record, that is, whether the file system is clean.
//!
//! The log is a ring of blocks of 512 bytes. Each block begins with its cycle: the number of the
//! pass through the ring in which it was written. (In a record's header the cycle follows the magic
//! number.) The head is where the cycle decreases. The file system is clean when the last record
//! before the head is an unmount record and ends there (fs/xfs/xfs_log_recover.c: `xlog_find_head`,
//! `xlog_find_tail`, `xlog_check_unmount_rec`).

use std::ops::Range;

use crate::block::{BlockError, Disk};
use crate::fs::bytes::Fields;

const BLOCK: u64 = 512;
const HEADER_MAGIC: u32 = 0xFEED_BABE;
const VERSION_2: u32 = 2;
const UNMOUNT_FLAG: u8 = 0x20;

/// How many bytes of log one header block describes. Longer records have more header blocks
/// (`XLOG_HEADER_CYCLE_SIZE`).
const HEADER_COVERS: u32 = 32 << 10;

/// How many blocks can be written out of order at most: 8 buffers of 256 KiB
/// (`XLOG_TOTAL_REC_SHIFT`).
const IN_FLIGHT: u64 = (2 << 20) / BLOCK;

/// How many bytes are read at once.
const CHUNK: usize = 64 << 10;

/// An upper limit for the length of a record with its header, in blocks.
const LONGEST_RECORD: u64 = 2 * (256 << 10) / BLOCK;

/// Whether the log in this byte range ends with an unmount record.
///
/// # Errors
/// Those of [`Disk::read_at`].
pub(super) fn is_clean(disk: &dyn Disk, place: Range<u64>) -> Result<bool, BlockError> {
    let log = Log { disk, start: place.start, blocks: (place.end - place.start) / BLOCK };
    if log.blocks == 0 {
        return Ok(false);
    }
    let first = log.cycle(0)?;
    if first == 0 {
        // The log was never written.
        return Ok(true);
    }
    let head = log.head(first)?;
    if log.has_gap(head, first)? {
        return Ok(false);
    }
    log.ends_in_unmount(head)
}

struct Log<'a> {
    disk: &'a dyn Disk,
    start: u64,
    blocks: u64,
}

impl Log<'_> {
    fn read(&self, block: u64) -> Result<[u8; BLOCK as usize], BlockError> {
        let mut bytes = [0; BLOCK as usize];
        self.disk.read_at(&mut bytes, self.start + block % self.blocks * BLOCK)?;
        Ok(bytes)
    }

    fn cycle(&self, block: u64) -> Result<u32, BlockError> {
        Ok(cycle(&self.read(block)?))
    }

    /// The first block that is not of the newest cycle; the log's length if all blocks are.
    fn head(&self, newest: u32) -> Result<u64, BlockError> {
        let (mut newest_end, mut older_start) = (0, self.blocks);
        while older_start - newest_end > 1 {
            let middle = newest_end + (older_start - newest_end) / 2;
            if self.cycle(middle)? == newest {
                newest_end = middle;
            } else {
                older_start = middle;
            }
        }
        Ok(older_start)
    }

    /// Whether a block of the newest cycle is beyond the head. Then writes were in flight when the
    /// log ended.
    fn has_gap(&self, head: u64, newest: u32) -> Result<bool, BlockError> {
        let mut chunk = vec![0; CHUNK];
        let stop = (head + IN_FLIGHT).min(self.blocks);
        let mut block = head;
        while block < stop {
            let length = ((stop - block) * BLOCK).min(CHUNK as u64) as usize;
            self.disk.read_at(&mut chunk[..length], self.start + block * BLOCK)?;
            if chunk[..length].chunks(BLOCK as usize).any(|bytes| cycle(bytes) == newest) {
                return Ok(true);
            }
            block += length as u64 / BLOCK;
        }
        Ok(false)
    }

    /// Whether the last record before the head is an unmount record that ends at the head.
    fn ends_in_unmount(&self, head: u64) -> Result<bool, BlockError> {
        for back in 1..=LONGEST_RECORD.min(self.blocks) {
            let at = head + self.blocks - back;
            let bytes = self.read(at)?;
            let Some(record) = Record::parse(Fields(&bytes)) else {
                continue;
            };
            let ends_at_head = record.header_blocks + record.data_blocks == back;
            if !ends_at_head || record.operations != 1 {
                return Ok(false);
            }
            // The flags are the tenth byte of the operation's header (`struct xlog_op_header`).
            let operation = self.read(at + record.header_blocks)?;
            return Ok(operation[9] & UNMOUNT_FLAG != 0);
        }
        Ok(false)
    }
}

fn cycle(block: &[u8]) -> u32 {
    let fields = Fields(block);
    let first = fields.be32(0).unwrap_or(0);
    if first == HEADER_MAGIC {
        fields.be32(4).unwrap_or(0)
    } else {
        first
    }
}

/// The fields of a record's header (`struct xlog_rec_header`) that this file needs.
struct Record {
    header_blocks: u64,
    data_blocks: u64,
    operations: u32,
}

impl Record {
    fn parse(fields: Fields<'_>) -> Option<Self> {
        if fields.be32(0)? != HEADER_MAGIC {
            return None;
        }
        let long = fields.be32(8)? & VERSION_2 != 0;
        let headers = if long { fields.be32(320)?.div_ceil(HEADER_COVERS).max(1) } else { 1 };
        Some(Record {
            header_blocks: u64::from(headers),
            data_blocks: u64::from(fields.be32(12)?).div_ceil(BLOCK),
            operations: fields.be32(40)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::memory::MemoryDisk;
    use crate::units::Sectors;

    /// The log does not start at byte 0, so that a missing offset shows.
    const START: u64 = 8192;
    const BLOCKS: u64 = 9000;

    struct Ring {
        disk: MemoryDisk,
        next: u64,
    }

    impl Ring {
        fn new() -> Self {
            Ring { disk: MemoryDisk::new(Sectors(START / 512 + BLOCKS)), next: 0 }
        }

        fn put(&mut self, mut bytes: [u8; 512], header: bool) {
            let cycle = (self.next / BLOCKS + 1) as u32;
            let at = if header { 4 } else { 0 };
            bytes[at..at + 4].copy_from_slice(&cycle.to_be_bytes());
            self.disk.write_at(&bytes, START + self.next % BLOCKS * 512).unwrap();
            self.next += 1;
        }

        fn record(&mut self, data_blocks: u64, operations: u32, flags: u8) {
            let mut header = [0; 512];
            header[0..4].copy_from_slice(&HEADER_MAGIC.to_be_bytes());
            header[8..12].copy_from_slice(&VERSION_2.to_be_bytes());
            header[12..16].copy_from_slice(&((data_blocks * 512) as u32).to_be_bytes());
            header[40..44].copy_from_slice(&operations.to_be_bytes());
            header[320..324].copy_from_slice(&HEADER_COVERS.to_be_bytes());
            self.put(header, true);
            let mut data = [0; 512];
            data[9] = flags;
            (0..data_blocks).for_each(|_| self.put(data, false));
        }

        fn work_up_to(&mut self, block: u64) {
            while self.next < block {
                self.record((block - self.next - 1).min(60), 5, 0);
            }
        }

        fn unmount(&mut self) {
            self.record(1, 1, UNMOUNT_FLAG);
        }

        fn is_clean(&self) -> bool {
            is_clean(&self.disk, START..START + BLOCKS * 512).unwrap()
        }
    }

    #[test]
    fn a_log_is_clean_after_an_unmount_wherever_its_head_is() {
        // The first cycle, later cycles, a record across the end, and one that ends at the end.
        for head in [
            0,
            1,
            2,
            77,
            BLOCKS - 2,
            BLOCKS - 1,
            BLOCKS,
            BLOCKS + 1,
            2 * BLOCKS + 4000,
            3 * BLOCKS - 2,
        ] {
            let mut ring = Ring::new();
            ring.work_up_to(head);
            assert!(!ring.is_clean() || head == 0, "head {head}: clean without an unmount");
            ring.unmount();
            assert!(ring.is_clean(), "head {head}: not clean");
            ring.record(3, 5, 0);
            assert!(!ring.is_clean(), "head {head}: clean with work after the unmount");
        }
    }

    #[test]
    fn an_unmount_record_with_writes_beyond_a_gap_is_not_the_end() {
        let mut ring = Ring::new();
        ring.work_up_to(500);
        ring.unmount();
        ring.next += 100;
        ring.record(10, 5, 0);
        assert!(!ring.is_clean());
    }

    #[test]
    fn a_last_record_of_several_operations_is_no_unmount() {
        let mut ring = Ring::new();
        ring.record(1, 2, UNMOUNT_FLAG);
        assert!(!ring.is_clean());
    }

    #[test]
    fn a_log_of_no_length_is_not_called_clean() {
        assert!(!is_clean(&MemoryDisk::new(Sectors(8)), 0..0).unwrap());
    }
}

//! Frees the blocks of a thin that hold only zeros.
//!
//! An unmapped or discarded block of a thin reads as zeros. So discarding zeros changes no content,
//! only the number of mapped blocks.

use std::ops::Range;

use crate::block::{BlockError, Disk};
use crate::units::Sectors;

/// The unit of discards in bytes: the smallest block size of a thin pool.
const PIECE: u64 = 64 << 10;

/// How many bytes are read at once.
const CHUNK: u64 = 1 << 20;

/// Discards every aligned piece of 64 KiB that overlaps one of the byte `ranges` and holds only
/// zeros. Gives the number of discarded bytes; 0 if the device does not support discard.
///
/// # Errors
/// As the methods of [`Disk`]. The content is the same even after an error.
pub(super) fn punch(disk: &dyn Disk, ranges: &[Range<u64>]) -> Result<u64, BlockError> {
    // Otherwise zeros in the page cache could be written after the discard.
    disk.flush()?;
    let end = disk.size()?.bytes().unwrap_or(u64::MAX) / PIECE * PIECE;
    let mut run = Run { disk, zeros: 0..0, discarded: 0 };
    let done = punch_ranges(&mut run, ranges, end).and_then(|()| run.finish());
    match done {
        Ok(()) | Err(BlockError::DiscardUnsupported { .. }) => Ok(run.discarded),
        Err(error) => Err(error),
    }
}

fn punch_ranges(run: &mut Run<'_>, ranges: &[Range<u64>], end: u64) -> Result<(), BlockError> {
    let mut buffer = vec![0; CHUNK as usize];
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let mut at = range.start / PIECE * PIECE;
        let stop = range.end.min(end).div_ceil(PIECE).saturating_mul(PIECE).min(end);
        while at < stop {
            let length = CHUNK.min(stop - at);
            let chunk = &mut buffer[..length as usize];
            run.disk.read_at(chunk, at)?;
            for piece in chunk.chunks(PIECE as usize) {
                if piece.iter().all(|byte| *byte == 0) {
                    run.add(at..at + PIECE)?;
                }
                at += PIECE;
            }
        }
    }
    Ok(())
}

/// Collects adjacent pieces into one discard, so that it covers whole blocks of a pool with larger
/// blocks.
struct Run<'a> {
    disk: &'a dyn Disk,
    zeros: Range<u64>,
    discarded: u64,
}

impl Run<'_> {
    fn add(&mut self, piece: Range<u64>) -> Result<(), BlockError> {
        if piece.start == self.zeros.end {
            self.zeros.end = piece.end;
            return Ok(());
        }
        self.finish()?;
        self.zeros = piece;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BlockError> {
        let length = self.zeros.end - self.zeros.start;
        if length > 0 {
            self.disk.discard(
                Sectors::from_bytes_down(self.zeros.start),
                Sectors::from_bytes_down(length),
            )?;
            self.discarded += length;
            self.zeros = 0..0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::block::memory::MemoryDisk;

    /// A disk that records discards and keeps the content, to check that only zeros are discarded.
    #[derive(Debug)]
    struct Noting {
        disk: MemoryDisk,
        discards: Mutex<Vec<Range<u64>>>,
        supported: bool,
    }

    impl Disk for Noting {
        fn path(&self) -> &Path {
            self.disk.path()
        }
        fn size(&self) -> Result<Sectors, BlockError> {
            self.disk.size()
        }
        fn flush(&self) -> Result<(), BlockError> {
            self.disk.flush()
        }
        fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
            if !self.supported {
                return Err(BlockError::DiscardUnsupported { path: self.path().to_owned() });
            }
            let start = offset.bytes().unwrap();
            self.discards.lock().unwrap().push(start..start + length.bytes().unwrap());
            Ok(())
        }
        fn set_read_only(&self, read_only: bool) -> Result<(), BlockError> {
            self.disk.set_read_only(read_only)
        }
        fn is_read_only(&self) -> Result<bool, BlockError> {
            self.disk.is_read_only()
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
            self.disk.read_at(buffer, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
            self.disk.write_at(data, offset)
        }
    }

    const PIECES: u64 = 40;

    fn noting(data: &[u64], supported: bool) -> Noting {
        let disk = MemoryDisk::new(Sectors(PIECES * PIECE / 512 + 3));
        for offset in data {
            disk.write_at(b"x", *offset).unwrap();
        }
        Noting { disk, discards: Mutex::default(), supported }
    }

    fn punched(data: &[u64], range: Range<u64>) -> Vec<Range<u64>> {
        let disk = noting(data, true);
        let bytes = punch(&disk, &[5..5, range]).unwrap();
        let discards = disk.discards.into_inner().unwrap();
        assert_eq!(bytes, discards.iter().map(|range| range.end - range.start).sum::<u64>());
        discards
    }

    #[test]
    fn zeros_side_by_side_go_in_one_discard_and_data_stays() {
        assert_eq!(punched(&[3 * PIECE + 5], 0..5 * PIECE), [0..3 * PIECE, 4 * PIECE..5 * PIECE]);
    }

    #[test]
    fn a_range_that_begins_and_ends_within_pieces_takes_all_of_them() {
        assert_eq!(punched(&[PIECE], PIECE - 1..2 * PIECE + 1), [0..PIECE, 2 * PIECE..3 * PIECE]);
    }

    #[test]
    fn the_end_of_the_device_ends_it_and_a_tail_shorter_than_a_piece_stays() {
        assert_eq!(
            punched(&[0, 2 * PIECE], 0..u64::MAX),
            [PIECE..2 * PIECE, 3 * PIECE..PIECES * PIECE]
        );
        assert_eq!(punched(&[], PIECES * PIECE..u64::MAX), []);
    }

    #[test]
    fn a_device_without_discard_is_left_as_it_is() {
        let piece = 0..PIECE;
        assert_eq!(punch(&noting(&[], false), &[piece]).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn only_zeros_are_discarded_and_all_whole_pieces_of_them(
            data in proptest::collection::vec(0..PIECES * PIECE, 0..20),
            start in 0..PIECES * PIECE,
            length in 0..PIECES * PIECE,
        ) {
            let range = start..start + length;
            let discards = punched(&data, range.clone());
            for index in 0..PIECES {
                let piece = index * PIECE..(index + 1) * PIECE;
                let holds_data = data.iter().any(|at| piece.contains(at));
                let gone = discards.iter().any(|gone| gone.start <= piece.start && piece.end <= gone.end);
                prop_assert!(!(gone && holds_data), "data in {piece:?} was discarded");
                let inside = range.start <= piece.start && piece.end <= range.end && !range.is_empty();
                prop_assert!(gone || holds_data || !inside, "zeros in {piece:?} were kept");
            }
        }
    }
}

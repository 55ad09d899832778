//! Allocating blocks of the embedded pool's files, and giving them back to the host.

use std::ops::Range;
use std::path::Path;

use super::embedded::{existing_size, EmbeddedFiles};
use super::label::LABEL_SPACE;
use crate::block::{allocate, allocate_ranges, allocated, punch, without_blocks, BlockError};
use crate::pool::error::PoolError;

impl EmbeddedFiles {
    /// Allocates again what the files have lost, except for these blocks of the data area. A file
    /// loses blocks when it is copied as a sparse file.
    pub fn restore_blocks(&self, except: &[Range<u64>]) -> Result<(), PoolError> {
        let (metadata, data) = (self.metadata_file(), self.data_file());
        let (all_metadata, all_data) = (all_of(&metadata), all_of(&data));
        restore(&metadata, &[all_metadata])
            .map_err(|source| PoolError::area("metadata", &metadata, source))?;
        restore(&data, &around(&self.bytes(except), all_data.end))
            .map_err(|source| PoolError::area("data", &data, source))
    }

    /// Gives the space of these blocks of the data area back. The pool must not hand them out.
    pub fn punch(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        let file = self.data_file();
        punch(&file, &self.bytes(blocks)).map_err(|source| PoolError::area("data", &file, source))
    }

    /// Allocates these blocks of the data area, none of which has space.
    pub fn allocate(&self, blocks: &[Range<u64>]) -> Result<(), PoolError> {
        let file = self.data_file();
        let ranges = self.bytes(blocks);
        allocate_ranges(&file, &ranges, length_of(&ranges))
            .map_err(|source| PoolError::area("data", &file, source))
    }

    /// The bytes of the data file that these blocks of the area take.
    fn bytes(&self, blocks: &[Range<u64>]) -> Vec<Range<u64>> {
        let byte = |block: u64| (LABEL_SPACE.0 + block * self.sizes.block.0) * 512;
        blocks.iter().map(|range| byte(range.start)..byte(range.end)).collect()
    }
}

fn restore(file: &Path, ranges: &[Range<u64>]) -> Result<(), BlockError> {
    match without_blocks(file, ranges)?.as_slice() {
        // A full file system may refuse even a request for nothing.
        [] => Ok(()),
        [one] if *one == all_of(file) => allocate(file, 0, one.end),
        some => {
            let missing = length_of(ranges).saturating_sub(allocated(file)?);
            allocate_ranges(file, some, length_of(some).min(missing))
        }
    }
}

fn all_of(file: &Path) -> Range<u64> {
    0..existing_size(file).unwrap_or_default().0 * 512
}

fn length_of(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// What lies before, between and after these ranges, up to `end`. The ranges are in order.
fn around(ranges: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([end]);
    starts
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|range| range.start < range.end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::around;

    #[test]
    fn what_is_around_ranges_is_all_the_rest() {
        assert_eq!(around(&[], 9), [0..9]);
        assert_eq!(around(&[0..2, 4..5, 5..6], 9), [2..4, 6..9]);
        assert_eq!(around(&[3..9], 9), [0..3]);
    }
}

//! The metadata of the pool, read from disk while the pool works.
//!
//! Nothing is written for that. dm-thin writes the superblock last in each commit, and never writes
//! to a block of the last commit before the next one is complete
//! (drivers/md/persistent-data/dm-space-map-disk.c takes blocks that are free in both). So all that
//! is below a superblock is complete as long as that superblock is the one on disk.

mod btree;
mod error;
mod format;
mod queries;

pub use error::MetadataError;
pub use queries::{find_superblock, first_block, mappings, of_one_commit, thins, unmapped};

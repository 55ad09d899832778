//! ext4: the options of mke2fs, the superblock, the journal and the block groups.
//!
//! The layouts are the kernel's (Documentation/filesystems/ext4/). Containers and guests may have
//! written all of it, so every number is checked before it is used.

mod crc32c;
#[cfg(test)]
mod fixture;
mod groups;
mod journal;
mod mke2fs;
mod notes;
mod superblock;

pub(super) use mke2fs::{own_options, PREZEROED, SYNTAX};
pub(super) use notes::{note_error, note_lost_writes};
pub(super) use superblock::Superblock;

pub use groups::{note_zeros_behind, zeroed_ranges};

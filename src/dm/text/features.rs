//! The optional features of a pool's table.

use crate::dm::error::TableError;

/// What happens to a discard that reaches a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DiscardPolicy {
    /// It frees blocks, and goes on to the data device (the default).
    #[default]
    PassDown,
    /// It frees blocks and goes no further (`no_discard_passdown`).
    NoPassDown,
    /// It is refused (`ignore_discard`).
    Ignore,
}

/// What happens to a write that needs a block when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NoSpacePolicy {
    /// It waits for `no_space_timeout` seconds (60 by default), then fails. This is the kernel's
    /// default.
    #[default]
    Queue,
    /// It fails with ENOSPC at once (`error_if_no_space`).
    Error,
}

/// The optional features of a thin-pool table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PoolFeatures {
    /// Do not zero a new block before use (`skip_block_zeroing`). Then a thin can show old data of
    /// another thin.
    pub skip_block_zeroing: bool,
    /// What happens to discards.
    pub discard: DiscardPolicy,
    /// Metadata is not changed (`read_only`).
    pub read_only: bool,
    /// What happens when the pool is full.
    pub no_space: NoSpacePolicy,
}

impl PoolFeatures {
    /// The words, in the kernel's order.
    pub(super) fn words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        if self.skip_block_zeroing {
            words.push("skip_block_zeroing");
        }
        match self.discard {
            DiscardPolicy::PassDown => {}
            DiscardPolicy::NoPassDown => words.push("no_discard_passdown"),
            DiscardPolicy::Ignore => words.push("ignore_discard"),
        }
        if self.read_only {
            words.push("read_only");
        }
        if self.no_space == NoSpacePolicy::Error {
            words.push("error_if_no_space");
        }
        words
    }

    pub(super) fn add(&mut self, word: &str) -> Result<(), TableError> {
        match word {
            "skip_block_zeroing" => self.skip_block_zeroing = true,
            "ignore_discard" => self.discard = DiscardPolicy::Ignore,
            "no_discard_passdown" => {
                // The kernel keeps two switches, and the one that ignores discards wins.
                if self.discard != DiscardPolicy::Ignore {
                    self.discard = DiscardPolicy::NoPassDown;
                }
            }
            "read_only" => self.read_only = true,
            "error_if_no_space" => self.no_space = NoSpacePolicy::Error,
            _ => return Err(TableError::UnknownFeature { value: word.to_owned() }),
        }
        Ok(())
    }
}

//! Why the metadata of a pool could not be read.

use crate::block::BlockError;

/// Why the metadata could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("metadata block {block}: {what}")]
    Format { block: u64, what: String },
    #[error("it changes faster than it can be read; try again while less is written to the pool")]
    Changing,
}

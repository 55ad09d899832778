//! The thins of the pool: their ids, making and deleting them, and reading which there are.

mod contents;
mod create;
mod ids;
pub mod metadata;
mod ranges;

pub use ids::{IdGuard, Ids};
pub use metadata::MetadataError;
pub use ranges::{CLAIM_LENGTH, MARKERS, SHARED_START};

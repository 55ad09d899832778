//! The metadata store: one redb file that holds everything this daemon must not forget.
//!
//! | file | what it holds |
//! |---|---|
//! | `records` | the records and their keys, as the rest of the crate sees them |
//! | `error` | every way the store can refuse or fail |
//! | `tables` | the tables and how keys become bytes |
//! | `overlay` | changes that are not on disk yet |
//! | `owners` | what a record owns, and nobody else may |
//! | `reader` | reading: a consistent view of the records |
//! | `changes` | writing: the operations and the invariants they keep |
//! | `check` | comparing the indexes with the records |
//! | `group` | group commit: many callers, one durable write |
//! | `file` | the file under its name |
//! | `backend` | what lies under redb, watched |
//! | `tally` | how many commits were acknowledged, kept apart |
//! | `database` | redb itself: opening, schema version, applying an overlay |
//!
//! The store knows nothing about the kernel, about pools or about gRPC. redb is known to
//! `database`, `backend`, `file` and `error`, and by the name of its storage trait to `group`. A
//! change sees records and makes records; it must not wait for anything, since the other callers'
//! changes wait for it.

mod backend;
mod changes;
mod check;
mod database;
mod error;
mod file;
mod group;
mod overlay;
mod owners;
mod reader;
mod records;
mod tables;
mod tally;

#[cfg(test)]
pub(crate) mod tests;

pub use changes::Changes;
pub use error::StoreError;
pub use group::Store;
pub use reader::Reader;
pub use records::{
    BalloonRecord, ClaimRecord, ExternalPool, IdRange, Kind, LapsesRecord, Moment, Owner,
    Ownership, ParentRef, PoolRecord, ReclaimKind, ReclaimRecord, SnapshotRecord, TemplateKey,
    TemplateRecord,
};
pub use tally::Tally;

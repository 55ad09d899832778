//! The database: one redb file with all records that must outlive the daemon.
//!
//! | file | what it holds |
//! |---|---|
//! | `records` | the records and their keys, as the rest of the crate sees them |
//! | `error` | the errors of this module |
//! | `owners` | the thin ids and device numbers that a record owns |
//! | `tables` | the tables, and how keys become bytes |
//! | `overlay` | changes that are not on disk yet |
//! | `file` | opening and reading the database file |
//! | `backend` | redb's storage, with a count of syncs and reserved space |
//! | `tally` | the number of acknowledged commits, kept outside the database |
//! | `database` | redb: opening, schema version, read transactions, writing an overlay |
//! | `create` | creating a new database file |
//! | `reader` | reading: a consistent view of the records |
//! | `check` | comparing the indexes with the records |
//! | `changes` | writing: the operations, and the invariants they keep |
//! | `group` | group commit: the changes of many callers in one durable write |
//!
//! This module does not know the kernel, pools or gRPC. Only `database`, `backend`, `create`,
//! `file` and `error` use redb; `group` uses the name of its storage trait. A change reads records
//! and makes records. It must not wait for anything, because the changes of other callers wait for
//! it.

mod backend;
mod changes;
mod check;
mod create;
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

//! Every way the store can refuse a change or fail at its work.
//!
//! Refusals (`NotFound`, `AlreadyExists`, `HasChildren`, …) say that a change makes no sense for
//! the records as they are; the store is none the worse for them. Failures name the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::records::{Kind, Owner};

/// Why a change was refused, or what failed. Clonable, since a failed commit is reported to every
/// caller whose change was in it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no file.
    #[error("there is no database {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The snapshot that was to be a parent is not on record.
    #[error("parent {key:?} does not exist")]
    NoParent {
        /// The parent asked for.
        key: String,
    },
    /// No record has this key.
    #[error("{key:?} does not exist")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// A record has this key already.
    #[error("{key:?} already exists")]
    AlreadyExists {
        /// The key that was to be added.
        key: String,
    },
    /// Other snapshots stand on it.
    #[error("{key:?} has children, {child:?} for one")]
    HasChildren {
        /// The parent.
        key: String,
        /// One of its children.
        child: String,
    },
    /// Only a committed snapshot can be a parent.
    #[error("parent {key:?} is {kind}, not committed")]
    NotCommitted {
        /// The parent asked for.
        key: String,
        /// What it is instead.
        kind: Kind,
    },
    /// The parent that was looked up is not the one of that key any more.
    #[error("parent {parent:?} of {key:?} is not the one that was looked up")]
    ParentChanged {
        /// The snapshot that was to be added.
        key: String,
        /// The key of its parent.
        parent: String,
    },
    /// A view would show another thin than its parent's.
    #[error("view {key:?} shows thin {thin}, which is not its parent's")]
    ViewOfOther {
        /// The view.
        key: String,
        /// The thin it was to show.
        thin: u32,
    },
    /// A snapshot's key cannot be empty.
    #[error("the key is empty")]
    EmptyKey,
    /// A record that is replaced keeps its parent.
    #[error("the parent of {key:?} cannot change")]
    ParentFixed {
        /// The snapshot.
        key: String,
    },
    /// The thin is another record's.
    #[error("thin {thin} of {wanted_by} belongs to {owner}")]
    ThinOwned {
        /// The thin id.
        thin: u32,
        /// Whose it is.
        owner: Box<Owner>,
        /// Who was to have it.
        wanted_by: Box<Owner>,
    },
    /// The device number is another record's.
    #[error("device number {number} of {wanted_by} belongs to {owner}")]
    NumberOwned {
        /// The device number.
        number: u64,
        /// Whose it is.
        owner: Box<Owner>,
        /// Who was to have it.
        wanted_by: Box<Owner>,
    },
    /// A lease that ends before it starts, or beyond the 24 bits of a thin id.
    #[error("a lease of thin ids {start} to {end} makes no sense")]
    BadLease {
        /// Its first id.
        start: u32,
        /// The first id beyond it.
        end: u32,
    },
    /// Another process has the file open.
    #[error("database {path} is in use by another process: stop the daemon that has it open")]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The file is not a database, or a damaged one.
    #[error("{path} is damaged, or no database of this program: {reason}. It was left as it is: put back a copy of the last stop, if there is one")]
    Corrupted {
        /// The database file.
        path: PathBuf,
        /// What redb found.
        reason: String,
    },
    /// The file was written by a newer program.
    #[error("database {path} has schema version {found}, this program knows versions up to {known}: run the newer program that wrote it")]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this program can use.
        known: u32,
    },
    /// Commits that were acknowledged are not in the file.
    #[error("the last {} commits to {path} are lost: it is at number {found}, and number {acknowledged} was acknowledged by what {tally} says. The file is damaged, or a copy from another time. Nothing is changed and nothing deleted. Put back the file as it was last; or, if this one is to be gone on with and what was done since may be lost, remove {tally}", acknowledged - found)]
    Behind {
        /// The database file.
        path: PathBuf,
        /// The number of its newest commit.
        found: u64,
        /// The number of the last commit that was acknowledged.
        acknowledged: u64,
        /// The file that says so.
        tally: PathBuf,
    },
    /// The file system that holds the file is full.
    #[error("no space left for {path}: make room on its file system")]
    DiskFull {
        /// The database file.
        path: PathBuf,
    },
    /// A sync has failed, so that nothing says any more what is on disk and what is not.
    #[error("a sync of database {path} has failed, so what is on disk must be read anew: start the daemon again once the disk is well")]
    SyncFailed {
        /// The database file.
        path: PathBuf,
    },
    /// Anything else that redb reports.
    #[error("{step} {path}: {source}")]
    Database {
        /// What was being done.
        step: &'static str,
        /// The database file.
        path: PathBuf,
        /// What went wrong.
        source: Arc<redb::Error>,
    },
    /// A commit ended in a panic; whether it is on disk shows when the file is opened again.
    #[error("committing to database {path} panicked: start the daemon again")]
    CommitPanicked {
        /// The database file.
        path: PathBuf,
    },
    /// A record cannot be written.
    #[error("encoding a record of table {table}: {reason}")]
    Encode {
        /// The table.
        table: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A record cannot be understood.
    #[error("table {table} holds a record that cannot be understood, under {key:?}: {reason}")]
    Decode {
        /// The table.
        table: &'static str,
        /// Its key, made printable.
        key: String,
        /// What went wrong.
        reason: String,
    },
}

impl StoreError {
    /// The file system under the database is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::DiskFull { .. })
    }

    /// Sorts what redb reports into what somebody can act upon.
    pub(super) fn from_redb(step: &'static str, path: &Path, error: redb::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
            redb::Error::Corrupted(reason) => StoreError::Corrupted { path, reason },
            redb::Error::UpgradeRequired(_) => {
                StoreError::Corrupted { path, reason: error.to_string() }
            }
            redb::Error::Io(io) => match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::DiskFull { path },
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                    StoreError::Corrupted { path, reason: io.to_string() }
                }
                _ => StoreError::Database { step, path, source: Arc::new(redb::Error::Io(io)) },
            },
            error => StoreError::Database { step, path, source: Arc::new(error) },
        }
    }
}

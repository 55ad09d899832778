//! The errors of this module.
//!
//! A refusal (`NotFound`, `AlreadyExists`, `HasChildren`, …) means that a change does not fit the
//! records. It names the snapshot, and the store can be used as before. A failure names the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::records::{Kind, Owner};

/// Why a change was refused, or what failed. It can be cloned, because a failed commit is reported
/// to each caller of its group.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no file.
    #[error("there is no database {path}")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// There is no snapshot with the parent's key.
    #[error("parent snapshot {key:?} does not exist")]
    NoParent {
        /// The parent's key.
        key: String,
    },
    /// There is no snapshot with this key.
    #[error("snapshot {key:?} does not exist")]
    NotFound {
        /// The key.
        key: String,
    },
    /// There is a snapshot with this key.
    #[error("snapshot {key:?} already exists")]
    AlreadyExists {
        /// The key.
        key: String,
    },
    /// The snapshot has children.
    #[error("snapshot {key:?} has children, for example {child:?}")]
    HasChildren {
        /// The parent.
        key: String,
        /// One of its children.
        child: String,
    },
    /// Only a committed snapshot can be a parent.
    #[error("parent snapshot {key:?} is {kind}, not committed")]
    NotCommitted {
        /// The parent's key.
        key: String,
        /// The parent's kind.
        kind: Kind,
    },
    /// The parent's key belongs to another snapshot than the one that was looked up.
    #[error("parent snapshot {parent:?} of {key:?} is not the one that was looked up")]
    ParentChanged {
        /// The key of the new snapshot.
        key: String,
        /// The key of its parent.
        parent: String,
    },
    /// A view must show its parent's thin.
    #[error("view {key:?} shows thin {thin}, which is not its parent's")]
    ViewOfOther {
        /// The view's key.
        key: String,
        /// The thin that it was to show.
        thin: u32,
    },
    /// A snapshot's key cannot be empty.
    #[error("a snapshot cannot have an empty key")]
    EmptyKey,
    /// A snapshot keeps its parent.
    #[error("the parent of snapshot {key:?} cannot change")]
    ParentFixed {
        /// The snapshot's key.
        key: String,
    },
    /// Another record owns the thin.
    #[error("thin {thin} of {wanted_by} belongs to {owner}")]
    ThinOwned {
        /// The thin id.
        thin: u32,
        /// Its owner.
        owner: Box<Owner>,
        /// The record that was to own it.
        wanted_by: Box<Owner>,
    },
    /// Another record owns the device number.
    #[error("device number {number} of {wanted_by} belongs to {owner}")]
    NumberOwned {
        /// The device number.
        number: u64,
        /// Its owner.
        owner: Box<Owner>,
        /// The record that was to own it.
        wanted_by: Box<Owner>,
    },
    /// A lease ends before it starts, or beyond the 24 bits of a thin id.
    #[error("a lease of thin ids {start} to {end} is no valid range")]
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
    #[error(
        "{path} is damaged, or no database of this program: {reason}. It was not changed. Put back \
         a copy from the last stop, if there is one"
    )]
    Corrupted {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a newer program.
    #[error(
        "database {path} has schema version {found}, this program knows versions up to {known}: \
         run the newer program that wrote it"
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The file lacks acknowledged commits.
    #[error(
        "the last {} commits to {path} are lost: its newest commit is number {found}, but \
         according to {tally} number {acknowledged} was acknowledged. The file is damaged, or an \
         older copy. Nothing was changed and nothing deleted. Put back the newest copy of the file; or, to \
         continue with this one and lose the later changes, remove {tally}",
        acknowledged - found
    )]
    Behind {
        /// The database file.
        path: PathBuf,
        /// The number of its newest commit.
        found: u64,
        /// The number of the last commit that was acknowledged.
        acknowledged: u64,
        /// The file of the tally.
        tally: PathBuf,
    },
    /// The file system that holds the file is full.
    #[error("no space left for database {path}: free space on its file system")]
    DiskFull {
        /// The database file.
        path: PathBuf,
    },
    /// A sync has failed, so it is unknown which writes are on disk.
    #[error(
        "a sync of database {path} has failed, so the database must be read again from the disk: \
         restart the daemon when the disk works again"
    )]
    SyncFailed {
        /// The database file.
        path: PathBuf,
    },
    /// Any other error of redb.
    #[error("{step} database {path}: {source}")]
    Database {
        /// The step: "reading", "committing to", …
        step: &'static str,
        /// The database file.
        path: PathBuf,
        /// redb's error.
        source: Arc<redb::Error>,
    },
    /// A commit panicked. Whether it is on disk is known when the file is opened again.
    #[error("committing to database {path} panicked: start the daemon again")]
    CommitPanicked {
        /// The database file.
        path: PathBuf,
    },
    /// A record cannot be encoded.
    #[error("cannot encode a record of table {table}: {reason}")]
    Encode {
        /// The table.
        table: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A record cannot be decoded.
    #[error("the record {key:?} of table {table} cannot be understood: {reason}")]
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
    /// Whether the file system of the database is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::DiskFull { .. })
    }

    /// Converts an error of redb, by what the operator can do about it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use StoreError as E;

    #[test]
    fn every_message_names_its_snapshot_record_or_file() {
        let path = || PathBuf::from("/s/metadata.redb");
        let key = || "k".to_owned();
        let owner = || Box::new(Owner::Snapshot("a".into()));
        let wanted_by = || Box::new(Owner::Reclaim(7));
        let source = Arc::new(redb::Error::DatabaseClosed);
        for (error, start) in [
            (E::Missing { path: path() }, "there is no database /s/metadata.redb"),
            (E::NoParent { key: key() }, "parent snapshot \"k\" does not exist"),
            (E::NotFound { key: key() }, "snapshot \"k\" does not exist"),
            (E::AlreadyExists { key: key() }, "snapshot \"k\" already exists"),
            (
                E::HasChildren { key: key(), child: "c".into() },
                "snapshot \"k\" has children, for example \"c\"",
            ),
            (
                E::NotCommitted { key: key(), kind: Kind::View },
                "parent snapshot \"k\" is view, not committed",
            ),
            (
                E::ParentChanged { key: key(), parent: "p".into() },
                "parent snapshot \"p\" of \"k\" is not the one that was looked up",
            ),
            (
                E::ViewOfOther { key: key(), thin: 3 },
                "view \"k\" shows thin 3, which is not its parent's",
            ),
            (E::EmptyKey, "a snapshot cannot have an empty key"),
            (E::ParentFixed { key: key() }, "the parent of snapshot \"k\" cannot change"),
            (
                E::ThinOwned { thin: 3, owner: owner(), wanted_by: wanted_by() },
                "thin 3 of reclaim entry 7 belongs to snapshot \"a\"",
            ),
            (
                E::NumberOwned { number: 3, owner: owner(), wanted_by: wanted_by() },
                "device number 3 of reclaim entry 7 belongs to snapshot \"a\"",
            ),
            (E::BadLease { start: 5, end: 3 }, "a lease of thin ids 5 to 3 is no valid range"),
            (E::InUse { path: path() }, "database /s/metadata.redb is in use by another process"),
            (
                E::Corrupted { path: path(), reason: "r".into() },
                "/s/metadata.redb is damaged, or no database of this program: r",
            ),
            (
                E::NewerSchema { path: path(), found: 9, known: 1 },
                "database /s/metadata.redb has schema version 9, this program knows versions up to 1",
            ),
            (
                E::Behind { path: path(), found: 5, acknowledged: 7, tally: "/t".into() },
                "the last 2 commits to /s/metadata.redb are lost",
            ),
            (E::DiskFull { path: path() }, "no space left for database /s/metadata.redb"),
            (E::SyncFailed { path: path() }, "a sync of database /s/metadata.redb has failed"),
            (
                E::Database { step: "reading", path: path(), source },
                "reading database /s/metadata.redb: ",
            ),
            (E::CommitPanicked { path: path() }, "committing to database /s/metadata.redb panicked"),
            (
                E::Encode { table: "meta", reason: "r".into() },
                "cannot encode a record of table meta: r",
            ),
            (
                E::Decode { table: "meta", key: key(), reason: "r".into() },
                "the record \"k\" of table meta cannot be understood: r",
            ),
        ] {
            let text = error.to_string();
            assert!(text.starts_with(start), "{text}");
        }
    }
}

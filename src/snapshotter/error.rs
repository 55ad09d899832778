//! Why a call was refused or failed. `grpc` turns each error into a status.

use std::fmt;
use std::sync::Arc;

use crate::block::BlockError;
use crate::fs::{FsError, NotedErrors};
use crate::pool::PoolError;
use crate::store::StoreError;
use crate::units::Sectors;

/// What a failed step was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A snapshot, by its key.
    Snapshot(String),
    /// The template that is being made. [`Error::Template`] around it says which.
    Template,
    /// A device, by its device-mapper name.
    Device(String),
    /// The start of the daemon.
    Start,
    /// The command `check`.
    Check,
    /// A look at the pool, for a scrape.
    Look,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Snapshot(key) => write!(f, "snapshot {key:?}"),
            Subject::Template => write!(f, "the template"),
            Subject::Device(name) => write!(f, "device {name}"),
            Subject::Start => write!(f, "the start"),
            Subject::Check => write!(f, "the check"),
            Subject::Look => write!(f, "the look at the pool"),
        }
    }
}

impl From<&str> for Subject {
    fn from(key: &str) -> Self {
        Subject::Snapshot(key.into())
    }
}

/// What a caller gets instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot {key:?} does not exist")]
    NotFound { key: String },
    #[error("parent snapshot {parent:?} does not exist")]
    ParentNotFound { parent: String },
    #[error("snapshot {key:?} exists already")]
    AlreadyExists { key: String },
    #[error(
        "parent snapshot {parent:?} is not committed; commit it first, or name a committed one"
    )]
    ParentNotCommitted { parent: String },
    #[error("snapshot {key:?} is {kind}, not active: {what}")]
    NotActive { key: String, kind: &'static str, what: &'static str },
    #[error("snapshot {key:?} has children, {child:?} among them; remove those first")]
    HasChildren { key: String, child: String },
    #[error(
        "snapshot {key:?} cannot be committed: since it was made, pool {pool} has refused writes, \
         or may have (it was full, on a full file system, or had failed), and a program learns of \
         that only if it syncs. The snapshot may lack some of what was written to it: remove it, \
         and make it again once there is free space"
    )]
    Incomplete { key: String, pool: String },
    #[error(
        "snapshot {key:?} cannot be committed: its file system met errors while it was mounted \
         ({errors}), so that something written to it may be lost or damaged, as on a failing disk. \
         Nothing was changed; the kernel's log tells more. Check the disks below pool {pool}, \
         remove the snapshot and make it again"
    )]
    ErrorsNoted { key: String, pool: String, errors: NotedErrors },
    #[error(
        "snapshot {key:?} is a layer that came without the layers below it: containerd was told \
         that this snapshotter can put them together later, which it cannot. Take \"rebase\" out \
         of the capabilities of the plugin in containerd's configuration \
         (proxy_plugins.NAME.capabilities), restart containerd and pull again"
    )]
    Rebase { key: String },
    #[error("{what} cannot have {}: {why}. {} fits", asked.to_text(), most.to_text())]
    TooLarge { what: String, asked: Sectors, most: Sectors, why: String },
    #[error(
        "it takes up to {} of pool {pool}, which has {} free: the pool is full. Remove images or \
         containers, or make the pool larger; it is made as soon as it can be",
        Sectors(needed / 512).to_text(),
        Sectors(free / 512).to_text()
    )]
    NoSpace { pool: String, needed: u64, free: u64 },
    #[error(
        "parent snapshot {parent:?} was removed and made anew while snapshot {key:?} was made on \
         it; try again"
    )]
    ParentChanged { key: String, parent: String },
    #[error("{what} is not allowed: {why}")]
    Invalid { what: String, why: String },
    #[error("{subject} {step}: {source}")]
    Pool { subject: Subject, step: &'static str, source: Box<PoolError> },
    #[error("{subject} {step}: {source}")]
    Fs { subject: Subject, step: &'static str, source: Box<FsError> },
    #[error("{subject} {step}: {source}")]
    Block { subject: Subject, step: &'static str, source: Box<BlockError> },
    #[error(
        "the template for {what}, which snapshots without a parent are made from, cannot be made: \
         {source}"
    )]
    Template { what: String, source: Arc<Error> },
    #[error("{source}; and undoing it failed as well: {undo}")]
    Undo { source: Box<Error>, undo: Box<Error> },
    #[error("the snapshot database: {0}")]
    Store(StoreError),
}

impl Error {
    /// Whether the daemon has to end: after a failed sync only a new start can tell what of the
    /// database is on disk.
    pub fn needs_restart(&self) -> bool {
        match self {
            Error::Store(StoreError::SyncFailed { .. }) => true,
            Error::Pool { source, .. } => {
                matches!(source.as_ref(), PoolError::Store(StoreError::SyncFailed { .. }))
            }
            Error::Template { source, .. } => source.needs_restart(),
            Error::Undo { source, undo } => source.needs_restart() || undo.needs_restart(),
            _ => false,
        }
    }

    /// Whether the configuration asks for something that can never be made, whatever the state of
    /// the pool and the host.
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            Error::TooLarge { .. } => true,
            Error::Fs { source, .. } => {
                matches!(
                    source.as_ref(),
                    FsError::StrayArgument { .. } | FsError::OptionWithoutValue { .. }
                )
            }
            Error::Template { source, .. } => source.is_misconfiguration(),
            Error::Undo { source, .. } => source.is_misconfiguration(),
            _ => false,
        }
    }

    /// Whether the caller asks for a size that the pool or the file system does not allow.
    pub fn is_wrong_size(&self) -> bool {
        match self {
            Error::TooLarge { .. } => true,
            Error::Fs { source, .. } => matches!(source.as_ref(), FsError::TooManyGroups { .. }),
            _ => false,
        }
    }

    /// Whether free space is missing on the pool, on the file system below it, or on that of the
    /// database.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Pool { source, .. } => source.is_full(),
            Error::Fs { source, .. } => source.is_no_space(),
            Error::Block { source, .. } => source.is_no_space(),
            Error::NoSpace { .. } => true,
            Error::Template { source, .. } => source.is_full(),
            Error::Undo { source, .. } => source.is_full(),
            Error::Store(source) => source.is_no_space(),
            _ => false,
        }
    }

    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }
}

/// The store's refusals are about keys, and become this module's own.
impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { key } => Error::NotFound { key },
            StoreError::NoParent { key } => Error::ParentNotFound { parent: key },
            StoreError::AlreadyExists { key } => Error::AlreadyExists { key },
            StoreError::NotCommitted { key, .. } => Error::ParentNotCommitted { parent: key },
            StoreError::ParentChanged { key, parent } => Error::ParentChanged { key, parent },
            StoreError::HasChildren { key, child } => Error::HasChildren { key, child },
            other => Error::Store(other),
        }
    }
}

/// Adds to an error of a lower module what it was about and which step failed.
pub trait During<T> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, PoolError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Pool {
            subject: subject.into(),
            step,
            source: Box::new(source),
        })
    }
}

impl<T> During<T> for Result<T, FsError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Fs { subject: subject.into(), step, source: Box::new(source) })
    }
}

impl<T> During<T> for Result<T, BlockError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Block {
            subject: subject.into(),
            step,
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_parent_is_told_in_one_text_whatever_finds_out() {
        let by_look = Error::ParentNotFound { parent: "p".into() }.to_string();
        assert_eq!(Error::from(StoreError::NoParent { key: "p".into() }).to_string(), by_look);
        assert_eq!(by_look, "parent snapshot \"p\" does not exist");
    }

    fn failed(subject: impl Into<Subject>, step: &'static str) -> Error {
        Err::<(), _>(PoolError::NoIds).during(subject, step).unwrap_err()
    }

    #[test]
    fn a_failed_step_names_what_it_was_about() {
        let cause = PoolError::NoIds.to_string();
        for (error, begin) in [
            (failed("a", "cannot be grown"), "snapshot \"a\" cannot be grown: "),
            (
                failed(Subject::Device("p-snap-1".into()), "cannot be opened"),
                "device p-snap-1 cannot be opened: ",
            ),
            (failed(Subject::Template, "has no thin"), "the template has no thin: "),
            (failed(Subject::Start, "failed"), "the start failed: "),
            (failed(Subject::Check, "failed"), "the check failed: "),
            (failed(Subject::Look, "failed"), "the look at the pool failed: "),
        ] {
            assert_eq!(error.to_string(), format!("{begin}{cause}"));
        }
        let source = Arc::new(failed(Subject::Template, "cannot be formatted"));
        let error = Error::Template { what: "ext4 of 10.0 GiB".into(), source }.to_string();
        assert!(error.starts_with("the template for ext4 of 10.0 GiB, "), "{error}");
        assert!(!error.contains("snapshot \""), "{error}");
    }

    #[test]
    fn each_error_names_the_snapshot_the_parent_or_the_pool() {
        let key = || "default/1/a".to_string();
        let (asked, most) = (Sectors(4 << 21), Sectors(2 << 21));
        let (undo, source) = (failed("b", "left a thin behind"), failed("b", "cannot be grown"));
        for (error, parts) in [
            (Error::NotFound { key: key() }, &["snapshot \"default/1/a\" does not exist"][..]),
            (Error::AlreadyExists { key: key() }, &["snapshot \"default/1/a\" exists already"]),
            (Error::ParentNotCommitted { parent: key() }, &["parent snapshot \"default/1/a\""]),
            (
                Error::NotActive { key: key(), kind: "a view", what: "it cannot be committed" },
                &["\"default/1/a\" is a view, not active: it cannot be committed"],
            ),
            (
                Error::HasChildren { key: key(), child: "b".into() },
                &["snapshot \"default/1/a\" has children, \"b\""],
            ),
            (
                Error::Incomplete { key: key(), pool: "p".into() },
                &["\"default/1/a\" cannot be committed", "pool p has refused writes"],
            ),
            (
                Error::ErrorsNoted { key: key(), pool: "p".into(), errors: Default::default() },
                &["\"default/1/a\" cannot be committed", "disks below pool p"],
            ),
            (Error::Rebase { key: key() }, &["snapshot \"default/1/a\"", "rebase"]),
            (
                Error::TooLarge { what: "snapshot \"a\"".into(), asked, most, why: "why".into() },
                &["snapshot \"a\" cannot have 4.0 GiB: why. 2.0 GiB fits"],
            ),
            (
                Error::NoSpace { pool: "p".into(), needed: 2048, free: 1024 },
                &["2.0 KiB of pool p, which has 1.0 KiB free"],
            ),
            (
                Error::ParentChanged { key: key(), parent: "q".into() },
                &["parent snapshot \"q\"", "snapshot \"default/1/a\""],
            ),
            (Error::invalid("an empty key", "why"), &["an empty key is not allowed: why"]),
            (
                Error::Undo { source: source.into(), undo: undo.into() },
                &["snapshot \"b\" cannot be grown", "failed as well: snapshot \"b\" left a thin"],
            ),
            (Error::Store(StoreError::NotFound { key: key() }), &["the snapshot database: "]),
        ] {
            let error = error.to_string();
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
        }
    }
}

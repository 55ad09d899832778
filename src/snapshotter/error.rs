//! Why a call on a snapshot was refused or failed; the gRPC room turns each into a status, once.

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
    Snapshot(String),
    /// The template that is being made; the error around this one says which.
    Template,
    /// A device, by its device-mapper name.
    Device(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Snapshot(key) => write!(f, "snapshot {key:?}"),
            Subject::Template => write!(f, "it"),
            Subject::Device(name) => write!(f, "device {name}"),
        }
    }
}

impl From<&str> for Subject {
    fn from(key: &str) -> Self {
        Subject::Snapshot(key.into())
    }
}

impl From<&String> for Subject {
    fn from(key: &String) -> Self {
        Subject::Snapshot(key.clone())
    }
}

/// What a caller gets in place of an answer.
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
    #[error("snapshot {key:?} cannot be committed: since it was made, pool {pool} has refused writes, or may have (it was full, on a full file system, or had failed), and whoever writes hears of that only if they sync. It may not hold all that was written to it: remove it, and make it again once there is room")]
    Incomplete { key: String, pool: String },
    #[error("snapshot {key:?} cannot be committed: its file system met errors while it was mounted ({errors}), so that something written to it may be lost or damaged, as on a failing disk. Nothing was changed; the kernel's log tells more. Look after the disks below pool {pool}, remove the snapshot and make it again")]
    ErrorsNoted { key: String, pool: String, errors: NotedErrors },
    #[error("snapshot {key:?} is a layer that came without the layers below it: containerd was told that this snapshotter can put them together later, which it cannot. Take \"rebase\" out of the capabilities of the plugin in containerd's configuration (proxy_plugins.NAME.capabilities), restart containerd and pull again")]
    Rebase { key: String },
    #[error("{what} cannot have {}: {why}. {} fits", asked.to_text(), most.to_text())]
    TooLarge { what: String, asked: Sectors, most: Sectors, why: String },
    #[error("it takes up to {} of pool {pool}, which has {} free: the pool is full. Remove images or containers, or give it more room; it is made as soon as it can be", Sectors(needed / 512).to_text(), Sectors(free / 512).to_text())]
    NoRoom { pool: String, needed: u64, free: u64 },
    #[error("parent snapshot {parent:?} was removed and made anew while snapshot {key:?} was made on it; try again")]
    ParentChanged { key: String, parent: String },
    #[error("{what} is not allowed: {why}")]
    Invalid { what: String, why: String },
    #[error("{key} {step}: {source}")]
    Pool { key: Subject, step: &'static str, source: Box<PoolError> },
    #[error("{key} {step}: {source}")]
    Fs { key: Subject, step: &'static str, source: Box<FsError> },
    #[error("{key} {step}: {source}")]
    Block { key: Subject, step: &'static str, source: Box<BlockError> },
    #[error("the template for {what}, which snapshots without a parent are made from, cannot be made: {source}")]
    Template { what: String, source: Arc<Error> },
    #[error("{source}; and undoing it failed as well: {undo}")]
    Undo { source: Box<Error>, undo: Box<Error> },
    /// About the pool or a device of it, which the message names, and about no snapshot: at a
    /// start, a check, a scrape.
    #[error("{0}")]
    Start(#[source] Box<PoolError>),
    #[error("the snapshot database: {0}")]
    Store(StoreError),
}

impl Error {
    /// An error that is about no snapshot.
    pub fn start(source: PoolError) -> Self {
        Error::Start(Box::new(source))
    }

    /// The database cannot say any more what is on disk; only opening it again can.
    pub fn needs_restart(&self) -> bool {
        match self {
            Error::Store(StoreError::SyncFailed { .. }) => true,
            Error::Pool { source, .. } | Error::Start(source) => {
                matches!(source.as_ref(), PoolError::Store(StoreError::SyncFailed { .. }))
            }
            Error::Template { source, .. } => source.needs_restart(),
            Error::Undo { source, undo } => source.needs_restart() || undo.needs_restart(),
            _ => false,
        }
    }

    /// The configuration asks for what can never be had, whatever the state of pool and host.
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

    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// There is no room for it, on the pool, its host file system or the database's.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Pool { source, .. } => source.is_full(),
            Error::Fs { source, .. } => source.is_no_space(),
            Error::Block { source, .. } => source.is_no_space(),
            Error::NoRoom { .. } => true,
            Error::Template { source, .. } => source.is_full(),
            Error::Undo { source, .. } => source.is_full(),
            Error::Store(source) => source.is_no_space(),
            _ => false,
        }
    }
}

/// The store's own refusals are about keys, and are passed on as such.
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

/// Names the snapshot, or the other thing, and the step that a lower room's error belongs to.
pub trait During<T> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, PoolError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Pool { key: subject.into(), step, source: Box::new(source) })
    }
}

impl<T> During<T> for Result<T, FsError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Fs { key: subject.into(), step, source: Box::new(source) })
    }
}

impl<T> During<T> for Result<T, BlockError> {
    fn during(self, subject: impl Into<Subject>, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Block { key: subject.into(), step, source: Box::new(source) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_parent_is_told_in_one_text_whoever_found_out() {
        let by_look = Error::ParentNotFound { parent: "p".into() }.to_string();
        assert_eq!(Error::from(StoreError::NoParent { key: "p".into() }).to_string(), by_look);
        assert_eq!(by_look, "parent snapshot \"p\" does not exist");
    }

    #[test]
    fn an_error_names_what_it_is_about() {
        let step = |subject: Subject| {
            let failed: Result<(), _> = Err(PoolError::NoIds);
            failed.during(subject, "cannot be formatted").unwrap_err()
        };
        assert!(step("a".into()).to_string().starts_with("snapshot \"a\" cannot be formatted: "));
        assert!(step(Subject::Device("p-snap-1".into()))
            .to_string()
            .starts_with("device p-snap-1 cannot"));
        let template = Error::Template {
            what: "ext4 of 10.0 GiB".into(),
            source: Arc::new(step(Subject::Template)),
        };
        let said = template.to_string();
        assert!(
            said.contains("ext4 of 10.0 GiB")
                && said.contains("made: it cannot be formatted: ")
                && !said.contains("snapshot \""),
            "{said}"
        );
        // Whatever looks at the pool may fail: a scrape, a check, a cleanup, and not a start alone.
        assert_eq!(Error::start(PoolError::NoIds).to_string(), PoolError::NoIds.to_string());
    }
}

//! Why a call on a snapshot was refused or failed; the gRPC room turns each into a status, once.

use std::sync::Arc;

use crate::block::BlockError;
use crate::fs::FsError;
use crate::pool::PoolError;
use crate::store::StoreError;
use crate::units::Sectors;

/// What a caller gets in place of an answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot {key:?} does not exist")]
    NotFound { key: String },
    #[error("parent snapshot {parent:?} does not exist")]
    ParentNotFound { parent: String },
    #[error("snapshot {key:?} exists already")]
    AlreadyExists { key: String },
    #[error("parent snapshot {parent:?} is not committed; commit it first, or name a committed one")]
    ParentNotCommitted { parent: String },
    #[error("snapshot {key:?} is {kind}, not active: {what}")]
    NotActive { key: String, kind: &'static str, what: &'static str },
    #[error("snapshot {key:?} has children, {child:?} among them; remove those first")]
    HasChildren { key: String, child: String },
    #[error("snapshot {key:?} cannot be committed: since it was made, pool {pool} has refused writes, or may have (it was full, on a full file system, or had failed), and whoever writes hears of that only if they sync. It may not hold all that was written to it: remove it, and make it again once there is room")]
    Incomplete { key: String, pool: String },
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
    #[error("snapshot {key:?} {step}: {source}")]
    Pool { key: String, step: &'static str, source: Box<PoolError> },
    #[error("snapshot {key:?} {step}: {source}")]
    Fs { key: String, step: &'static str, source: Box<FsError> },
    #[error("snapshot {key:?} {step}: {source}")]
    Block { key: String, step: &'static str, source: Box<BlockError> },
    #[error("the template for {what}, which every layer without a parent is made of, cannot be made: {source}")]
    Template { what: String, source: Arc<Error> },
    #[error("{source}; and undoing it failed as well: {undo}")]
    Undo { source: Box<Error>, undo: Box<Error> },
    #[error("the daemon cannot start on this pool: {0}")]
    Start(#[source] Box<PoolError>),
    #[error("the snapshot database: {0}")]
    Store(StoreError),
}

impl Error {
    /// The pool is not fit to start on.
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
                matches!(source.as_ref(), FsError::StrayArgument { .. } | FsError::OptionWithoutValue { .. })
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
            StoreError::AlreadyExists { key } => Error::AlreadyExists { key },
            StoreError::NotCommitted { key, .. } => Error::ParentNotCommitted { parent: key },
            StoreError::ParentChanged { key, parent } => Error::ParentChanged { key, parent },
            StoreError::HasChildren { key, child } => Error::HasChildren { key, child },
            other => Error::Store(other),
        }
    }
}

/// Names the snapshot and the step that a lower room's error belongs to.
pub trait During<T> {
    fn during(self, key: &str, step: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, PoolError> {
    fn during(self, key: &str, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Pool { key: key.into(), step, source: Box::new(source) })
    }
}

impl<T> During<T> for Result<T, FsError> {
    fn during(self, key: &str, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Fs { key: key.into(), step, source: Box::new(source) })
    }
}

impl<T> During<T> for Result<T, BlockError> {
    fn during(self, key: &str, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Block { key: key.into(), step, source: Box::new(source) })
    }
}

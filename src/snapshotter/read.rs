//! Stat and List: what the database has of snapshots.

use std::time::SystemTime;

use super::labels::check_key;
use super::{Error, Labels, Snapshotter};
use crate::store::{Kind, SnapshotRecord};

/// A snapshot as containerd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub key: String,
    pub kind: Kind,
    pub parent: Option<String>,
    pub labels: Labels,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

impl Info {
    pub(super) fn new(key: String, record: SnapshotRecord) -> Self {
        let SnapshotRecord { kind, parent, labels, created_at, updated_at, .. } = record;
        Info { key, kind, parent, labels, created_at, updated_at }
    }
}

impl Snapshotter {
    pub fn stat(&self, key: &str) -> Result<Info, Error> {
        check_key("key", key)?;
        Ok(Info::new(key.into(), self.shared.find(key)?))
    }

    /// Up to `most` snapshots in the order of their keys, beginning with the first key greater than
    /// `after`. No database transaction stays open between two pages.
    pub fn page(&self, after: Option<&str>, most: usize) -> Result<Vec<Info>, Error> {
        let page = self.shared.store.read(|r| r.page(after, most))?;
        Ok(page.into_iter().map(|(key, record)| Info::new(key, record)).collect())
    }
}

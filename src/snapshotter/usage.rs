//! Usage: the space of the pool that a snapshot takes beyond its parent's.

use super::error::During;
use super::labels::check_key;
use super::record::{fs_type, role};
use super::shared::Shared;
use super::templates::empty_inodes;
use super::{Error, Snapshotter};
use crate::store::{Kind, SnapshotRecord};

/// What a snapshot takes beyond what its parent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the pool that are mapped.
    pub bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

impl Snapshotter {
    /// What the snapshot takes beyond what its parent takes. A view takes nothing.
    pub fn usage(&self, key: &str) -> Result<Usage, Error> {
        check_key("key", key)?;
        let _lock = self.locks.lock(&[key]);
        let record = self.shared.find(key)?;
        match record.kind {
            Kind::View => Ok(Usage::default()),
            Kind::Committed => self.shared.beyond_parent(
                &record,
                record.mapped.unwrap_or(0),
                record.inodes.unwrap_or(0),
            ),
            Kind::Active => self.shared.active_usage(key, &record),
        }
    }
}

impl Shared {
    /// These figures less those of the parent. The blocks of an empty file system count for the
    /// layer that was made from the template.
    fn beyond_parent(
        &self,
        record: &SnapshotRecord,
        mapped: u64,
        inodes: u64,
    ) -> Result<Usage, Error> {
        let (mapped_below, inodes_below) = match &record.parent {
            Some(parent) => {
                let parent = self.parent(parent)?;
                (parent.mapped.unwrap_or(0), parent.inodes.unwrap_or(0))
            }
            None => (0, empty_inodes(self, record)?),
        };
        Ok(Usage {
            bytes: mapped.saturating_sub(mapped_below),
            inodes: inodes.saturating_sub(inodes_below),
        })
    }

    fn active_usage(&self, key: &str, record: &SnapshotRecord) -> Result<Usage, Error> {
        const STEP: &str = "cannot be measured";
        self.ensure_active(key, record)?;
        let mapped = self.pool.mapped(role(record)).during(key, STEP)?;
        let node = self.pool.node(role(record));
        let state = self.formatter.inspect(&node, fs_type(&record.fs)?).during(key, STEP)?;
        self.beyond_parent(record, mapped, state.used_inodes)
    }
}

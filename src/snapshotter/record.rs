//! What follows from the record of a snapshot: its device, its file system, and what is left to do
//! when it is removed.

use std::time::SystemTime;

use super::Error;
use crate::fs::FsType;
use crate::pool::Role;
use crate::store::{Kind, ReclaimKind, ReclaimRecord, SnapshotRecord};

/// The role of a snapshot's device. A committed snapshot has a device only until that is
/// deactivated.
pub fn role(record: &SnapshotRecord) -> Role {
    match record.kind {
        Kind::View => Role::View(record.number),
        Kind::Active | Kind::Committed => Role::Snapshot(record.number),
    }
}

/// Reads the file system's type as it is recorded.
pub fn fs_type(name: &str) -> Result<FsType, Error> {
    name.parse::<FsType>()
        .map_err(|error| Error::invalid(format!("file system {name:?}"), error.to_string()))
}

/// What the reclaimer has to do for a snapshot that is removed.
pub fn reclaim_of(key: &str, record: &SnapshotRecord) -> ReclaimRecord {
    let kind = match record.owned_thin() {
        Some(thin) => ReclaimKind::Thin(thin),
        None => ReclaimKind::View { of: record.thin },
    };
    ReclaimRecord {
        number: record.number,
        kind,
        size: record.size,
        key: key.into(),
        since: SystemTime::now(),
    }
}

//! Records and stores to test with.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::store::{
    Changes, Kind, Ownership, ParentRef, ReclaimKind, ReclaimRecord, SnapshotRecord, Store,
    StoreError, TemplateKey, TemplateRecord,
};
use crate::units::{Sectors, ThinId};

/// A store in a temporary directory.
pub struct Fixture {
    pub store: Store,
    pub directory: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        Fixture { store, directory }
    }

    /// Closes the store and opens it again.
    pub fn reopen(self) -> Self {
        let Fixture { store, directory } = self;
        drop(store);
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        Fixture { store, directory }
    }
}

/// Commits a change that must not be refused.
pub fn commit<T>(
    store: &Store,
    change: impl FnOnce(&mut Changes<'_>) -> Result<T, StoreError> + Send,
) -> T {
    store.commit(change).unwrap()
}

/// Commits a change that must be refused, and returns why.
pub fn refused<T: std::fmt::Debug>(
    store: &Store,
    change: impl FnOnce(&mut Changes<'_>) -> Result<T, StoreError> + Send,
) -> StoreError {
    store.commit(change).unwrap_err()
}

pub fn thin(id: u32) -> ThinId {
    ThinId::new(id).unwrap()
}

pub fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000 + seconds, 123_456_789)
}

/// The thin that every view shows.
pub const SHOWN: u32 = 1;

/// A snapshot whose number and thin id are the same. A view shows [`SHOWN`].
pub fn snapshot(number: u32, kind: Kind, parent: Option<&str>) -> SnapshotRecord {
    SnapshotRecord {
        number: number.into(),
        kind,
        parent: parent.map(str::to_owned),
        thin: thin(if kind == Kind::View { SHOWN } else { number }),
        size: Sectors(20_971_520),
        fs: "ext4".to_owned(),
        labels: BTreeMap::from([("a.b/c".to_owned(), "with \"quotes\"".to_owned())]),
        created_at: time(1),
        updated_at: time(2),
        mapped: None,
        inodes: None,
        made_at: None,
        ownership: Ownership::Stored,
    }
}

/// Adds a snapshot on the parent that is on record now.
pub fn add(c: &mut Changes<'_>, key: &str, record: &SnapshotRecord) -> Result<(), StoreError> {
    let parent = match &record.parent {
        Some(parent) => {
            let found = c
                .find_snapshot(parent)?
                .ok_or_else(|| StoreError::NoParent { key: parent.clone() })?;
            Some(ParentRef::new(parent, &found))
        }
        None => None,
    };
    c.insert_snapshot(key, record, parent.as_ref())
}

pub fn committed(number: u32, parent: Option<&str>) -> SnapshotRecord {
    snapshot(number, Kind::Committed, parent)
}

pub fn active(number: u32, parent: Option<&str>) -> SnapshotRecord {
    snapshot(number, Kind::Active, parent)
}

pub fn template_key(fs: &str, size: u64) -> TemplateKey {
    TemplateKey { fs: fs.to_owned(), options: "0f3a".to_owned(), size: Sectors(size) }
}

pub fn template(number: u32) -> TemplateRecord {
    TemplateRecord {
        number: number.into(),
        thin: thin(number),
        size: Sectors(2048),
        mapped: None,
        inodes: None,
        created_at: time(3),
    }
}

pub fn reclaim(number: u32) -> ReclaimRecord {
    ReclaimRecord {
        number: number.into(),
        kind: ReclaimKind::Thin(thin(number)),
        size: Sectors(4096),
        key: format!("gone-{number}"),
        since: time(4),
    }
}

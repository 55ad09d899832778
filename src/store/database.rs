//! redb itself: opening the file, checking its schema version, reading from a snapshot of it and
//! writing an overlay to it in one durable transaction.
//!
//! A new file is made beside its final name and linked to it once it is complete, so that a crash
//! never leaves half a database under the name that counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition};

use super::backend::Counted;
use super::error::StoreError;
use super::overlay::Overlay;
use super::tables::{meta, Table};

/// The schema that this program writes. Raise it when an older program would misread a record.
pub(super) const SCHEMA: u32 = 1;

/// What redb may keep in memory. A node's records are a few megabytes at the most.
const CACHE_BYTES: usize = 4 << 20;

type Entry = (Vec<u8>, Vec<u8>);

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// An open database.
pub(super) struct Database {
    redb: redb::Database,
    path: Arc<Path>,
    syncs: Arc<AtomicU64>,
}

impl Database {
    /// Opens the file, or makes it where there is none.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_redb("opening", path, redb::Error::Io(error));
        if !path.try_exists().map_err(failed)? {
            create(path)?;
        }
        let file = open_file(path, false).map_err(failed)?;
        Self::from_file(file, path)
    }

    fn from_file(file: File, path: &Path) -> Result<Self, StoreError> {
        let backend = FileBackend::new(file)
            .map_err(|error| StoreError::from_redb("opening", path, error.into()))?;
        Self::with_backend(backend, path)
    }

    /// Opens what lies on a backend; `path` is what messages call it.
    pub(super) fn with_backend(
        backend: impl StorageBackend,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let syncs = Arc::new(AtomicU64::new(0));
        let backend = Counted::new(backend, Arc::clone(&syncs));
        let database = Database {
            redb: open_checked(backend, path)?,
            path: path.into(),
            syncs,
        };
        database.check_schema()?;
        Ok(database)
    }

    /// What messages call the database.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How often the backend was told to sync since it was opened.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// A view of what is on disk now, which later commits don't change.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self
            .redb
            .begin_read()
            .map_err(|error| StoreError::from_redb("reading", &self.path, error.into()))?;
        Ok(Snapshot {
            transaction,
            path: Arc::clone(&self.path),
        })
    }

    /// Writes an overlay in one transaction. When this returns without an error it is on disk.
    pub(super) fn apply(&self, overlay: Overlay) -> Result<(), StoreError> {
        self.write(overlay)
            .map_err(|error| StoreError::from_redb("committing to", &self.path, error))
    }

    fn write(&self, overlay: Overlay) -> Result<(), redb::Error> {
        let transaction = self.redb.begin_write()?;
        for (table, entries) in overlay.into_tables() {
            let mut table = transaction.open_table(definition(table))?;
            for (key, fate) in entries {
                match fate {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn check_schema(&self) -> Result<(), StoreError> {
        let found = self
            .schema()
            .map_err(|error| StoreError::from_redb("reading", &self.path, error))?;
        let Some(bytes) = found else {
            return self
                .make_tables()
                .map_err(|error| StoreError::from_redb("preparing", &self.path, error));
        };
        let found = serde_json::from_slice(&bytes).map_err(|error| StoreError::Corrupted {
            path: self.path.to_path_buf(),
            reason: format!("schema version: {error}"),
        })?;
        match found {
            SCHEMA => Ok(()),
            _ => Err(StoreError::NewerSchema {
                path: self.path.to_path_buf(),
                found,
                known: SCHEMA,
            }),
        }
    }

    /// The schema version as it is in the file; none in a file without tables.
    fn schema(&self) -> Result<Option<Vec<u8>>, redb::Error> {
        let transaction = self.redb.begin_read()?;
        if transaction.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let table = match transaction.open_table(definition(Table::Meta)) {
            Ok(table) => table,
            Err(redb::TableError::Storage(error)) => return Err(error.into()),
            Err(error) => return Err(redb::Error::Corrupted(error.to_string())),
        };
        match table.get(meta::SCHEMA)? {
            Some(version) => Ok(Some(version.value().to_vec())),
            None => Err(redb::Error::Corrupted("no schema version".to_owned())),
        }
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.redb.begin_write()?;
        for table in Table::ALL {
            transaction.open_table(definition(table))?;
        }
        transaction
            .open_table(definition(Table::Meta))?
            .insert(meta::SCHEMA, SCHEMA.to_string().as_bytes())?;
        Ok(transaction.commit()?)
    }
}

/// Opens with every checksum checked, so that a damaged file is refused now rather than found out
/// in the middle of some operation. redb can panic on damage that it does not expect.
fn open_checked(backend: impl StorageBackend, path: &Path) -> Result<redb::Database, StoreError> {
    let open = AssertUnwindSafe(|| {
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
    });
    match catch_unwind(open) {
        Ok(opened) => opened.map_err(|error| StoreError::from_redb("opening", path, error.into())),
        Err(_) => Err(StoreError::Corrupted {
            path: path.to_owned(),
            reason: "it does not hold together".to_owned(),
        }),
    }
}

fn open_file(path: &Path, fresh: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(fresh)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes a complete, empty database under `path`. What a crash left of an earlier attempt is
/// overwritten; a file that somebody else has put there meanwhile stays.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_redb("creating", path, redb::Error::Io(error));
    let draft = draft_of(path);
    let file = open_file(&draft, true).map_err(failed)?;
    file.try_lock().map_err(|_| StoreError::InUse {
        path: path.to_owned(),
    })?;
    file.set_len(0).map_err(failed)?;
    drop(file);
    drop(Database::from_file(
        open_file(&draft, true).map_err(failed)?,
        path,
    )?);
    link(&draft, path).map_err(failed)
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Gives the draft its name without replacing anything, and makes the name durable.
fn link(draft: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(draft, path) {
        Ok(()) => std::fs::remove_file(draft)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::remove_file(draft)?,
        Err(_) => std::fs::rename(draft, path)?,
    }
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A view of the database as it was at one moment.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    path: Arc<Path>,
}

impl Snapshot {
    /// The value under a key.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.transaction.open_table(definition(table))?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|error| self.failed(error))
    }

    /// A range of a table in the order of its keys, read as the iterator goes on.
    pub(super) fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<impl Iterator<Item = Result<Entry, StoreError>> + '_, StoreError> {
        let open = || -> Result<_, redb::Error> {
            let table = self.transaction.open_table(definition(table))?;
            Ok(table.range::<&[u8]>(range)?)
        };
        let entries = open().map_err(|error| self.failed(error))?;
        Ok(entries.map(|entry| match entry {
            Ok((key, value)) => Ok((key.value().to_vec(), value.value().to_vec())),
            Err(error) => Err(self.failed(error.into())),
        }))
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        StoreError::from_redb("reading", &self.path, error)
    }
}

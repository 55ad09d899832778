//! redb: opens the file, checks its schema version, reads in a read transaction, and writes an
//! overlay in one durable write transaction.

use std::io;
use std::ops::Bound;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::backend::{Watch, Watched};
use super::error::StoreError;
use super::file;
use super::overlay::Overlay;
use super::tables::{meta, Table};
use super::tally::{self, Count, ReadOnlyTally, Tally, TallyFile};
use crate::failpoint;

/// The schema version that this program writes. Increase it when an older program would misread a
/// record.
pub(super) const SCHEMA: u32 = 1;

/// The size of redb's cache. A node's records are a few megabytes at most.
const CACHE_BYTES: usize = 4 << 20;

type Entry = (Vec<u8>, Vec<u8>);

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Opens redb. Called again after a failure, when redb refuses all further calls.
type Opener = Box<dyn Fn(Arc<Watch>) -> Result<redb::Database, StoreError> + Send + Sync>;

/// An open database.
///
/// After a failed read or write, redb refuses all calls until the file is opened again. The next
/// use opens it again, so that no restart is needed after the disk was full. A failed sync is
/// different: the kernel may have dropped the writes and still show them, so reads cannot be
/// trusted. Then all further use is refused.
pub(super) struct Database {
    /// `None` after it could not be opened again.
    redb: RwLock<Option<redb::Database>>,
    opener: Opener,
    path: Arc<Path>,
    watch: Arc<Watch>,
    failed: Arc<AtomicBool>,
    tally: Option<Box<dyn Tally>>,
    tally_failed: AtomicBool,
    /// The number of the last commit that was acknowledged, in this run or before.
    acknowledged: AtomicU64,
    /// Set if the file lacks acknowledged commits since it was opened. Then it can be read, and
    /// refuses all commits.
    behind: Option<StoreError>,
}

impl Database {
    /// Opens an existing file and compares it with its tally.
    pub(super) fn open(path: &Path, tally: Option<Box<dyn Tally>>) -> Result<Self, StoreError> {
        let name = path.to_owned();
        let opener = move |watch| {
            let file = file::open(&name).map_err(redb::Error::Io);
            let backend = file.and_then(|file| Ok(FileBackend::new(file)?));
            let backend = backend.map_err(|e| StoreError::from_redb("opening", &name, e))?;
            open_checked(Watched::in_file(backend, watch, &name), &name)
        };
        Self::with_opener(Box::new(opener), path, tally)
    }

    /// Opens a copy in memory of a file that no process has open. redb can verify checksums, and
    /// open a file that was not properly closed, only for writing; so the file itself cannot be
    /// used.
    pub(super) fn open_copy(path: &Path) -> Result<Self, StoreError> {
        let bytes = file::read_unused(path)?;
        let backend = move || {
            let memory = InMemoryBackend::new();
            memory.set_len(bytes.len() as u64)?;
            memory.write(0, &bytes)?;
            Ok(memory)
        };
        Self::with_backends(backend, path, Some(Box::new(ReadOnlyTally(TallyFile::of(path)))))
    }

    /// Opens the database on the storage that `backend` gives. `path` is its name in messages.
    pub(super) fn with_backends<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
        path: &Path,
        tally: Option<Box<dyn Tally>>,
    ) -> Result<Self, StoreError> {
        let name = path.to_owned();
        let opener = move |watch| {
            let backend =
                backend().map_err(|error| StoreError::from_redb("opening", &name, error.into()))?;
            open_checked(Watched::new(backend, watch), &name)
        };
        Self::with_opener(Box::new(opener), path, tally)
    }

    fn with_opener(
        opener: Opener,
        path: &Path,
        tally: Option<Box<dyn Tally>>,
    ) -> Result<Self, StoreError> {
        let watch = Arc::new(Watch::default());
        let redb = opener(Arc::clone(&watch))?;
        let mut database = Database {
            redb: RwLock::new(Some(redb)),
            opener,
            path: path.into(),
            watch,
            failed: Arc::new(AtomicBool::new(false)),
            tally,
            tally_failed: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            behind: None,
        };
        database.check_schema()?;
        database.compare()?;
        Ok(database)
    }

    /// Compares the number of the newest commit with the tally.
    fn compare(&mut self) -> Result<(), StoreError> {
        let count = self.with_redb("reading", count)?;
        let found = count.map_or(0, |count| count.number);
        let tally = self.tally.as_deref();
        let known = tally
            .map_or(Ok(0), |tally| tally::acknowledged(tally, count.map(|count| count.database)));
        let known = known.unwrap_or_else(|error| {
            let path = self.path.display();
            tracing::warn!(
                %path, %error,
                "the number of acknowledged commits cannot be read; lost commits of the database \
                 would not be noticed"
            );
            0
        });
        self.acknowledged.store(known.max(found), Ordering::SeqCst);
        self.behind = (found < known).then(|| self.behind(found));
        if let Some(error) = &self.behind {
            tracing::error!("{error}");
        }
        Ok(())
    }

    fn behind(&self, found: u64) -> StoreError {
        let tally = self.tally.as_ref().map_or_else(|| "(none)".into(), |tally| tally.name());
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        StoreError::Behind { path: self.path.to_path_buf(), found, acknowledged, tally }
    }

    /// Refuses a database that lacks acknowledged commits.
    pub(super) fn check_complete(&self) -> Result<(), StoreError> {
        self.behind.clone().map_or(Ok(()), Err)
    }

    /// The name of the database in messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of syncs since the database was opened.
    pub(super) fn syncs(&self) -> u64 {
        self.watch.syncs()
    }

    /// Begins a read transaction. Later commits are not visible in it.
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        let redb = self.with_redb("reading", |redb| Ok(redb.begin_read()?))?;
        Ok(ReadTransaction { redb, path: Arc::clone(&self.path), failed: Arc::clone(&self.failed) })
    }

    /// Writes an overlay in one transaction, which is durable when this returns without an error.
    pub(super) fn apply(&self, overlay: &Overlay) -> Result<(), StoreError> {
        self.check_complete()?;
        failpoint::reach(|| "before a database commit".into());
        let applied = self.with_redb("committing to", |redb| {
            let transaction = redb.begin_write()?;
            for (table, entries) in overlay.tables() {
                let mut table = transaction.open_table(definition(table))?;
                for (key, fate) in entries {
                    match fate {
                        Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                        None => drop(table.remove(key.as_slice())?),
                    }
                }
            }
            let number = count_on(&transaction)?;
            transaction.commit()?;
            Ok(number)
        });
        failpoint::reach(|| "after a database commit".into());
        applied.map(|count| self.note(count))
    }

    /// Writes the number of a durable commit to the tally. If that fails, the tally has a smaller
    /// number, which is never wrong.
    fn note(&self, count: Count) {
        self.acknowledged.store(count.number, Ordering::SeqCst);
        let noted = self.tally.as_deref().map_or(Ok(()), |tally| tally::note(tally, count));
        let failed = noted.is_err();
        if let (Err(error), false) = (noted, self.tally_failed.load(Ordering::SeqCst)) {
            let path = self.path.display();
            tracing::warn!(
                %path, %error,
                "the number of acknowledged commits cannot be written beside the database; lost \
                 commits may not be noticed"
            );
        }
        self.tally_failed.store(failed, Ordering::SeqCst);
    }

    /// Calls `act` with redb, which is opened again first if an earlier call failed.
    fn with_redb<T>(
        &self,
        step: &'static str,
        act: impl FnOnce(&redb::Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.failed.load(Ordering::SeqCst) {
            self.open_again()?;
        }
        let redb = self.redb.read().unwrap_or_else(PoisonError::into_inner);
        let done = match redb.as_ref() {
            Some(redb) => act(redb),
            None => Err(redb::Error::DatabaseClosed),
        };
        done.map_err(|error| {
            self.failed.store(true, Ordering::SeqCst);
            StoreError::from_redb(step, &self.path, error)
        })
    }

    fn open_again(&self) -> Result<(), StoreError> {
        if self.watch.sync_failed() {
            return Err(StoreError::SyncFailed { path: self.path.to_path_buf() });
        }
        let mut redb = self.redb.write().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::SeqCst) {
            // Close it first, because it holds the file's lock.
            *redb = None;
            let opened = (self.opener)(Arc::clone(&self.watch))?;
            let found = count(&opened)
                .map_err(|error| StoreError::from_redb("reading", &self.path, error))?;
            let found = found.map_or(0, |count| count.number);
            if found < self.acknowledged.load(Ordering::SeqCst) && self.behind.is_none() {
                return Err(self.behind(found));
            }
            *redb = Some(opened);
            self.failed.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    fn check_schema(&self) -> Result<(), StoreError> {
        let Some(bytes) = self.with_redb("reading", schema)? else {
            return self.with_redb("preparing", make_tables);
        };
        let found = serde_json::from_slice(&bytes).map_err(|error| StoreError::Corrupted {
            path: self.path.to_path_buf(),
            reason: format!("schema version: {error}"),
        })?;
        match found {
            SCHEMA => Ok(()),
            _ => {
                Err(StoreError::NewerSchema { path: self.path.to_path_buf(), found, known: SCHEMA })
            }
        }
    }
}

/// The bytes of the schema version; `None` in a file without tables.
fn schema(redb: &redb::Database) -> Result<Option<Vec<u8>>, redb::Error> {
    let transaction = redb.begin_read()?;
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

/// The number of the newest commit; `None` in a database that an older program has written.
fn count(redb: &redb::Database) -> Result<Option<Count>, redb::Error> {
    let table = redb.begin_read()?.open_table(definition(Table::Meta))?;
    let bytes = table.get(meta::COMMITS)?.map(|value| value.value().to_vec());
    let wrong =
        || redb::Error::Corrupted("the number of the last commit cannot be read".to_owned());
    bytes.map(|bytes| Count::from_bytes(&bytes).ok_or_else(wrong)).transpose()
}

/// Writes the number of this commit into the database.
fn count_on(transaction: &redb::WriteTransaction) -> Result<Count, redb::Error> {
    let mut table = transaction.open_table(definition(Table::Meta))?;
    let last = table.get(meta::COMMITS)?.and_then(|value| Count::from_bytes(value.value()));
    let count = last.map_or_else(Count::first, Count::next);
    table.insert(meta::COMMITS, count.to_bytes().as_slice())?;
    Ok(count)
}

fn make_tables(redb: &redb::Database) -> Result<(), redb::Error> {
    let transaction = redb.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(definition(table))?;
    }
    transaction
        .open_table(definition(Table::Meta))?
        .insert(meta::SCHEMA, SCHEMA.to_string().as_bytes())?;
    count_on(&transaction)?;
    Ok(transaction.commit()?)
}

/// Opens redb and verifies all checksums, so that a damaged file is refused now and not in a later
/// operation. redb can panic on unexpected damage.
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
            reason: "its structure is inconsistent".to_owned(),
        }),
    }
}

/// A read transaction: the database as it was when the transaction began.
pub(super) struct ReadTransaction {
    redb: redb::ReadTransaction,
    path: Arc<Path>,
    failed: Arc<AtomicBool>,
}

impl ReadTransaction {
    /// The value under a key.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.redb.open_table(definition(table))?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|error| self.failed(error))
    }

    /// The entries of a range in the order of their keys, read as the iterator advances.
    pub(super) fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<impl Iterator<Item = Result<Entry, StoreError>> + '_, StoreError> {
        let open = || -> Result<_, redb::Error> {
            let table = self.redb.open_table(definition(table))?;
            Ok(table.range::<&[u8]>(range)?)
        };
        let entries = open().map_err(|error| self.failed(error))?;
        Ok(entries.map(|entry| match entry {
            Ok((key, value)) => Ok((key.value().to_vec(), value.value().to_vec())),
            Err(error) => Err(self.failed(error.into())),
        }))
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        self.failed.store(true, Ordering::SeqCst);
        StoreError::from_redb("reading", &self.path, error)
    }
}

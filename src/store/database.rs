//! redb itself: opening the file, checking its schema version, reading from a snapshot of it and
//! writing an overlay to it in one durable transaction.

use std::io;
use std::ops::Bound;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};

use super::backend::{Watch, Watched};
use super::error::StoreError;
use super::file;
use super::overlay::Overlay;
use super::tables::{meta, Table};
use super::tally::{self, Count, LookedAt, Tally, TallyFile};
use crate::failpoint;

/// The schema that this program writes. Raise it when an older program would misread a record.
pub(super) const SCHEMA: u32 = 1;

/// What redb may keep in memory. A node's records are a few megabytes at the most.
const CACHE_BYTES: usize = 4 << 20;

type Entry = (Vec<u8>, Vec<u8>);

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Opens redb; asked again when a failure has made redb refuse everything.
type Opener = Box<dyn Fn(Arc<Watch>) -> Result<redb::Database, StoreError> + Send + Sync>;

/// An open database.
///
/// Once a read or a write has failed, redb refuses everything until the file is opened again. That
/// happens here with the next use, so that a disk that was full for a while does not need a
/// restart. A failed sync is different: the kernel may have dropped what was to be written and
/// still show it, so nothing that is read afterwards can be relied upon, and the database stays
/// refused.
pub(super) struct Database {
    /// None after it could not be opened again.
    redb: RwLock<Option<redb::Database>>,
    opener: Opener,
    path: Arc<Path>,
    watch: Arc<Watch>,
    failed: Arc<AtomicBool>,
    tally: Option<Box<dyn Tally>>,
    tally_failed: AtomicBool,
    /// The number of the last commit that was acknowledged, in this run or before.
    acknowledged: AtomicU64,
    /// It is behind that since it was opened: it can be read, and takes no commits.
    behind: Option<StoreError>,
}

impl Database {
    /// Opens a file that exists, and compares it with its tally.
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

    /// Opens a copy in memory of a file that nobody has open. redb opens a file that was not closed
    /// cleanly, and checks the sums of any, only for writing.
    pub(super) fn open_copy(path: &Path) -> Result<Self, StoreError> {
        let bytes = file::read_unused(path)?;
        let backend = move || {
            let memory = InMemoryBackend::new();
            memory.set_len(bytes.len() as u64)?;
            memory.write(0, &bytes)?;
            Ok(memory)
        };
        Self::with_backends(backend, path, Some(Box::new(LookedAt(TallyFile::of(path)))))
    }

    /// Opens what lies on the backend that `backend` gives; `path` is what messages call it.
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

    /// Whether all is there that was acknowledged.
    fn compare(&mut self) -> Result<(), StoreError> {
        let count = self.with_redb("reading", count)?;
        let found = count.map_or(0, |count| count.number);
        let tally = self.tally.as_deref();
        let known = tally
            .map_or(Ok(0), |tally| tally::acknowledged(tally, count.map(|count| count.database)));
        let known = known.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether the database lacks an acknowledged commit cannot be told");
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

    /// Refuses a database that has lost commits that were acknowledged.
    pub(super) fn check_complete(&self) -> Result<(), StoreError> {
        self.behind.clone().map_or(Ok(()), Err)
    }

    /// What messages call the database.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How often the disk was told to sync.
    pub(super) fn syncs(&self) -> u64 {
        self.watch.syncs()
    }

    /// A view of what is on disk now, which later commits don't change.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self.with_redb("reading", |redb| Ok(redb.begin_read()?))?;
        Ok(Snapshot { transaction, path: Arc::clone(&self.path), failed: Arc::clone(&self.failed) })
    }

    /// Writes an overlay in one transaction. When this returns without an error it is on disk.
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

    /// Counts a commit that is on the disk. A tally that cannot be written says less than it could,
    /// and nothing false.
    fn note(&self, count: Count) {
        self.acknowledged.store(count.number, Ordering::SeqCst);
        let noted = self.tally.as_deref().map_or(Ok(()), |tally| tally::note(tally, count));
        let failed = noted.is_err();
        if let (Err(error), false) = (noted, self.tally_failed.load(Ordering::SeqCst)) {
            tracing::warn!(%error, "how many commits the database has cannot be noted beside it; damage may go unnoticed");
        }
        self.tally_failed.store(failed, Ordering::SeqCst);
    }

    /// Does something with redb, opened again first if an earlier failure makes that necessary.
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
            // Closed first: it holds the file's lock.
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

/// The schema version as it is in the file; none in a file without tables.
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

/// The number of the newest commit; none in a database that an older program has written.
fn count(redb: &redb::Database) -> Result<Option<Count>, redb::Error> {
    let table = redb.begin_read()?.open_table(definition(Table::Meta))?;
    let bytes = table.get(meta::COMMITS)?.map(|value| value.value().to_vec());
    let wrong =
        || redb::Error::Corrupted("the number of the last commit makes no sense".to_owned());
    bytes.map(|bytes| Count::from_bytes(&bytes).ok_or_else(wrong)).transpose()
}

/// Gives the commit its number.
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

/// A view of the database as it was at one moment.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    path: Arc<Path>,
    failed: Arc<AtomicBool>,
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
        self.failed.store(true, Ordering::SeqCst);
        StoreError::from_redb("reading", &self.path, error)
    }
}

//! Group commit: the changes of concurrent callers are written to disk in one durable commit.
//!
//! The callers run their changes one after the other, each on its own thread, and add them to the
//! current group. The last caller on the way writes the group to disk, and the others wait for
//! that. A single caller writes at once; no caller is delayed to wait for others. While a group is
//! written, new callers wait and form the next group.
//!
//! Each change has its own overlay. It is merged into the group's overlay only if the change
//! returned `Ok`, and merging cannot fail. So a commit contains nothing of a change that was
//! refused or that panicked.

use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::StorageBackend;

use super::changes::Changes;
use super::create::create_missing;
use super::database::{Database, ReadTransaction};
use super::error::StoreError;
use super::overlay::Overlay;
use super::reader::Reader;
use super::tally::{Tally, TallyFile};

/// The name of a storage without a path, in messages.
const BACKEND: &str = "(backend)";

/// The database. It is shared by reference; every method can be called on any thread.
pub struct Store {
    database: Database,
    gate: Mutex<Gate>,
    /// Notified when a group was written, or could not be written.
    turned: Condvar,
    /// The number of callers on the way: between their arrival and the end of their change.
    arriving: AtomicUsize,
    commits: AtomicU64,
}

/// The state that a new caller finds.
enum Gate {
    /// No group.
    Idle,
    /// A group that it can join.
    Gathering(Box<Group>),
    /// A group that is being written.
    Committing,
}

/// The result of a commit, for all callers of the group.
type Outcome = Arc<OnceLock<Result<(), StoreError>>>;

/// Changes that are written in one commit.
struct Group {
    disk: ReadTransaction,
    changes: Overlay,
    outcome: Outcome,
}

impl Group {
    fn open(database: &Database) -> Result<Self, StoreError> {
        Ok(Group {
            disk: database.begin_read()?,
            changes: Overlay::default(),
            outcome: Outcome::default(),
        })
    }

    /// Runs a change, and merges it into the group if it returned `Ok`.
    fn run<T, E>(
        &mut self,
        change: impl FnOnce(&mut Changes<'_>) -> Result<T, E>,
    ) -> std::thread::Result<Result<T, E>> {
        let mut collected = Changes::new(Reader::new(&self.disk, &self.changes));
        let verdict = catch_unwind(AssertUnwindSafe(|| change(&mut collected)));
        if let Ok(Ok(_)) = &verdict {
            let overlay = collected.into_overlay();
            self.changes.absorb(overlay);
        }
        verdict
    }
}

/// What a caller must do after its change.
enum Duty {
    /// Nothing: the group has no changes.
    Go,
    /// Wait until another caller has written the group.
    Wait(Outcome),
    /// Write the group.
    Lead(Overlay, Outcome),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database file, and creates it if there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::NewerSchema`],
    /// [`StoreError::Corrupted`], [`StoreError::DiskFull`]; each names the file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_missing(path)?;
        Ok(Self::on(Database::open(path, Some(Box::new(TallyFile::of(path))))?))
    }

    /// Opens a copy in memory of a database file that no process has open. The file is only read.
    /// A repair after a crash changes only the copy. Commits to the copy are lost.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no file, and those of [`Store::open`].
    pub fn open_copy(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::on(Database::open_copy(path)?))
    }

    /// Opens the database on another storage, such as one that fails on purpose.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let backend = Mutex::new(Some(backend));
        Self::with_backends(move || {
            let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            backend.take().ok_or_else(|| io::Error::other("the storage can be opened once only"))
        })
    }

    /// Opens the database on a storage that can be opened again after a failure.
    pub fn with_backends<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Ok(Self::on(Database::with_backends(backend, BACKEND.as_ref(), None)?))
    }

    /// As [`Store::with_backends`], with a tally, which shows whether acknowledged commits are
    /// lost.
    pub fn with_tally<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
        tally: impl Tally,
    ) -> Result<Self, StoreError> {
        Ok(Self::on(Database::with_backends(backend, BACKEND.as_ref(), Some(Box::new(tally)))?))
    }

    fn on(database: Database) -> Self {
        Store {
            database,
            gate: Mutex::new(Gate::Idle),
            turned: Condvar::new(),
            arriving: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
        }
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.database.path()
    }

    /// Refuses a database that has lost acknowledged commits. Such a database can be read, and it
    /// refuses every commit.
    ///
    /// # Errors
    /// [`StoreError::Behind`].
    pub fn check_complete(&self) -> Result<(), StoreError> {
        self.database.check_complete()
    }

    /// Reads a consistent view of the database. Concurrent commits do not wait for `f` and are not
    /// visible to it. The space that they free stays allocated until `f` returns, so read in pages
    /// when there is much to read.
    pub fn read<T>(
        &self,
        f: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let disk = self.database.begin_read()?;
        let nothing = Overlay::default();
        f(&Reader::new(&disk, &nothing))
    }

    /// Makes a change durable, together with the changes of concurrent callers.
    ///
    /// `Ok` means that the change is on disk. After an `Err` of the change itself, nothing of it is
    /// written. The change must not wait for anything and must not call `commit`, because the
    /// changes of other callers wait for it.
    ///
    /// # Errors
    /// The error of the change; or, for every change of the group, the error of writing the group.
    /// Then it is unknown whether the group is on disk until the file is opened again. It is there
    /// completely or not at all.
    pub fn commit<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut Changes<'_>) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let (verdict, duty) = self.join(change)?;
        let written = match duty {
            Duty::Go => Ok(()),
            Duty::Wait(outcome) => self.wait_for(&outcome),
            Duty::Lead(changes, outcome) => self.lead(changes, &outcome),
        };
        match verdict {
            Err(panic) => resume_unwind(panic),
            Ok(result) => {
                written?;
                result
            }
        }
    }

    /// The number of commits that were written to disk.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The number of syncs since the store was opened.
    pub fn syncs(&self) -> u64 {
        self.database.syncs()
    }

    /// The number of callers on the way.
    #[cfg(test)]
    pub(super) fn arriving(&self) -> usize {
        self.arriving.load(Ordering::SeqCst)
    }

    /// Runs a change in the current group, or in a new one.
    fn join<T, E>(
        &self,
        change: impl FnOnce(&mut Changes<'_>) -> Result<T, E>,
    ) -> Result<(std::thread::Result<Result<T, E>>, Duty), StoreError> {
        let arrival = Arrival::announce(&self.arriving);
        let mut gate = self.lock();
        while matches!(*gate, Gate::Committing) {
            gate = self.turned.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = match std::mem::replace(&mut *gate, Gate::Idle) {
            Gate::Gathering(group) => group,
            Gate::Idle | Gate::Committing => Box::new(Group::open(&self.database)?),
        };
        let verdict = group.run(change);
        let outcome = Arc::clone(&group.outcome);
        let nothing_to_write = group.changes.is_empty();
        let duty = match (arrival.end(), nothing_to_write) {
            (true, true) => Duty::Go,
            (true, false) => {
                *gate = Gate::Committing;
                Duty::Lead(group.changes, outcome)
            }
            (false, _) => {
                *gate = Gate::Gathering(group);
                if nothing_to_write {
                    Duty::Go
                } else {
                    Duty::Wait(outcome)
                }
            }
        };
        Ok((verdict, duty))
    }

    /// Writes a group and passes the result to its callers, also after a panic.
    fn lead(&self, changes: Overlay, outcome: &Outcome) -> Result<(), StoreError> {
        let written = catch_unwind(AssertUnwindSafe(|| self.database.apply(&changes)));
        let written = written.unwrap_or_else(|_| {
            Err(StoreError::CommitPanicked { path: self.database.path().to_owned() })
        });
        if written.is_ok() {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        let mut gate = self.lock();
        let ended = outcome.get_or_init(|| written).clone();
        *gate = Gate::Idle;
        self.turned.notify_all();
        ended
    }

    fn wait_for(&self, outcome: &Outcome) -> Result<(), StoreError> {
        let mut gate = self.lock();
        loop {
            if let Some(ended) = outcome.get() {
                return ended.clone();
            }
            gate = self.turned.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A poisoned lock is harmless: panics of changes are caught, and no other foreign code runs
    /// under the lock.
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a caller from its arrival to the end of its change.
struct Arrival<'a>(&'a AtomicUsize);

impl<'a> Arrival<'a> {
    fn announce(arriving: &'a AtomicUsize) -> Self {
        arriving.fetch_add(1, Ordering::SeqCst);
        Arrival(arriving)
    }

    /// Ends the arrival. Gives whether no other caller is on the way.
    fn end(self) -> bool {
        let arriving = self.0;
        std::mem::forget(self);
        arriving.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

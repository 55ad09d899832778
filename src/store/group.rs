//! Group commit: changes of callers that come at the same time go to disk in one durable write.
//!
//! Every caller runs its own change, on its own thread, one after the other, against the group that
//! is being gathered. Whoever finds that nobody else is on the way writes the group to disk; the
//! others wait for that. A lone caller finds so at once: nothing is ever delayed in the hope of
//! company. While a group is on its way to disk, newcomers wait and form the next one.
//!
//! A change collects into an overlay of its own. Only one that returned `Ok` is laid over the
//! group, which cannot fail, so nothing of a refused or panicked change can be in a commit.

use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::StorageBackend;

use super::changes::Changes;
use super::database::{Database, Snapshot};
use super::error::StoreError;
use super::file;
use super::overlay::Overlay;
use super::reader::Reader;
use super::tally::{Tally, TallyFile};

/// What messages call a storage that has no name.
const BACKEND: &str = "(backend)";

/// The metadata store. Shared by reference; every method can be called from any thread.
pub struct Store {
    database: Database,
    gate: Mutex<Gate>,
    /// Told whenever a group has gone to disk, or has failed to.
    turned: Condvar,
    /// Callers between their arrival and the end of their change.
    arriving: AtomicUsize,
    commits: AtomicU64,
}

/// What a newcomer finds.
enum Gate {
    /// Nothing.
    Idle,
    /// A group it can join.
    Gathering(Box<Group>),
    /// A group on its way to disk.
    Committing,
}

/// How a commit ended, for all its members.
type Outcome = Arc<OnceLock<Result<(), StoreError>>>;

/// Changes that will go to disk together.
struct Group {
    disk: Snapshot,
    changes: Overlay,
    outcome: Outcome,
}

impl Group {
    fn open(database: &Database) -> Result<Self, StoreError> {
        Ok(Group {
            disk: database.snapshot()?,
            changes: Overlay::default(),
            outcome: Outcome::default(),
        })
    }

    /// Runs a change and takes it in if it was neither refused nor panicked.
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

/// What a caller has to do once its change has run.
enum Duty {
    /// Nothing: the change stands on what is on disk already and adds nothing.
    Go,
    /// Wait until somebody else has written the group.
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
    /// Opens the database file, or makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process has it open, [`StoreError::NewerSchema`],
    /// [`StoreError::Corrupted`], [`StoreError::DiskFull`]; each names the file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        file::create_missing(path)?;
        Ok(Self::on(Database::open(path, Some(Box::new(TallyFile::of(path))))?))
    }

    /// Opens a copy, in memory, of a database file that nobody has open. The file is read and
    /// nothing else: not made, not repaired after a crash, not brought up to a newer schema, all of
    /// which happens to the copy. What is committed to the copy is lost.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where there is no file, and those of [`Store::open`].
    pub fn open_copy(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::on(Database::open_copy(path)?))
    }

    /// Opens the database on a storage of one's own, such as one that fails on purpose.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let backend = Mutex::new(Some(backend));
        Self::with_backends(move || {
            let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            backend.take().ok_or_else(|| io::Error::other("the storage can be opened once only"))
        })
    }

    /// The same with a storage that can be opened again after it has failed.
    pub fn with_backends<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Ok(Self::on(Database::with_backends(backend, BACKEND.as_ref(), None)?))
    }

    /// The same with a tally beside it, which tells whether an acknowledged commit is missing.
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

    /// Refuses a database that has lost commits that were acknowledged. It can be read, and refuses
    /// every commit.
    ///
    /// # Errors
    /// [`StoreError::Behind`].
    pub fn check_complete(&self) -> Result<(), StoreError> {
        self.database.check_complete()
    }

    /// Reads a consistent view of what is on disk. Commits meanwhile neither wait for it nor show
    /// in it; what they free stays allocated, so a long walk is better cut into pages.
    pub fn read<T>(
        &self,
        f: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let disk = self.database.snapshot()?;
        let nothing = Overlay::default();
        f(&Reader::new(&disk, &nothing))
    }

    /// Makes a change durable, together with those of other callers who came at the same time.
    ///
    /// `Ok` means that it is on disk. A refusal, that is an `Err` of the change itself, leaves
    /// nothing of the change behind. The change must not wait for anything, nor commit within
    /// itself: the other callers' changes wait for it.
    ///
    /// # Errors
    /// The change's own; or, for every change of the group, that writing the group failed. It is
    /// then not known whether the group is on disk; opening the file again tells, and it is there
    /// whole or not at all.
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

    /// How many commits have been written to disk.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// How often the disk was told to sync since the store was opened.
    pub fn syncs(&self) -> u64 {
        self.database.syncs()
    }

    /// How many callers are on the way.
    #[cfg(test)]
    pub(super) fn arriving(&self) -> usize {
        self.arriving.load(Ordering::SeqCst)
    }

    /// Runs a change in the group that is being gathered, or in a new one.
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

    /// Writes a group and tells its members, whatever happens on the way.
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

    /// No invariant spans a panic: changes are caught, and nothing else runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller on the way, from its arrival to the end of its change.
struct Arrival<'a>(&'a AtomicUsize);

impl<'a> Arrival<'a> {
    fn announce(arriving: &'a AtomicUsize) -> Self {
        arriving.fetch_add(1, Ordering::SeqCst);
        Arrival(arriving)
    }

    /// Ends the arrival; says whether it was the only one.
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

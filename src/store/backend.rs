//! redb's storage, which counts syncs (each one waits for the disk), records a failed sync, and
//! reserves space on the file system as the file grows.

use std::io;
use std::io::ErrorKind::{Other, StorageFull};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

use crate::block;

/// redb doubles its file when it grows. At most this many bytes are reserved for that.
const RESERVE_MOST: u64 = 64 << 20;

/// The syncs of a storage.
#[derive(Debug, Default)]
pub(super) struct Watch {
    syncs: AtomicU64,
    sync_failed: AtomicBool,
}

impl Watch {
    /// The number of syncs so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Whether any sync has failed.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::SeqCst)
    }
}

/// A storage whose syncs are recorded.
#[derive(Debug)]
pub(super) struct Watched<B> {
    inner: B,
    watch: Arc<Watch>,
    /// The file of the storage, if it is in a file.
    file: Option<Box<Path>>,
}

impl<B: StorageBackend> Watched<B> {
    /// Records the syncs of `inner` in `watch`.
    pub(super) fn new(inner: B, watch: Arc<Watch>) -> Self {
        Watched { inner, watch, file: None }
    }

    /// The same for a storage in a file. All blocks of the file are allocated before they are
    /// needed, and as many beyond its end. So the database can be written, and can grow once, on a
    /// full file system: a removal, which frees space, must be recorded first.
    pub(super) fn in_file(inner: B, watch: Arc<Watch>, file: &Path) -> Self {
        let watched = Watched { inner, watch, file: Some(file.into()) };
        let aside = watched.inner.len().and_then(|length| watched.set_aside(length));
        if let Err(error) = aside {
            tracing::warn!(
                %error,
                "no space could be reserved for the database; it may fail when the file system is \
                 full"
            );
        }
        watched
    }

    fn set_aside(&self, length: u64) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| length > 0) else { return Ok(()) };
        let ahead = length.min(RESERVE_MOST);
        let aside =
            block::set_aside(file, length + ahead).or_else(|_| block::set_aside(file, length));
        aside.map_err(|error| {
            io::Error::new(if error.is_no_space() { StorageFull } else { Other }, error)
        })
    }
}

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let before = self.inner.len()?;
        self.set_aside(len)?;
        self.inner.set_len(len)?;
        if len <= before {
            // Truncating a file frees the blocks beyond its end. Without them the database works.
            let _ = self.set_aside(len);
        }
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.watch.syncs.fetch_add(1, Ordering::SeqCst);
        let synced = self.inner.sync_data();
        if synced.is_err() {
            self.watch.sync_failed.store(true, Ordering::SeqCst);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

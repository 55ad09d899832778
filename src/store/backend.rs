//! What lies under redb, watched: how often it is told to sync, each of which is a wait for the disk,
//! and whether a sync has failed.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    syncs: AtomicU64,
    sync_failed: AtomicBool,
}

impl Watch {
    /// How often the disk was told to sync.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Whether any sync has failed.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::SeqCst)
    }
}

/// Passes everything on and watches.
#[derive(Debug)]
pub(super) struct Watched<B> {
    inner: B,
    watch: Arc<Watch>,
}

impl<B: StorageBackend> Watched<B> {
    /// Notes in `watch` what happens to `inner`.
    pub(super) fn new(inner: B, watch: Arc<Watch>) -> Self {
        Watched { inner, watch }
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
        self.inner.set_len(len)
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

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
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

//! What lies under redb, watched: how often it is told to sync, each of which is a wait for the
//! disk, and whether a sync has failed. Room is set aside as it grows.

use std::io;
use std::io::ErrorKind::{Other, StorageFull};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

use crate::block;

/// redb doubles its file when it grows; no more than this is set aside for that.
const RESERVE_MOST: u64 = 64 << 20;

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
    /// The file under it, if it is one.
    file: Option<Box<Path>>,
}

impl<B: StorageBackend> Watched<B> {
    /// Notes in `watch` what happens to `inner`.
    pub(super) fn new(inner: B, watch: Arc<Watch>) -> Self {
        Watched { inner, watch, file: None }
    }

    /// The same for what is in a file, all of whose blocks get their place before they are needed,
    /// and as many behind its end: so a database can be written to, and grow once, on a full disk.
    /// Whatever gives room again has to be written down first.
    pub(super) fn in_file(inner: B, watch: Arc<Watch>, file: &Path) -> Self {
        let watched = Watched { inner, watch, file: Some(file.into()) };
        let aside = watched.inner.len().and_then(|length| watched.set_aside(length));
        if let Err(error) = aside {
            tracing::warn!(%error, "the snapshot database may not be able to grow");
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
            // What lay behind the end is given up when a file is cut.
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

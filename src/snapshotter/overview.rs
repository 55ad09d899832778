//! Figures of the pool and the snapshots, for monitoring.

use super::error::{During, Subject};
use super::{Error, Snapshotter, Stuck};
use crate::block::Space;
use crate::store::Kind;

/// Records read from the database at a time.
const PAGE: usize = 1024;

/// How many snapshots there are, and what is still to be reclaimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    pub active: u64,
    pub views: u64,
    pub committed: u64,
    /// Removed, and not reclaimed yet.
    pub reclaiming: u64,
    /// Devices that could not be removed when it was last tried.
    pub stuck: Vec<Stuck>,
}

/// The state of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// `read-write`, `read-only`, `out-of-data-space` or `failed`.
    pub state: &'static str,
    /// Whether the kernel writes no metadata before thin_check has run.
    pub needs_check: bool,
    /// How often it was seen to refuse writes to new blocks since the start of the daemon.
    pub lapses: u64,
    /// `None` for a pool that has failed, as is `metadata`.
    pub data: Option<Space>,
    pub metadata: Option<Space>,
    /// The file system under an embedded pool.
    pub host: Option<Space>,
}

impl Snapshotter {
    /// The state of the pool, from one status ioctl.
    pub fn pool_view(&self) -> Result<PoolView, Error> {
        let seen = self.shared.pool.look().during(Subject::Look, "failed")?;
        Ok(PoolView {
            state: seen.state.as_str(),
            needs_check: seen.needs_check,
            lapses: self.shared.pool.lapses(),
            data: seen.data,
            metadata: seen.metadata,
            host: seen.host,
        })
    }

    /// Counts all records, and reads in /proc which processes hold the devices that are stuck. It
    /// is too slow for a call and meant for a scrape.
    pub fn overview(&self) -> Result<Overview, Error> {
        let store = &self.shared.store;
        let mut overview = Overview::default();
        let mut after: Option<String> = None;
        loop {
            let page = store.read(|r| r.page(after.as_deref(), PAGE))?;
            for (_, record) in &page {
                match record.kind {
                    Kind::Active => overview.active += 1,
                    Kind::View => overview.views += 1,
                    Kind::Committed => overview.committed += 1,
                }
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        overview.reclaiming = store.read(|r| r.reclaims(None, usize::MAX))?.len() as u64;
        overview.stuck = self.reclaimer.stuck();
        Ok(overview)
    }
}

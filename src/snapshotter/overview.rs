//! What there is and what is stuck, counted for whoever watches over the daemon.

use std::time::Duration;

use super::{Error, Snapshotter};
use crate::block::Space;
use crate::store::Kind;

/// Records read from the database at a time.
const PAGE: usize = 1024;

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    pub active: u64,
    pub views: u64,
    pub committed: u64,
    /// Removed, and not yet taken away.
    pub reclaiming: u64,
    /// Of those, and of devices that nothing needs any more, the ones that could not be taken away
    /// when last tried.
    pub stuck: Vec<Stuck>,
}

/// A device that was to be taken away, and could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its device-mapper name.
    pub device: String,
    /// `busy`: somebody has it open or mounted. `hangs`: the kernel has not answered. `failed`:
    /// another reason, which is in the log; for the pool's own device, that it takes no changes.
    pub why: &'static str,
    /// Who holds it, as far as /proc tells, or that this is not known.
    pub holders: String,
    /// How long ago it was first tried.
    pub since: Duration,
}

/// How the pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// `read-write`, `read-only`, `out-of-data-space` or `failed`.
    pub state: &'static str,
    /// The kernel wants thin_check before it writes metadata again.
    pub needs_check: bool,
    /// How often it was seen to refuse writes to new blocks since the daemon's start.
    pub lapses: u64,
    /// Not known of a pool that has failed.
    pub data: Option<Space>,
    pub metadata: Option<Space>,
    /// The file system under an embedded pool.
    pub host: Option<Space>,
}

impl Snapshotter {
    /// Looks at the pool, cheaply.
    pub fn pool_view(&self) -> Result<PoolView, Error> {
        let seen = self.pool().look().map_err(Error::start)?;
        Ok(PoolView {
            state: seen.state.as_str(),
            needs_check: seen.needs_check,
            lapses: self.pool().lapses(),
            data: seen.data,
            metadata: seen.metadata,
            host: seen.host,
        })
    }

    /// Counts what is on record, and asks /proc who holds what is stuck. Reads every record: for a
    /// scrape, not for a call.
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

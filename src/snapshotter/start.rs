//! The snapshotter as a whole, and how it is started.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{During, Subject};
use super::locks::KeyLocks;
use super::reclaim::{Reclaimer, Reclaiming};
use super::recover::recover;
use super::shared::Shared;
use super::{check, templates, Error, Finding, Settings};
use crate::block::Disks;
use crate::fs::Formatter;
use crate::pool::Pool;
use crate::store::Store;
use crate::units::ThinId;

/// The snapshotter. All methods can be called from any number of threads at once.
#[derive(Debug)]
pub struct Snapshotter {
    pub(super) shared: Arc<Shared>,
    pub(super) reclaimer: Reclaimer,
    pub(super) locks: KeyLocks,
}

impl Snapshotter {
    /// Repairs what the last run left behind, makes the template if that is possible, and starts
    /// the reclaimer.
    pub fn start(
        settings: Settings,
        pool: impl Into<Arc<Pool>>,
        store: Arc<Store>,
        disks: Arc<dyn Disks>,
        formatter: Arc<dyn Formatter>,
    ) -> Result<Snapshotter, Error> {
        let shared = Shared::new(settings, pool.into(), store, disks, formatter);
        Self::start_with(shared, Reclaiming::Behind)
    }

    /// As [`Snapshotter::start`], with a choice of when removed snapshots are reclaimed.
    #[cfg(any(test, feature = "model"))]
    pub fn start_reclaiming(
        reclaiming: Reclaiming,
        settings: Settings,
        pool: impl Into<Arc<Pool>>,
        store: Arc<Store>,
        disks: Arc<dyn Disks>,
        formatter: Arc<dyn Formatter>,
    ) -> Result<Snapshotter, Error> {
        let shared = Shared::new(settings, pool.into(), store, disks, formatter);
        Self::start_with(shared, reclaiming)
    }

    fn start_with(shared: Shared, reclaiming: Reclaiming) -> Result<Snapshotter, Error> {
        let shared = Arc::new(shared);
        let idle = recover(&shared)?;
        templates::at_start(&shared)?;
        shared.pool.look().during(Subject::Start, "failed")?;
        let reclaimer = Reclaimer::start(Arc::clone(&shared), idle, reclaiming);
        Ok(Snapshotter { shared, reclaimer, locks: KeyLocks::default() })
    }

    /// Whether database, pool and kernel agree; see [`check()`].
    pub fn check(&self, thins: Option<&BTreeSet<ThinId>>) -> Result<Vec<Finding>, Error> {
        check(&self.shared.store, &self.shared.pool, thins)
    }

    /// The pool, for tests that look behind the snapshotter.
    #[cfg(any(test, feature = "model"))]
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Stops the reclaimer after the step it is at, without waiting for it. The next start takes up
    /// what is left.
    pub fn stop_reclaiming(&self) {
        self.reclaimer.stop();
    }
}

//! The features of a shared pool: which of them this daemon accepts only if it is told to, and what
//! they mean for snapshots.
//!
//! Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst ("Feature arguments").

use std::sync::PoisonError;

use crate::config::PoolFeature;
use crate::dm::{DiscardPolicy, NoSpacePolicy, Target, ThinPoolTable};
use crate::names::DmName;
use crate::pool::error::PoolError;
use crate::pool::handle::Pool;
use crate::store::ClaimRecord;

/// A feature that changes what users of a snapshot may rely on.
struct Doubtful {
    feature: PoolFeature,
    has: fn(&ThinPoolTable) -> bool,
    /// Removes the feature.
    without: fn(&mut ThinPoolTable),
    means: &'static str,
    lvm: &'static str,
}

const DOUBTFUL: [Doubtful; 2] = [
    Doubtful {
        feature: PoolFeature::SkipBlockZeroing,
        has: |table| table.features.skip_block_zeroing,
        without: |table| table.features.skip_block_zeroing = false,
        means:
            "a block that is written in part shows in its rest what was in it before, which may \
                be another tenant's data",
        lvm: "lvchange --zero y",
    },
    Doubtful {
        feature: PoolFeature::QueueIfNoSpace,
        has: |table| table.features.no_space == NoSpacePolicy::Queue,
        without: |table| table.features.no_space = NoSpacePolicy::Error,
        means: "when the pool is full, writes and syncs wait for no_space_timeout (60 s) before \
                they fail, and a Commit and containerd with them",
        lvm: "lvchange --errorwhenfull y",
    },
];

/// Why a pool is refused. `None` if all its features are fine or accepted.
pub(super) fn refused(
    pool: &DmName,
    table: &ThinPoolTable,
    accepted: &[PoolFeature],
) -> Option<String> {
    let open: Vec<&Doubtful> =
        doubtful(table).filter(|doubt| !accepted.contains(&doubt.feature)).collect();
    let mut better = table.clone();
    open.iter().for_each(|doubt| (doubt.without)(&mut better));
    let whats: Vec<String> = open.iter().map(|d| format!("{} ({})", d.feature, d.means)).collect();
    let lvm: Vec<&str> = open.iter().map(|d| d.lvm).collect();
    let words: Vec<String> = accepted
        .iter()
        .chain(open.iter().map(|d| &d.feature))
        .map(|f| format!("\"{f}\""))
        .collect();
    (!open.is_empty()).then(|| {
        format!(
            "has the feature {}. Let its owner load it without ({}; or \"dmsetup reload {pool} \
             --table '{}'\" and 'dmsetup resume {pool}'), or set accept_pool_features = [{}] to use \
             it as it is",
            whats.join(" and "),
            lvm.join(" and "),
            line(&better),
            words.join(", ")
        )
    })
}

/// Notes on the features of a pool that is used.
pub(super) fn notes(table: &ThinPoolTable) -> Vec<String> {
    let mut notes: Vec<String> = doubtful(table)
        .map(|doubt| {
            format!("accepted by accept_pool_features: {} ({})", doubt.feature, doubt.means)
        })
        .collect();
    match table.features.discard {
        DiscardPolicy::PassDown => {}
        DiscardPolicy::NoPassDown => notes.push(
            "no_discard_passdown: removed snapshots free space in the pool, and not on the \
                 disk below it"
                .into(),
        ),
        DiscardPolicy::Ignore => notes.push(
            "ignore_discard: what is discarded inside a snapshot stays allocated until the \
             snapshot is removed"
                .into(),
        ),
    }
    notes
}

fn doubtful(table: &ThinPoolTable) -> impl Iterator<Item = &'static Doubtful> + '_ {
    DOUBTFUL.iter().filter(|doubt| (doubt.has)(table))
}

/// A table in the form that dmsetup reads.
fn line(table: &ThinPoolTable) -> String {
    let line = Target::ThinPool(table.clone()).to_line();
    format!("{} {} {} {}", line.start.0, line.length.0, line.kind, line.params)
}

impl Pool {
    /// Whether a mapped block reads as zeros where it was not written.
    pub fn zeroes_blocks(&self) -> Result<bool, PoolError> {
        Ok(self.shared_table()?.is_none_or(|table| !table.features.skip_block_zeroing))
    }

    /// Refuses a pool whose owner has turned zeroing off since file systems were made that rely on
    /// zeros. Returns the claim with the pool's zeroing noted.
    pub(super) fn zeroing_kept(&self, claim: ClaimRecord) -> Result<ClaimRecord, PoolError> {
        let zeroes = self.zeroes_blocks()?;
        if claim.zeroed && !zeroes {
            let what = "has the feature skip_block_zeroing, and this database's file systems were \
                        made while it had not: they rely on zeros, their journals above all. Let \
                        its owner turn zeroing on again ('lvchange --zero y', or reload it without \
                        the feature), or start with an empty state directory";
            return Err(PoolError::External { pool: self.device_name.clone(), what: what.into() });
        }
        Ok(ClaimRecord { zeroed: zeroes, ..claim })
    }

    /// Looks at the features of a shared pool, which its owner can change at any time. Changes are
    /// logged. While a feature is refused, no new snapshots are made.
    pub(in crate::pool) fn look_at_features(&self) -> Result<(), PoolError> {
        let (Some(shared), Some(table)) = (self.shared(), self.shared_table()?) else {
            return Ok(());
        };
        let lost = table.features.skip_block_zeroing
            && self.store.read(|r| r.id_claim())?.is_some_and(|claim| claim.zeroed);
        let refused =
            refused(&self.device_name, &table, if lost { &[] } else { &shared.accepted_features });
        let mut unfit = shared.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if *unfit != refused {
            match &refused {
                Some(what) => {
                    tracing::error!(pool = %self.device_name, "its owner has changed it: it {what}")
                }
                None => {
                    tracing::info!(pool = %self.device_name, "its features are accepted again")
                }
            }
        }
        *unfit = refused;
        Ok(())
    }

    /// Refuses a shared pool whose features were refused at the last look.
    pub(in crate::pool) fn must_be_fit(&self) -> Result<(), PoolError> {
        let unfit = self
            .shared()
            .and_then(|s| s.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone());
        unfit.map_or(Ok(()), |what| {
            Err(PoolError::External { pool: self.device_name.clone(), what })
        })
    }

    /// The table of a shared pool. `None` for a pool of our own.
    fn shared_table(&self) -> Result<Option<ThinPoolTable>, PoolError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let table = self.dm.table(&self.device_name);
        let mut table =
            table.map_err(|source| PoolError::Look { device: self.device_name.clone(), source })?;
        Ok(match table.pop() {
            Some(Target::ThinPool(table)) => Some(table),
            _ => None,
        })
    }
}

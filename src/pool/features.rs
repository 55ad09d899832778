//! What the features of a pool mean that somebody else assembles: which of them this daemon goes by
//! only if it is told to, and what is then true.
//!
//! Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst ("Feature arguments").

use crate::config::PoolFeature;
use crate::dm::{DiscardPolicy, NoSpacePolicy, Target, ThinPoolTable};
use crate::names::DmName;

/// A feature that changes what callers may rely on.
struct Doubtful {
    feature: PoolFeature,
    has: fn(&ThinPoolTable) -> bool,
    /// The same pool without it.
    without: fn(&mut ThinPoolTable),
    means: &'static str,
    lvm: &'static str,
}

const DOUBTFUL: [Doubtful; 2] = [
    Doubtful {
        feature: PoolFeature::SkipBlockZeroing,
        has: |table| table.features.skip_block_zeroing,
        without: |table| table.features.skip_block_zeroing = false,
        means: "a block that is written in part shows in its rest what was in it before, which may be another tenant's data",
        lvm: "lvchange --zero y",
    },
    Doubtful {
        feature: PoolFeature::QueueIfNoSpace,
        has: |table| table.features.no_space == NoSpacePolicy::Queue,
        without: |table| table.features.no_space = NoSpacePolicy::Error,
        means: "when the pool is full, writes and syncs wait for no_space_timeout (60 s) before they fail, and a Commit and containerd with them",
        lvm: "lvchange --errorwhenfull y",
    },
];

/// Why a pool is not used as it is; `None` if it is fine, or its operator has accepted it.
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
            "has the feature {}. Let its owner load it without ({}; or \"dmsetup reload {pool} --table '{}'\" and 'dmsetup resume {pool}'), \
             or set accept_pool_features = [{}] to use it as it is",
            whats.join(" and "),
            lvm.join(" and "),
            line(&better),
            words.join(", ")
        )
    })
}

/// What is to be said of a pool that is used as it is.
pub(super) fn notes(table: &ThinPoolTable) -> Vec<String> {
    let mut notes: Vec<String> = doubtful(table)
        .map(|doubt| {
            format!("accepted by accept_pool_features: {} ({})", doubt.feature, doubt.means)
        })
        .collect();
    match table.features.discard {
        DiscardPolicy::PassDown => {}
        DiscardPolicy::NoPassDown => {
            notes.push("no_discard_passdown: what is removed gives its space back to the pool, and not below it".into())
        }
        DiscardPolicy::Ignore => notes.push(
            "ignore_discard: what is discarded inside a snapshot stays allocated until the snapshot is removed".into(),
        ),
    }
    notes
}

fn doubtful(table: &ThinPoolTable) -> impl Iterator<Item = &'static Doubtful> + '_ {
    DOUBTFUL.iter().filter(|doubt| (doubt.has)(table))
}

/// A table as dmsetup takes it.
fn line(table: &ThinPoolTable) -> String {
    let line = Target::ThinPool(table.clone()).to_line();
    format!("{} {} {} {}", line.start.0, line.length.0, line.kind, line.params)
}

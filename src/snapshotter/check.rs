//! Compares the database, the pool and the kernel's devices, and finds every disagreement.
//!
//! It changes nothing. It reads one after the other, so calls under way look like disagreements.
//! A disagreement is real if it is found twice, or while no call is under way.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{During, Subject};
use super::finding::Finding;
use super::record::role;
use super::Error;
use crate::pool::{DeviceState, Pool, PoolState, Role, BALLOON_LENGTH};
use crate::store::{IdRange, Kind, Owner, ReclaimKind, SnapshotRecord, Store};
use crate::units::{Sectors, ThinId};

/// Every disagreement between the database, the pool and the kernel. `thins` are the ids of the
/// thins in the pool, which no ioctl lists. Without them, missing and unrecorded thins are not
/// looked for.
pub fn check(
    store: &Store,
    pool: &Pool,
    thins: Option<&BTreeSet<ThinId>>,
) -> Result<Vec<Finding>, Error> {
    let mut found: Vec<Finding> =
        store.read(|r| r.check_indexes())?.into_iter().map(Finding::Index).collect();
    found.extend(store.check_complete().err().map(|error| Finding::Index(error.to_string())));
    if let Some(thins) = thins {
        found.extend(check_thins(store, pool, thins)?);
    }
    found.extend(check_pool(pool)?);
    let wanted = wanted(store)?;
    for role in pool.devices().during(Subject::Check, "failed")? {
        if let Some(info) = pool.info(role).during(Subject::Check, "failed")? {
            check_device(pool, role, &info, wanted.get(&role), &mut found)?;
        }
    }
    Ok(found)
}

fn check_thins(
    store: &Store,
    pool: &Pool,
    thins: &BTreeSet<ThinId>,
) -> Result<Vec<Finding>, Error> {
    let (recorded, leases) = store.read(|r| Ok((r.recorded_thins()?, r.leases()?)))?;
    // In a shared pool most thins belong to others.
    let claimed = pool.claimed().during(Subject::Check, "failed")?;
    let shared = pool.is_shared();
    // A thin in reclaim may be deleted already. Thins of others come and go.
    let must_be = recorded.iter().filter(|(_, owner)| {
        matches!(owner, Owner::Snapshot(_) | Owner::Template(_) | Owner::Balloon)
    });
    let missing = must_be
        .filter(|(thin, _)| !thins.contains(thin))
        .map(|(thin, owner)| Finding::ThinMissing { thin: *thin, owner: owner.clone() });
    let leased = |thin: ThinId| leases.iter().any(|range: &IdRange| range.contains(thin));
    let unrecorded = thins
        .iter()
        .filter(|thin| !recorded.contains_key(thin))
        .filter(|thin| {
            !shared || leased(**thin) || claimed.is_some_and(|range| range.contains(**thin))
        })
        .map(|&thin| match shared {
            true => Finding::ThinDoubtful { thin },
            false => Finding::ThinUnrecorded { thin, leased: leased(thin) },
        });
    Ok(missing.chain(unrecorded).collect())
}

fn check_pool(pool: &Pool) -> Result<Option<Finding>, Error> {
    let seen = pool.look().during(Subject::Check, "failed")?;
    let metadata_is_full = seen.metadata.is_some_and(|metadata| metadata.free == 0);
    let what = match seen.state {
        PoolState::Failed => "has failed: it can be neither read nor written any more",
        PoolState::ReadOnly if metadata_is_full => {
            "takes no changes: its metadata is full; the next start says what to do"
        }
        _ if seen.needs_check => "wants thin_check; the next start says how to run it",
        PoolState::ReadOnly => "is read-only: it takes no changes",
        PoolState::ReadWrite | PoolState::OutOfDataSpace => return Ok(None),
    };
    Ok(Some(Finding::PoolSick { what }))
}

/// What a record wants of a device.
struct Wanted {
    key: String,
    shows: (ThinId, Sectors),
    /// The kind of its snapshot. `None` for one in reclaim, and for the balloon.
    kind: Option<Kind>,
}

impl Wanted {
    fn by(key: String, record: &SnapshotRecord) -> (Role, Wanted) {
        (role(record), Wanted { key, shows: (record.thin, record.size), kind: Some(record.kind) })
    }
}

/// The devices of all records.
fn wanted(store: &Store) -> Result<BTreeMap<Role, Wanted>, Error> {
    let (snapshots, reclaims) =
        store.read(|r| Ok((r.page(None, usize::MAX)?, r.reclaims(None, usize::MAX)?)))?;
    let mut wanted: BTreeMap<Role, Wanted> =
        snapshots.into_iter().map(|(key, record)| Wanted::by(key, &record)).collect();
    for entry in reclaims {
        let (role, thin) = match entry.kind {
            ReclaimKind::Thin(thin) => (Role::Snapshot(entry.number), thin),
            ReclaimKind::View { of } => (Role::View(entry.number), of),
        };
        wanted.insert(role, Wanted { key: entry.key, shows: (thin, entry.size), kind: None });
    }
    if let Some(balloon) = store.read(|r| r.balloon())? {
        let shows = (balloon.thin, BALLOON_LENGTH);
        wanted.insert(Role::Balloon, Wanted { key: "(balloon)".into(), shows, kind: None });
    }
    Ok(wanted)
}

fn check_device(
    pool: &Pool,
    role: Role,
    info: &DeviceState,
    wanted: Option<&Wanted>,
    found: &mut Vec<Finding>,
) -> Result<(), Error> {
    let device = info.name.to_string();
    if pool.must_be_ours(info).is_err() {
        found.push(Finding::NotOurs { device });
        return Ok(());
    }
    if !info.live_table {
        found.push(Finding::HalfMade { device });
        return Ok(());
    }
    if info.suspended {
        found.push(Finding::Suspended { device: device.clone() });
    }
    let Some(wanted) = wanted else {
        found.push(Finding::Unwanted { device, open: info.open_count });
        return Ok(());
    };
    let shows = pool.shown(role).during(Subject::Device(device.clone()), "cannot be looked at")?;
    // A device in reclaim was recorded as it was found, so its length is not certain.
    let same = match wanted.kind {
        Some(_) => shows == Some(wanted.shows),
        None => shows.is_some_and(|(thin, _)| thin == wanted.shows.0),
    };
    if !same {
        found.push(Finding::ShowsOther { device: device.clone(), shows, recorded: wanted.shows });
    }
    let key = || wanted.key.clone();
    if info.deferred_remove && matches!(wanted.kind, Some(Kind::Active | Kind::View)) {
        found.push(Finding::Leaving { device: device.clone() });
    }
    match wanted.kind {
        Some(Kind::Active) if info.read_only => {
            found.push(Finding::ReadOnly { device, key: key() })
        }
        Some(Kind::View) if !info.read_only => found.push(Finding::Writable { device, key: key() }),
        Some(Kind::Committed) => {
            if !info.read_only {
                found.push(Finding::Writable { device: device.clone(), key: key() });
            }
            found.push(Finding::Unwanted { device, open: info.open_count });
        }
        _ => {}
    }
    Ok(())
}

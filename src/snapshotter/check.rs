//! Whether the database, the pool and the kernel's devices agree, and every point on which they
//! don't.
//!
//! Looks only; mends nothing. It reads one after the other, so calls under way show as
//! disagreements: what is found twice, or with no call under way, is real.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::error::During;
use super::Error;
use crate::pool::{DeviceState, Pool, PoolState, Role, BALLOON_LENGTH};
use crate::store::{IdRange, Kind, Owner, ReclaimKind, SnapshotRecord, Store};
use crate::units::{Sectors, ThinId};

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An index of the database does not say what its records say.
    Index(String),
    /// A record's thin is not in the pool: what was in it is lost.
    ThinMissing { thin: ThinId, owner: Owner },
    /// The pool has a thin that no record owns. Inside an open lease it may be a call under way,
    /// and the next start deletes it; outside it nobody ever will.
    ThinUnrecorded { thin: ThinId, leased: bool },
    /// A shared pool has a thin in this database's range that no record owns. The next start
    /// deletes it if a device of ours stands on it, and sets it aside if not, since anybody may
    /// have made it.
    ThinDoubtful { thin: ThinId },
    /// The pool takes no more changes, or wants thin_check.
    PoolSick { what: &'static str },
    /// A device of ours has no table: its activation was cut short.
    HalfMade { device: String },
    /// A device of ours is suspended: whoever uses it waits.
    Suspended { device: String },
    /// A device that is wanted goes as soon as nobody has it open.
    Leaving { device: String },
    /// A device has one of our names, and its uuid is not of this pool.
    NotOurs { device: String },
    /// No record wants this device, or its snapshot is committed and needs none.
    Unwanted { device: String, open: u32 },
    /// A device shows another thin than its record says, or another length of it.
    ShowsOther { device: String, shows: Option<(ThinId, Sectors)>, recorded: (ThinId, Sectors) },
    /// The device of a committed snapshot takes writes.
    Writable { device: String, key: String },
    /// The device of an active snapshot takes none.
    ReadOnly { device: String, key: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Index(what) => write!(f, "the database: {what}"),
            Finding::ThinMissing { thin, owner } => {
                write!(f, "thin {thin} of {owner} is not in the pool, so what was in it is lost")
            }
            Finding::ThinUnrecorded { thin, leased: true } => {
                write!(f, "thin {thin} is on no record; its id is on lease, so the next start deletes it")
            }
            Finding::ThinUnrecorded { thin, leased: false } => {
                write!(f, "thin {thin} is on no record and on no lease, so it is not this daemon's and is left alone")
            }
            Finding::ThinDoubtful { thin } => write!(
                f,
                "thin {thin} is in this daemon's range of a shared pool and on no record; the next start deletes it if a device of \
                 this daemon stands on it, and sets it aside if not"
            ),
            Finding::PoolSick { what } => write!(f, "the pool {what}"),
            Finding::HalfMade { device } => write!(f, "device {device} has no table; the next start removes it"),
            Finding::Suspended { device } => {
                write!(f, "device {device} is suspended, and whoever uses it waits; the next start resumes it")
            }
            Finding::Leaving { device } => {
                write!(
                    f,
                    "device {device} is wanted, and goes as soon as nobody has it open; the next start takes that back"
                )
            }
            Finding::NotOurs { device } => write!(
                f,
                "device {device} has one of our names and is not of this pool; look at it with 'dmsetup info {device}'"
            ),
            Finding::Unwanted { device, open } => {
                write!(f, "device {device} is wanted by nothing (opened {open} times)")
            }
            Finding::ShowsOther { device, shows: Some((thin, size)), recorded } => {
                let (wanted, length) = recorded;
                write!(f, "device {device} shows {size} of thin {thin}, not {length} of thin {wanted}")
            }
            Finding::ShowsOther { device, shows: None, recorded: (thin, _) } => {
                write!(f, "device {device} shows no thin; it should show thin {thin}")
            }
            Finding::Writable { device, key } => write!(f, "device {device} of {key:?} can be written to"),
            Finding::ReadOnly { device, key } => write!(f, "device {device} of {key:?} cannot be written to"),
        }
    }
}

/// Every disagreement between the database, the pool and the kernel. `thins` are the ids in the
/// pool, which no ioctl lists (thin_ls does); without them, what is missing or too many in the pool
/// is not looked for.
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
    for role in pool.devices().map_err(Error::start)? {
        if let Some(info) = pool.info(role).map_err(Error::start)? {
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
    // In a shared pool most thins are others'.
    let claimed = pool.claimed().map_err(Error::start)?;
    let shared = pool.is_shared();
    // What is in reclaim may be deleted and not ticked off yet; what isn't ours may come and go.
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
    let seen = pool.look().map_err(Error::start)?;
    let metadata_is_full = seen.metadata.is_some_and(|metadata| metadata.free == 0);
    let what = match seen.state {
        PoolState::Failed => "has failed: nothing of it is read or written any more",
        PoolState::ReadOnly if metadata_is_full => {
            "takes no changes: its metadata is full; the next start says what to do"
        }
        _ if seen.needs_check => "wants thin_check; the next start says how to run it",
        PoolState::ReadOnly => "is read-only: it takes no changes",
        PoolState::ReadWrite | PoolState::OutOfDataSpace => return Ok(None),
    };
    Ok(Some(Finding::PoolSick { what }))
}

/// What a device may be there for.
struct Wanted {
    key: String,
    shows: (ThinId, Sectors),
    /// Its record is an active snapshot's, a view's or a committed one's; `None` for one in
    /// reclaim.
    kind: Option<Kind>,
}

impl Wanted {
    fn by(key: String, record: &SnapshotRecord) -> (Role, Wanted) {
        (
            super::role(record),
            Wanted { key, shows: (record.thin, record.size), kind: Some(record.kind) },
        )
    }
}

/// The devices that records speak of.
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
    let shows = pool.shown(role).during(&wanted.key, "has a device that cannot be looked at")?;
    // What is in reclaim was taken over as it was found; its length is not known for sure.
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

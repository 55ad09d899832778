//! Puts right, at start, whatever the last run left: devices half made, suspended or in the way,
//! and thins that were made and never recorded.
//!
//! Architecture Invariant: nothing is deleted here but thins inside the last run's leases that no
//! record owns, and that only in a pool of our own; no device is touched whose uuid is not of this
//! pool.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::error::{During, Subject};
use super::{Error, Shared};
use crate::block::Access;
use crate::pool::{DeviceState, PoolError, Role};
use crate::store::{Kind, Owner, ReclaimKind, ReclaimRecord, SnapshotRecord};

/// What is to become of a device that was found.
enum Fate {
    /// The reclaimer knows of it.
    Keep,
    /// It belongs to this snapshot.
    Kept(Box<SnapshotRecord>),
    /// Nothing on record wants it.
    Remove,
}

/// Returns the devices that are to go as soon as nobody has them open.
pub fn recover(shared: &Shared) -> Result<BTreeSet<Role>, Error> {
    // Before anything is changed: whether database and pool belong together is not known of a
    // shared pool until then.
    shared.pool.join().map_err(Error::start)?;
    // First: the last run may have ended between a device and its node, and a node that is left
    // over leads to whatever device has its number now.
    shared.pool.sweep_nodes().map_err(Error::start)?;
    let mut idle = BTreeSet::new();
    for role in shared.pool.devices().map_err(Error::start)? {
        let Some(info) = usable(shared, role)? else { continue };
        match fate(shared, role)? {
            Fate::Keep => keep(shared, role, &info)?,
            Fate::Kept(record) => {
                if !shows_its_thin(shared, role, &record)? {
                    continue;
                }
                match record.kind {
                    Kind::View => keep(shared, role, &info)?,
                    Kind::Active => {
                        keep(shared, role, &info)?;
                        set_read_only(shared, role, false)?;
                    }
                    // It must not be written to, and goes when nobody has it open.
                    Kind::Committed => {
                        set_read_only(shared, role, true)?;
                        idle.insert(role);
                    }
                }
            }
            Fate::Remove => remove(shared, role, &info, &mut idle)?,
        }
    }
    delete_unrecorded(shared)?;
    shared.pool.settle_leases().map_err(Error::start)?;
    Ok(idle)
}

/// Resumes a suspended device and clears away one that never got a table; `None` when it is gone.
fn usable(shared: &Shared, role: Role) -> Result<Option<DeviceState>, Error> {
    let Some(info) = shared.pool.info(role).map_err(Error::start)? else { return Ok(None) };
    shared.pool.must_be_ours(&info).map_err(Error::start)?;
    let name = shared.pool.names().name(role);
    if !info.live_table {
        tracing::warn!(device = %name, "half made by the last run; it is removed");
        shared.pool.deactivate(role).map_err(Error::start)?;
        return Ok(None);
    }
    if info.suspended {
        tracing::warn!(device = %name, "left suspended by the last run; it is resumed");
        shared.pool.resume(role).map_err(Error::start)?;
    }
    Ok(Some(info))
}

/// What is wanted stays, though somebody asked for its removal while it was open.
fn keep(shared: &Shared, role: Role, info: &DeviceState) -> Result<(), Error> {
    if !info.deferred_remove {
        return Ok(());
    }
    tracing::warn!(device = %info.name, "somebody had it removed as soon as it is closed; that is taken back");
    shared.pool.keep(role).map_err(Error::start)
}

fn fate(shared: &Shared, role: Role) -> Result<Fate, Error> {
    let owner = match role {
        Role::Balloon if shared.store.read(|r| r.balloon())?.is_some() => return Ok(Fate::Keep),
        Role::Snapshot(number) | Role::View(number) => {
            shared.store.read(|r| r.number_owner(number))?
        }
        _ => None,
    };
    let key = match owner {
        Some(Owner::Snapshot(key)) => key,
        Some(Owner::Reclaim(_)) => return Ok(Fate::Keep),
        Some(Owner::Template(_) | Owner::Balloon | Owner::Foreign) | None => {
            return Ok(Fate::Remove)
        }
    };
    Ok(Fate::Kept(Box::new(shared.find(&key)?)))
}

/// Whether a device of ours shows what its record says. One that does not is taken away, and made
/// anew when it is needed; somebody who has it open has another thin than they believe, so then the
/// start is refused.
fn shows_its_thin(shared: &Shared, role: Role, record: &SnapshotRecord) -> Result<bool, Error> {
    let shown = shared.pool.shown(role).map_err(Error::start)?;
    if shown == Some((record.thin, record.size)) {
        return Ok(true);
    }
    let device = shared.pool.names().name(role);
    tracing::warn!(%device, ?shown, thin = %record.thin, size = %record.size, "shows something else than its record says; it is taken away");
    match shared.pool.deactivate(role) {
        Ok(()) => Ok(false),
        Err(busy) if busy.is_busy() => {
            let found = shown.map_or("no thin of this pool".into(), |(thin, size)| {
                format!("{size} of thin {thin}")
            });
            let wanted = format!(
                "{} of thin {} in pool {}",
                record.size,
                record.thin,
                shared.pool.device_name()
            );
            Err(Error::start(PoolError::StandsElsewhere { device, found, wanted }))
        }
        Err(error) => Err(Error::start(error)),
    }
}

/// A commit that was cut short leaves an active snapshot's device read-only; one that was not
/// deactivated is made so.
fn set_read_only(shared: &Shared, role: Role, read_only: bool) -> Result<(), Error> {
    let device = || Subject::Device(shared.pool.names().name(role).to_string());
    let disk = shared
        .disks
        .open(&shared.pool.node(role), Access::Read)
        .during(device(), "cannot be opened")?;
    if disk.is_read_only().during(device(), "cannot be looked at")? != read_only {
        disk.set_read_only(read_only)
            .during(device(), "cannot change between writable and read-only")?;
    }
    Ok(())
}

fn remove(
    shared: &Shared,
    role: Role,
    info: &DeviceState,
    idle: &mut BTreeSet<Role>,
) -> Result<(), Error> {
    match shared.pool.deactivate(role) {
        Ok(()) => Ok(()),
        Err(error) if error.is_busy() => {
            tracing::warn!(%error, opened = info.open_count, "on no record, and somebody has it open; it goes when they close it");
            match role {
                Role::View(number) => remember_view(shared, role, number),
                // Its thin is unrecorded and goes on record as such in a moment.
                Role::Snapshot(_) => Ok(()),
                _ => {
                    idle.insert(role);
                    Ok(())
                }
            }
        }
        Err(error) => Err(Error::start(error)),
    }
}

fn remember_view(shared: &Shared, role: Role, number: u64) -> Result<(), Error> {
    let Some((of, size)) = shared.pool.shown(role).map_err(Error::start)? else { return Ok(()) };
    let entry = ReclaimRecord {
        number,
        kind: ReclaimKind::View { of },
        size,
        key: String::new(),
        since: SystemTime::now(),
    };
    Ok(shared.store.commit(|c| c.put_reclaim(&entry))?)
}

fn delete_unrecorded(shared: &Shared) -> Result<(), Error> {
    for id in shared.pool.unrecorded().map_err(Error::start)? {
        match shared.pool.delete(id) {
            Ok(()) => {}
            Err(error) if error.is_busy() => {
                let kind = ReclaimKind::Thin(id);
                let size = shared.settings.base_image_size;
                let entry = ReclaimRecord {
                    number: id.get().into(),
                    kind,
                    size,
                    key: String::new(),
                    since: SystemTime::now(),
                };
                shared.store.commit(|c| c.put_reclaim(&entry))?;
            }
            Err(error) => return Err(Error::start(error)),
        }
    }
    Ok(())
}

//! Recovery at the start: repairs devices that the last run left incomplete, suspended or unneeded,
//! and deletes thins that it made and did not record.
//!
//! Architecture Invariant: recovery deletes only thins that are inside a lease of the last run and
//! on no record, and only in a pool that the daemon assembles itself. It changes no device whose
//! UUID does not belong to this pool.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::error::{During, Subject};
use super::shared::Shared;
use super::Error;
use crate::block::Access;
use crate::pool::{DeviceState, PoolError, Role};
use crate::store::{Kind, Owner, ReclaimKind, ReclaimRecord, SnapshotRecord};

/// What happens to a device that was found.
enum Fate {
    /// It stays. The reclaimer, or the pool, takes care of it.
    Stays,
    /// It belongs to this snapshot.
    OfSnapshot(Box<SnapshotRecord>),
    /// No record needs it.
    Goes,
}

/// Repairs everything. Returns the devices that must be removed as soon as they are closed.
pub fn recover(shared: &Shared) -> Result<BTreeSet<Role>, Error> {
    // Before anything is changed: only this tells whether the database and a shared pool belong
    // together.
    shared.pool.join().during(Subject::Start, "failed")?;
    // Next: the last run may have removed a device and not its node. Such a node leads to any
    // device that has got the number since.
    shared.pool.sweep_nodes().during(Subject::Start, "failed")?;
    let mut idle = BTreeSet::new();
    for role in shared.pool.devices().during(Subject::Start, "failed")? {
        let Some(info) = usable(shared, role)? else { continue };
        match fate(shared, role)? {
            Fate::Stays => keep(shared, role, &info)?,
            Fate::OfSnapshot(record) => {
                if !shows_its_thin(shared, role, &record)? {
                    continue;
                }
                match record.kind {
                    Kind::View => keep(shared, role, &info)?,
                    Kind::Active => {
                        keep(shared, role, &info)?;
                        set_read_only(shared, role, false)?;
                    }
                    // It must not be written to, and is removed as soon as it is closed.
                    Kind::Committed => {
                        set_read_only(shared, role, true)?;
                        idle.insert(role);
                    }
                }
            }
            Fate::Goes => remove(shared, role, &info, &mut idle)?,
        }
    }
    delete_unrecorded(shared)?;
    shared.pool.settle_leases().during(Subject::Start, "failed")?;
    Ok(idle)
}

/// Resumes a suspended device, and removes one that never got a table; then the answer is `None`.
fn usable(shared: &Shared, role: Role) -> Result<Option<DeviceState>, Error> {
    let Some(info) = shared.pool.info(role).during(Subject::Start, "failed")? else {
        return Ok(None);
    };
    shared.pool.must_be_ours(&info).during(Subject::Start, "failed")?;
    let name = shared.pool.names().name(role);
    if !info.live_table {
        tracing::warn!(device = %name, "the last run left it without a table; it is removed");
        shared.pool.deactivate(role).during(Subject::Start, "failed")?;
        return Ok(None);
    }
    if info.suspended {
        tracing::warn!(device = %name, "the last run left it suspended; it is resumed");
        shared.pool.resume(role).during(Subject::Start, "failed")?;
    }
    Ok(Some(info))
}

/// Takes back the deferred removal of a device that is needed.
fn keep(shared: &Shared, role: Role, info: &DeviceState) -> Result<(), Error> {
    if !info.deferred_remove {
        return Ok(());
    }
    tracing::warn!(
        device = %info.name,
        "it was to be removed as soon as it is closed, and is still needed; that is taken back"
    );
    shared.pool.keep(role).during(Subject::Start, "failed")
}

fn fate(shared: &Shared, role: Role) -> Result<Fate, Error> {
    let owner = match role {
        Role::Balloon if shared.store.read(|r| r.balloon())?.is_some() => return Ok(Fate::Stays),
        Role::Snapshot(number) | Role::View(number) => {
            shared.store.read(|r| r.number_owner(number))?
        }
        _ => None,
    };
    let key = match owner {
        Some(Owner::Snapshot(key)) => key,
        Some(Owner::Reclaim(_)) => return Ok(Fate::Stays),
        Some(Owner::Template(_) | Owner::Balloon | Owner::Foreign) | None => return Ok(Fate::Goes),
    };
    Ok(Fate::OfSnapshot(Box::new(shared.find(&key)?)))
}

/// Whether a device shows the thin and the length of its record. One that does not is removed, and
/// made anew when it is needed. If it is open, its user has the wrong thin, so the start is
/// refused.
fn shows_its_thin(shared: &Shared, role: Role, record: &SnapshotRecord) -> Result<bool, Error> {
    let shown = shared.pool.shown(role).during(Subject::Start, "failed")?;
    if shown == Some((record.thin, record.size)) {
        return Ok(true);
    }
    let device = shared.pool.names().name(role);
    tracing::warn!(
        %device,
        ?shown,
        thin = %record.thin,
        size = %record.size,
        "it shows something else than its record says; it is removed"
    );
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
            Err(PoolError::StandsElsewhere { device, found, wanted })
                .during(Subject::Start, "failed")
        }
        Err(error) => Err(error).during(Subject::Start, "failed"),
    }
}

/// Makes a device read-only or writable. An interrupted commit leaves the device of an active
/// snapshot read-only. The device of a committed snapshot may be writable still.
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

/// Removes a device that no record needs. If it is open, that is left to the reclaimer.
fn remove(
    shared: &Shared,
    role: Role,
    info: &DeviceState,
    idle: &mut BTreeSet<Role>,
) -> Result<(), Error> {
    match shared.pool.deactivate(role) {
        Ok(()) => Ok(()),
        Err(error) if error.is_busy() => {
            tracing::warn!(
                %error,
                opened = info.open_count,
                "no record needs it, and it is open; it is removed as soon as it is closed"
            );
            match role {
                Role::View(number) => remember_view(shared, role, number),
                // Its thin is not on record. `delete_unrecorded` records it for the reclaimer.
                Role::Snapshot(_) => Ok(()),
                _ => {
                    idle.insert(role);
                    Ok(())
                }
            }
        }
        Err(error) => Err(error).during(Subject::Start, "failed"),
    }
}

/// Records a view that is still open for the reclaimer.
fn remember_view(shared: &Shared, role: Role, number: u64) -> Result<(), Error> {
    let Some((of, size)) = shared.pool.shown(role).during(Subject::Start, "failed")? else {
        return Ok(());
    };
    let entry = ReclaimRecord {
        number,
        kind: ReclaimKind::View { of },
        size,
        key: String::new(),
        since: SystemTime::now(),
    };
    Ok(shared.store.commit(|c| c.put_reclaim(&entry))?)
}

/// Deletes the thins that the last run made and did not record. A thin that is still in use is
/// recorded for the reclaimer.
fn delete_unrecorded(shared: &Shared) -> Result<(), Error> {
    for id in shared.pool.unrecorded().during(Subject::Start, "failed")? {
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
            Err(error) => Err(error).during(Subject::Start, "failed")?,
        }
    }
    Ok(())
}

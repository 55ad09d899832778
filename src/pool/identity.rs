//! Makes sure that pool and database belong together, and assembles the pool if it is not there.
//!
//! Three things tie them: the pool's UUID in the database and in the dm uuid, the block size, and
//! the pool's transaction id, an epoch that starts at random and moves by one at each start. The
//! epoch's next value is on record before the kernel moves, so both values are ours after a crash
//! between the two.

use uuid::Uuid;

use super::areas::{Areas, Finder};
use super::expected::{expected, expected_on_disk};
use super::health::{must_be_checked, sick};
use super::{company, features, table, Backer, DeviceNames, PoolError, PoolSettings, Role};
use crate::dm::{ActivateOptions, Dm, PoolMode, StatusOptions, Target, ThinPoolTable, WorkingPool};
use crate::names::DmName;
use crate::store::{ExternalPool, PoolRecord, Store};
use crate::units::{DeviceNumber, Sectors};

pub struct Opened {
    pub names: DeviceNames,
    pub device_name: DmName,
    pub device: DeviceNumber,
    pub block_size: Sectors,
    /// The database's record of a pool that somebody else assembles, as it is to be.
    pub external: Option<PoolRecord>,
}

pub fn open(
    settings: &PoolSettings,
    dm: &Dm,
    store: &Store,
    backer: &Backer,
) -> Result<Opened, PoolError> {
    dm.require_thin().map_err(PoolError::Kernel)?;
    let record = store.read(|r| r.pool())?;
    let made = record.as_ref().filter(|record| record.formatted);
    must_be_named_so(settings, store, made)?;
    company::must_be_alone(settings, dm, store, record.as_ref())?;
    // What a first start claimed that was cut short carries its uuid: it is gone on with, as the
    // configuration is now.
    let record = match record {
        Some(record) if record.formatted => record,
        Some(record) => PoolRecord {
            name: settings.name.to_string(),
            block_size: settings.block_size,
            ..record
        },
        None => new_record(settings),
    };
    let names = DeviceNames::new(&settings.name, &record.uuid);
    let opening = Opening { settings, dm, store, backer, names: &names };
    let (external, (device_name, device, block_size)) = match &settings.external {
        Some(name) => opening.external(name, record).map(|(record, found)| (Some(record), found)),
        None if record.formatted => opening.owned(record).map(|found| (None, found)),
        None => opening.first(record).map(|found| (None, found)),
    }?;
    Ok(Opened { names, device_name, device, block_size, external })
}

/// Finds the pool that the database belongs to as it is: nothing is assembled, claimed or written.
/// `None` when there is no pool on record, or when it is not assembled now.
pub fn attach(
    settings: &PoolSettings,
    dm: &Dm,
    store: &Store,
) -> Result<Option<Opened>, PoolError> {
    let Some(record) = store.read(|r| r.pool())? else { return Ok(None) };
    must_be_named_so(settings, store, Some(&record))?;
    let names = DeviceNames::new(&settings.name, &record.uuid);
    let device_name = settings.external.clone().unwrap_or_else(|| names.name(Role::Pool));
    let info = dm
        .info(&device_name)
        .map_err(|source| PoolError::Look { device: device_name.clone(), source })?;
    let Some(info) = info.filter(|info| info.live_table) else { return Ok(None) };
    let ours = match &record.external {
        Some(external) => external.uuid == info.uuid.as_ref().map(ToString::to_string),
        None => info.uuid.as_ref().is_some_and(|uuid| names.owns(uuid.as_str())),
    };
    if !ours {
        let what =
            format!("its dm uuid is {:?}", info.uuid.as_ref().map_or("", |uuid| uuid.as_str()));
        return Err(PoolError::Foreign { pool: device_name, store: store.path().into(), what });
    }
    let (device, block_size) = (info.device, record.block_size);
    let external = record.external.is_some().then_some(record);
    Ok(Some(Opened { names, device_name, device, block_size, external }))
}

/// A pool's devices keep the name that they were made under.
fn must_be_named_so(
    settings: &PoolSettings,
    store: &Store,
    record: Option<&PoolRecord>,
) -> Result<(), PoolError> {
    match record.filter(|record| record.name != settings.name.as_str()) {
        Some(PoolRecord { name, .. }) => Err(PoolError::Name {
            store: store.path().into(),
            has: name.clone(),
            wanted: settings.name.to_string(),
        }),
        None => Ok(()),
    }
}

/// The transaction id of a new pool starts somewhere a foreign pool's hardly ever is, with room to
/// count up.
fn new_record(settings: &PoolSettings) -> PoolRecord {
    let uuid = Uuid::new_v4();
    PoolRecord {
        uuid: uuid.simple().to_string(),
        external: None,
        name: settings.name.to_string(),
        block_size: settings.block_size,
        formatted: false,
        epoch: (uuid.as_u64_pair().1 >> 2) & 0x00ff_ffff_ffff_0000,
        epoch_next: None,
    }
}

struct Opening<'a> {
    settings: &'a PoolSettings,
    dm: &'a Dm,
    store: &'a Store,
    backer: &'a Backer,
    names: &'a DeviceNames,
}

type Found = (DmName, DeviceNumber, Sectors);

impl Opening<'_> {
    /// Makes a new pool. Where that fails, nothing of it stays: no device, no claim on a disk, no
    /// record.
    fn first(&self, record: PoolRecord) -> Result<Found, PoolError> {
        // Nothing has been written when this fails, and what a crash has left may still be right
        // for another configuration.
        self.backer.look(&record.uuid)?;
        let uuid = record.uuid.clone();
        // On record before the first disk is labelled, so that what a crash leaves is known for
        // ours.
        self.store.commit(|c| c.put_pool(&record))?;
        let opened = self.owned(record);
        match opened {
            // Whether it is on record as made is not known.
            Err(error @ PoolError::Store(_)) => Err(error),
            // It is made, and must be checked.
            Err(error) if error.wants_check() => Err(error),
            Err(error) => {
                let left = self
                    .backer
                    .abandon(&uuid)
                    .and_then(|()| Ok(self.store.commit(|c| c.remove_pool())?));
                if let Err(left) = left {
                    tracing::warn!(error = %left, "a pool that could not be made is left half made");
                }
                Err(error)
            }
            opened => opened,
        }
    }

    /// Assembles the pool, or finds it assembled. Where that fails, the devices that were made for
    /// it are taken away.
    fn owned(&self, record: PoolRecord) -> Result<Found, PoolError> {
        let mut made = Vec::new();
        let opened = self.open_owned(record, &mut made);
        // The areas stay for thin_check.
        if opened.as_ref().is_err_and(|error| !error.wants_check()) {
            for name in made.iter().rev() {
                if let Err(error) = self.dm.remove(name) {
                    tracing::warn!(%error, device = %name, "cannot be taken away again");
                }
            }
        }
        opened
    }

    fn open_owned(
        &self,
        mut record: PoolRecord,
        made: &mut Vec<DmName>,
    ) -> Result<Found, PoolError> {
        let name = self.names.name(Role::Pool);
        if let Some(external) = &record.external {
            return Err(self.foreign(
                &name,
                &format!("the database belongs to {}; set pool_name again", called(Some(external))),
            ));
        }
        if record.block_size != self.settings.block_size {
            return Err(PoolError::BlockSize {
                pool: name,
                has: record.block_size,
                wanted: self.settings.block_size,
            });
        }
        let found = self
            .dm
            .info(&name)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        if let Some(info) = &found {
            let uuid = info.uuid.as_ref().map_or("", |uuid| uuid.as_str());
            if uuid != self.names.uuid(Role::Pool).as_str() {
                let ours = self.names.uuid(Role::Pool);
                let what =
                    format!("its dm uuid is {uuid:?}, the database's is {:?}", ours.as_str());
                return Err(self.foreign(&name, &what));
            }
            if !info.live_table {
                // Created and never loaded: a crash came between.
                self.dm
                    .remove(&name)
                    .map_err(|source| PoolError::Deactivate { device: name.clone(), source })?;
            }
        }
        let live = found.filter(|info| info.live_table);
        let finder = Finder {
            dm: self.dm,
            names: self.names,
            backer: self.backer,
            record: &record,
            store: self.store.path(),
        };
        let mut areas = finder.areas(live.is_some(), made)?;
        let (device, assembled) = match live {
            Some(info) => {
                self.stands_on(&name, &areas, &record)?;
                if info.suspended {
                    self.resume(&name)?;
                }
                (info.device, false)
            }
            None => (self.assemble(&name, &areas, &record, made)?, true),
        };
        self.must_take_changes(&name, assembled)?;
        self.move_epoch(&name, &mut record, &mut areas, assembled)?;
        Ok((name, device, record.block_size))
    }

    fn assemble(
        &self,
        name: &DmName,
        areas: &Areas,
        record: &PoolRecord,
        made: &mut Vec<DmName>,
    ) -> Result<DeviceNumber, PoolError> {
        let table = table::of_pool(areas, record.block_size, self.backer);
        let uuid = self.names.uuid(Role::Pool);
        let made_now = self.dm.activate(
            name,
            Some(&uuid),
            &[Target::ThinPool(table)],
            ActivateOptions::default(),
        );
        let info = made_now.map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
        made.push(name.clone());
        Ok(info.device)
    }

    /// Makes sure that the pool, which is assembled, stands on its areas.
    fn stands_on(
        &self,
        name: &DmName,
        areas: &Areas,
        record: &PoolRecord,
    ) -> Result<(), PoolError> {
        let table = self
            .dm
            .table(name)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        let [Target::ThinPool(table)] = table.as_slice() else {
            return Err(self.foreign(name, "it is no thin-pool device"));
        };
        if table.block_size != record.block_size {
            let what = format!(
                "its block size is {}, the database's {}",
                table.block_size, record.block_size
            );
            return Err(self.foreign(name, &what));
        }
        let numbers = (table.metadata.number(), table.data.number());
        if numbers != (Some(areas.metadata), Some(areas.data)) {
            return Err(PoolError::StandsElsewhere {
                device: name.clone(),
                found: format!("metadata {} and data {}", table.metadata, table.data),
                wanted: format!("metadata {} and data {}", areas.metadata, areas.data),
            });
        }
        Ok(())
    }

    /// Moves the epoch on: in the record, in the pool, on the data disk, and in the record again.
    /// What is on record before a step holds both values, so that a crash anywhere leaves nothing
    /// that is not known.
    fn move_epoch(
        &self,
        name: &DmName,
        record: &mut PoolRecord,
        areas: &mut Areas,
        assembled: bool,
    ) -> Result<(), PoolError> {
        let status = self.working(name)?;
        let found = status.transaction_id;
        let sure = expected(record, found).and_then(|()| expected_on_disk(record, areas.epoch()));
        sure.map_err(|what| self.foreign(name, &what))?;
        if status.held_metadata_root.is_some() {
            tracing::warn!(pool = %name, "a metadata snapshot was left held; it is released");
            self.dm
                .release_metadata_snap(name)
                .map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
        }
        // The last start ended when the kernel's had moved and the record of it was not made: from
        // here on that is the old one.
        if record.epoch_next == Some(found) {
            areas.mark(self.backer, found)?;
            record.epoch = found;
        }
        let next = record.epoch + 1;
        record.epoch_next = Some(next);
        self.store.commit(|c| c.put_pool(record))?;
        self.dm
            .set_transaction_id(name, found, next)
            .map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
        // The kernel does not say when it could not commit that.
        self.must_take_changes(name, assembled)?;
        areas.mark(self.backer, next)?;
        *record = PoolRecord { epoch: next, epoch_next: None, formatted: true, ..record.clone() };
        Ok(self.store.commit(|c| c.put_pool(record))?)
    }

    /// Refuses a pool that wants thin_check; one that was assembled just now is taken apart again,
    /// so that it can be checked.
    fn must_take_changes(&self, name: &DmName, assembled: bool) -> Result<(), PoolError> {
        let status = self.working(name)?;
        if !must_be_checked(&status) {
            return Ok(());
        }
        let active = !assembled || self.dm.remove(name).is_err();
        Err(sick(&status, name.clone(), self.backer, self.names, active))
    }

    fn working(&self, name: &DmName) -> Result<WorkingPool, PoolError> {
        let status = self
            .dm
            .pool_status(name, StatusOptions::NO_FLUSH)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        status.working().copied().ok_or_else(|| PoolError::Failed { pool: name.clone() })
    }

    fn thin_pool(&self, name: &DmName) -> Result<Option<ThinPoolTable>, PoolError> {
        let mut table = self
            .dm
            .table(name)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        Ok(match (table.pop(), table.as_slice()) {
            (Some(Target::ThinPool(table)), []) => Some(table),
            _ => None,
        })
    }

    fn resume(&self, name: &DmName) -> Result<(), PoolError> {
        tracing::warn!(pool = %name, "the pool was left suspended; it is resumed");
        self.dm
            .resume(name)
            .map(drop)
            .map_err(|source| PoolError::Thaw { device: name.clone(), source })
    }

    /// A pool that somebody else assembles: its transaction id is its owner's, and stays as it is.
    /// The record goes into the database with the claim that [`super::Pool::join`] makes.
    fn external(
        &self,
        name: &DmName,
        record: PoolRecord,
    ) -> Result<(PoolRecord, Found), PoolError> {
        let refuse = |what: String| PoolError::External { pool: name.clone(), what };
        let info = self
            .dm
            .info(name)
            .map_err(|source| PoolError::Look { device: name.clone(), source })?;
        let info = info.filter(|info| info.live_table).ok_or_else(|| {
            refuse("is not there; assemble it first, or take pool_name out of the configuration to let this daemon make one".into())
        })?;
        let table = self.thin_pool(name)?.ok_or_else(|| {
            refuse(
                "is not a thin-pool device; pool_name must name the pool itself (with LVM the one ending in -tpool)"
                    .into(),
            )
        })?;
        let block_size = table.block_size;
        if info.suspended {
            return Err(refuse("is suspended; resume it ('dmsetup resume')".into()));
        }
        let found = ExternalPool {
            name: name.to_string(),
            uuid: info.uuid.as_ref().map(ToString::to_string),
        };
        // A first start that failed before it had a thin in the pool binds the database to nothing.
        let bound = record.formatted
            && self.store.read(|r| r.id_claim())?.is_none_or(|claim| claim.epoch > 0);
        if bound && record.external.as_ref() != Some(&found) {
            return Err(self.foreign(
                name,
                &format!(
                    "the database belongs to {}, this is {}",
                    called(record.external.as_ref()),
                    called(Some(&found))
                ),
            ));
        }
        if bound && record.block_size != block_size {
            return Err(PoolError::BlockSize {
                pool: name.clone(),
                has: block_size,
                wanted: record.block_size,
            });
        }
        let status = self.working(name)?;
        if status.mode == PoolMode::ReadOnly && !status.needs_check {
            return Err(refuse(
                "is read-only; let its owner load it without read_only, or give it more metadata"
                    .into(),
            ));
        }
        self.must_take_changes(name, false)?;
        if let Some(what) = features::refused(name, &table, &self.settings.accepted_features) {
            return Err(refuse(what));
        }
        for what in features::notes(&table) {
            tracing::warn!(pool = %name, "{what}");
        }
        let record = PoolRecord { external: Some(found), block_size, formatted: true, ..record };
        Ok((record, (name.clone(), info.device, block_size)))
    }

    fn foreign(&self, pool: &DmName, what: &str) -> PoolError {
        PoolError::Foreign {
            pool: pool.clone(),
            store: self.store.path().into(),
            what: what.into(),
        }
    }
}

fn called(pool: Option<&ExternalPool>) -> String {
    match pool {
        None => "a pool that this daemon made itself".into(),
        Some(ExternalPool { name, uuid: Some(uuid) }) => format!("pool {name} with dm uuid {uuid}"),
        Some(ExternalPool { name, uuid: None }) => format!("pool {name} without a dm uuid"),
    }
}

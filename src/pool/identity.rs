//! Makes sure that pool and database belong together, and assembles the pool if it is not there.
//!
//! Three things tie them: the pool's UUID in the database and in the dm uuid, the block size, and the pool's transaction id,
//! an epoch that starts at random and moves by one at each start. The epoch's next value is on record before the kernel
//! moves, so both values are ours after a crash between the two.

use uuid::Uuid;

use super::{features, Areas, Backer, DeviceNames, PoolError, PoolSettings, Role};
use crate::dm::{ActivateOptions, Dm, NoSpacePolicy, PoolFeatures, PoolMode, Target, ThinPoolTable, WorkingPool};
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

pub fn open(settings: &PoolSettings, dm: &Dm, store: &Store, backer: &dyn Backer) -> Result<Opened, PoolError> {
    dm.require_thin().map_err(PoolError::Kernel)?;
    let record = match (store.read(|r| r.pool())?, &settings.external) {
        (Some(record), _) => record,
        (None, Some(_)) => new_record(settings),
        (None, None) => {
            let record = new_record(settings);
            // What the areas hold is somebody's unless they are blank; only then is there a pool to record.
            backer.claim()?;
            store.commit(|c| c.put_pool(&record))?;
            record
        }
    };
    if record.name != settings.name {
        return Err(PoolError::Name { store: store.path().into(), has: record.name, wanted: settings.name.clone() });
    }
    let names = DeviceNames::new(&settings.name, &record.uuid);
    let opening = Opening { settings, dm, store, backer, names: &names };
    let (external, (device_name, device, block_size)) = match &settings.external {
        Some(name) => opening.external(name, record).map(|(record, found)| (Some(record), found)),
        None => opening.owned(record).map(|found| (None, found)),
    }?;
    Ok(Opened { names, device_name, device, block_size, external })
}

/// Finds the pool that the database belongs to as it is: nothing is assembled, claimed or written. `None` when there is no
/// pool on record, or when it is not assembled now.
pub fn attach(settings: &PoolSettings, dm: &Dm, store: &Store) -> Result<Option<Opened>, PoolError> {
    let Some(record) = store.read(|r| r.pool())? else { return Ok(None) };
    let names = DeviceNames::new(&record.name, &record.uuid);
    let device_name = settings.external.clone().unwrap_or_else(|| names.name(Role::Pool));
    let info = dm.info(&device_name).map_err(|source| PoolError::Look { device: device_name.clone(), source })?;
    let Some(info) = info.filter(|info| info.live_table) else { return Ok(None) };
    let ours = match &record.external {
        Some(external) => external.uuid == info.uuid.as_ref().map(ToString::to_string),
        None => info.uuid.as_ref().is_some_and(|uuid| names.owns(uuid.as_str())),
    };
    if !ours {
        let what = format!("its dm uuid is {:?}", info.uuid.as_ref().map_or("", |uuid| uuid.as_str()));
        return Err(PoolError::Foreign { pool: device_name, store: store.path().into(), what });
    }
    let (device, block_size) = (info.device, record.block_size);
    let external = record.external.is_some().then_some(record);
    Ok(Some(Opened { names, device_name, device, block_size, external }))
}

/// The transaction id of a new pool starts somewhere a foreign pool's hardly ever is, with room to count up.
fn new_record(settings: &PoolSettings) -> PoolRecord {
    let uuid = Uuid::new_v4();
    PoolRecord {
        uuid: uuid.simple().to_string(),
        external: None,
        name: settings.name.clone(),
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
    backer: &'a dyn Backer,
    names: &'a DeviceNames,
}

type Found = (DmName, DeviceNumber, Sectors);

impl Opening<'_> {
    fn owned(&self, mut record: PoolRecord) -> Result<Found, PoolError> {
        let name = self.names.name(Role::Pool);
        if let Some(external) = &record.external {
            return Err(self
                .foreign(&name, &format!("the database belongs to {}; set pool_name again", called(Some(external)))));
        }
        if record.block_size != self.settings.block_size {
            return Err(PoolError::BlockSize { pool: name, has: record.block_size, wanted: self.settings.block_size });
        }
        let mut assembled = false;
        let device = match self.dm.info(&name).map_err(|source| PoolError::Look { device: name.clone(), source })? {
            Some(info) if info.live_table => {
                let uuid = info.uuid.as_ref().map_or("", |uuid| uuid.as_str());
                if !self.names.owns(uuid) {
                    return Err(self.foreign(
                        &name,
                        &format!(
                            "its dm uuid is {uuid:?}, the database's is {:?}",
                            self.names.uuid(Role::Pool).as_str()
                        ),
                    ));
                }
                self.same_block_size(&name, &record)?;
                if info.suspended {
                    self.resume(&name)?;
                }
                info.device
            }
            other => {
                if other.is_some() {
                    // Created and never loaded: a crash came between.
                    self.dm.remove(&name).map_err(|source| PoolError::Deactivate { device: name.clone(), source })?;
                }
                assembled = true;
                self.assemble(&name, &record)?
            }
        };
        self.must_take_changes(&name, assembled)?;
        self.move_epoch(&name, &mut record, assembled)?;
        Ok((name, device, record.block_size))
    }

    fn assemble(&self, name: &DmName, record: &PoolRecord) -> Result<DeviceNumber, PoolError> {
        let areas = self.backer.areas(self.dm, self.names, record)?;
        if record.formatted && areas.metadata_blank {
            return Err(self.foreign(name, "its metadata area is empty, so the pool it held is lost; put the metadata back, or start with an empty state directory"));
        }
        let table = pool_table(&areas, record.block_size);
        self.dm
            .activate(name, Some(&self.names.uuid(Role::Pool)), &[Target::ThinPool(table)], ActivateOptions::default())
            .map(|info| info.device)
            .map_err(|source| PoolError::Assemble { pool: name.clone(), source })
    }

    fn move_epoch(&self, name: &DmName, record: &mut PoolRecord, assembled: bool) -> Result<(), PoolError> {
        let status = self.working(name)?;
        let found = status.transaction_id;
        let expected = [Some(record.epoch), record.epoch_next, (!record.formatted).then_some(0)];
        if !expected.contains(&Some(found)) {
            return Err(self.foreign(name, &format!(
                "the pool's transaction id is {found}, the database's epoch is {}{}; one of the two is a copy from another time: put back the one that belongs to the other",
                record.epoch,
                record.epoch_next.map(|next| format!(" or {next}")).unwrap_or_default(),
            )));
        }
        if status.held_metadata_root.is_some() {
            tracing::warn!(pool = %name, "a metadata snapshot was left held; it is released");
            self.dm.release_metadata_snap(name).map_err(|source| PoolError::Assemble { pool: name.clone(), source })?;
        }
        // The last start ended when the kernel's had moved and the record of it was not made: from here on that is the old one.
        if record.epoch_next == Some(found) {
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
        *record = PoolRecord { epoch: next, epoch_next: None, formatted: true, ..record.clone() };
        Ok(self.store.commit(|c| c.put_pool(record))?)
    }

    /// Refuses a pool that wants thin_check; one that was assembled just now is taken apart again, so that it can be checked.
    fn must_take_changes(&self, name: &DmName, assembled: bool) -> Result<(), PoolError> {
        if !super::must_be_checked(&self.working(name)?) {
            return Ok(());
        }
        let active = !assembled || self.dm.remove(name).is_err();
        Err(PoolError::NeedsCheck { pool: name.clone(), metadata: self.backer.metadata_path(self.names), active })
    }

    fn working(&self, name: &DmName) -> Result<WorkingPool, PoolError> {
        let status =
            self.dm.pool_status(name, true).map_err(|source| PoolError::Look { device: name.clone(), source })?;
        status.working().copied().ok_or_else(|| PoolError::Failed { pool: name.clone() })
    }

    fn same_block_size(&self, name: &DmName, record: &PoolRecord) -> Result<(), PoolError> {
        let has = self.thin_pool(name)?.map(|table| table.block_size);
        if has == Some(record.block_size) {
            return Ok(());
        }
        let has = has.map_or("no thin-pool's".into(), |size| format!("{size}"));
        Err(self.foreign(name, &format!("its block size is {has}, the database's {}", record.block_size)))
    }

    fn thin_pool(&self, name: &DmName) -> Result<Option<ThinPoolTable>, PoolError> {
        let mut table = self.dm.table(name).map_err(|source| PoolError::Look { device: name.clone(), source })?;
        Ok(match (table.pop(), table.as_slice()) {
            (Some(Target::ThinPool(table)), []) => Some(table),
            _ => None,
        })
    }

    fn resume(&self, name: &DmName) -> Result<(), PoolError> {
        tracing::warn!(pool = %name, "the pool was left suspended; it is resumed");
        self.dm.resume(name).map(drop).map_err(|source| PoolError::Thaw { device: name.clone(), source })
    }

    /// A pool that somebody else assembles: its transaction id is its owner's, and stays as it is. The record goes into the
    /// database with the claim that [`super::Pool::join`] makes.
    fn external(&self, name: &DmName, record: PoolRecord) -> Result<(PoolRecord, Found), PoolError> {
        let refuse = |what: String| PoolError::External { pool: name.clone(), what };
        let info = self.dm.info(name).map_err(|source| PoolError::Look { device: name.clone(), source })?;
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
        let found = ExternalPool { name: name.to_string(), uuid: info.uuid.as_ref().map(ToString::to_string) };
        // A first start that failed before it had a thin in the pool binds the database to nothing.
        let bound = record.formatted && self.store.read(|r| r.id_claim())?.is_none_or(|claim| claim.epoch > 0);
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
            return Err(PoolError::BlockSize { pool: name.clone(), has: block_size, wanted: record.block_size });
        }
        let status = self.working(name)?;
        if status.mode == PoolMode::ReadOnly && !status.needs_check {
            return Err(refuse(
                "is read-only; let its owner load it without read_only, or give it more metadata".into(),
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
        PoolError::Foreign { pool: pool.clone(), store: self.store.path().into(), what: what.into() }
    }
}

/// Zeroing stays on, so that nobody reads another's old blocks; a full pool answers at once instead of queueing.
fn pool_table(areas: &Areas, block_size: Sectors) -> ThinPoolTable {
    let blocks = areas.data_size.0 / block_size.0;
    ThinPoolTable {
        start: Sectors(0),
        length: Sectors(blocks * block_size.0),
        metadata: areas.metadata.into(),
        data: areas.data.into(),
        block_size,
        low_water_blocks: blocks / 20,
        features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
    }
}

fn called(pool: Option<&ExternalPool>) -> String {
    match pool {
        None => "a pool that this daemon made itself".into(),
        Some(ExternalPool { name, uuid: Some(uuid) }) => format!("pool {name} with dm uuid {uuid}"),
        Some(ExternalPool { name, uuid: None }) => format!("pool {name} without a dm uuid"),
    }
}

//! Opens the pool that the database belongs to, or makes it at the first start.

use uuid::Uuid;

use super::backing::{Backer, Base};
use super::error::PoolError;
use super::identity::{called, make, name_must_be_free, open_own, Opening, PoolFound};
use super::naming::{DeviceNames, Role};
use super::settings::PoolSettings;
use super::sharing::open_shared;
use crate::dm::Dm;
use crate::store::{PoolRecord, Store};

/// A pool that is assembled and belongs to the database.
pub struct Opened {
    pub names: DeviceNames,
    pub pool: PoolFound,
}

/// Makes sure that pool and database belong together, and assembles a pool of our own if it is not
/// assembled.
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
    name_must_be_free(settings, &backer.base, dm, store, record.as_ref())?;
    // A crash may have cut a first start short. What that start labelled has the uuid on record, so
    // this start goes on with it, with the configuration of now.
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
    let metadata = backer.metadata_place(&names);
    let opening = Opening { settings, dm, store, names: &names, metadata: &metadata };
    let pool = match &backer.base {
        Base::Shared(shared) => open_shared(&opening, shared, record),
        Base::Own(disks) if record.formatted => open_own(&opening, disks, record),
        Base::Own(disks) => make(&opening, disks, record),
    }?;
    Ok(Opened { names, pool })
}

/// Finds the pool that the database belongs to as it is. Assembles, claims and writes nothing.
/// `None` if there is no pool on record, or if it is not assembled.
pub fn attach(
    settings: &PoolSettings,
    dm: &Dm,
    store: &Store,
    backer: &Backer,
) -> Result<Option<Opened>, PoolError> {
    let Some(record) = store.read(|r| r.pool())? else { return Ok(None) };
    must_be_named_so(settings, store, Some(&record))?;
    let names = DeviceNames::new(&settings.name, &record.uuid);
    let metadata = backer.metadata_place(&names);
    let opening = Opening { settings, dm, store, names: &names, metadata: &metadata };
    let name = match &backer.base {
        Base::Shared(shared) => shared.name.clone(),
        Base::Own(_) => names.name(Role::Pool),
    };
    let info = opening.info(&name)?.filter(|info| info.live_table);
    let Some(info) = info else { return Ok(None) };
    let uuid = info.uuid.as_ref().map(ToString::to_string);
    let ours = match (&backer.base, &record.external) {
        (Base::Shared(_), Some(external)) => external.uuid == uuid,
        (Base::Own(_), None) => uuid.as_deref().is_some_and(|uuid| names.owns(uuid)),
        (_, external) => {
            let what = format!("the database belongs to {}", called(external.as_ref()));
            return Err(opening.foreign(&name, &what));
        }
    };
    if !ours {
        let what = format!("its dm uuid is {:?}", uuid.unwrap_or_default());
        return Err(opening.foreign(&name, &what));
    }
    Ok(Some(Opened { pool: PoolFound { name, device: info.device, record }, names }))
}

/// The devices of a pool keep the name that they were made with.
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

/// The transaction id of a new pool starts at a random number that another pool hardly ever has. It
/// is low enough to count up from.
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

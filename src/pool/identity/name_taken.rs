//! Whether another daemon or program on this host has devices of our name.
//!
//! This is checked before anything is recorded or made. So an operator whose start is refused can
//! choose another name, and the state directory is not bound to the first one.

use crate::dm::{Dm, ListedDevice};
use crate::pool::backing::Base;
use crate::pool::error::PoolError;
use crate::pool::naming::{is_of_this_program, role_under, DeviceNames, Role};
use crate::pool::settings::PoolSettings;
use crate::store::{PoolRecord, Store};

/// Refuses the start while a device that has one of our names is not of the pool on `record`.
/// Without a record no device can be ours.
pub fn name_must_be_free(
    settings: &PoolSettings,
    base: &Base,
    dm: &Dm,
    store: &Store,
    record: Option<&PoolRecord>,
) -> Result<(), PoolError> {
    let names = record.map(|record| DeviceNames::new(&settings.name, &record.uuid));
    let is_ours = |device: &ListedDevice| match (&names, &device.uuid) {
        (Some(names), Some(uuid)) => names.owns(uuid.as_str()),
        _ => false,
    };
    // In a shared pool we make neither a pool nor areas. A volume of another program may then have
    // the name that ours would have.
    let is_needed = |device: &ListedDevice| match role_under(&settings.name, device.name.as_str()) {
        None => false,
        Some(Role::Pool | Role::Data | Role::Metadata) => {
            matches!(base, Base::Own(_))
                || device.uuid.as_ref().is_some_and(|uuid| is_of_this_program(uuid.as_str()))
        }
        Some(_) => true,
    };
    let devices = dm.list().map_err(|source| PoolError::List { source })?;
    let taken = |device: &&ListedDevice| is_needed(device) && !is_ours(device);
    let Some(device) = devices.iter().find(taken) else { return Ok(()) };
    let uuid = device.uuid.as_ref().map_or("", |uuid| uuid.as_str());
    Err(PoolError::NameTaken {
        device: device.name.clone(),
        uuid: uuid.into(),
        of_this_program: is_of_this_program(uuid),
        name: settings.name.clone(),
        store: store.path().into(),
        ours: record.map(|record| record.uuid.clone()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block::{Loops, RealDisks};
    use crate::config::{Backing, Config};
    use crate::dm::fake::FakeKernel;
    use crate::dm::Settings;
    use crate::names::{DevicePrefix, DmName, DmUuid};
    use crate::pool::backing::Backer;
    use crate::units::Sectors;

    /// The message for a daemon named "a" when there is this device.
    fn said(device: &str, uuid: Option<&str>, record: Option<&str>) -> Option<String> {
        said_of(None, device, uuid, record)
    }

    fn said_of(
        external: Option<&str>,
        device: &str,
        uuid: Option<&str>,
        record: Option<&str>,
    ) -> Option<String> {
        let dm = Dm::new(Arc::new(FakeKernel::new()), Settings::without_nodes());
        dm.create(
            &DmName::new(device).unwrap(),
            uuid.map(|uuid| DmUuid::new(uuid).unwrap()).as_ref(),
        )
        .unwrap();
        let name = DevicePrefix::new("a").unwrap();
        let backing = match external {
            Some(pool) => Backing::External { pool_name: DmName::new(pool).unwrap() },
            None => Backing::Devices { data: "/dev/disk".into(), metadata: None },
        };
        let config = Config { backing, ..Config::default() };
        let backer = Backer::new(&config, Arc::new(RealDisks), Loops::default());
        let settings = PoolSettings { name, block_size: Sectors(128), min_free_percent: 0 };
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        let record = record.map(|uuid| PoolRecord {
            uuid: uuid.into(),
            external: None,
            name: "a".into(),
            block_size: Sectors(128),
            formatted: true,
            epoch: 1,
            epoch_next: None,
        });
        name_must_be_free(&settings, &backer.base, &dm, &store, record.as_ref())
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_device_of_our_name_that_is_not_of_our_pool_is_named_with_what_to_do() {
        for (device, uuid, record) in [
            ("a-pool", Some("DMSNAPSHOTTER-bb-pool"), None),
            ("a-snap-7", Some("DMSNAPSHOTTER-bb-snap-7"), Some("cc")),
            ("a-data", None, Some("cc")),
            ("a-pool", Some("LVM-x"), None),
        ] {
            let said = said(device, uuid, record).unwrap();
            for part in [
                device,
                uuid.unwrap_or("no dm uuid"),
                "another 'name'",
                "dmsetup info",
                "Nothing was changed",
            ] {
                assert!(said.contains(part), "{part:?} is not in {said}");
            }
            assert_eq!(
                said.contains("another daemon of this program"),
                uuid.is_some_and(|uuid| uuid.contains("bb")),
                "{said}"
            );
        }
    }

    #[test]
    fn devices_of_our_pool_and_of_other_names_are_allowed() {
        assert_eq!(said("a-pool", Some("DMSNAPSHOTTER-cc-pool"), Some("cc")), None);
        for other in ["a-snap-pool", "a-snap-snap-1", "a-b-pool", "a", "ab-pool", "a-lvol0"] {
            assert_eq!(said(other, Some("DMSNAPSHOTTER-bb-pool"), None), None, "{other}");
        }
    }

    #[test]
    fn in_a_shared_pool_only_names_that_are_needed_count() {
        for volume in ["a-pool", "a-data", "a-metadata"] {
            assert_eq!(said_of(Some("a-pool"), volume, Some("LVM-x"), None), None, "{volume}");
            assert!(
                said_of(Some("p"), volume, Some("DMSNAPSHOTTER-bb-x"), None).is_some(),
                "{volume}"
            );
        }
        assert!(said_of(Some("p"), "a-snap-1", None, None).is_some());
    }
}

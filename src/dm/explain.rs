//! Why the kernel refused a table.
//!
//! It answers EINVAL (or ENXIO) to half a dozen different mistakes and writes the reason to its log alone.
//! After such a failure, and only then, this file asks the kernel about the devices that the table names.

use super::client::Dm;
use super::error::Error;
use super::request::Selector;
use super::table::{DeviceRef, Target};
use super::Errno;
use crate::names::DmName;
use crate::units::{DeviceNumber, Sectors};

/// The error of a load, with its reason where it can be found out. `exists` says that the device itself is
/// known to be there.
pub(super) fn load_error(dm: &Dm, name: &DmName, table: &[Target], exists: bool, error: Error) -> Error {
    match error {
        Error::NoSuchDevice { .. } if exists || matches!(dm.info(name), Ok(Some(_))) => {
            Error::BackingDeviceMissing { device: name.to_string(), table: text(table), errno: Errno::ENXIO }
        }
        Error::TableRefused { .. } => table.iter().find_map(|target| reason(dm, name, target)).unwrap_or(error),
        other => other,
    }
}

/// The error of a resume that was to put `table` in place, with its reason where it can be found out.
pub(super) fn resume_error(dm: &Dm, name: &DmName, table: &[Target], error: Error) -> Error {
    match error {
        Error::Kernel { errno: Errno::EINVAL, .. } => {
            table.iter().find_map(|target| reason(dm, name, target)).unwrap_or(error)
        }
        other => other,
    }
}

fn reason(dm: &Dm, name: &DmName, target: &Target) -> Option<Error> {
    if let Err(missing) = dm.require_target(target.kind()) {
        return matches!(missing, Error::TargetMissing { .. }).then_some(missing);
    }
    match target {
        Target::Thin(thin) => pool_reason(dm, name, &thin.pool),
        Target::Linear(linear) => too_long(dm, name, &linear.device, linear.offset.checked_add(linear.length)?),
        Target::ThinPool(pool) => too_long(dm, name, &pool.data, pool.length),
        Target::Error { .. } | Target::Other { .. } => None,
    }
}

/// Why a thin could not be loaded on `pool`.
fn pool_reason(dm: &Dm, name: &DmName, pool: &DeviceRef) -> Option<Error> {
    let wrong = || Error::WrongPool { device: name.to_string(), pool: pool.to_string() };
    let info = match dm.info_of(Selector::Number(number(pool)?)) {
        Ok(Some(info)) => info,
        Ok(None) => return Some(wrong()),
        Err(_) => return None,
    };
    let is_pool = dm.table(&info.name).is_ok_and(|table| matches!(table.as_slice(), [Target::ThinPool(_)]));
    if !is_pool {
        return Some(wrong());
    }
    info.suspended.then(|| Error::PoolSuspended { device: name.to_string(), pool: info.name.to_string() })
}

fn too_long(dm: &Dm, name: &DmName, below: &DeviceRef, needed: Sectors) -> Option<Error> {
    let below = number(below)?;
    let size = dm.kernel().device_size(below)?;
    (needed > size).then(|| Error::TableTooLong { device: name.to_string(), below, needed, size })
}

fn number(device: &DeviceRef) -> Option<DeviceNumber> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match device {
        DeviceRef::Number(number) => Some(*number),
        DeviceRef::Path(path) => {
            let metadata = std::fs::metadata(path).ok()?;
            let block = metadata.file_type().is_block_device();
            block.then(|| DeviceNumber::from_u64(metadata.rdev()))
        }
    }
}

fn text(table: &[Target]) -> String {
    table.iter().map(Target::to_string).collect::<Vec<_>>().join("; ")
}

/// That the kernel lacks a target, and where to get it.
pub(super) fn target_missing(target: &str) -> Error {
    let (module, option) = match target {
        "thin-pool" | "thin" => ("dm_thin_pool", "CONFIG_DM_THIN_PROVISIONING"),
        "linear" | "error" | "striped" => ("dm_mod", "CONFIG_BLK_DEV_DM"),
        _ => ("", "its option"),
    };
    let module = match module {
        "" => format!("dm_{}", target.replace('-', "_")),
        known => known.to_owned(),
    };
    Error::TargetMissing { target: target.to_owned(), module, option }
}

//! Why the kernel refused a table.
//!
//! The kernel answers EINVAL (or ENXIO) to half a dozen different mistakes and writes the reason to
//! its log alone. After such a failure, and only then, this file asks the kernel about the devices
//! that the table names.

use nix::errno::Errno;

use super::client::Dm;
use crate::dm::error::{Error, Misfit};
use crate::dm::text::{DeviceRef, Target, ThinPoolTable};
use crate::dm::wire::Selector;
use crate::units::{DeviceNumber, Sectors};

/// The error of a load, with its reason where it can be found out. `exists` says whether the device
/// itself is there.
pub(super) fn load_error(
    dm: &Dm,
    device: &Selector,
    table: &[Target],
    exists: impl FnOnce() -> bool,
    error: Error,
) -> Error {
    match error {
        Error::NoSuchDevice { .. } if exists() => Error::BackingDeviceMissing {
            device: device.to_string(),
            table: text(table),
            errno: Errno::ENXIO,
        },
        Error::TableRefused { .. } => {
            table.iter().find_map(|target| reason(dm, device, target)).unwrap_or(error)
        }
        // The caller may use device-mapper, so the refusal is about a device below.
        Error::NoPermission { errno, .. } if dm.driver_version().is_ok() => {
            unfit(device, Misfit::ReadOnly { table: text(table), errno })
        }
        other => other,
    }
}

fn unfit(device: &Selector, misfit: Misfit) -> Error {
    Error::TableUnfit { device: device.to_string(), misfit }
}

/// The error of a resume that was to put `table` in place, with its reason where it can be found
/// out.
pub(super) fn resume_error(dm: &Dm, device: &Selector, table: &[Target], error: Error) -> Error {
    match error {
        Error::Kernel { errno: Errno::EINVAL, .. } => {
            table.iter().find_map(|target| reason(dm, device, target)).unwrap_or(error)
        }
        other => other,
    }
}

fn reason(dm: &Dm, device: &Selector, target: &Target) -> Option<Error> {
    if let Err(missing) = dm.require_target(target.kind()) {
        return matches!(missing, Error::TargetMissing { .. }).then_some(missing);
    }
    match target {
        Target::Thin(thin) => pool_reason(dm, device, &thin.pool).or_else(|| {
            misaligned(dm, device, &thin.pool, &[("length", thin.length), ("start", thin.start)])
        }),
        Target::Linear(linear) => {
            let parts =
                [("length", linear.length), ("start", linear.start), ("offset", linear.offset)];
            too_long(dm, device, &linear.device, linear.offset.checked_add(linear.length)?)
                .or_else(|| misaligned(dm, device, &linear.device, &parts))
        }
        Target::ThinPool(pool) => one_device_twice(device, pool)
            .or_else(|| too_long(dm, device, &pool.data, pool.length))
            .or_else(|| {
                misaligned(
                    dm,
                    device,
                    &pool.data,
                    &[("length", pool.length), ("start", pool.start)],
                )
            })
            .or_else(|| too_long(dm, device, &pool.metadata, LEAST_METADATA)),
        Target::Error { .. } | Target::Other { .. } => None,
    }
}

/// dm-thin needs at least 2 MiB of metadata (thin-provisioning.rst).
const LEAST_METADATA: Sectors = Sectors((2 << 20) / 512);

fn one_device_twice(device: &Selector, pool: &ThinPoolTable) -> Option<Error> {
    let below = number(&pool.data)?;
    (number(&pool.metadata)? == below).then(|| unfit(device, Misfit::OneDeviceTwice { below }))
}

/// The kernel wants a table to begin and to end between two sectors of the device below
/// (`device_area_is_invalid` and `validate_hardware_logical_block_alignment` in
/// drivers/md/dm-table.c).
fn misaligned(
    dm: &Dm,
    device: &Selector,
    below: &DeviceRef,
    parts: &[(&'static str, Sectors)],
) -> Option<Error> {
    let below = number(below)?;
    let block = dm.kernel().logical_block_size(below)?;
    let uneven =
        |value: Sectors| value.bytes().is_ok_and(|bytes| bytes % u64::from(block.max(1)) != 0);
    let (what, value) = *parts.iter().find(|(_, value)| uneven(*value))?;
    Some(unfit(device, Misfit::NotAligned { what, value, below, block }))
}

/// Why a thin could not be loaded on `pool`.
fn pool_reason(dm: &Dm, device: &Selector, pool: &DeviceRef) -> Option<Error> {
    let wrong = || Error::WrongPool { device: device.to_string(), pool: pool.to_string() };
    let info = match dm.info(number(pool)?) {
        Ok(Some(info)) => info,
        Ok(None) => return Some(wrong()),
        Err(_) => return None,
    };
    let is_pool =
        dm.table(&info.name).is_ok_and(|table| matches!(table.as_slice(), [Target::ThinPool(_)]));
    if !is_pool {
        return Some(wrong());
    }
    info.suspended
        .then(|| Error::PoolSuspended { device: device.to_string(), pool: info.name.to_string() })
}

fn too_long(dm: &Dm, device: &Selector, below: &DeviceRef, needed: Sectors) -> Option<Error> {
    let below = number(below)?;
    let size = dm.kernel().device_size(below)?;
    (needed > size).then(|| Error::TableTooLong { device: device.to_string(), below, needed, size })
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

/// The error for a target that the kernel lacks, with the module that has it.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::dm::fake::FakeKernel;
    use crate::dm::{
        ActivateOptions, EventSource, Kernel, LinearTable, NoSpacePolicy, PoolFeatures, PoolLog,
        Reply, Request, Result, Settings, Verb,
    };
    use crate::names::DmName;

    /// A kernel that answers every load with this errno, on disks with sectors of 4096 bytes.
    #[derive(Debug)]
    struct Refusing(FakeKernel, Errno);

    impl Kernel for Refusing {
        fn submit(&self, request: &Request) -> Result<Reply> {
            match request.verb() {
                Verb::Load => Err(Error::from_errno(request, self.1)),
                _ => self.0.submit(request),
            }
        }

        fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
            self.0.device_size(device)
        }

        fn logical_block_size(&self, _: DeviceNumber) -> Option<u32> {
            Some(4096)
        }

        fn event_source(&self) -> Result<Box<dyn EventSource>> {
            self.0.event_source()
        }

        fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
            self.0.pool_log()
        }

        fn incarnation(&self, device: DeviceNumber) -> String {
            self.0.incarnation(device)
        }
    }

    const BIG: DeviceNumber = DeviceNumber { major: 7, minor: 0 };
    const SMALL: DeviceNumber = DeviceNumber { major: 7, minor: 1 };

    fn said(target: Target, errno: Errno) -> String {
        let kernel = FakeKernel::new();
        kernel.add_disk(BIG, Sectors(131_072));
        kernel.add_disk(SMALL, Sectors(1024));
        let dm = Dm::new(Arc::new(Refusing(kernel, errno)), Settings::without_nodes());
        let name = DmName::new("d").unwrap();
        dm.activate(&name, None, &[target], ActivateOptions::default()).unwrap_err().to_string()
    }

    fn pool(metadata: DeviceNumber, data: DeviceNumber, length: u64) -> Target {
        Target::ThinPool(ThinPoolTable {
            start: Sectors::ZERO,
            length: Sectors(length),
            metadata: metadata.into(),
            data: data.into(),
            block_size: Sectors(128),
            low_water_blocks: 1,
            features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
        })
    }

    fn linear(length: u64, offset: u64) -> Target {
        let (start, length, offset) = (Sectors::ZERO, Sectors(length), Sectors(offset));
        Target::Linear(LinearTable { start, length, device: BIG.into(), offset })
    }

    #[test]
    fn a_refused_table_is_explained_where_the_devices_below_tell() {
        for (target, parts) in [
            (pool(BIG, BIG, 1024), &["7:0 is named both for data and for metadata"][..]),
            (pool(BIG, SMALL, 2048), &["needs 2048", "7:1", "which has 1024"]),
            (pool(SMALL, BIG, 2048), &["needs 4096", "7:1", "which has 1024"]),
            (pool(SMALL, BIG, 131_073), &["needs 131073", "7:0"]),
            (linear(131_072, 8), &["needs 131080", "7:0"]),
            (linear(7, 8), &["length of 7", "4096-byte sectors", "7:0"]),
            (linear(8, 9), &["offset of 9", "4096-byte sectors"]),
        ] {
            let said = said(target.clone(), Errno::EINVAL);
            assert!(parts.iter().all(|part| said.contains(part)), "{target}: {said}");
            assert!(!said.contains("dmesg"), "{said}");
        }
        assert!(
            said(linear(8, 8), Errno::EINVAL).contains("dmesg"),
            "other reasons are in the kernel's log"
        );
    }

    #[test]
    fn a_device_below_that_is_in_use_or_write_protected_is_not_the_device_that_is_made() {
        let busy = said(linear(8, 8), Errno::EBUSY);
        assert!(busy.contains("a device that its table names is in use"), "{busy}");
        let protected = said(linear(8, 8), Errno::EACCES);
        assert!(
            protected.contains("cannot be opened for writing") && !protected.contains("root"),
            "{protected}"
        );
    }
}

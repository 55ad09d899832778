//! Opening device-mapper fails: no control node, a driver that is too old, no permission. It is
//! one test, because it gives up root at the end.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::Arc;

use crate::lab::Bench;
use devmapper_snapshotter::dm::{
    Dm, DriverVersion, Errno, Error, RealKernel, Settings, OLDEST_DRIVER,
};
use devmapper_snapshotter::units::DeviceNumber;

#[test]
fn what_is_in_the_way_is_told_apart() {
    let bench = Bench::new("errors");
    let found = bench.dm.driver_version().unwrap();
    assert!(found >= OLDEST_DRIVER && found.major == 4, "{found}");

    // No control node: it is made, with the number from /proc/misc.
    let dir = bench.dir().join("made").join("mapper");
    let kernel = RealKernel::open_in(&dir, OLDEST_DRIVER).unwrap();
    let node = dir.join("control").metadata().unwrap();
    assert!(node.file_type().is_char_device());
    assert_eq!(node.permissions().mode() & 0o777, 0o600);
    let misc = std::fs::read_to_string("/proc/misc").unwrap();
    let minor: u32 = misc
        .lines()
        .find_map(|line| line.trim().strip_suffix("device-mapper"))
        .map(|minor| minor.trim().parse().unwrap())
        .expect("device-mapper in /proc/misc");
    assert_eq!(DeviceNumber::from_u64(node.rdev()), DeviceNumber { major: 10, minor });
    let dm = Dm::new(Arc::new(kernel), Settings::default());
    assert_eq!(dm.driver_version().unwrap(), found);

    // Something else in its place.
    let wrong = bench.dir().join("wrong");
    std::fs::create_dir_all(wrong.join("control")).unwrap();
    let error = RealKernel::open_in(&wrong, OLDEST_DRIVER).unwrap_err();
    assert!(matches!(error, Error::NoControlNode { errno: Errno::EISDIR, .. }), "{error:?}");

    // A newer driver than any.
    let needed = DriverVersion::new(4, 999, 0);
    let error = RealKernel::open_in(&dir, needed).unwrap_err();
    assert_eq!(error, Error::DriverTooOld { found, needed });

    // Without root: neither opening nor an open node helps.
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
    let error = RealKernel::open_in(&dir, OLDEST_DRIVER).unwrap_err();
    assert!(matches!(error, Error::NoPermission { errno: Errno::EACCES, .. }), "{error:?}");
    let error = dm.list().unwrap_err();
    assert!(matches!(error, Error::NoPermission { errno: Errno::EACCES, .. }), "{error:?}");
    let nowhere = bench.dir().join("nowhere");
    let error = RealKernel::open_in(&nowhere, OLDEST_DRIVER).unwrap_err();
    assert!(matches!(error, Error::NoPermission { .. }), "{error:?}");
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(0)).unwrap();
    assert!(dm.list().is_ok());
}

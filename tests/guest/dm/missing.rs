//! On a kernel without device-mapper the error names the module to load.
// guest: --no-dm

use devmapper_snapshotter::dm::{Errno, Error, RealKernel};

#[test]
fn a_kernel_without_device_mapper_is_told_apart() {
    assert!(std::env::var_os("GUEST").is_some(), "run this in a guest: tests/rig/guest --no-dm");
    let error = RealKernel::open().unwrap_err();
    assert!(
        matches!(error, Error::NoDeviceMapper { errno: Errno::ENODEV | Errno::ENXIO, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("modprobe dm_mod"), "{error}");
    assert!(
        !std::path::Path::new("/dev/mapper/control").exists(),
        "no node is left that leads nowhere"
    );
}

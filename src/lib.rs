//! devmapper-snapshotter: a containerd snapshotter on device-mapper thin provisioning, and the
//! device-mapper library it stands on.

pub mod block;
pub mod fs;

pub mod units;

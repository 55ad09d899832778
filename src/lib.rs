//! devmapper-snapshotter: a containerd snapshotter on device-mapper thin provisioning, and the
//! device-mapper library it stands on.
pub mod dm;
pub mod names;
pub mod units;

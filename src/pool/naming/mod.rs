//! Names, uuids and minor numbers of the pool's devices.

mod device_names;
mod minors;

pub use device_names::{is_of_this_program, role_under, DeviceNames, Role};

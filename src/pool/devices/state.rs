//! What the kernel says of a device that has one of the pool's names.

use crate::names::DmName;
use crate::units::DeviceNumber;

/// What the kernel says of a device that has one of the pool's names. Users of the pool get this
/// type, so that they need not know `dm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    pub name: DmName,
    pub device: DeviceNumber,
    /// Whether its uuid is of this pool.
    pub is_ours: bool,
    /// Without a table it is half made.
    pub live_table: bool,
    pub suspended: bool,
    pub read_only: bool,
    /// Whether it is removed when its last user closes it.
    pub deferred_remove: bool,
    pub open_count: u32,
}

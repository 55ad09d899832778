//! What a pool must be told to be opened.

use crate::names::DevicePrefix;
use crate::units::Sectors;

/// What a pool must be told to be opened, besides its [`Backer`](super::Backer).
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// The prefix of every device name.
    pub name: DevicePrefix,
    /// The block size of a pool that this daemon makes.
    pub block_size: Sectors,
    /// See [`crate::config::Config::min_free_percent`].
    pub min_free_percent: u8,
}

//! What a pool must be told to be opened.

use crate::config::PoolFeature;
use crate::names::{DevicePrefix, DmName};
use crate::units::Sectors;

#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Prefix of every device name.
    pub name: DevicePrefix,
    /// The dm name of a pool that somebody else assembles; `None` when it is ours to assemble.
    pub external: Option<DmName>,
    pub block_size: Sectors,
    /// See [`crate::config::Config::min_free_percent`].
    pub min_free_percent: u8,
    /// See [`crate::config::Config::accept_pool_features`].
    pub accepted_features: Vec<PoolFeature>,
}

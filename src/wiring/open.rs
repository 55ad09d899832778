//! Opens the pool and the snapshotter as the configuration asks for them.

use std::sync::Arc;

use super::state::database;
use super::WiringError;
use crate::block::{Loops, RealDisks};
use crate::config::{Backing, Config};
use crate::dm::Dm;
use crate::fs::{FsSpec, Mkfs};
use crate::monitor;
use crate::pool::{Backer, Pool, PoolSettings};
use crate::snapshotter::{Settings, Snapshotter};
use crate::store::Store;

/// The device-mapper of the running kernel.
pub fn device_mapper() -> Result<Dm, WiringError> {
    Ok(Dm::open()?)
}

/// What a running daemon works on.
#[derive(Debug)]
pub struct Opened {
    pub store: Arc<Store>,
    pub pool: Arc<Pool>,
    pub snapshotter: Arc<Snapshotter>,
}

impl Opened {
    /// Opens or makes the database and the pool, repairs what the last run left behind, and starts
    /// the snapshotter. The caller must own the state directory.
    pub fn open(config: &Config, dm: Dm) -> Result<Opened, WiringError> {
        let store = Arc::new(Store::open(&database(&config.root))?);
        let (backer, settings) = parts(config);
        let pool = Arc::new(Pool::open(&settings, dm, Arc::clone(&store), backer)?);
        // Before anything is written to the pool: a template may need more than it has.
        monitor::watch_events(&pool).map_err(WiringError::Watch)?;
        let fs_type = config.fs_type.parse();
        let settings = Settings {
            fs: FsSpec {
                fs_type: fs_type.map_err(|error| WiringError::FileSystem(Box::new(error)))?,
                options: config.fs_options.clone(),
                zeroed: pool.zeroes_blocks()?,
            },
            base_image_size: config.base_image_size,
            max_image_size: config.max_image_size.unwrap_or(config.base_image_size),
            discard: config.discard.unwrap_or(false)
                && !matches!(config.backing, Backing::Embedded { .. }),
        };
        let formatter = Arc::new(Mkfs::new().mounting_untrusted(config.mount_untrusted));
        let (its_pool, its_store) = (Arc::clone(&pool), Arc::clone(&store));
        let snapshotter =
            Snapshotter::start(settings, its_pool, its_store, Arc::new(RealDisks), formatter)?;
        Ok(Opened { store, pool, snapshotter: Arc::new(snapshotter) })
    }
}

/// What opens a pool, besides device-mapper and the database.
pub(super) fn parts(config: &Config) -> (Backer, PoolSettings) {
    let settings = PoolSettings {
        name: config.name.clone(),
        block_size: config.block_size,
        min_free_percent: config.min_free_percent,
    };
    (Backer::new(config, Arc::new(RealDisks), Loops::default()), settings)
}

//! Opening a pool: for a daemon, and for a command that only reads.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock};

use super::backing::Backer;
use super::error::PoolError;
use super::handle::Pool;
use super::kind::Kind;
use super::lapses::Lapses;
use super::opened::{attach, open, Opened};
use super::settings::PoolSettings;
use super::thins::Ids;
use crate::dm::Dm;
use crate::store::Store;

impl Pool {
    /// Assembles the pool if it is not assembled, makes sure that it is the one that the database
    /// belongs to, and moves its epoch on. The leases of the last run stay for
    /// [`Pool::unrecorded`].
    pub fn open(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Backer,
    ) -> Result<Pool, PoolError> {
        let opened = open(settings, &dm, &store, &backer)?;
        let pool = Pool::of(opened, settings, dm, store, backer, true)?;
        // The kernel's log says what happened while no daemon ran. It is read now, because all that
        // a start does adds to it.
        pool.look()?;
        if let Some(embedded) = pool.embedded() {
            if let Err(error) = pool.restore_blocks(embedded) {
                tracing::error!(
                    %error,
                    "the embedded pool's files have lost blocks, or it cannot be told, and there \
                     is no space to allocate them again: nothing new is accepted until there is"
                );
                embedded.backed.store(false, Ordering::Relaxed);
            }
        }
        Ok(pool)
    }

    /// The pool as it is, for a command that only reads. `None` if it is not assembled. Changes
    /// nothing.
    pub fn attach(
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Backer,
    ) -> Result<Option<Pool>, PoolError> {
        let opened = attach(settings, &dm, &store, &backer)?;
        opened.map(|opened| Pool::of(opened, settings, dm, store, backer, false)).transpose()
    }

    fn of(
        Opened { names, pool }: Opened,
        settings: &PoolSettings,
        dm: Dm,
        store: Arc<Store>,
        backer: Backer,
        keeps_record: bool,
    ) -> Result<Pool, PoolError> {
        let info = dm
            .info(&pool.name)
            .map_err(|source| PoolError::Look { device: pool.name.clone(), source })?;
        let events = info.map_or(0, |info| info.event_nr);
        let lapses = Lapses::new(&dm, pool.device, events, store.read(|r| r.lapses())?);
        let metadata = backer.metadata_place(&names);
        let block_size = pool.record.block_size;
        let kind = Kind::new(&backer, pool.record);
        Ok(Pool {
            dm,
            names,
            device_name: pool.name,
            device: pool.device,
            block_size,
            min_free_percent: settings.min_free_percent,
            ids: Ids::new(Arc::clone(&store), matches!(kind, Kind::Shared(_))),
            kind,
            metadata,
            disks: backer.disks,
            store,
            assembly: lapses.assembly(),
            keeps_record,
            lapses: Mutex::new(lapses),
            seen: Mutex::default(),
            table_turn: RwLock::default(),
        })
    }
}

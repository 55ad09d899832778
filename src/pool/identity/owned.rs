//! A pool of our own: makes it at the first start, assembles it, and moves its epoch on.
//!
//! Three things tie pool and database together: the pool's UUID, which is in the database and in
//! the dm uuid; the block size; and the epoch, which is the pool's transaction id. The next value
//! of the epoch is on record before the kernel's moves. So after a crash between the two steps the
//! database knows both values.

use super::areas::{Areas, Finder};
use super::epoch;
use super::opening::{called, Opening, PoolFound};
use super::table;
use crate::dm::{ActivateOptions, DeviceInfo, Target};
use crate::names::DmName;
use crate::pool::backing::OwnDisks;
use crate::pool::error::PoolError;
use crate::pool::naming::Role;
use crate::store::PoolRecord;
use crate::units::DeviceNumber;

/// Makes a new pool. If that fails, no device, label, file or record of it stays.
pub fn make(
    opening: &Opening<'_>,
    disks: &OwnDisks,
    record: PoolRecord,
) -> Result<PoolFound, PoolError> {
    // When this fails nothing has been written. A record that a crash has left stays: it may be
    // right for another configuration.
    disks.must_be_usable(&record.uuid)?;
    let uuid = record.uuid.clone();
    // On record before the first disk is labelled, so that labels which a crash leaves are known.
    opening.store.commit(|c| c.put_pool(&record))?;
    match open_own(opening, disks, record) {
        // It is not known whether the pool is on record as made.
        Err(error @ PoolError::Store(_)) => Err(error),
        // It is made, and must be checked.
        Err(error) if error.wants_check() => Err(error),
        Err(error) => {
            let left = disks
                .abandon(&uuid)
                .and_then(|()| Ok(opening.store.commit(|c| c.remove_pool())?));
            if let Err(left) = left {
                tracing::warn!(error = %left, "a pool that could not be made is left half made");
            }
            Err(error)
        }
        opened => opened,
    }
}

/// Assembles the pool, or finds it assembled. If that fails, the devices that were made for it are
/// removed.
pub fn open_own(
    opening: &Opening<'_>,
    disks: &OwnDisks,
    record: PoolRecord,
) -> Result<PoolFound, PoolError> {
    let name = opening.names.name(Role::Pool);
    let mut owned = Owned { opening, disks, name, record, made: Vec::new() };
    let opened = owned.open();
    // thin_check needs the areas.
    if opened.as_ref().is_err_and(|error| !error.wants_check()) {
        for name in owned.made.iter().rev() {
            if let Err(error) = opening.dm.remove(name) {
                tracing::warn!(%error, device = %name, "a device that was made for the pool stays");
            }
        }
    }
    let device = opened?;
    Ok(PoolFound { name: owned.name, device, record: owned.record })
}

/// A pool of our own that is being assembled.
struct Owned<'a> {
    opening: &'a Opening<'a>,
    disks: &'a OwnDisks,
    name: DmName,
    record: PoolRecord,
    /// The devices that were made.
    made: Vec<DmName>,
}

impl Owned<'_> {
    fn open(&mut self) -> Result<DeviceNumber, PoolError> {
        let (opening, name) = (self.opening, self.name.clone());
        if let Some(external) = &self.record.external {
            return Err(opening.foreign(
                &name,
                &format!("the database belongs to {}; set pool_name again", called(Some(external))),
            ));
        }
        if self.record.block_size != opening.settings.block_size {
            return Err(PoolError::BlockSize {
                pool: name,
                has: self.record.block_size,
                wanted: opening.settings.block_size,
            });
        }
        let live = self.live()?;
        let finder = Finder {
            dm: opening.dm,
            names: opening.names,
            disks: self.disks,
            record: &self.record,
            store: opening.store.path(),
        };
        let mut areas = finder.areas(live.is_some(), &mut self.made)?;
        let (device, assembled) = match live {
            Some(info) => {
                self.must_stand_on(&areas)?;
                if info.suspended {
                    self.resume()?;
                }
                (info.device, false)
            }
            None => (self.assemble(&areas)?, true),
        };
        opening.must_take_changes(&name, assembled)?;
        self.move_epoch(&mut areas, assembled)?;
        Ok(device)
    }

    /// The pool's device, if it is assembled. A device of the pool's name must be ours.
    fn live(&self) -> Result<Option<DeviceInfo>, PoolError> {
        let Some(info) = self.opening.info(&self.name)? else { return Ok(None) };
        let uuid = info.uuid.as_ref().map_or("", |uuid| uuid.as_str());
        let ours = self.opening.names.uuid(Role::Pool);
        if uuid != ours.as_str() {
            let what = format!("its dm uuid is {uuid:?}, the database's is {:?}", ours.as_str());
            return Err(self.opening.foreign(&self.name, &what));
        }
        if info.live_table {
            return Ok(Some(info));
        }
        // A crash left it without a table.
        let removed = self.opening.dm.remove(&self.name);
        removed
            .map_err(|source| PoolError::Deactivate { device: self.name.clone(), source })
            .map(|_| None)
    }

    fn assemble(&mut self, areas: &Areas) -> Result<DeviceNumber, PoolError> {
        let table = table::of_pool(areas, self.record.block_size, self.disks.embedded());
        let uuid = self.opening.names.uuid(Role::Pool);
        let made = self.opening.dm.activate(
            &self.name,
            Some(&uuid),
            &[Target::ThinPool(table)],
            ActivateOptions::default(),
        );
        let info =
            made.map_err(|source| PoolError::Assemble { device: self.name.clone(), source })?;
        self.made.push(self.name.clone());
        Ok(info.device)
    }

    /// Makes sure that the assembled pool stands on its areas.
    fn must_stand_on(&self, areas: &Areas) -> Result<(), PoolError> {
        let Some(table) = self.opening.pool_table(&self.name)? else {
            return Err(self.opening.foreign(&self.name, "it is no thin-pool device"));
        };
        if table.block_size != self.record.block_size {
            let what = format!(
                "its block size is {}, the database's {}",
                table.block_size, self.record.block_size
            );
            return Err(self.opening.foreign(&self.name, &what));
        }
        let numbers = (table.metadata.number(), table.data.number());
        if numbers != (Some(areas.metadata), Some(areas.data)) {
            return Err(PoolError::StandsElsewhere {
                device: self.name.clone(),
                found: format!("metadata {} and data {}", table.metadata, table.data),
                wanted: format!("metadata {} and data {}", areas.metadata, areas.data),
            });
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), PoolError> {
        tracing::warn!(pool = %self.name, "the pool was left suspended; it is resumed");
        self.opening
            .dm
            .resume(&self.name)
            .map(drop)
            .map_err(|source| PoolError::Resume { device: self.name.clone(), source })
    }

    /// Moves the epoch on: in the record, in the pool, on the data disk, and in the record again.
    /// Before each step the record has both values, so that a crash leaves only known values.
    fn move_epoch(&mut self, areas: &mut Areas, assembled: bool) -> Result<(), PoolError> {
        let (opening, name) = (self.opening, &self.name);
        let record = &mut self.record;
        let status = opening.working(name)?;
        let found = status.transaction_id;
        epoch::expected(record, found)
            .and_then(|()| epoch::expected_on_disk(record, areas.epoch()))
            .map_err(|what| opening.foreign(name, &what))?;
        if status.held_metadata_root.is_some() {
            tracing::warn!(pool = %name, "a metadata snapshot was left held; it is released");
            opening
                .dm
                .release_metadata_snap(name)
                .map_err(|source| PoolError::ReleaseSnap { pool: name.clone(), source })?;
        }
        // The last start ended after the kernel's epoch had moved and before that was on record.
        // The kernel's is the current one.
        if record.epoch_next == Some(found) {
            areas.mark(self.disks, found)?;
            record.epoch = found;
        }
        let next = record.epoch + 1;
        record.epoch_next = Some(next);
        opening.store.commit(|c| c.put_pool(record))?;
        opening
            .dm
            .set_transaction_id(name, found, next)
            .map_err(|source| PoolError::MoveEpoch { pool: name.clone(), source })?;
        // The kernel does not report a commit that failed.
        opening.must_take_changes(name, assembled)?;
        areas.mark(self.disks, next)?;
        *record = PoolRecord { epoch: next, epoch_next: None, formatted: true, ..record.clone() };
        Ok(opening.store.commit(|c| c.put_pool(record))?)
    }
}

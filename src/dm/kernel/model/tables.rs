//! How the modelled kernel takes a table: its checks at the load and at the resume, and what a pool
//! does at the resume.

use std::sync::Arc;

use nix::errno::Errno;

use super::disk::Superblock;
use super::machine::{Machine, Outcome, Stop, Table, MAJOR};
use super::metadata::Metadata;
use super::pool::{Pool, METADATA_BLOCK};
use super::targets::is_target;
use crate::dm::interface::Flags;
use crate::dm::kernel::fault_plan::Verdict;
use crate::dm::text::{DeviceRef, PoolMode, Target, ThinPoolTable, ThinStatus, ThinTable};
use crate::dm::wire::{Payload, Request};
use crate::units::{DeviceNumber, Sectors};

impl Machine {
    /// Loads a table into the inactive slot.
    pub fn load(&mut self, minor: u32, request: &Request) -> Outcome<()> {
        let Payload::Table(lines) = request.carried() else { return Err(Errno::EINVAL.into()) };
        let mut targets = Vec::new();
        let mut end = 0;
        for line in lines {
            if line.start.0 != end || line.length.is_zero() || !is_target(&line.kind) {
                return Err(Errno::EINVAL.into());
            }
            end = line.start.0.checked_add(line.length.0).ok_or(Errno::EINVAL)?;
            targets.push(Target::from_line(line).map_err(|_| Errno::EINVAL)?);
        }
        if targets.is_empty() {
            return Err(Errno::EINVAL.into());
        }
        let table = Table { targets, read_only: request.has(Flags::READ_ONLY) };
        for target in &table.targets {
            self.construct(minor, target)?;
        }
        // The kernel looks at the sizes below only when the device gets its first table, and at
        // each resume.
        if self.device(minor)?.live.is_none() {
            if let Err(errno) = self.check_sizes(&table) {
                self.pools.remove(&minor);
                return Err(errno.into());
            }
        }
        let old = match self.devices.get_mut(&minor) {
            Some(device) => device.inactive.replace(table),
            None => None,
        };
        for number in old.iter().flat_map(Table::devices) {
            self.closed(number)?;
        }
        Ok(())
    }

    /// What a target checks when it is made.
    fn construct(&mut self, minor: u32, target: &Target) -> Outcome<()> {
        for device in target.devices() {
            self.look_up(device)?;
        }
        match target {
            Target::ThinPool(table) => self.construct_pool(minor, table),
            Target::Thin(thin) => self.construct_thin(thin),
            _ => Ok(()),
        }
    }

    /// A path is looked up in the file system, where no modelled device is.
    fn look_up(&self, device: &DeviceRef) -> Result<DeviceNumber, Errno> {
        match device {
            DeviceRef::Path(_) => Err(Errno::ENODEV),
            DeviceRef::Number(number) => {
                let known = self.disks.contains_key(number)
                    || (number.major == MAJOR && self.devices.contains_key(&number.minor));
                known.then_some(*number).ok_or(Errno::ENXIO)
            }
        }
    }

    fn construct_thin(&mut self, thin: &ThinTable) -> Outcome<()> {
        let pool = self.look_up(&thin.pool)?;
        let found = self.pools.get(&pool.minor).filter(|_| pool.major == MAJOR);
        let known = found.ok_or(Errno::EINVAL)?.current.thins.contains_key(&thin.id);
        let device = self.device(pool.minor)?;
        if device.suspended || device.live.is_none() {
            return Err(Errno::EINVAL.into());
        }
        if !known {
            return Err(Errno::ENODATA.into());
        }
        Ok(())
    }

    fn construct_pool(&mut self, minor: u32, table: &ThinPoolTable) -> Outcome<()> {
        let metadata = self.look_up(&table.metadata)?;
        let data = self.look_up(&table.data)?;
        if let Some(pool) = self.pools.get(&minor) {
            let same = pool.metadata_device == metadata && pool.block_size() == table.block_size;
            return if same { Ok(()) } else { Err(Errno::EINVAL.into()) };
        }
        if self.pools.values().any(|pool| pool.metadata_device == metadata) {
            return Err(Errno::EBUSY.into());
        }
        let place = self.locate(metadata, 0).ok_or(Errno::EINVAL)?;
        let blocks = self.size(metadata).ok_or(Errno::EINVAL)?.0 / METADATA_BLOCK;
        let known = self.open_metadata(place, table.block_size)?;
        let pool = Pool::new(place, blocks, (metadata, data), known, table.clone());
        self.pools.insert(minor, pool);
        Ok(())
    }

    /// Reads a pool's metadata; formats it where there are only zeros.
    fn open_metadata(
        &mut self,
        place: (DeviceNumber, u64),
        block_size: Sectors,
    ) -> Outcome<Arc<Metadata>> {
        let disk = self.disks.get(&place.0).ok_or(Errno::EINVAL)?;
        match disk.superblock(place.1) {
            Superblock::Foreign => Err(Errno::ENOTBLK.into()),
            Superblock::Pool(metadata) if metadata.block_size == block_size => Ok(metadata),
            Superblock::Pool(_) => Err(Errno::EINVAL.into()),
            Superblock::Blank => {
                let metadata = Arc::new(Metadata::new(block_size));
                let verdict = self.step("pool format");
                match verdict {
                    Verdict::Go => self.put_superblock(place, Arc::clone(&metadata)),
                    Verdict::Fail(errno) => return Err(errno.into()),
                    Verdict::GoThenHalt | Verdict::Halt => {
                        if verdict == Verdict::GoThenHalt {
                            self.put_superblock(place, metadata);
                        }
                        self.halted = true;
                        return Err(Stop::Halted);
                    }
                }
                Ok(metadata)
            }
        }
    }

    /// Whether the devices below are large enough.
    fn check_sizes(&self, table: &Table) -> Result<(), Errno> {
        for target in &table.targets {
            let (below, needed) = match target {
                Target::Linear(linear) => {
                    (&linear.device, linear.offset.checked_add(linear.length))
                }
                Target::ThinPool(pool) => (&pool.data, Some(pool.length)),
                _ => continue,
            };
            let size = below.number().and_then(|number| self.size(number));
            match (needed, size) {
                (Some(needed), Some(size)) if needed <= size => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(())
    }

    /// Puts a loaded table in place and starts the device.
    pub fn resume(&mut self, minor: u32) -> Outcome<()> {
        let device = self.device(minor)?;
        let reloaded = device.inactive.is_some();
        if let Some(table) = device.inactive.clone() {
            self.swap(minor, table)?;
        }
        let device = self.device(minor)?;
        if !device.suspended {
            return Ok(());
        }
        if device.live.is_none() {
            return Err(Errno::EINVAL.into());
        }
        if self.pools.contains_key(&minor) {
            self.resume_pool(minor, reloaded)?;
        }
        if let Some(device) = self.devices.get_mut(&minor) {
            device.suspended = false;
        }
        Ok(())
    }

    /// The kernel suspends a running device first. A table that does not fit is discarded, and
    /// the device stays suspended with the one it had.
    fn swap(&mut self, minor: u32, table: Table) -> Outcome<()> {
        if self.pools.contains_key(&minor) {
            self.commit(minor)?;
        }
        let fits = self.check_sizes(&table);
        let Some(device) = self.devices.get_mut(&minor) else { return Ok(()) };
        device.inactive = None;
        device.suspended = true;
        fits?;
        device.read_only = table.read_only;
        let old = device.live.replace(table);
        self.events += 1;
        for number in old.iter().flat_map(Table::devices) {
            self.closed(number)?;
        }
        Ok(())
    }

    /// A pool takes its features and the sizes of its devices from the new table. With a new table
    /// a full pool accepts writes again, until a write finds no block. With its old table it stays
    /// full.
    fn resume_pool(&mut self, minor: u32, reloaded: bool) -> Outcome<()> {
        let live = self.devices.get(&minor).and_then(|device| device.live.as_ref());
        let Some([Target::ThinPool(table)]) = live.map(|table| table.targets.as_slice()) else {
            return Ok(());
        };
        let table = table.clone();
        let metadata_size = self.look_up(&table.metadata).ok().and_then(|n| self.size(n));
        let data_device = self.look_up(&table.data)?;
        let Some(pool) = self.pools.get_mut(&minor) else { return Ok(()) };
        let blocks = table.length.0 / table.block_size.0;
        if blocks < pool.current.data_blocks {
            return Err(Errno::EINVAL.into());
        }
        pool.data_device = data_device;
        pool.low_water_triggered = false;
        let writable = !table.features.read_only && !pool.current.needs_check;
        let before = pool.mode;
        if reloaded || !writable {
            pool.mode = if writable { PoolMode::ReadWrite } else { PoolMode::ReadOnly };
        }
        let changed = pool.mode != before;
        pool.table = table;
        if let Some(size) = metadata_size {
            pool.metadata_blocks = pool.metadata_blocks.max(size.0 / METADATA_BLOCK);
        }
        let grows = blocks > pool.current.data_blocks && pool.is_writable();
        if grows {
            pool.current.data_blocks = blocks;
            pool.changed = true;
        }
        if changed {
            self.mode_event(minor);
        }
        if grows {
            self.commit(minor)?;
        }
        Ok(())
    }

    /// The status of a thin's device.
    pub fn thin_status(&self, thin: &ThinTable) -> ThinStatus {
        let pool = thin.pool.number().and_then(|number| self.pools.get(&number.minor));
        let Some(pool) = pool else { return ThinStatus::Error };
        if pool.failed {
            return ThinStatus::Fail;
        }
        let Some(known) = pool.current.thins.get(&thin.id) else { return ThinStatus::Error };
        let block = pool.block_size().0;
        ThinStatus::Working {
            mapped: Sectors(known.mapping.len() as u64 * block),
            highest: known.mapping.keys().last().map(|last| Sectors((last + 1) * block - 1)),
        }
    }
}

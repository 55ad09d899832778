//! Reads, writes, flushes and discards through the modelled devices: remapping, copy on write,
//! allocation.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::disk::Disk;
use super::machine::{Machine, Outcome, Stop, MAJOR};
use crate::dm::kernel::fault_plan::Verdict;
use crate::dm::text::{DiscardPolicy, PoolMode, PoolNotice, Target, ThinTable};
use crate::units::{DeviceNumber, ThinId, SECTOR_SIZE};

const SECTOR: u64 = SECTOR_SIZE;

/// A piece of a request that lies in one block of a thin.
struct Piece {
    /// The thin's block.
    block: u64,
    /// Where in it the piece begins, in sectors.
    within: u64,
    /// How long it is, in sectors.
    length: u64,
}

/// The blocks that a range of sectors touches.
fn pieces(start: u64, length: u64, block_size: u64) -> impl Iterator<Item = Piece> {
    let mut at = start;
    std::iter::from_fn(move || {
        let left = (start + length).checked_sub(at).filter(|left| *left > 0)?;
        let within = at % block_size;
        let piece = Piece { block: at / block_size, within, length: left.min(block_size - within) };
        at += piece.length;
        Some(piece)
    })
}

impl Machine {
    /// Reads whole sectors of a disk or a device.
    pub fn read(&self, device: DeviceNumber, start: u64, buffer: &mut [u8]) -> Outcome<()> {
        if self.halted {
            return Err(Stop::Halted);
        }
        let length = buffer.len() as u64 / SECTOR;
        if let Some(disk) = self.disks.get(&device) {
            within(disk.size().0, start, length)?;
            disk.read(start, buffer);
            return Ok(());
        }
        let mut rest = buffer;
        for (target, from, count) in self.targets_of(device, start, length)? {
            let (piece, after) = rest.split_at_mut((count * SECTOR) as usize);
            rest = after;
            match target {
                Target::Linear(linear) => {
                    let below = linear.device.number().ok_or(Errno::EIO)?;
                    self.read(below, linear.offset.0 + from, piece)?;
                }
                Target::ThinPool(pool) => {
                    self.read(pool.data.number().ok_or(Errno::EIO)?, from, piece)?;
                }
                Target::Thin(thin) => self.read_thin(&thin, from, piece)?,
                _ => return Err(Errno::EIO.into()),
            }
        }
        Ok(())
    }

    fn read_thin(&self, thin: &ThinTable, start: u64, buffer: &mut [u8]) -> Outcome<()> {
        let pool = thin.pool.number().and_then(|number| self.pools.get(&number.minor));
        let pool = pool.ok_or(Errno::EIO)?;
        self.pool_runs(thin)?;
        if pool.failed {
            return Err(Errno::EIO.into());
        }
        let block_size = pool.block_size().0;
        let mut rest = buffer;
        for piece in pieces(start, rest.len() as u64 / SECTOR, block_size) {
            let (bytes, after) = rest.split_at_mut((piece.length * SECTOR) as usize);
            rest = after;
            match pool.current.lookup(thin.id, piece.block) {
                Some(data) => {
                    self.read(pool.data_device, data * block_size + piece.within, bytes)?;
                }
                None => self.read_origin(thin, piece.block * block_size + piece.within, bytes)?,
            }
        }
        Ok(())
    }

    /// What an unmapped part of a thin reads as: its external origin, and zeros past that.
    fn read_origin(&self, thin: &ThinTable, start: u64, buffer: &mut [u8]) -> Outcome<()> {
        buffer.fill(0);
        let Some(origin) = thin.external_origin.as_ref().and_then(|o| o.number()) else {
            return Ok(());
        };
        let size = self.size(origin).ok_or(Errno::EIO)?.0;
        let there = size.saturating_sub(start).min(buffer.len() as u64 / SECTOR);
        self.read(origin, start, &mut buffer[..(there * SECTOR) as usize])
    }

    /// Writes whole sectors of a disk or a device.
    pub fn write(&mut self, device: DeviceNumber, start: u64, bytes: &[u8]) -> Outcome<()> {
        if self.halted {
            return Err(Stop::Halted);
        }
        let length = bytes.len() as u64 / SECTOR;
        if let Some(disk) = self.disks.get_mut(&device) {
            within(disk.size().0, start, length)?;
            disk.write(start, bytes);
            return Ok(());
        }
        if self.device(device.minor)?.read_only {
            return Err(Errno::EPERM.into());
        }
        let mut rest = bytes;
        for (target, from, count) in self.targets_of(device, start, length)? {
            let (piece, after) = rest.split_at((count * SECTOR) as usize);
            rest = after;
            match target {
                Target::Linear(linear) => {
                    let below = linear.device.number().ok_or(Errno::EIO)?;
                    self.write(below, linear.offset.0 + from, piece)?;
                }
                Target::ThinPool(pool) => {
                    self.write(pool.data.number().ok_or(Errno::EIO)?, from, piece)?;
                }
                Target::Thin(thin) => self.write_thin(&thin, from, piece)?,
                _ => return Err(Errno::EIO.into()),
            }
        }
        Ok(())
    }

    fn write_thin(&mut self, thin: &ThinTable, start: u64, bytes: &[u8]) -> Outcome<()> {
        let minor = self.pool_runs(thin)?;
        let block_size = self.pools.get(&minor).ok_or(Errno::EIO)?.block_size().0;
        let mut rest = bytes;
        for piece in pieces(start, bytes.len() as u64 / SECTOR, block_size) {
            let (bytes, after) = rest.split_at((piece.length * SECTOR) as usize);
            rest = after;
            let pool = self.pools.get(&minor).ok_or(Errno::EIO)?;
            let mapped = pool.current.lookup(thin.id, piece.block);
            let data_device = pool.data_device;
            let target = match mapped.filter(|data| !pool.current.is_shared(*data)) {
                Some(data) if !pool.failed => data,
                Some(_) => return Err(Errno::EIO.into()),
                None => self.provision(minor, thin, &piece, mapped)?,
            };
            self.write(data_device, target * block_size + piece.within, bytes)?;
        }
        Ok(())
    }

    /// A data block of its own for a thin's block, with what the block held before.
    fn provision(
        &mut self,
        minor: u32,
        thin: &ThinTable,
        piece: &Piece,
        old: Option<u64>,
    ) -> Outcome<u64> {
        let data = self.allocate(minor)?;
        let pool = self.pools.get(&minor).ok_or(Errno::EIO)?;
        let (block_size, data_device) = (pool.block_size().0, pool.data_device);
        let keep_stale = pool.table.features.skip_block_zeroing;
        let nothing_before = old.is_none() && thin.external_origin.is_none();
        let overwritten = piece.length == block_size;
        if !(overwritten || nothing_before && keep_stale) {
            let mut content = vec![0; (block_size * SECTOR) as usize];
            match old {
                Some(old) => self.read(data_device, old * block_size, &mut content)?,
                None => self.read_origin(thin, piece.block * block_size, &mut content)?,
            }
            self.write(data_device, data * block_size, &content)?;
        }
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EIO)?;
        pool.current.map(thin.id, piece.block, data);
        pool.changed = true;
        let space = pool.check_metadata_space();
        if space.is_err() {
            self.mode_event(minor);
        }
        space.map_err(|_| Errno::EIO)?;
        Ok(data)
    }

    /// A free block. When all that are free were in use at the last commit, the pool commits first.
    fn allocate(&mut self, minor: u32) -> Outcome<u64> {
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EIO)?;
        if !pool.is_writable() {
            return Err(Errno::EIO.into());
        }
        if pool.mode == PoolMode::ReadWrite && pool.crosses_low_water() {
            self.pool_event(minor, PoolNotice::LowWater);
        }
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EIO)?;
        if let Some(block) = pool.find_free_block() {
            return Ok(block);
        }
        self.commit(minor)?;
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EIO)?;
        if let Some(block) = pool.find_free_block() {
            return Ok(block);
        }
        // A pool that queues would let the writer wait for a minute first.
        if pool.mode != PoolMode::OutOfDataSpace {
            pool.mode = PoolMode::OutOfDataSpace;
            self.mode_event(minor);
        }
        Err(Errno::ENOSPC.into())
    }

    /// The pool below a thin, when it runs.
    fn pool_runs(&self, thin: &ThinTable) -> Result<u32, Errno> {
        let minor = thin.pool.number().ok_or(Errno::EIO)?.minor;
        if self.device(minor)?.suspended {
            return Err(Errno::EAGAIN);
        }
        Ok(minor)
    }

    /// Makes what was written to a device durable.
    pub fn flush(&mut self, device: DeviceNumber) -> Outcome<()> {
        if self.halted {
            return Err(Stop::Halted);
        }
        if device.major == MAJOR && !self.disks.contains_key(&device) {
            if self.device(device.minor)?.suspended {
                return Err(Errno::EAGAIN.into());
            }
            if let Some((pool, thin)) = self.thin_of(device.minor) {
                return self.flush_thin(pool, thin);
            }
        }
        self.flush_disks(device)
    }

    fn flush_thin(&mut self, pool: u32, thin: ThinId) -> Outcome<()> {
        let is_writable =
            |machine: &Machine| machine.pools.get(&pool).is_some_and(|pool| pool.is_writable());
        if is_writable(self) {
            self.commit(pool)?;
            // A flush is one of the few calls that report a failed commit.
            return if is_writable(self) { Ok(()) } else { Err(Errno::EIO.into()) };
        }
        match self.pools.get(&pool).map(|pool| (pool.has_aborted(thin), pool.data_device)) {
            Some((false, data)) => self.flush_disks(data),
            _ => Err(Errno::EIO.into()),
        }
    }

    fn flush_disks(&mut self, device: DeviceNumber) -> Outcome<()> {
        for number in self.disks_below(device) {
            if !self.disks.get(&number).is_some_and(Disk::is_dirty) {
                continue;
            }
            match self.step("disk flush") {
                Verdict::Fail(errno) => return Err(errno.into()),
                Verdict::Halt => {
                    self.halted = true;
                    return Err(Stop::Halted);
                }
                verdict => {
                    if let Some(disk) = self.disks.get_mut(&number) {
                        disk.flush();
                    }
                    if verdict == Verdict::GoThenHalt {
                        self.halted = true;
                        return Err(Stop::Halted);
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives whole blocks of a thin back to its pool.
    pub fn discard(&mut self, device: DeviceNumber, start: u64, length: u64) -> Outcome<()> {
        if self.halted {
            return Err(Stop::Halted);
        }
        if let Some(disk) = self.disks.get_mut(&device) {
            within(disk.size().0, start, length)?;
            disk.zero(start, length);
            return Ok(());
        }
        if self.device(device.minor)?.read_only {
            return Err(Errno::EPERM.into());
        }
        for (target, from, count) in self.targets_of(device, start, length)? {
            match target {
                Target::Linear(linear) => {
                    let below = linear.device.number().ok_or(Errno::EIO)?;
                    self.discard(below, linear.offset.0 + from, count)?;
                }
                Target::Thin(thin) => self.discard_thin(&thin, from, count)?,
                _ => return Err(Errno::EOPNOTSUPP.into()),
            }
        }
        Ok(())
    }

    fn discard_thin(&mut self, thin: &ThinTable, start: u64, length: u64) -> Outcome<()> {
        let minor = self.pool_runs(thin)?;
        let pool = self.pools.get_mut(&minor).ok_or(Errno::EIO)?;
        let policy = pool.table.features.discard;
        if policy == DiscardPolicy::Ignore {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !pool.is_writable() {
            return Err(Errno::EIO.into());
        }
        let (block_size, data_device) = (pool.block_size().0, pool.data_device);
        let whole: Vec<u64> = pieces(start, length, block_size)
            .filter(|piece| piece.length == block_size)
            .map(|piece| piece.block)
            .collect();
        let mut freed = Vec::new();
        for block in whole {
            let mapped = pool.current.lookup(thin.id, block).is_some();
            pool.changed |= mapped;
            freed.extend(pool.current.unmap(thin.id, block));
        }
        if pool.leave_out_of_space() {
            self.mode_event(minor);
        }
        if policy == DiscardPolicy::PassDown {
            for block in freed {
                self.discard(data_device, block * block_size, block_size)?;
            }
        }
        Ok(())
    }

    /// The live targets of a running device that a range touches: each with its own first sector
    /// and count.
    fn targets_of(
        &self,
        device: DeviceNumber,
        start: u64,
        length: u64,
    ) -> Outcome<Vec<(Target, u64, u64)>> {
        if device.major != MAJOR {
            return Err(Errno::ENXIO.into());
        }
        let found = self.device(device.minor)?;
        let table = found.live.as_ref().ok_or(Errno::EIO)?;
        within(table.size(), start, length)?;
        if found.suspended {
            return Err(Errno::EAGAIN.into());
        }
        let end = start + length;
        let touched = table.targets.iter().filter_map(|target| {
            let (first, last) = (target.start().0, target.start().0 + target.length().0);
            let (from, to) = (start.max(first), end.min(last));
            (from < to).then(|| (target.clone(), from - first, to - from))
        });
        Ok(touched.collect())
    }

    /// The disk and the sector that a sector of a device really is, through linear devices.
    pub fn locate(&self, device: DeviceNumber, sector: u64) -> Option<(DeviceNumber, u64)> {
        if self.disks.contains_key(&device) {
            return Some((device, sector));
        }
        match self.targets_of(device, sector, 1).ok()?.as_slice() {
            [(Target::Linear(linear), from, _)] => {
                self.locate(linear.device.number()?, linear.offset.0 + from)
            }
            _ => None,
        }
    }

    /// All disks that a device stands on in the end.
    pub fn disks_below(&self, device: DeviceNumber) -> BTreeSet<DeviceNumber> {
        if self.disks.contains_key(&device) {
            return BTreeSet::from([device]);
        }
        let table = self.devices.get(&device.minor).and_then(|device| device.live.as_ref());
        let below = table.map(|table| table.devices()).unwrap_or_default();
        below.into_iter().flat_map(|number| self.disks_below(number)).collect()
    }
}

/// Whether a range lies on a device of this size. The kernel answers reads past the end with
/// nothing and writes with ENOSPC; one errno is enough here.
fn within(size: u64, start: u64, length: u64) -> Result<(), Errno> {
    match start.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Errno::ENOSPC),
    }
}

//! A modelled pool: its metadata now, its metadata on disk, and its mode.

use std::collections::BTreeSet;
use std::sync::Arc;

use nix::errno::Errno;

use super::metadata::Metadata;
use crate::dm::text::{
    BlockUsage, NoSpacePolicy, PoolMessage, PoolMode, ThinPoolStatus, ThinPoolTable, WorkingPool,
};
use crate::units::{DeviceNumber, Sectors, ThinId};

/// 4 KiB, the block of metadata, in sectors.
pub const METADATA_BLOCK: u64 = 8;

/// A pool that a device stands for. It exists from the first load of its table until the device is
/// gone.
#[derive(Debug)]
pub struct Pool {
    /// The metadata device, as its table names it.
    pub metadata_device: DeviceNumber,
    /// The disk and the sector that the metadata really is on.
    pub place: (DeviceNumber, u64),
    /// Blocks of the metadata device.
    pub metadata_blocks: u64,
    /// The data device of the live table.
    pub data_device: DeviceNumber,
    /// The metadata now.
    pub current: Metadata,
    /// The metadata on disk.
    pub committed: Arc<Metadata>,
    /// Whether the two differ.
    pub changed: bool,
    pub mode: PoolMode,
    pub failed: bool,
    /// The live table.
    pub table: ThinPoolTable,
    pub low_water_triggered: bool,
    /// Thins whose changes an abort has discarded: each of their flushes fails from then on
    /// (`dm_thin_aborted_changes`).
    aborted: BTreeSet<ThinId>,
    /// Where the search for a free block goes on: the kernel's allocator moves forward.
    cursor: u64,
}

impl Pool {
    pub fn new(
        place: (DeviceNumber, u64),
        metadata_blocks: u64,
        devices: (DeviceNumber, DeviceNumber),
        committed: Arc<Metadata>,
        table: ThinPoolTable,
    ) -> Pool {
        let (metadata_device, data_device) = devices;
        let mode = match committed.needs_check || table.features.read_only {
            true => PoolMode::ReadOnly,
            false => PoolMode::ReadWrite,
        };
        Pool {
            metadata_device,
            place,
            metadata_blocks,
            data_device,
            current: Metadata::clone(&committed),
            committed,
            changed: false,
            mode,
            failed: false,
            table,
            low_water_triggered: false,
            aborted: BTreeSet::new(),
            cursor: 0,
        }
    }

    /// Whether metadata may change.
    pub fn is_writable(&self) -> bool {
        !self.failed && self.mode != PoolMode::ReadOnly
    }

    /// Answers a message. What it did is not durable yet.
    pub fn message(&mut self, message: PoolMessage) -> Result<(), Errno> {
        if !self.is_writable() {
            return Err(Errno::EOPNOTSUPP);
        }
        match message {
            PoolMessage::CreateThin(id) => self.current.create_thin(id)?,
            PoolMessage::CreateSnap { id, origin } => self.current.create_snap(id, origin)?,
            PoolMessage::Delete(id) => self.current.delete(id)?,
            PoolMessage::SetTransactionId { old, new } => {
                self.current.set_transaction_id(old, new)?;
            }
            PoolMessage::ReserveMetadataSnap => self.current.reserve_snap()?,
            PoolMessage::ReleaseMetadataSnap => self.current.release_snap()?,
        }
        self.changed = true;
        self.check_metadata_space()
    }

    /// A pool without space for metadata fails for good.
    pub fn check_metadata_space(&mut self) -> Result<(), Errno> {
        if self.current.metadata_used() <= self.metadata_blocks {
            return Ok(());
        }
        self.failed = true;
        Err(Errno::ENOSPC)
    }

    /// A free data block: one that neither the current metadata nor that on disk uses, so that what
    /// is on disk stays true until the next commit.
    pub fn find_free_block(&mut self) -> Option<u64> {
        let total = self.current.data_blocks;
        let start = if self.cursor < total { self.cursor } else { 0 };
        let found = (start..total)
            .chain(0..start)
            .find(|block| self.current.is_free(*block) && self.committed.is_free(*block))?;
        self.cursor = found + 1;
        Some(found)
    }

    /// Whether a commit would give blocks free.
    pub fn has_free_block(&self) -> bool {
        self.current.data_usage().free() > 0
    }

    /// Discards what is not on disk, as the kernel does when a commit fails. The pool is
    /// read-only after that, and needs a check.
    pub fn abort(&mut self) {
        let (current, committed) = (&self.current.thins, &self.committed.thins);
        let changed = |id: &&ThinId| {
            !current.get(id).zip(committed.get(id)).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
        };
        self.aborted.extend(current.keys().filter(changed));
        self.current = Metadata::clone(&self.committed);
        self.current.needs_check = true;
        self.changed = false;
        self.mode = PoolMode::ReadOnly;
    }

    /// Whether an abort has discarded changes of this thin.
    pub fn has_aborted(&self, id: ThinId) -> bool {
        self.aborted.contains(&id)
    }

    /// Becomes writable again when there are free blocks; returns whether the mode changed.
    pub fn leave_out_of_space(&mut self) -> bool {
        let leave = self.mode == PoolMode::OutOfDataSpace && self.has_free_block();
        if leave {
            self.mode = PoolMode::ReadWrite;
        }
        leave
    }

    /// Whether the free blocks have just fallen to the mark. It is true only once.
    pub fn crosses_low_water(&mut self) -> bool {
        let low = self.current.data_usage().free() <= self.table.low_water_blocks;
        let crossed = low && !self.low_water_triggered;
        self.low_water_triggered |= crossed;
        crossed
    }

    pub fn status(&self) -> ThinPoolStatus {
        if self.failed {
            return ThinPoolStatus::Fail;
        }
        ThinPoolStatus::Working(WorkingPool {
            transaction_id: self.current.transaction_id,
            metadata: BlockUsage {
                used: self.current.metadata_used(),
                total: self.metadata_blocks,
            },
            data: self.current.data_usage(),
            held_metadata_root: self.current.held_root(),
            mode: self.mode,
            discard: self.table.features.discard,
            no_space: match self.table.features.no_space {
                NoSpacePolicy::Error => NoSpacePolicy::Error,
                NoSpacePolicy::Queue => NoSpacePolicy::Queue,
            },
            needs_check: self.current.needs_check,
            metadata_low_water: Some(self.metadata_blocks / 4),
        })
    }

    pub fn block_size(&self) -> Sectors {
        self.current.block_size
    }
}

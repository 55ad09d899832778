//! The metadata of a modelled pool: thins, their mappings, which blocks are shared.
//!
//! It is plain data with the rules of drivers/md/dm-thin-metadata.c. When it becomes durable is
//! decided in [`commit`](super::commit).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::errno::Errno;

use crate::dm::text::BlockUsage;
use crate::units::{Sectors, ThinId};

/// Metadata blocks that an empty pool uses: 111 of 1024 on kernel 6.1 (superblock, roots, and what
/// the space map keeps ready).
const EMPTY_POOL: u64 = 111;

/// Mappings that fit in one leaf of 4 KiB, approximately.
const MAPPINGS_PER_BLOCK: u64 = 126;

/// One thin: which of its blocks are where.
#[derive(Debug, Clone, Default)]
pub struct Thin {
    pub mapping: BTreeMap<u64, u64>,
}

/// A pool's metadata.
#[derive(Debug, Clone)]
pub struct Metadata {
    pub block_size: Sectors,
    pub transaction_id: u64,
    pub data_blocks: u64,
    pub needs_check: bool,
    pub thins: BTreeMap<ThinId, Arc<Thin>>,
    /// How many thins map each block; blocks that none maps are not in it.
    references: BTreeMap<u64, u32>,
    /// The blocks that a metadata snapshot keeps from being reused.
    held: Option<BTreeSet<u64>>,
}

impl Metadata {
    pub fn new(block_size: Sectors) -> Metadata {
        Metadata {
            block_size,
            transaction_id: 0,
            data_blocks: 0,
            needs_check: false,
            thins: BTreeMap::new(),
            references: BTreeMap::new(),
            held: None,
        }
    }

    pub fn create_thin(&mut self, id: ThinId) -> Result<(), Errno> {
        if self.thins.contains_key(&id) {
            return Err(Errno::EEXIST);
        }
        self.thins.insert(id, Arc::default());
        Ok(())
    }

    pub fn create_snap(&mut self, id: ThinId, origin: ThinId) -> Result<(), Errno> {
        if self.thins.contains_key(&id) {
            return Err(Errno::EEXIST);
        }
        let thin = Arc::clone(self.thins.get(&origin).ok_or(Errno::ENODATA)?);
        for block in thin.mapping.values() {
            *self.references.entry(*block).or_default() += 1;
        }
        self.thins.insert(id, thin);
        Ok(())
    }

    pub fn delete(&mut self, id: ThinId) -> Result<(), Errno> {
        let thin = self.thins.remove(&id).ok_or(Errno::ENODATA)?;
        for block in thin.mapping.values() {
            self.drop_reference(*block);
        }
        Ok(())
    }

    pub fn set_transaction_id(&mut self, old: u64, new: u64) -> Result<(), Errno> {
        if self.transaction_id != old {
            return Err(Errno::EINVAL);
        }
        self.transaction_id = new;
        Ok(())
    }

    pub fn reserve_snap(&mut self) -> Result<(), Errno> {
        if self.held.is_some() {
            return Err(Errno::EBUSY);
        }
        self.held = Some(self.references.keys().copied().collect());
        Ok(())
    }

    pub fn release_snap(&mut self) -> Result<(), Errno> {
        self.held.take().map(drop).ok_or(Errno::EINVAL)
    }

    /// Block number of the metadata snapshot's root. The model has no blocks; any number but 0 will
    /// do.
    pub fn held_root(&self) -> Option<u64> {
        self.held.as_ref().map(|_| EMPTY_POOL)
    }

    pub fn lookup(&self, id: ThinId, block: u64) -> Option<u64> {
        self.thins.get(&id)?.mapping.get(&block).copied()
    }

    pub fn is_shared(&self, data_block: u64) -> bool {
        self.references.get(&data_block).is_some_and(|count| *count > 1)
    }

    pub fn is_free(&self, data_block: u64) -> bool {
        !self.references.contains_key(&data_block)
            && !self.held.as_ref().is_some_and(|held| held.contains(&data_block))
    }

    /// Maps a thin's block to a data block, in place of the one it had.
    pub fn map(&mut self, id: ThinId, block: u64, data_block: u64) {
        let Some(thin) = self.thins.get_mut(&id) else { return };
        let old = Arc::make_mut(thin).mapping.insert(block, data_block);
        *self.references.entry(data_block).or_default() += 1;
        if let Some(old) = old {
            self.drop_reference(old);
        }
    }

    /// Unmaps a thin's block; returns the data block that is free now, if any.
    pub fn unmap(&mut self, id: ThinId, block: u64) -> Option<u64> {
        let thin = self.thins.get_mut(&id)?;
        let old = Arc::make_mut(thin).mapping.remove(&block)?;
        self.drop_reference(old);
        self.is_free(old).then_some(old)
    }

    fn drop_reference(&mut self, data_block: u64) {
        if let Some(count) = self.references.get_mut(&data_block) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&data_block);
            }
        }
    }

    /// Data blocks in use. A held metadata snapshot keeps blocks in use that no thin maps.
    pub fn data_usage(&self) -> BlockUsage {
        let held = self.held.iter().flatten().filter(|b| !self.references.contains_key(b)).count();
        BlockUsage { used: (self.references.len() + held) as u64, total: self.data_blocks }
    }

    /// Metadata blocks in use, approximately.
    pub fn metadata_used(&self) -> u64 {
        let mut leaves: BTreeMap<*const Thin, u64> = BTreeMap::new();
        for thin in self.thins.values() {
            let mappings = thin.mapping.len() as u64;
            leaves.insert(Arc::as_ptr(thin), mappings.div_ceil(MAPPINGS_PER_BLOCK).max(1));
        }
        let details = (self.thins.len() as u64).div_ceil(MAPPINGS_PER_BLOCK);
        EMPTY_POOL + details + leaves.values().sum::<u64>()
    }
}

//! How one removed thin is reclaimed: its blocks are discarded, its device is removed, and the thin
//! is deleted.
//!
//! Each step can be interrupted and repeated.

use crate::block::{discard_all, Access};
use crate::pool::{PoolError, Role};
use crate::snapshotter::shared::Shared;
use crate::store::ReclaimRecord;
use crate::units::{Sectors, ThinId};

/// What happened to an entry without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The reclaimer must stop, or the pool takes no changes.
    Left,
}

/// What happened to a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discard {
    Done,
    /// The device is not there, is open, or does not take discards.
    Not,
    Stopped,
}

impl Shared {
    /// Discards and deletes a thin that is not open. It stops when `go_on` says false.
    pub fn reclaim_thin(
        &self,
        entry: &ReclaimRecord,
        thin: ThinId,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Outcome, PoolError> {
        let own = Role::Snapshot(entry.number);
        let spare = Role::Reclaim(thin);
        // If the device ends inside a block, that block can only be discarded through a longer
        // device.
        let block = self.pool.block_size();
        let whole = Sectors(entry.size.0.next_multiple_of(block.0));
        let mut discarded = match self.settings.discard {
            true if whole == entry.size => self.discard_unused(own, go_on)?,
            true => Discard::Not,
            false => Discard::Done,
        };
        if discarded == Discard::Stopped {
            return Ok(Outcome::Left);
        }
        self.pool.deactivate(own)?;
        if discarded == Discard::Not {
            match self.pool.activate(spare, thin, whole, false) {
                Ok(_) => discarded = self.discard_unused(spare, go_on)?,
                // It was deleted before a crash, and its record was not; or it was never made.
                Err(gone) if gone.is_no_such_thin() => discarded = Discard::Done,
                Err(error) => return Err(error),
            }
        }
        self.pool.deactivate(spare)?;
        match discarded {
            Discard::Stopped => return Ok(Outcome::Left),
            Discard::Not => {
                tracing::warn!(
                    %thin,
                    key = entry.key,
                    "deleted without a discard; the devices below the pool keep its space"
                );
            }
            Discard::Done => {}
        }
        self.pool.delete(thin).map(|()| Outcome::Done)
    }

    /// Discards the device if it is there, writable and not open.
    fn discard_unused(&self, role: Role, go_on: &dyn Fn() -> bool) -> Result<Discard, PoolError> {
        match self.pool.info(role)? {
            Some(info) if info.live_table && !info.read_only && info.open_count == 0 => {}
            _ => return Ok(Discard::Not),
        }
        let node = self.pool.node(role);
        let discard = || {
            let disk = self.disks.open(&node, Access::WriteExclusive)?;
            discard_all(disk.as_ref(), self.pool.block_size(), go_on)
        };
        Ok(match discard() {
            Ok(true) => Discard::Done,
            Ok(false) => Discard::Stopped,
            Err(error) => {
                tracing::debug!(%error, "not discarded");
                Discard::Not
            }
        })
    }
}

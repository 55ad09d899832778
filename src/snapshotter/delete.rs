//! How one removed thin goes: its blocks are discarded, its device is taken away, and it is
//! deleted.
//!
//! Every step can be cut short and taken again.

use super::Shared;
use crate::block::{discard_all, Access};
use crate::pool::{PoolError, Role};
use crate::store::ReclaimRecord;
use crate::units::{Sectors, ThinId};

/// What became of an entry that met no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It was time to stop, or the pool takes no changes.
    Left,
}

/// What became of a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discard {
    Done,
    /// The device is not there, is in use, or does not take it.
    Not,
    Stopped,
}

impl Shared {
    /// Discards and deletes a thin that nobody has open.
    pub(super) fn reclaim_thin(
        &self,
        entry: &ReclaimRecord,
        thin: ThinId,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Outcome, PoolError> {
        let own = Role::Snapshot(entry.number);
        let spare = Role::Reclaim(thin);
        // A block that the device ends in the middle of can only be discarded through a longer one.
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
                // It was deleted and not ticked off when everything ended; or it was never made.
                Err(gone) if gone.is_no_such_thin() => discarded = Discard::Done,
                Err(error) => return Err(error),
            }
        }
        self.pool.deactivate(spare)?;
        match discarded {
            Discard::Stopped => return Ok(Outcome::Left),
            Discard::Not => {
                tracing::warn!(%thin, key = entry.key, "deleted without a discard; its space stays with the pool's backing");
            }
            Discard::Done => {}
        }
        self.pool.delete(thin).map(|()| Outcome::Done)
    }

    /// Discards the device if it is there, writable and open nowhere.
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

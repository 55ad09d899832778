//! The state that a pool is in.

use crate::dm::{PoolMode, ThinPoolStatus};

/// The state that a pool is in. Users of the pool get this type, so that they need not know `dm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    ReadWrite,
    /// It is full, and serves only blocks that are mapped already.
    OutOfDataSpace,
    /// It takes no changes.
    ReadOnly,
    /// It can be neither read nor written.
    Failed,
}

impl PoolState {
    pub(super) fn of(status: &ThinPoolStatus) -> PoolState {
        match status.working().map(|status| status.mode) {
            Some(PoolMode::ReadWrite) => PoolState::ReadWrite,
            Some(PoolMode::OutOfDataSpace) => PoolState::OutOfDataSpace,
            Some(PoolMode::ReadOnly) => PoolState::ReadOnly,
            None => PoolState::Failed,
        }
    }

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolState::ReadWrite => "read-write",
            PoolState::OutOfDataSpace => "out-of-data-space",
            PoolState::ReadOnly => "read-only",
            PoolState::Failed => "failed",
        }
    }
}

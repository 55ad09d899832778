//! The modelled kernel's log.

use crate::dm::text::PoolNotice;

/// The kernel's log.
#[derive(Debug, Default)]
pub struct Log {
    /// Each line: the pool's minor number, and what it says.
    pub records: Vec<(u32, PoolNotice)>,
    /// How many of the oldest have been overwritten.
    pub lost: usize,
    /// It cannot be read.
    pub forbidden: bool,
}

//! How the thin ids of a pool are divided.

use crate::store::IdRange;

/// The ids of a shared pool from here on are for guests. The owner of the pool (LVM, or a daemon
/// whose own pool it is) counts upwards from 0.
pub const SHARED_START: u32 = 1 << 23;
/// The ids of markers, which claims are written into: the last ones.
pub const MARKERS: IdRange = IdRange { start: (1 << 24) - (1 << 12), end: 1 << 24 };
/// How many ids a claim covers. An id comes back after that many snapshots.
pub const CLAIM_LENGTH: u32 = 1 << 18;

//! Cleanup: finishes what removals left to do.

use super::{Error, Snapshotter, Swept};

impl Snapshotter {
    /// Reclaims removed snapshots before it returns. Devices that are still open, and those for
    /// which the kernel does not answer, are left to the reclaimer.
    pub fn cleanup(&self) -> Result<Swept, Error> {
        self.reclaimer.sweep()
    }
}

//! What the reclaimer tells about its work.

use std::time::Duration;

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Removals that are finished.
    pub reclaimed: usize,
    /// Devices that are still open or mounted. They are tried again later.
    pub busy: usize,
    /// Devices whose removal failed for another reason, or that the kernel has not answered yet.
    /// The cause is in the log. They are tried again later.
    pub failed: usize,
}

/// A device that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its device-mapper name.
    pub device: String,
    /// `busy`: it is open or mounted. `hangs`: the kernel has not answered. `failed`: another
    /// cause, which is in the log; for the pool's own device, that it takes no changes.
    pub why: &'static str,
    /// Who holds it, as far as /proc tells, or that this is not known.
    pub holders: String,
    /// How long ago it was first tried.
    pub since: Duration,
}

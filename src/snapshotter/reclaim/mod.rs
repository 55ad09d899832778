//! The reclaimer: removes, after Remove has answered, what removed snapshots left in the kernel and
//! in the pool.
//!
//! Its work is on record, so a crash loses none of it. A device that is still open is tried again
//! later and holds nothing else up, and neither does a device whose removal the kernel does not
//! answer. The removal of a device waits for grace periods of the kernel, so several are removed at
//! the same time.

mod crew;
mod delete;
mod reclaimer;
mod report;
mod sweep;
mod tally;
mod trouble;
mod work;

pub use reclaimer::{Reclaimer, Reclaiming, STOP_LIMIT};
pub use report::{Stuck, Swept};

//! The space of the pool: how full it is, its growth, and giving space back to the host.

mod balloon;
mod events;
mod free;
mod give_back;
mod ground;
mod growth;
mod look;
mod state;

pub use balloon::{Balloon, BALLOON_LENGTH, GIVE_BACK_STEP};
pub use events::PoolEvents;
pub use free::{FreeSpace, Seen};
pub use state::PoolState;

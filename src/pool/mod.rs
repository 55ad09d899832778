//! The thin pool: the disks or files below it, the proof that it is the right one, its thins, the
//! devices that show them, and its free space.
//!
//! It uses device-mapper, block devices and the database. It knows no keys, parents or file systems
//! of snapshots.
//!
//! | part | what it is for |
//! |---|---|
//! | `naming` | names, uuids and minor numbers of the pool's devices |
//! | `backing` | where the disks below the pool come from: the embedded pool's files, or given disks |
//! | `identity` | labels, areas and epoch: pool, disks and database belong together |
//! | `sharing` | a pool that another program assembles: claims, features, other users |
//! | `thins` | ids on lease; making and deleting thins; reading which thins there are |
//! | `devices` | activating thins, finding devices, removing them |
//! | `space` | how full the pool is; growth; giving space back to the host |
//! | `lapses` | when the pool refused writes |
//!
//! Architecture Invariant: a thin id is used for a new thin only after the lease that covers it is
//! on disk. So a crash can leave unrecorded thins only inside open leases.

mod advice;
mod backing;
mod devices;
mod error;
mod handle;
mod health;
mod identity;
mod kind;
mod lapses;
mod naming;
mod open;
mod opened;
mod settings;
mod sharing;
mod space;
mod status;
mod thins;

pub use advice::MetadataGrowth;
pub use backing::Backer;
pub use devices::DeviceState;
pub use error::PoolError;
pub use handle::Pool;
pub use naming::{DeviceNames, Role};
pub use settings::PoolSettings;
pub use sharing::{Claim, OtherUsers};
pub use space::{FreeSpace, PoolEvents, PoolState, BALLOON_LENGTH};
pub use thins::{IdGuard, MetadataError};

//! containerd's snapshots on thins: keys, parents, kinds, and what each call on them does.
//!
//! Each call has a file of its own: `prepare`, `view`, `commit`, `remove`, `mounts`, `usage`,
//! `update`, `cleanup`, and `read` for Stat and List. All calls block. The module uses the pool,
//! the store and the file systems, and does not know gRPC.
//!
//! Architecture Invariant: no database transaction is open while the kernel, mkfs or a disk works.
//! A call that changes both the kernel and the database changes the kernel first. So the database
//! commit decides, and a crash before it leaves only what no record names.

mod check;
mod cleanup;
mod commit;
mod creation;
mod error;
mod finding;
mod labels;
mod lapses;
mod locks;
mod maker;
mod marks;
mod mount;
mod mounts;
mod overview;
mod prepare;
mod read;
mod reclaim;
mod record;
mod recover;
mod remove;
mod settings;
mod shared;
mod sizes;
mod start;
mod templates;
mod undo;
mod update;
mod usage;
mod view;
mod whole;

pub use check::check;
pub use error::{Error, Subject};
pub use finding::Finding;
pub use labels::Labels;
pub use mount::Mount;
pub use overview::{Overview, PoolView};
pub use read::Info;
#[cfg(any(test, feature = "model"))]
pub use reclaim::Reclaiming;
pub use reclaim::{Stuck, Swept, STOP_LIMIT};
pub use settings::Settings;
pub use start::Snapshotter;
pub use update::FieldUpdate;
pub use usage::Usage;

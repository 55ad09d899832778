//! Opens what the daemon and its commands work on: the state directory with its lock,
//! device-mapper, the database, the pool and the snapshotter.
//!
//! It knows no flags, no sockets and no signals; those belong to `main`.

mod error;
mod open;
mod state;
mod stopped;

pub use error::WiringError;
pub use open::{device_mapper, Opened};
pub use state::{database, StateDirectory};
pub use stopped::Stopped;

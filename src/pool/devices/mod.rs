//! The devices that show a pool's thins.

mod activate;
mod change;
mod copy;
mod find;
mod state;

pub use state::DeviceState;

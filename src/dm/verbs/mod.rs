//! The verbs: [`Dm`] and what it takes and returns. A verb is one request or a few, with what
//! undoes them.

mod client;
mod devices;
mod events;
mod explain;
mod info;
mod options;
mod present;
mod queries;
mod removal;
mod thin;

pub use client::Dm;
pub use events::{Change, EventWatch};
pub use info::{DeviceInfo, ListedDevice, Removal};
pub use options::{ActivateOptions, LoadOptions, StatusOptions, SuspendOptions};

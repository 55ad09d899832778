//! The host around the kernel: the nodes under `/dev/mapper`, and udev.

mod nodes;
mod settings;
pub mod udev;

pub use nodes::{NodeDir, NodeSweep};
pub use settings::{NodePolicy, Settings};
pub use udev::{Cookie, UdevPolicy};

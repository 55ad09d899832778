//! The daemon from outside.

mod calls;
mod dead_mount;
mod metrics;
mod names;

//! Snapshots on a real kernel.

mod check;
mod costs;
mod labels;
mod minors;
mod sizes;
mod templates;

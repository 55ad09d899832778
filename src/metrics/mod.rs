//! Figures for Prometheus, in its text format: how long calls take, how full the pool is, how many
//! snapshots there are, and which devices are stuck.
//!
//! Calls are counted when they end. All other figures are looked up at a scrape, on one thread at a
//! time. The module uses the snapshotter and does not know containerd's service.

mod figures;
mod http;
mod scrape;

pub use figures::Metrics;
pub use http::{listen, serve, MetricsError};

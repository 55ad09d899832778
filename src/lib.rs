//! devmapper-snapshotter: a containerd snapshotter on device-mapper thin provisioning, and the
//! device-mapper library that it is built on.
//!
//! Without the feature `daemon`, which is on by default, the crate is the library alone: [`units`],
//! [`names`], [`dm`] and [`block`]. That depends on nix, thiserror and tracing only. The feature
//! `model` adds the modelled kernel that the tests run on.
//!
//! The modules from the bottom up; each may use some of those above it in this list, and no others:
//!
//! | module | what it is for |
//! |---|---|
//! | [`failpoint`] | steps at which tests end the process; does nothing in other builds |
//! | [`units`], [`names`] | sectors, thin ids, device numbers; device-mapper names and uuids |
//! | [`dm`] | raw device-mapper: ioctls, tables and status, events, udev |
//! | [`block`] | disks, loop devices, private mounts |
//! | [`prelude`] | what a program that uses the library needs most |
//! | `store` | the database |
//! | `filter` | containerd's filter language |
//! | `fs` | mkfs, growing and inspecting file systems; the only module that runs programs |
//! | `config` | what an operator can set |
//! | `pool` | the thin pool: backing, identity, ids |
//! | `snapshotter` | containerd's snapshots on thins |
//! | `metrics` | figures for Prometheus |
//! | `grpc`, `server`, `monitor` | the service, the socket, the watch over the pool |
//! | `wiring` | opens all of this as the configuration asks for it |
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod block;
pub mod dm;
pub mod failpoint;
pub mod names;
pub mod prelude;
pub mod units;

#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod filter;
#[cfg(feature = "daemon")]
pub mod fs;
#[cfg(feature = "daemon")]
pub mod grpc;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod monitor;
#[cfg(feature = "daemon")]
pub mod pool;
#[cfg(feature = "daemon")]
pub mod server;
#[cfg(feature = "daemon")]
pub mod snapshotter;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod wiring;

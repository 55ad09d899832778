//! devmapper-snapshotter: a containerd snapshotter on device-mapper thin provisioning, and the
//! device-mapper library it stands on.
//!
//! The map, from the ground up; each room knows those above it in this list and no others:
//!
//! | room | what it is for |
//! |---|---|
//! | [`failpoint`] | steps at which tests end the process; nothing in other builds |
//! | [`units`], [`names`] | sectors, thin ids, device numbers; device-mapper names and uuids |
//! | [`dm`] | raw device-mapper: ioctls, tables and status, events, udev; a real and a modelled kernel |
//! | [`block`] | disks, loop devices, private mounts |
//! | [`prelude`] | what a program that uses the library needs most |
//! | [`store`] | the database |
//! | [`filter`] | containerd's filter language |
//! | [`fs`] | mkfs, growing and inspecting file systems; the one room that runs a program |
//! | [`config`] | what an operator may set |
//! | [`pool`] | the thin pool: backing, identity, ids |
//! | [`snapshotter`] | containerd's semantics on thins |
//! | [`metrics`] | what monitoring asks for |
//! | [`grpc`], [`server`], [`monitor`] | the service, the socket, the watch over the pool's room |

pub mod block;
pub mod config;
pub mod dm;
pub mod failpoint;
pub mod filter;
pub mod fs;
pub mod grpc;
pub mod metrics;
pub mod monitor;
pub mod names;
pub mod pool;
pub mod prelude;
pub mod server;
pub mod snapshotter;
pub mod store;
pub mod units;

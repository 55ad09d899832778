//! containerd's snapshots service: takes requests, calls the snapshotter on threads that may block,
//! and answers errors with gRPC statuses.
//!
//! Architecture Invariant: only this module and `server` use tonic and containerd-snapshots.

mod calls;
mod commit_parent;
mod convert;
mod lanes;
mod list;
mod service;
mod status;

pub use commit_parent::CommitParent;
pub use service::Service;

//! What a program that uses the library needs most: `use devmapper_snapshotter::prelude::*;`.
//!
//! Errors are not in it, since every crate has an `Error` of its own: they are
//! [`dm::Error`](crate::dm::Error) and [`block::BlockError`](crate::block::BlockError).

pub use crate::block::{
    create_sparse, with_private_mount, LoopDevice, LoopOptions, Loops, PrivateMount,
};
pub use crate::dm::{
    ActivateOptions, Change, DeviceInfo, DeviceRef, DiscardPolicy, Dm, EventWatch, LinearTable,
    LoadOptions, NoSpacePolicy, NodePolicy, PoolFeatures, PoolMode, Removal, Selector, Settings,
    StatusOptions, SuspendOptions, Target, ThinPoolStatus, ThinPoolTable, ThinStatus, ThinTable,
    UdevFlags, UdevPolicy,
};
pub use crate::names::{DmName, DmUuid};
pub use crate::units::{DeviceNumber, Sectors, ThinId};

/// Compiles the example of the README's section for Rust programmers.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct ForRustProgrammers;

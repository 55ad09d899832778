//! Where areas can lie: a disk, and the disks of one pool.

use std::path::PathBuf;
use std::sync::Arc;

use super::label::Holds;
use crate::block::LoopDevice;
use crate::units::{DeviceNumber, Sectors};

/// A disk that areas lie on.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path that the operator knows.
    pub path: PathBuf,
    /// The node that opens it.
    pub node: PathBuf,
    pub number: DeviceNumber,
    pub size: Sectors,
    /// A loop device detaches itself when it is closed everywhere. This keeps it open until an area
    /// stands on it.
    pub(super) _held: Option<Arc<LoopDevice>>,
}

/// The disks of a pool.
#[derive(Debug, Clone)]
pub enum Places {
    /// Both areas lie on this disk.
    One(Place),
    Two {
        data: Place,
        metadata: Place,
    },
}

impl Places {
    pub fn data(&self) -> &Place {
        match self {
            Places::One(place) | Places::Two { data: place, .. } => place,
        }
    }

    /// Each disk with what it holds, and the name of that in messages.
    pub fn each(&self) -> Vec<(&'static str, &Place, Holds)> {
        match self {
            Places::One(place) => vec![("data", place, Holds::Both)],
            Places::Two { data, metadata } => {
                vec![("data", data, Holds::Data), ("metadata", metadata, Holds::Metadata)]
            }
        }
    }
}

/// What is known of a pool before its disks are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is being made. Missing files are made.
    New,
    /// It has been made, and is not assembled.
    Apart,
    /// It is assembled. Nothing is attached that is not attached already.
    Live,
}

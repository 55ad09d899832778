//! What a pool has beyond its thins, by its kind.

use std::sync::atomic::AtomicBool;
use std::sync::Mutex;

use super::backing::{Backer, Base, EmbeddedFiles, SharedPool};
use super::space::{Balloon, GIVE_BACK_STEP};
use crate::config::PoolFeature;
use crate::store::PoolRecord;

/// The three kinds of pools.
#[derive(Debug)]
pub enum Kind {
    Embedded(Embedded),
    /// On disks that the operator gives.
    Given,
    Shared(Shared),
}

/// The embedded pool, which grows and gives space back.
#[derive(Debug)]
pub struct Embedded {
    pub files: EmbeddedFiles,
    pub balloon: Balloon,
    /// Held while the pool grows.
    pub growing: Mutex<()>,
    /// Whether each block that the pool can hand out is allocated in the file.
    pub backed: AtomicBool,
}

/// A pool that another program assembles.
#[derive(Debug)]
pub struct Shared {
    /// The record of the pool. The first claim puts it into the database.
    pub record: PoolRecord,
    pub accepted_features: Vec<PoolFeature>,
    /// Why no new snapshots are made, since the pool's owner changed its features.
    pub unfit: Mutex<Option<String>>,
}

impl Kind {
    pub fn new(backer: &Backer, record: PoolRecord) -> Kind {
        match &backer.base {
            Base::Own(disks) => match disks.embedded() {
                Some(files) => Kind::Embedded(Embedded {
                    files: files.clone(),
                    balloon: Balloon::new(GIVE_BACK_STEP.0 / record.block_size.0),
                    growing: Mutex::default(),
                    backed: AtomicBool::new(true),
                }),
                None => Kind::Given,
            },
            Base::Shared(SharedPool { accepted_features, .. }) => Kind::Shared(Shared {
                record,
                accepted_features: accepted_features.clone(),
                unfit: Mutex::default(),
            }),
        }
    }
}

//! What a pool stands on, as the configuration says.

use std::path::PathBuf;
use std::sync::Arc;

use super::embedded::EmbeddedFiles;
use super::given::GivenDisks;
use super::own::{OwnDisks, Source};
use super::sizes::Sizes;
use crate::block::{Disks, Loops};
use crate::config::{Backing, Config, PoolFeature};
use crate::names::DmName;
use crate::pool::advice::{MetadataGrowth, MetadataPlace};
use crate::pool::naming::{DeviceNames, Role};

/// What a pool stands on, and how its disks are opened.
#[derive(Debug, Clone)]
pub struct Backer {
    pub(in crate::pool) base: Base,
    pub(in crate::pool) disks: Arc<dyn Disks>,
}

/// Which program assembles the pool.
#[derive(Debug, Clone)]
pub enum Base {
    /// This daemon, on these disks.
    Own(OwnDisks),
    /// Another program.
    Shared(SharedPool),
}

/// A shared pool, as the configuration names it.
#[derive(Debug, Clone)]
pub struct SharedPool {
    pub name: DmName,
    /// See [`Config::accept_pool_features`].
    pub accepted_features: Vec<PoolFeature>,
}

impl Backer {
    /// `loops` attaches the embedded pool's files. `disks` opens everything else.
    pub fn new(config: &Config, disks: Arc<dyn Disks>, loops: Loops) -> Backer {
        let sizes = Sizes { block: config.block_size, metadata: config.metadata_size };
        let source = match &config.backing {
            Backing::Embedded { data_size } => Source::Embedded(EmbeddedFiles {
                root: config.root.clone(),
                data_size: *data_size,
                sizes,
                min_free_percent: config.min_free_percent,
                gives_back: config.discard.unwrap_or(true),
                loops,
            }),
            Backing::Devices { data, metadata } => {
                Source::Given(GivenDisks { data: data.clone(), metadata: metadata.clone() })
            }
            Backing::External { pool_name } => {
                let shared = SharedPool {
                    name: pool_name.clone(),
                    accepted_features: config.accept_pool_features.clone(),
                };
                return Backer { base: Base::Shared(shared), disks };
            }
        };
        let own = OwnDisks { source, sizes, disks: Arc::clone(&disks) };
        Backer { base: Base::Own(own), disks }
    }

    /// Where the metadata of the pool is, for messages.
    pub(in crate::pool) fn metadata_place(&self, names: &DeviceNames) -> MetadataPlace {
        match &self.base {
            Base::Own(own) => MetadataPlace {
                path: PathBuf::from(format!("/dev/mapper/{}", names.name(Role::Metadata))),
                growth: own.metadata_growth(),
            },
            Base::Shared(pool) => MetadataPlace {
                path: PathBuf::from(format!("<metadata device of {}>", pool.name)),
                growth: MetadataGrowth::ItsOwner,
            },
        }
    }
}

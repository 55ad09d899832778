//! Tables: what a device is made of, as values and as the kernel's text.
//!
//! Parsing and printing are inverse to each other. The modelled kernel reads tables with this
//! parser. Source of the formats:
//! Documentation/admin-guide/device-mapper/{thin-provisioning,linear}.rst.

use std::fmt;

use super::device_ref::DeviceRef;
use super::features::PoolFeatures;
use super::line::TargetLine;
use super::words::Words;
use crate::dm::error::TableError;
use crate::units::{Sectors, ThinId};

/// Smallest block of a pool: 64 KiB (`DATA_DEV_BLOCK_SIZE_MIN_SECTORS` in dm-thin.c).
pub const MIN_BLOCK_SIZE: Sectors = Sectors(128);

/// Largest block of a pool: 1 GiB (`DATA_DEV_BLOCK_SIZE_MAX_SECTORS` in dm-thin.c).
pub const MAX_BLOCK_SIZE: Sectors = Sectors(2_097_152);

/// A pool: `thin-pool METADATA DATA BLOCK_SIZE LOW_WATER [#FEATURES FEATURE...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinPoolTable {
    /// First sector; 0.
    pub start: Sectors,
    /// How much of the data device is used. The rest of a device that is no whole number of blocks
    /// is left alone.
    pub length: Sectors,
    /// The device with the mappings. The kernel uses at most 16 GiB of it.
    pub metadata: DeviceRef,
    /// The device with the blocks.
    pub data: DeviceRef,
    /// Size of a block: 64 KiB to 1 GiB in steps of 64 KiB. It is fixed when the pool is formatted.
    pub block_size: Sectors,
    /// An event comes when fewer blocks than this are free.
    pub low_water_blocks: u64,
    /// The optional features.
    pub features: PoolFeatures,
}

impl ThinPoolTable {
    const TARGET: &'static str = "thin-pool";

    fn parse(start: Sectors, length: Sectors, text: &str) -> Result<ThinPoolTable, TableError> {
        let mut words = Words::new(Self::TARGET, text);
        let metadata = words.device("metadata device")?;
        let data = words.device("data device")?;
        let block_size = Sectors(words.number("block size")?);
        let low_water_blocks = words.number("low water mark")?;
        let features = Self::parse_features(&mut words)?;
        words.end()?;
        let table =
            ThinPoolTable { start, length, metadata, data, block_size, low_water_blocks, features };
        table.check()?;
        Ok(table)
    }

    fn parse_features(words: &mut Words<'_>) -> Result<PoolFeatures, TableError> {
        let mut features = PoolFeatures::default();
        if words.is_empty() {
            return Ok(features);
        }
        let count: u64 = words.number("number of features")?;
        for _ in 0..count {
            features.add(words.word("feature")?)?;
        }
        Ok(features)
    }

    /// Whether the block size is one that a pool can have.
    ///
    /// # Errors
    /// [`TableError::BlockSize`] when it is not; the kernel would answer EINVAL.
    pub fn check(&self) -> Result<(), TableError> {
        let size = self.block_size;
        if size < MIN_BLOCK_SIZE
            || size > MAX_BLOCK_SIZE
            || !size.0.is_multiple_of(MIN_BLOCK_SIZE.0)
        {
            return Err(TableError::BlockSize { size });
        }
        Ok(())
    }

    fn params(&self) -> String {
        let words = self.features.words();
        let mut text = format!(
            "{} {} {} {} {}",
            self.metadata,
            self.data,
            self.block_size.0,
            self.low_water_blocks,
            words.len()
        );
        for word in words {
            text.push(' ');
            text.push_str(word);
        }
        text
    }
}

/// A thin: `thin POOL ID [EXTERNAL_ORIGIN]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinTable {
    /// First sector; 0.
    pub start: Sectors,
    /// The thin's size. The pool does not store it: each activation states it.
    pub length: Sectors,
    /// The pool's device.
    pub pool: DeviceRef,
    /// The thin's number in the pool.
    pub id: ThinId,
    /// A read-only device that unwritten blocks are read from.
    pub external_origin: Option<DeviceRef>,
}

impl ThinTable {
    const TARGET: &'static str = "thin";

    fn parse(start: Sectors, length: Sectors, text: &str) -> Result<ThinTable, TableError> {
        let mut words = Words::new(Self::TARGET, text);
        let pool = words.device("pool device")?;
        let id = words.number::<ThinId>("device id")?;
        let external_origin = match words.is_empty() {
            true => None,
            false => Some(words.device("external origin")?),
        };
        words.end()?;
        Ok(ThinTable { start, length, pool, id, external_origin })
    }

    fn params(&self) -> String {
        match &self.external_origin {
            None => format!("{} {}", self.pool, self.id),
            Some(origin) => format!("{} {} {origin}", self.pool, self.id),
        }
    }
}

/// A piece of another device: `linear DEVICE OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearTable {
    /// First sector.
    pub start: Sectors,
    /// How many sectors.
    pub length: Sectors,
    /// The device below.
    pub device: DeviceRef,
    /// Where the piece begins on it.
    pub offset: Sectors,
}

impl LinearTable {
    const TARGET: &'static str = "linear";

    fn parse(start: Sectors, length: Sectors, text: &str) -> Result<LinearTable, TableError> {
        let mut words = Words::new(Self::TARGET, text);
        let device = words.device("device")?;
        let offset = Sectors(words.number("offset")?);
        words.end()?;
        Ok(LinearTable { start, length, device, offset })
    }
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pool.
    ThinPool(ThinPoolTable),
    /// A thin.
    Thin(ThinTable),
    /// A piece of another device.
    Linear(LinearTable),
    /// A range where all I/O fails.
    Error {
        /// First sector.
        start: Sectors,
        /// How many sectors.
        length: Sectors,
    },
    /// Any other target, as text.
    Other {
        /// Its type.
        kind: String,
        /// First sector.
        start: Sectors,
        /// How many sectors.
        length: Sectors,
        /// The rest of its line.
        params: String,
    },
}

impl Target {
    /// The thin `id` of `pool`, `length` long.
    #[must_use]
    pub fn thin(pool: impl Into<DeviceRef>, id: ThinId, length: Sectors) -> Target {
        let start = Sectors::ZERO;
        Target::Thin(ThinTable { start, length, pool: pool.into(), id, external_origin: None })
    }

    /// `length` sectors of `device`, beginning at `offset`.
    #[must_use]
    pub fn linear(device: impl Into<DeviceRef>, offset: Sectors, length: Sectors) -> Target {
        Target::Linear(LinearTable { start: Sectors::ZERO, length, device: device.into(), offset })
    }

    /// The target's type.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Target::ThinPool(_) => ThinPoolTable::TARGET,
            Target::Thin(_) => ThinTable::TARGET,
            Target::Linear(_) => LinearTable::TARGET,
            Target::Error { .. } => "error",
            Target::Other { kind, .. } => kind,
        }
    }

    /// First sector of the device that this target answers for.
    #[must_use]
    pub fn start(&self) -> Sectors {
        match self {
            Target::ThinPool(table) => table.start,
            Target::Thin(table) => table.start,
            Target::Linear(table) => table.start,
            Target::Error { start, .. } | Target::Other { start, .. } => *start,
        }
    }

    /// How many sectors this target answers for.
    #[must_use]
    pub fn length(&self) -> Sectors {
        match self {
            Target::ThinPool(table) => table.length,
            Target::Thin(table) => table.length,
            Target::Linear(table) => table.length,
            Target::Error { length, .. } | Target::Other { length, .. } => *length,
        }
    }

    /// The parameters as the kernel prints them.
    #[must_use]
    pub fn params(&self) -> String {
        match self {
            Target::ThinPool(table) => table.params(),
            Target::Thin(table) => table.params(),
            Target::Linear(table) => format!("{} {}", table.device, table.offset.0),
            Target::Error { .. } => String::new(),
            Target::Other { params, .. } => params.clone(),
        }
    }

    /// The devices that the target stands on, as its table names them.
    #[must_use]
    pub fn devices(&self) -> Vec<&DeviceRef> {
        match self {
            Target::ThinPool(table) => vec![&table.metadata, &table.data],
            Target::Thin(table) => {
                std::iter::once(&table.pool).chain(&table.external_origin).collect()
            }
            Target::Linear(table) => vec![&table.device],
            Target::Error { .. } | Target::Other { .. } => Vec::new(),
        }
    }

    /// The line as text.
    #[must_use]
    pub fn to_line(&self) -> TargetLine {
        TargetLine {
            start: self.start(),
            length: self.length(),
            kind: self.kind().to_owned(),
            params: self.params(),
        }
    }

    /// The line as a value. A target that is not known becomes [`Target::Other`].
    ///
    /// # Errors
    /// [`TableError`], which names the target and the field.
    pub fn from_line(line: &TargetLine) -> Result<Target, TableError> {
        let TargetLine { start, length, kind, params } = line;
        Ok(match kind.as_str() {
            ThinPoolTable::TARGET => {
                Target::ThinPool(ThinPoolTable::parse(*start, *length, params)?)
            }
            ThinTable::TARGET => Target::Thin(ThinTable::parse(*start, *length, params)?),
            LinearTable::TARGET => Target::Linear(LinearTable::parse(*start, *length, params)?),
            "error" => Target::Error { start: *start, length: *length },
            _ => Target::Other {
                kind: kind.clone(),
                start: *start,
                length: *length,
                params: params.clone(),
            },
        })
    }
}

impl fmt::Display for Target {
    /// As `dmsetup table` prints it: `0 2048 thin 254:0 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.start().0, self.length().0, self.kind(), self.params())
    }
}

//! Tables: what a device is made of, as values and as the kernel's text.
//!
//! Parsing and printing are inverse to each other, and the modelled kernel reads tables with this
//! very parser. Source of the formats:
//! Documentation/admin-guide/device-mapper/{thin-provisioning,linear}.rst.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::request::TargetLine;
use crate::units::{DeviceNumber, Sectors, ThinId};

/// Smallest block of a pool: 64 KiB (`DATA_DEV_BLOCK_SIZE_MIN_SECTORS` in dm-thin.c).
pub const MIN_BLOCK_SIZE: Sectors = Sectors(128);

/// Largest block of a pool: 1 GiB (`DATA_DEV_BLOCK_SIZE_MAX_SECTORS` in dm-thin.c).
pub const MAX_BLOCK_SIZE: Sectors = Sectors(2_097_152);

/// Why a text is not a table line of its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The line ends before this field.
    #[error("{target}: no {field} in {text:?}")]
    Missing {
        /// The target's type.
        target: &'static str,
        /// Which field.
        field: &'static str,
        /// The parameters.
        text: String,
    },
    /// A field that is not what it should be.
    #[error("{target}: {field} is {value:?}")]
    Invalid {
        /// The target's type.
        target: &'static str,
        /// Which field.
        field: &'static str,
        /// What is there.
        value: String,
    },
    /// More words than the target takes.
    #[error("{target}: {text:?} goes on after its last field")]
    TooLong {
        /// The target's type.
        target: &'static str,
        /// The parameters.
        text: String,
    },
    /// A pool feature that is not known.
    #[error("thin-pool: there is no feature {value:?}")]
    UnknownFeature {
        /// What is there.
        value: String,
    },
    /// A block size outside 64 KiB..1 GiB, or no multiple of 64 KiB.
    #[error("thin-pool: a block of {size} is not a multiple of 64 KiB between 64 KiB and 1 GiB")]
    BlockSize {
        /// What is there.
        size: Sectors,
    },
}

/// A device in a table: by number, or by a path that the kernel looks up when it loads the table.
/// The kernel itself always prints numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceRef {
    /// By number.
    Number(DeviceNumber),
    /// By the path of its node.
    Path(PathBuf),
}

impl DeviceRef {
    /// The number, when it is one.
    #[must_use]
    pub fn number(&self) -> Option<DeviceNumber> {
        match self {
            DeviceRef::Number(number) => Some(*number),
            DeviceRef::Path(_) => None,
        }
    }
}

impl From<DeviceNumber> for DeviceRef {
    fn from(number: DeviceNumber) -> Self {
        DeviceRef::Number(number)
    }
}

impl From<&Path> for DeviceRef {
    fn from(path: &Path) -> Self {
        DeviceRef::Path(path.to_owned())
    }
}

impl From<PathBuf> for DeviceRef {
    fn from(path: PathBuf) -> Self {
        DeviceRef::Path(path)
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceRef::Number(number) => number.fmt(f),
            DeviceRef::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for DeviceRef {
    type Err = std::convert::Infallible;

    /// `major:minor` is a number, anything else is a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| DeviceRef::Path(PathBuf::from(text)), DeviceRef::Number))
    }
}

/// What happens to a discard that reaches a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DiscardPolicy {
    /// It frees blocks, and goes on to the data device (the default).
    #[default]
    PassDown,
    /// It frees blocks and goes no further (`no_discard_passdown`).
    NoPassDown,
    /// It is refused (`ignore_discard`).
    Ignore,
}

/// What happens to a write that needs a block when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NoSpacePolicy {
    /// It waits, for `no_space_timeout` seconds (60 by default), then fails (the default).
    #[default]
    Queue,
    /// It fails with ENOSPC at once (`error_if_no_space`).
    Error,
}

/// The optional features of a thin-pool table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PoolFeatures {
    /// Do not zero a new block before use: another thin's old data can be read
    /// (`skip_block_zeroing`).
    pub skip_block_zeroing: bool,
    /// What happens to discards.
    pub discard: DiscardPolicy,
    /// Metadata is not changed (`read_only`).
    pub read_only: bool,
    /// What happens when the pool is full.
    pub no_space: NoSpacePolicy,
}

impl PoolFeatures {
    /// The words, in the kernel's order.
    fn words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        if self.skip_block_zeroing {
            words.push("skip_block_zeroing");
        }
        match self.discard {
            DiscardPolicy::PassDown => {}
            DiscardPolicy::NoPassDown => words.push("no_discard_passdown"),
            DiscardPolicy::Ignore => words.push("ignore_discard"),
        }
        if self.read_only {
            words.push("read_only");
        }
        if self.no_space == NoSpacePolicy::Error {
            words.push("error_if_no_space");
        }
        words
    }

    fn add(&mut self, word: &str) -> Result<(), TableError> {
        match word {
            "skip_block_zeroing" => self.skip_block_zeroing = true,
            "ignore_discard" => self.discard = DiscardPolicy::Ignore,
            "no_discard_passdown" => {
                // The kernel keeps two switches, and the one that ignores discards wins.
                if self.discard != DiscardPolicy::Ignore {
                    self.discard = DiscardPolicy::NoPassDown;
                }
            }
            "read_only" => self.read_only = true,
            "error_if_no_space" => self.no_space = NoSpacePolicy::Error,
            _ => return Err(TableError::UnknownFeature { value: word.to_owned() }),
        }
        Ok(())
    }
}

/// A pool: `thin-pool METADATA DATA BLOCK_SIZE LOW_WATER [#FEATURES FEATURE...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinPoolTable {
    /// First sector; 0.
    pub start: Sectors,
    /// How much of the data device is used. The rest of a device that is no whole number of blocks
    /// is left alone.
    pub length: Sectors,
    /// The device with the mappings. The kernel uses 16 GiB of it at the most.
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
    /// The thin's size. The pool does not remember it: every activation says it anew.
    pub length: Sectors,
    /// The pool's device.
    pub pool: DeviceRef,
    /// Which of the pool's thins.
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

    /// How many sectors it answers for.
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

/// The words of a line, taken one by one.
pub(super) struct Words<'a> {
    target: &'static str,
    text: &'a str,
    words: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub(super) fn new(target: &'static str, text: &'a str) -> Words<'a> {
        Words { target, text, words: text.split_ascii_whitespace().peekable() }
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.words.peek().is_none()
    }

    pub(super) fn word(&mut self, field: &'static str) -> Result<&'a str, TableError> {
        self.words.next().ok_or_else(|| TableError::Missing {
            target: self.target,
            field,
            text: self.text.to_owned(),
        })
    }

    pub(super) fn number<T: FromStr>(&mut self, field: &'static str) -> Result<T, TableError> {
        let word = self.word(field)?;
        // No sign: the kernel prints none and `parse` would take a plus.
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse().ok()).flatten().ok_or_else(|| self.invalid(field, word))
    }

    fn device(&mut self, field: &'static str) -> Result<DeviceRef, TableError> {
        let word = self.word(field)?;
        let device = word.parse().unwrap_or_else(|never| match never {});
        Ok(device)
    }

    pub(super) fn end(mut self) -> Result<(), TableError> {
        match self.words.next() {
            None => Ok(()),
            Some(_) => Err(TableError::TooLong { target: self.target, text: self.text.to_owned() }),
        }
    }

    pub(super) fn invalid(&self, field: &'static str, value: &str) -> TableError {
        TableError::Invalid { target: self.target, field, value: value.to_owned() }
    }
}

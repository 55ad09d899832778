//! Status lines: what a device says of itself, as values and as the kernel's text.
//!
//! Source of the formats: Documentation/admin-guide/device-mapper/thin-provisioning.rst and
//! `pool_status` and `thin_status` in drivers/md/dm-thin.c.

use std::fmt;

use super::features::{DiscardPolicy, NoSpacePolicy};
use super::line::TargetLine;
use super::words::Words;
use crate::dm::error::TableError;
use crate::units::Sectors;

/// How many blocks of a pool are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockUsage {
    /// Blocks in use.
    pub used: u64,
    /// Blocks there are.
    pub total: u64,
}

impl BlockUsage {
    /// Blocks not in use.
    #[must_use]
    pub const fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

impl fmt::Display for BlockUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.used, self.total)
    }
}

/// What a working pool allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolMode {
    /// Reads and writes (`rw`).
    #[default]
    ReadWrite,
    /// No change of metadata (`ro`): the table says so, or metadata could not be written.
    ReadOnly,
    /// Everything but new blocks (`out_of_data_space`).
    OutOfDataSpace,
}

/// The status of a pool that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkingPool {
    /// A number for the pool's user, which the kernel only stores.
    pub transaction_id: u64,
    /// Metadata blocks, 4 KiB each.
    pub metadata: BlockUsage,
    /// Data blocks, of the pool's block size.
    pub data: BlockUsage,
    /// Block number of the metadata snapshot's root, when one is held.
    pub held_metadata_root: Option<u64>,
    /// The pool's mode.
    pub mode: PoolMode,
    /// What happens to discards.
    pub discard: DiscardPolicy,
    /// What happens when it is full.
    pub no_space: NoSpacePolicy,
    /// Metadata could not be written once. The kernel writes again only after `thin_check`.
    pub needs_check: bool,
    /// Metadata blocks below which an event comes; kernel 4.18 and later.
    pub metadata_low_water: Option<u64>,
}

/// The status of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThinPoolStatus {
    /// It works.
    Working(WorkingPool),
    /// It has failed: all I/O is EIO, every message EOPNOTSUPP (`Fail`).
    Fail,
    /// Its status could not be read (`Error`).
    Error,
}

impl ThinPoolStatus {
    const TARGET: &'static str = "thin-pool";

    /// The status of a pool that works.
    #[must_use]
    pub fn working(&self) -> Option<&WorkingPool> {
        match self {
            ThinPoolStatus::Working(pool) => Some(pool),
            ThinPoolStatus::Fail | ThinPoolStatus::Error => None,
        }
    }

    /// Reads the status line.
    ///
    /// # Errors
    /// [`TableError`], which names the field.
    pub fn parse(text: &str) -> Result<ThinPoolStatus, TableError> {
        match text.trim() {
            "Fail" => return Ok(ThinPoolStatus::Fail),
            "Error" => return Ok(ThinPoolStatus::Error),
            _ => {}
        }
        let mut words = Words::new(Self::TARGET, text);
        let transaction_id = words.number("transaction id")?;
        let metadata = usage(&mut words, "metadata blocks")?;
        let data = usage(&mut words, "data blocks")?;
        let held_metadata_root = number_or_dash(&mut words, "held metadata root")?;
        let mode = match words.word("mode")? {
            "rw" => PoolMode::ReadWrite,
            "ro" => PoolMode::ReadOnly,
            "out_of_data_space" => PoolMode::OutOfDataSpace,
            other => return Err(words.invalid("mode", other)),
        };
        let discard = match words.word("discard policy")? {
            "discard_passdown" => DiscardPolicy::PassDown,
            "no_discard_passdown" => DiscardPolicy::NoPassDown,
            "ignore_discard" => DiscardPolicy::Ignore,
            other => return Err(words.invalid("discard policy", other)),
        };
        let no_space = match words.word("no-space policy")? {
            "queue_if_no_space" => NoSpacePolicy::Queue,
            "error_if_no_space" => NoSpacePolicy::Error,
            other => return Err(words.invalid("no-space policy", other)),
        };
        let needs_check = match words.word("needs_check")? {
            "needs_check" => true,
            "-" => false,
            other => return Err(words.invalid("needs_check", other)),
        };
        let metadata_low_water =
            if words.is_empty() { None } else { Some(words.number("metadata low water mark")?) };
        words.end()?;
        Ok(ThinPoolStatus::Working(WorkingPool {
            transaction_id,
            metadata,
            data,
            held_metadata_root,
            mode,
            discard,
            no_space,
            needs_check,
            metadata_low_water,
        }))
    }
}

impl fmt::Display for ThinPoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThinPoolStatus::Working(pool) => pool.fmt(f),
            ThinPoolStatus::Fail => f.write_str("Fail"),
            ThinPoolStatus::Error => f.write_str("Error"),
        }
    }
}

impl fmt::Display for WorkingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.transaction_id, self.metadata, self.data)?;
        match self.held_metadata_root {
            Some(root) => write!(f, "{root} ")?,
            None => f.write_str("- ")?,
        }
        f.write_str(match self.mode {
            PoolMode::ReadWrite => "rw ",
            PoolMode::ReadOnly => "ro ",
            PoolMode::OutOfDataSpace => "out_of_data_space ",
        })?;
        f.write_str(match self.discard {
            DiscardPolicy::PassDown => "discard_passdown ",
            DiscardPolicy::NoPassDown => "no_discard_passdown ",
            DiscardPolicy::Ignore => "ignore_discard ",
        })?;
        f.write_str(match self.no_space {
            NoSpacePolicy::Queue => "queue_if_no_space ",
            NoSpacePolicy::Error => "error_if_no_space ",
        })?;
        f.write_str(if self.needs_check { "needs_check" } else { "-" })?;
        match self.metadata_low_water {
            Some(mark) => write!(f, " {mark}"),
            None => Ok(()),
        }
    }
}

/// The status of a thin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThinStatus {
    /// It works.
    Working {
        /// How much of it has blocks, shared ones included.
        mapped: Sectors,
        /// The last sector that has a block.
        highest: Option<Sectors>,
    },
    /// It has been loaded and not resumed yet (`-`).
    Inactive,
    /// Its pool has failed (`Fail`).
    Fail,
    /// Its status could not be read (`Error`).
    Error,
}

impl ThinStatus {
    const TARGET: &'static str = "thin";

    /// How much of it has blocks, when it works.
    #[must_use]
    pub fn mapped(&self) -> Option<Sectors> {
        match self {
            ThinStatus::Working { mapped, .. } => Some(*mapped),
            _ => None,
        }
    }

    /// Reads the status line.
    ///
    /// # Errors
    /// [`TableError`], which names the field.
    pub fn parse(text: &str) -> Result<ThinStatus, TableError> {
        match text.trim() {
            "-" => return Ok(ThinStatus::Inactive),
            "Fail" => return Ok(ThinStatus::Fail),
            "Error" => return Ok(ThinStatus::Error),
            _ => {}
        }
        let mut words = Words::new(Self::TARGET, text);
        let mapped = Sectors(words.number("mapped sectors")?);
        let highest = number_or_dash(&mut words, "highest mapped sector")?.map(Sectors);
        words.end()?;
        Ok(ThinStatus::Working { mapped, highest })
    }
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThinStatus::Working { mapped, highest: Some(highest) } => {
                write!(f, "{} {}", mapped.0, highest.0)
            }
            ThinStatus::Working { mapped, highest: None } => write!(f, "{} -", mapped.0),
            ThinStatus::Inactive => f.write_str("-"),
            ThinStatus::Fail => f.write_str("Fail"),
            ThinStatus::Error => f.write_str("Error"),
        }
    }
}

/// What one target of a device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A pool.
    ThinPool(ThinPoolStatus),
    /// A thin.
    Thin(ThinStatus),
    /// Any other target, as text; linear and error have none.
    Other {
        /// The target's type.
        kind: String,
        /// What it says.
        text: String,
    },
}

/// One line of a device's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// First sector that the target answers for.
    pub start: Sectors,
    /// How many sectors it answers for.
    pub length: Sectors,
    /// What it says.
    pub status: Status,
}

impl TargetStatus {
    /// The target's type.
    #[must_use]
    pub fn kind(&self) -> &str {
        match &self.status {
            Status::ThinPool(_) => ThinPoolStatus::TARGET,
            Status::Thin(_) => ThinStatus::TARGET,
            Status::Other { kind, .. } => kind,
        }
    }

    /// The line as a value.
    ///
    /// # Errors
    /// [`TableError`], which names the target and the field.
    pub fn from_line(line: &TargetLine) -> Result<TargetStatus, TableError> {
        let status = match line.kind.as_str() {
            ThinPoolStatus::TARGET => Status::ThinPool(ThinPoolStatus::parse(&line.params)?),
            ThinStatus::TARGET => Status::Thin(ThinStatus::parse(&line.params)?),
            _ => Status::Other { kind: line.kind.clone(), text: line.params.clone() },
        };
        Ok(TargetStatus { start: line.start, length: line.length, status })
    }
}

impl fmt::Display for TargetStatus {
    /// As `dmsetup status` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.start.0, self.length.0, self.kind())?;
        match &self.status {
            Status::ThinPool(status) => status.fmt(f),
            Status::Thin(status) => status.fmt(f),
            Status::Other { text, .. } => f.write_str(text),
        }
    }
}

fn usage(words: &mut Words<'_>, field: &'static str) -> Result<BlockUsage, TableError> {
    let word = words.word(field)?;
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    word.split_once('/')
        .and_then(|(used, total)| Some(BlockUsage { used: number(used)?, total: number(total)? }))
        .ok_or_else(|| words.invalid(field, word))
}

fn number_or_dash(words: &mut Words<'_>, field: &'static str) -> Result<Option<u64>, TableError> {
    let word = words.word(field)?;
    if word == "-" {
        return Ok(None);
    }
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    match digits.then(|| word.parse().ok()).flatten() {
        Some(number) => Ok(Some(number)),
        None => Err(words.invalid(field, word)),
    }
}

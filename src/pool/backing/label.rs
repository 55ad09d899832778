//! The label at the start of every disk below a pool: which pool the disk belongs to, and at which
//! epoch it was last used.
//!
//! The first MiB of the disk is for the label alone, and the areas follow. This file knows nothing
//! of the database.

use serde::{Deserialize, Serialize};

use crate::block::{BlockError, Disk};
use crate::units::Sectors;

/// The start of a disk that is for the label alone.
pub const LABEL_SPACE: Sectors = Sectors((1 << 20) / 512);
/// The bytes that are read and written. The text is shorter than a sector, which a disk writes
/// whole or not at all.
const BYTES: usize = 4096;
const MAGIC: &str = "devmapper-snapshotter pool\n";

/// Which of a pool's areas lie on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// The metadata area and, behind it, the data area.
    #[default]
    Both,
    Data,
    Metadata,
}

/// The content of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The pool's UUID, as the database and the dm uuids have it.
    pub uuid: String,
    #[serde(default)]
    pub holds: Holds,
    /// The length of the metadata area, if the data area follows on the same disk.
    pub metadata_sectors: u64,
    /// The pool's epoch when the data area was last taken into use. `None` before the first start
    /// is complete, and on a disk that holds no data.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// What is found where a label would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Zeros.
    Nothing,
    Label(Label),
    /// Something else, or a label that was partly overwritten.
    Other,
}

impl Label {
    pub fn read(disk: &dyn Disk) -> Result<Found, BlockError> {
        if disk.size()?.0 * 512 < BYTES as u64 {
            return Ok(Found::Other);
        }
        let mut block = vec![0; BYTES];
        disk.read_at(&mut block, 0)?;
        Ok(parse(&block))
    }

    pub fn write(&self, disk: &dyn Disk) -> Result<(), BlockError> {
        let mut block = format!("{MAGIC}{}", serde_json::json!(self)).into_bytes();
        block.resize(BYTES, 0);
        disk.write_at(&block, 0)?;
        disk.flush()
    }
}

/// Removes the label from a disk.
pub fn erase(disk: &dyn Disk) -> Result<(), BlockError> {
    disk.write_at(&[0; BYTES], 0)?;
    disk.flush()
}

/// Only zeros may follow the text. Anything else was written over the label by another program.
fn parse(block: &[u8]) -> Found {
    if block.iter().all(|&byte| byte == 0) {
        return Found::Nothing;
    }
    let Some(rest) = block.strip_prefix(MAGIC.as_bytes()) else { return Found::Other };
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    let (text, zeros) = rest.split_at(end);
    match serde_json::from_slice(text) {
        Ok(label) if zeros.iter().all(|&byte| byte == 0) => Found::Label(label),
        _ => Found::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::memory::MemoryDisk;

    fn label() -> Label {
        Label {
            uuid: "ab".repeat(16),
            holds: Holds::Data,
            metadata_sectors: 0,
            epoch: Some(u64::MAX),
        }
    }

    #[test]
    fn a_label_is_read_as_it_was_written_and_fits_into_a_sector() {
        let disk = MemoryDisk::new(Sectors(8));
        assert_eq!(Label::read(&disk).unwrap(), Found::Nothing);
        label().write(&disk).unwrap();
        assert_eq!(Label::read(&disk).unwrap(), Found::Label(label()));
        let mut sector = [0; 512];
        disk.read_at(&mut sector, 512).unwrap();
        assert_eq!(sector, [0; 512]);
        erase(&disk).unwrap();
        assert_eq!(Label::read(&disk).unwrap(), Found::Nothing);
    }

    #[test]
    fn a_label_that_a_file_system_was_made_over_is_none() {
        let disk = MemoryDisk::new(Sectors(8));
        label().write(&disk).unwrap();
        // The magic number of ext4, which leaves the first KiB alone when it is told to.
        disk.write_at(&[0x53, 0xef], 1024 + 56).unwrap();
        assert_eq!(Label::read(&disk).unwrap(), Found::Other);
        assert_eq!(Label::read(&MemoryDisk::new(Sectors(7))).unwrap(), Found::Other);
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            damage in proptest::collection::vec((0..600_usize, any::<u8>()), 1..8),
        ) {
            let disk = MemoryDisk::new(Sectors(8));
            label().write(&disk).unwrap();
            for (at, byte) in damage {
                disk.write_at(&[byte], at as u64).unwrap();
            }
            let _ = Label::read(&disk);
        }
    }
}

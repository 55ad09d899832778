//! A disk in memory, for unit tests.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use crate::units::Sectors;

use super::{BlockError, Disk};

/// Uses memory only up to the last byte that was written, so that a large disk costs little.
#[derive(Debug)]
pub(crate) struct MemoryDisk {
    size: Sectors,
    bytes: Mutex<Vec<u8>>,
    read_only: Mutex<bool>,
}

impl MemoryDisk {
    pub(crate) fn new(size: Sectors) -> Self {
        MemoryDisk { size, bytes: Mutex::default(), read_only: Mutex::new(false) }
    }

    fn range(
        &self,
        step: &'static str,
        offset: u64,
        length: usize,
    ) -> Result<std::ops::Range<usize>, BlockError> {
        let end = self.size.bytes().unwrap() as usize;
        let start = offset as usize;
        match start.checked_add(length) {
            Some(stop) if stop <= end => Ok(start..stop),
            _ => Err(BlockError::Transfer {
                step,
                path: self.path().to_owned(),
                offset,
                length,
                source: io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }
}

impl Disk for MemoryDisk {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn size(&self) -> Result<Sectors, BlockError> {
        Ok(self.size)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
        let range =
            self.range("discard", offset.bytes().unwrap(), length.bytes().unwrap() as usize)?;
        let mut bytes = self.bytes.lock().unwrap();
        let end = range.end.min(bytes.len());
        bytes[range.start.min(end)..end].fill(0);
        Ok(())
    }

    fn set_read_only(&self, read_only: bool) -> Result<(), BlockError> {
        *self.read_only.lock().unwrap() = read_only;
        Ok(())
    }

    fn is_read_only(&self) -> Result<bool, BlockError> {
        Ok(*self.read_only.lock().unwrap())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let range = self.range("read", offset, buffer.len())?;
        let bytes = self.bytes.lock().unwrap();
        let written = bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default();
        buffer[..written.len()].copy_from_slice(written);
        buffer[written.len()..].fill(0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
        let range = self.range("write", offset, data.len())?;
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() < range.end {
            bytes.resize(range.end, 0);
        }
        bytes[range].copy_from_slice(data);
        Ok(())
    }
}

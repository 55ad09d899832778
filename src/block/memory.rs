//! A disk in memory, for unit tests of code that only reads and writes.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use crate::units::Sectors;

use super::{BlockError, Disk};

#[derive(Debug)]
pub(crate) struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    read_only: Mutex<bool>,
}

impl MemoryDisk {
    pub(crate) fn new(size: Sectors) -> Self {
        let bytes = vec![0; size.bytes().unwrap() as usize];
        MemoryDisk { bytes: Mutex::new(bytes), read_only: Mutex::new(false) }
    }

    fn range(&self, step: &'static str, offset: u64, length: usize) -> Result<std::ops::Range<usize>, BlockError> {
        let end = self.bytes.lock().unwrap().len();
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
        Ok(Sectors::from_bytes_down(self.bytes.lock().unwrap().len() as u64))
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
        let range = self.range("discard", offset.bytes().unwrap(), length.bytes().unwrap() as usize)?;
        self.bytes.lock().unwrap()[range].fill(0);
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
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
        let range = self.range("write", offset, data.len())?;
        self.bytes.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }
}

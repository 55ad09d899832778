//! An open device of the modelled kernel: bytes in and out.

use nix::errno::Errno;

use super::io_error::IoError;
use super::kernel::FakeKernel;
use super::machine::{Machine, Outcome, MAJOR};
use crate::names::DmName;
use crate::units::{DeviceNumber, Sectors, SECTOR_SIZE};

/// An open device or disk; closed when dropped. Offsets and lengths are in bytes and need no
/// alignment.
#[derive(Debug)]
pub struct FakeHandle {
    kernel: FakeKernel,
    number: DeviceNumber,
}

type Io<T> = Result<T, IoError>;

impl FakeKernel {
    /// Opens a device by name.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is none.
    pub fn open(&self, name: &DmName) -> Io<FakeHandle> {
        let minor = self.machine().by_name(name.as_str());
        let minor = minor.ok_or(IoError::Errno(Errno::ENXIO))?;
        FakeHandle::new(self.clone(), Machine::number(minor))
    }

    /// Opens a device or a disk by number.
    ///
    /// # Errors
    /// [`IoError::Errno`] with ENXIO when there is none.
    pub fn open_number(&self, number: DeviceNumber) -> Io<FakeHandle> {
        FakeHandle::new(self.clone(), number)
    }
}

impl FakeHandle {
    fn new(kernel: FakeKernel, number: DeviceNumber) -> Io<FakeHandle> {
        {
            let mut machine = kernel.machine();
            if machine.halted {
                return Err(IoError::Halted);
            }
            if !machine.disks.contains_key(&number) {
                let device = machine.devices.get_mut(&number.minor);
                let device = device.filter(|_| number.major == MAJOR);
                device.ok_or(IoError::Errno(Errno::ENXIO))?.handles += 1;
            }
        }
        Ok(FakeHandle { kernel, number })
    }

    /// The device's number.
    #[must_use]
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// The device's size.
    #[must_use]
    pub fn size(&self) -> Sectors {
        self.kernel.machine().size(self.number).unwrap_or(Sectors::ZERO)
    }

    /// Reads `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// ENOSPC past the end, EAGAIN when suspended, EIO from a failed pool or an error target.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Io<()> {
        let machine = self.kernel.machine();
        let bytes = read_around(&machine, self.number, offset, buffer.len())?;
        let within = (offset % SECTOR_SIZE) as usize;
        buffer.copy_from_slice(&bytes[within..within + buffer.len()]);
        Ok(())
    }

    /// Writes `bytes` at `offset`, into the cache.
    ///
    /// # Errors
    /// ENOSPC past the end or when the pool is full, EPERM on a read-only device, EAGAIN when
    /// suspended, EIO from a failed pool or an error target.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Io<()> {
        self.kernel.change(|machine| {
            let aligned = offset.is_multiple_of(SECTOR_SIZE)
                && (bytes.len() as u64).is_multiple_of(SECTOR_SIZE);
            if aligned {
                return machine.write(self.number, offset / SECTOR_SIZE, bytes).map_err(Into::into);
            }
            let mut around = read_around(machine, self.number, offset, bytes.len())?;
            let within = (offset % SECTOR_SIZE) as usize;
            around[within..within + bytes.len()].copy_from_slice(bytes);
            machine.write(self.number, offset / SECTOR_SIZE, &around).map_err(Into::into)
        })
    }

    /// Makes what was written durable: a thin's pool commits, a disk empties its cache.
    ///
    /// # Errors
    /// EIO when the commit fails, EAGAIN when suspended.
    pub fn flush(&self) -> Io<()> {
        self.kernel.change(|machine| machine.flush(self.number)).map_err(Into::into)
    }

    /// Discards a range. Only whole blocks of a thin are freed. On a disk the range reads as zeros
    /// then.
    ///
    /// # Errors
    /// EPERM on a read-only device, EAGAIN when suspended, EOPNOTSUPP where discards are ignored.
    pub fn discard(&self, offset: u64, length: u64) -> Io<()> {
        let first = offset.div_ceil(SECTOR_SIZE);
        let last = (offset + length) / SECTOR_SIZE;
        let count = last.saturating_sub(first);
        self.kernel.change(|machine| machine.discard(self.number, first, count)).map_err(Into::into)
    }

    /// Writes eight bytes that stand for a whole block of `block_size`: the cheap way to tell
    /// contents apart.
    ///
    /// # Errors
    /// As [`FakeHandle::write_at`].
    pub fn write_block(&self, block: u64, block_size: Sectors, tag: u64) -> Io<()> {
        self.write_at(&tag.to_le_bytes(), block * block_size.0 * SECTOR_SIZE)
    }

    /// Reads back what [`FakeHandle::write_block`] wrote; 0 for a block that was never written.
    ///
    /// # Errors
    /// As [`FakeHandle::read_at`].
    pub fn read_block(&self, block: u64, block_size: Sectors) -> Io<u64> {
        let mut tag = [0; 8];
        self.read_at(&mut tag, block * block_size.0 * SECTOR_SIZE)?;
        Ok(u64::from_le_bytes(tag))
    }
}

impl Drop for FakeHandle {
    fn drop(&mut self) {
        self.kernel.change(|machine| {
            let device = machine.devices.get_mut(&self.number.minor);
            if let Some(device) = device.filter(|_| self.number.major == MAJOR) {
                device.handles = device.handles.saturating_sub(1);
                // A deferred removal may end the machine by its plan. The next request reports it.
                let _ = machine.closed(self.number);
            }
        });
    }
}

/// The whole sectors around a range of bytes.
fn read_around(
    machine: &Machine,
    number: DeviceNumber,
    offset: u64,
    length: usize,
) -> Outcome<Vec<u8>> {
    let first = offset / SECTOR_SIZE;
    let end = (offset + length as u64).div_ceil(SECTOR_SIZE);
    let mut bytes = vec![0; ((end - first) * SECTOR_SIZE) as usize];
    machine.read(number, first, &mut bytes)?;
    Ok(bytes)
}

//! A disk in memory whose power can fail at any step. Then it keeps only a part of the writes since
//! the last sync, like a disk with a cache.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// The unit that a disk writes completely or not at all, in bytes.
const SECTOR: usize = 512;

/// A power supply that lasts for a number of steps. Several disks can share it.
#[derive(Debug)]
pub struct Power {
    steps: AtomicU64,
    lasts: u64,
    off: AtomicBool,
}

impl Power {
    /// Power that fails after `lasts` steps.
    pub fn lasting(lasts: u64) -> Arc<Self> {
        Arc::new(Power { steps: AtomicU64::new(0), lasts, off: AtomicBool::new(false) })
    }

    /// Power that does not fail.
    pub fn steady() -> Arc<Self> {
        Self::lasting(u64::MAX)
    }

    /// Takes a step. The step and all later ones fail once the power is off.
    pub fn step(&self) -> io::Result<()> {
        if self.steps.fetch_add(1, Ordering::SeqCst) >= self.lasts {
            self.off.store(true, Ordering::SeqCst);
        }
        match self.off.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the power is off")),
            false => Ok(()),
        }
    }

    /// How many steps were taken or tried.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Whether the power failed.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }
}

/// The writes since the last sync that a disk keeps when its power fails.
#[derive(Debug, Clone, Copy)]
pub enum Survivors {
    Nothing,
    Everything,
    /// Any sectors of any writes, chosen by this seed.
    Some(u64),
}

/// A write that is not synced yet.
#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default, Clone)]
struct Platter {
    /// The durable content.
    durable: Vec<u8>,
    /// The content that reads return.
    cached: Vec<u8>,
    pending: Vec<Pending>,
}

/// The disk. Clones are handles to the same disk.
#[derive(Clone)]
pub struct Disk {
    platter: Arc<Mutex<Platter>>,
    power: Arc<Power>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// An empty disk.
    pub fn blank(power: &Arc<Power>) -> Self {
        Self::holding(Vec::new(), power)
    }

    fn holding(bytes: Vec<u8>, power: &Arc<Power>) -> Self {
        Disk {
            platter: Arc::new(Mutex::new(Platter {
                durable: bytes.clone(),
                cached: bytes,
                pending: Vec::new(),
            })),
            power: Arc::clone(power),
        }
    }

    /// The disk after the power is back.
    pub fn after_cut(&self, survivors: Survivors, power: &Arc<Power>) -> Self {
        let platter = self.platter.lock().unwrap();
        let bytes = match survivors {
            Survivors::Nothing => platter.durable.clone(),
            Survivors::Everything => platter.cached.clone(),
            Survivors::Some(seed) => surviving(&platter, seed),
        };
        Self::holding(bytes, power)
    }

    /// The content of the disk, including its cache.
    pub fn bytes(&self) -> Vec<u8> {
        self.platter.lock().unwrap().cached.clone()
    }

    /// A disk with this content.
    pub fn with_bytes(bytes: Vec<u8>) -> Self {
        Self::holding(bytes, &Power::steady())
    }
}

fn surviving(platter: &Platter, seed: u64) -> Vec<u8> {
    let mut bytes = platter.durable.clone();
    let mut random = seed.wrapping_mul(2).wrapping_add(1);
    let mut coin = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 63 == 1
    };
    for pending in &platter.pending {
        match pending {
            // The file system journals the length. Beyond its last durable length the file reads as
            // zeros.
            Pending::Length(length) => bytes.resize(*length, 0),
            Pending::Write(offset, data) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if coin() {
                        let at = offset + index * SECTOR;
                        bytes[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
    bytes
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = platter.cached.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.power.step()?;
        let mut platter = self.platter.lock().unwrap();
        let len = usize::try_from(len).unwrap();
        platter.cached.resize(len, 0);
        platter.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.step()?;
        let mut platter = self.platter.lock().unwrap();
        platter.durable = platter.cached.clone();
        platter.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let power = self.power.step();
        let mut platter = self.platter.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        if power.is_ok() {
            platter.cached[from..from + data.len()].copy_from_slice(data);
        }
        // The write during which the power fails may be partly on the disk.
        platter.pending.push(Pending::Write(from, data.to_vec()));
        power
    }
}

//! The disk under the database: a file in memory whose writes and syncs are steps of a plan.
//! When the power goes, it keeps only some of the writes since the last sync. The tally beside
//! it works the same way.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use devmapper_snapshotter::dm::{FaultPlan, Verdict};
use devmapper_snapshotter::store::Tally;
use redb::StorageBackend;

/// The unit that a disk writes completely or not at all, in bytes.
const SECTOR: usize = 512;

/// Which unsynced writes of the database survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    Nothing,
    Everything,
    /// Any sectors of any writes, chosen by this seed.
    Torn(u64),
}

#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Platter {
    /// Bytes that a sync has made durable.
    durable: Vec<u8>,
    /// The content that reads return.
    cached: Vec<u8>,
    pending: Vec<Pending>,
}

/// The disk. Clones are handles to the same disk.
#[derive(Clone)]
pub struct Storage {
    platter: Arc<Mutex<Platter>>,
    plan: Arc<FaultPlan>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage")
    }
}

impl Storage {
    /// A disk with this content. `plan` counts its steps.
    pub fn holding(bytes: Vec<u8>, plan: &Arc<FaultPlan>) -> Storage {
        let platter = Platter { durable: bytes.clone(), cached: bytes, pending: Vec::new() };
        Storage { platter: Arc::new(Mutex::new(platter)), plan: Arc::clone(plan) }
    }

    /// The content that the next process reads after a kill.
    pub fn cached(&self) -> Vec<u8> {
        self.platter.lock().unwrap().cached.clone()
    }

    /// The content of the disk after a power cut.
    pub fn after_power_cut(&self, survivors: Survivors) -> Vec<u8> {
        let platter = self.platter.lock().unwrap();
        match survivors {
            Survivors::Nothing => platter.durable.clone(),
            Survivors::Everything => platter.cached.clone(),
            Survivors::Torn(seed) => torn(&platter, seed),
        }
    }

    /// Whether anything was written since the last sync, so that the choice of survivors matters.
    pub fn has_unsynced(&self) -> bool {
        !self.platter.lock().unwrap().pending.is_empty()
    }

    /// Takes a step. `Ok(true)` means that everything ends right after it.
    fn step(&self, what: &str) -> io::Result<bool> {
        match self.plan.step(what) {
            Verdict::Go => Ok(false),
            Verdict::GoThenHalt => Ok(true),
            Verdict::Fail(errno) => Err(errno.into()),
            Verdict::Halt => Err(io::Error::other("halted")),
        }
    }
}

fn torn(platter: &Platter, seed: u64) -> Vec<u8> {
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
            // The file system journals the length of a file.
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

fn ended(ends: bool) -> io::Result<()> {
    match ends {
        true => Err(io::Error::other("halted")),
        false => Ok(()),
    }
}

impl StorageBackend for Storage {
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

    fn set_len(&self, length: u64) -> io::Result<()> {
        let ends = self.step("database length")?;
        let mut platter = self.platter.lock().unwrap();
        let length = usize::try_from(length).unwrap();
        platter.cached.resize(length, 0);
        platter.pending.push(Pending::Length(length));
        ended(ends)
    }

    fn sync_data(&self) -> io::Result<()> {
        let ends = self.step("database sync")?;
        let mut platter = self.platter.lock().unwrap();
        platter.durable = platter.cached.clone();
        platter.pending.clear();
        ended(ends)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let ended_before = self.plan.halted();
        let step = self.step("database write");
        let mut platter = self.platter.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        if step.is_ok() {
            platter.cached[from..from + data.len()].copy_from_slice(data);
        }
        // The write during the power cut may be on the disk in part. Later writes are not.
        if step.is_ok() || (!ended_before && self.plan.halted()) {
            platter.pending.push(Pending::Write(from, data.to_vec()));
        }
        ended(step?)
    }
}

/// The tally of the database. The kernel writes it back at any time, so after a power cut it may be
/// as old as at the start.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    at_start: Vec<u8>,
    now: Arc<Mutex<Vec<u8>>>,
}

impl Beside {
    pub fn holding(bytes: Vec<u8>) -> Beside {
        Beside { at_start: bytes.clone(), now: Arc::new(Mutex::new(bytes)) }
    }

    /// The content that the next process reads after a kill.
    pub fn cached(&self) -> Vec<u8> {
        self.now.lock().unwrap().clone()
    }

    pub fn after_power_cut(&self, survivors: Survivors) -> Vec<u8> {
        match survivors {
            Survivors::Nothing => self.at_start.clone(),
            Survivors::Everything | Survivors::Torn(_) => self.cached(),
        }
    }
}

impl Tally for Beside {
    fn name(&self) -> PathBuf {
        "(tally)".into()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.cached())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut now, from) = (self.now.lock().unwrap(), usize::try_from(offset).unwrap());
        let length = now.len().max(from + bytes.len());
        now.resize(length, 0);
        now[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

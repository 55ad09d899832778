//! The tally: the number of acknowledged commits, kept outside the database.
//!
//! redb keeps its last two commits, and opens the older one if the newest is damaged. After a power
//! cut, that is a commit that was never acknowledged. After a later bit error, it is a commit that
//! callers rely on. Inside the database the two cases look alike. So each commit has a number, and
//! once the commit is durable, its number is written here, without a sync: it survives the death of
//! the daemon at once, and a power cut as soon as the kernel has written it back (after 30 s at
//! most by default). The tally is never ahead of the durable database. So a database that is behind
//! its tally has lost acknowledged commits, or is an older copy.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::file;

/// The number of a commit, and the database that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// The database's random identity, which is made with its first commit.
    pub database: u128,
    /// The number of the commit.
    pub number: u64,
}

impl Count {
    /// The first commit of a new database.
    pub(super) fn first() -> Self {
        Count { database: uuid::Uuid::new_v4().as_u128(), number: 1 }
    }

    pub(super) fn next(self) -> Self {
        Count { number: self.number + 1, ..self }
    }

    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.database.to_le_bytes());
        bytes[16..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (database, number) = bytes.split_first_chunk::<16>()?;
        Some(Count {
            database: u128::from_le_bytes(*database),
            number: u64::from_le_bytes(number.try_into().ok()?),
        })
    }
}

/// The storage of the number: a few bytes that survive the process.
pub trait Tally: Send + Sync + 'static {
    /// Its name in messages.
    fn name(&self) -> PathBuf;

    /// Its whole content; empty if nothing was written yet.
    ///
    /// # Errors
    /// The errors of the storage.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Writes these bytes at this offset. The storage grows as needed. There is no sync.
    ///
    /// # Errors
    /// The errors of the storage.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The distance of the two places, which are written in turn, so that an incomplete write leaves
/// the other place intact. They are in different sectors on any disk.
const PLACE: u64 = 4096;
const TITLE: &[u8; 16] = b"acknowledged: \n\0";
const LENGTH: usize = 16 + 24 + 8;

/// The content of a place.
fn encode(count: Count) -> Vec<u8> {
    let mut bytes = [TITLE.as_slice(), &count.to_bytes()].concat();
    bytes.extend(digest(&bytes).to_le_bytes());
    bytes
}

fn decode(place: &[u8]) -> Option<Count> {
    let (body, sum) = place.get(..LENGTH)?.split_at(LENGTH - 8);
    let count = body.strip_prefix(TITLE.as_slice())?;
    (digest(body).to_le_bytes() == sum).then(|| Count::from_bytes(count))?
}

/// FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The number of the last acknowledged commit of this database. Without an identity, the database
/// has lost all numbered commits; then the tally of any database counts.
pub(super) fn acknowledged(tally: &dyn Tally, database: Option<u128>) -> io::Result<u64> {
    let bytes = tally.read()?;
    let counts = [0, PLACE as usize].into_iter().filter_map(|at| decode(bytes.get(at..)?));
    let of_it = counts.filter(|count| database.is_none_or(|database| count.database == database));
    Ok(of_it.map(|count| count.number).max().unwrap_or(0))
}

/// Writes the number of a durable commit.
pub(super) fn note(tally: &dyn Tally, count: Count) -> io::Result<()> {
    tally.write(count.number % 2 * PLACE, &encode(count))
}

/// A tally in a file, which is created at the first write.
#[derive(Debug)]
pub(super) struct TallyFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl TallyFile {
    /// The file beside this database.
    pub(super) fn of(database: &Path) -> Self {
        TallyFile { path: file::beside(database, ".commits"), file: Mutex::default() }
    }
}

/// A tally that can only be read. Writes are ignored.
#[derive(Debug)]
pub(super) struct ReadOnlyTally(pub(super) TallyFile);

impl Tally for ReadOnlyTally {
    fn name(&self) -> PathBuf {
        self.0.name()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        self.0.read()
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Tally for TallyFile {
    fn name(&self) -> PathBuf {
        self.path.clone()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = Some(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&self.path)?,
            );
        }
        file.as_ref().map_or(Ok(()), |file| file.write_all_at(bytes, offset))
    }
}

impl Drop for TallyFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = file.sync_data();
        }
    }
}

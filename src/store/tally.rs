//! How many commits have been acknowledged, kept apart from the database.
//!
//! redb keeps its last two commits, and opens on the one before where the newest is damaged: after
//! a power cut that is a commit that nobody was told of, but a bit that has flipped since makes it
//! one that somebody relies on. The two look alike from inside. So each commit carries its number,
//! and once it is on the disk the number is written here, without a sync of its own: it outlives a
//! killed daemon at once, and a power cut as soon as the kernel has written it back (30 s at the
//! most by default). It is never ahead of what the database has on the disk, so a database that is
//! behind it has lost what was acknowledged, or is a copy from another time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A commit's number, and which database counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// Random, from the first commit on.
    pub database: u128,
    pub number: u64,
}

impl Count {
    /// The number of a database's first commit.
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

/// Where the number is kept: a few bytes that survive the process.
pub trait Tally: Send + Sync + 'static {
    /// What messages call it.
    fn name(&self) -> PathBuf;

    /// All of it; nothing where nothing was written yet.
    ///
    /// # Errors
    /// Those of the storage.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Writes over a part of it, which grows as needed. Not synced.
    ///
    /// # Errors
    /// Those of the storage.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Two places, written in turn, so that a write cut short leaves the other; in different sectors of
/// any disk.
const PLACE: u64 = 4096;
const TITLE: &[u8; 16] = b"acknowledged: \n\0";
const LENGTH: usize = 16 + 24 + 8;

/// What a place holds.
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

/// The last number that was acknowledged of this database. One that says of no number which
/// database it is has lost all commits that were counted: then any number counts.
pub(super) fn acknowledged(tally: &dyn Tally, database: Option<u128>) -> io::Result<u64> {
    let bytes = tally.read()?;
    let counts = [0, PLACE as usize].into_iter().filter_map(|at| decode(bytes.get(at..)?));
    let of_it = counts.filter(|count| database.is_none_or(|database| count.database == database));
    Ok(of_it.map(|count| count.number).max().unwrap_or(0))
}

/// Notes that a commit is on the disk.
pub(super) fn note(tally: &dyn Tally, count: Count) -> io::Result<()> {
    tally.write(count.number % 2 * PLACE, &encode(count))
}

/// A file, made when it is first written to.
#[derive(Debug)]
pub(super) struct TallyFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl TallyFile {
    /// The one beside a database.
    pub(super) fn of(database: &Path) -> Self {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(".commits");
        TallyFile { path: database.with_file_name(name), file: Mutex::default() }
    }
}

/// One that is looked at only: what it is told is forgotten.
#[derive(Debug)]
pub(super) struct LookedAt(pub(super) TallyFile);

impl Tally for LookedAt {
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

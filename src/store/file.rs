//! Opens and reads the database file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::Builder;

use super::error::StoreError;

/// The path of a file beside the database: the database's name with this suffix.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    database.with_file_name(name)
}

/// Opens an existing file for reading and writing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The content of a database file that no process has open for writing. The file is not changed.
pub(super) fn read_unused(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { path: path.to_owned() },
        _ => StoreError::from_redb("reading", path, redb::Error::Io(error)),
    };
    let mut file = File::open(path).map_err(failed)?;
    // This is only to test redb's lock, which a writer holds. Other problems are found again in the
    // copy, and repaired there.
    let backend =
        file.try_clone().map_err(redb::Error::Io).and_then(|file| Ok(FileBackend::new(file)?));
    let backend = backend.map_err(|error| StoreError::from_redb("reading", path, error))?;
    let opened =
        catch_unwind(AssertUnwindSafe(|| Builder::new().open_read_only_with_backend(backend)));
    if let Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) = opened {
        return Err(StoreError::InUse { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.rewind().map_err(failed)?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.is_empty() {
        return Err(StoreError::Corrupted {
            path: path.to_owned(),
            reason: "it is empty".to_owned(),
        });
    }
    Ok(bytes)
}

//! The file under its name: made whole or not at all, and readable by its owner alone.
//!
//! A new database is made beside its final name and linked to it once it is complete, so that a
//! crash never leaves half a database under the name that counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::Builder;

use super::database::Database;
use super::error::StoreError;

/// Opens a file that exists, for reading and writing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The whole of a file that no process has open for writing. Nothing about it is changed.
pub(super) fn read_unused(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { path: path.to_owned() },
        _ => StoreError::from_redb("reading", path, redb::Error::Io(error)),
    };
    let mut file = File::open(path).map_err(failed)?;
    // redb's own lock, which tells of whoever writes; what else it finds wrong is found again in
    // the copy, and mended there.
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

/// Makes a complete, empty database under `path`, unless something is there already.
///
/// What a crash left of an earlier attempt is overwritten; a database that somebody else has put
/// there meanwhile stays.
pub(super) fn create_missing(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_redb("creating", path, redb::Error::Io(error));
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let draft = draft_of(path);
    empty(&draft).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse { path: draft.clone() },
        _ => failed(error),
    })?;
    drop(Database::open(&draft, None)?);
    link(&draft, path).map_err(failed)
}

/// Makes an empty file, or empties one that nobody uses.
fn empty(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.try_lock()?;
    file.set_len(0)
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Gives the draft its name without replacing anything, and makes the name durable.
fn link(draft: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(draft, path) {
        Ok(()) => std::fs::remove_file(draft)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::remove_file(draft)?,
        Err(_) => std::fs::rename(draft, path)?,
    }
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

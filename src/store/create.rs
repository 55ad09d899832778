//! Creates a new database file, completely or not at all.
//!
//! The database is made under a temporary name and linked to its final name when it is complete. So
//! a crash never leaves an incomplete database under the final name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::database::Database;
use super::error::StoreError;
use super::file;

/// Creates an empty database at `path`, unless there is a file.
///
/// A temporary file that a crash has left is overwritten. A database that another process creates
/// at the same time is kept.
pub(super) fn create_missing(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_redb("creating", path, redb::Error::Io(error));
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let draft = file::beside(path, ".new");
    empty(&draft).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse { path: draft.clone() },
        _ => failed(error),
    })?;
    drop(Database::open(&draft, None)?);
    link(&draft, path).map_err(failed)
}

/// Creates an empty file, or empties a file that no process has locked.
fn empty(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.try_lock()?;
    file.set_len(0)
}

/// Gives the draft its final name without replacing a file, and makes the name durable.
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

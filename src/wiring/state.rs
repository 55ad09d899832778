//! The state directory: where it is made, and its lock, which keeps a second daemon out.

use std::fmt::Display;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::WiringError;

/// The name of the file that is locked.
const LOCK: &str = "lock";

/// The database's file in the state directory `root`.
pub fn database(root: &Path) -> PathBuf {
    root.join("metadata.redb")
}

/// A state directory that this process holds. The lock ends with this value or with the process.
#[derive(Debug)]
pub struct StateDirectory {
    /// `None` if no daemon has left a file to lock.
    _lock: Option<File>,
}

impl StateDirectory {
    /// Makes the directory if it is missing, and locks it for this process alone.
    pub fn own(root: &Path) -> Result<StateDirectory, WiringError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(|error| match std::fs::symlink_metadata(root) {
            Ok(found) if found.is_symlink() && !root.exists() => {
                wrong(root, "cannot be made: a link that leads nowhere is there")
            }
            Ok(_) if root.exists() => {
                wrong(root, "cannot be made: there is something that is no directory")
            }
            _ => wrong(root, format!("cannot be made: {error}")),
        })?;
        let path = root.join(LOCK);
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let lock = lock.map_err(|error| wrong(root, format!("cannot be written to: {error}")))?;
        locked(root, lock.try_lock())?;
        Ok(StateDirectory { _lock: Some(lock) })
    }

    /// Locks the directory against daemons, for a command that only reads. Makes and changes
    /// nothing.
    pub fn look(root: &Path) -> Result<StateDirectory, WiringError> {
        let asked = |what: &dyn Display| {
            let question = "is --root, or 'root' in the configuration, what the daemon has?";
            wrong(root, format!("{what}; {question}"))
        };
        match std::fs::metadata(root) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(asked(&"it is no directory")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(asked(&"it does not exist"))
            }
            Err(error) => return Err(asked(&error)),
        }
        let database = database(root);
        if !database.try_exists().map_err(|error| asked(&error))? {
            return Err(asked(&format!("there is no database {}", database.display())));
        }
        match File::open(root.join(LOCK)) {
            Ok(lock) => {
                locked(root, lock.try_lock_shared())?;
                Ok(StateDirectory { _lock: Some(lock) })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(StateDirectory { _lock: None }),
            Err(error) => Err(asked(&format!("its lock cannot be opened: {error}"))),
        }
    }
}

fn wrong(root: &Path, what: impl Into<String>) -> WiringError {
    WiringError::StateDirectory { root: root.into(), what: what.into() }
}

fn locked(root: &Path, result: Result<(), TryLockError>) -> Result<(), WiringError> {
    result.map_err(|error| match error {
        TryLockError::WouldBlock => wrong(
            root,
            "another daemon works on it, or one of the commands check and ls: stop that one, or \
             give this one another --root (and another 'name' and --address)",
        ),
        TryLockError::Error(error) => wrong(root, format!("cannot be locked: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_owns_a_directory_and_commands_look_at_it_meanwhile_together() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("state");
        let refused = StateDirectory::look(&root).unwrap_err().to_string();
        assert!(refused.contains("it does not exist; is --root"), "{refused}");
        let owned = StateDirectory::own(&root).unwrap();
        let refused = StateDirectory::own(&root).unwrap_err().to_string();
        assert!(refused.contains("another daemon works on it"), "{refused}");
        let refused = StateDirectory::look(&root).unwrap_err().to_string();
        assert!(refused.contains("there is no database"), "{refused}");
        std::fs::write(database(&root), "").unwrap();
        let refused = StateDirectory::look(&root).unwrap_err().to_string();
        assert!(refused.contains("another daemon works on it"), "{refused}");
        drop(owned);
        let _looks = [StateDirectory::look(&root).unwrap(), StateDirectory::look(&root).unwrap()];
        StateDirectory::own(&root).unwrap_err();
    }

    #[test]
    fn what_is_in_the_way_of_a_directory_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("/nonexistent", &link).unwrap();
        let refused = StateDirectory::own(&file).unwrap_err().to_string();
        assert!(refused.contains("something that is no directory"), "{refused}");
        let refused = StateDirectory::own(&link).unwrap_err().to_string();
        assert!(refused.contains("a link that leads nowhere"), "{refused}");
        let refused = StateDirectory::look(&file).unwrap_err().to_string();
        assert!(refused.contains("it is no directory"), "{refused}");
    }
}

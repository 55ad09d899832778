//! Checks the operator's paths: rules for all of them, and for the state directory and the socket.

use std::path::{Path, PathBuf};

/// An absolute path in UTF-8 without control characters, because paths appear in messages and
/// lists.
pub fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    let Some(text) = path.to_str() else { return Err(format!("{path:?} is not UTF-8 text")) };
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(format!("{path:?} contains the control character {control:?}"));
    }
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{path:?} is not an absolute path"))
    }
}

/// The state directory, which cannot be `/`.
pub fn state_directory(path: PathBuf) -> Result<PathBuf, String> {
    let path = absolute(path)?;
    if has_name(&path) {
        Ok(path)
    } else {
        Err(format!(
            "{path:?} names no directory that can be the daemon's own, such as \
             /var/lib/devmapper-snapshotter"
        ))
    }
}

/// The path of the socket. The server checks its length.
pub fn socket(path: PathBuf) -> Result<PathBuf, String> {
    let path = absolute(path)?;
    if has_name(&path) && !path.to_string_lossy().ends_with('/') {
        Ok(path)
    } else {
        Err(format!(
            "{path:?} names no file, such as /run/devmapper-snapshotter/devmapper-snapshotter.sock"
        ))
    }
}

/// False for `/` and for a path that ends in `..`.
fn has_name(path: &Path) -> bool {
    path.file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn paths_with_control_characters_or_without_a_name_are_refused() {
        let bytes = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        for (path, what) in [
            (bytes(b"/a\xffb"), "not UTF-8"),
            (bytes(b"/a\nb"), "control character '\\n'"),
            (bytes(b"/a\0b"), "control character '\\0'"),
            (bytes(b""), "not an absolute path"),
            (bytes(b"a/b"), "not an absolute path"),
            (bytes(b"/"), "names no"),
            (bytes(b"//."), "names no"),
            (bytes(b"/a/.."), "names no"),
        ] {
            for check in [state_directory, socket] {
                let error = check(path.clone()).unwrap_err();
                assert!(error.contains(what), "{path:?}: {error}");
            }
        }
        assert!(socket("/run/a/".into()).is_err());
        assert!(state_directory("/var/lib/a b ü/".into()).is_ok());
        assert!(absolute("/dev/disk/by-id/wwn-0x5:1\\x2f".into()).is_ok());
    }
}

//! Why the daemon or a command cannot open what it works on.

use std::path::PathBuf;

use crate::dm;
use crate::pool::PoolError;
use crate::snapshotter;
use crate::store::StoreError;

/// Why the daemon or a command cannot open what it works on.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    #[error("state directory {}: {what}", root.display())]
    StateDirectory { root: PathBuf, what: String },
    #[error("the pool cannot be watched: {0}")]
    Watch(#[source] std::io::Error),
    #[error(transparent)]
    DeviceMapper(#[from] dm::Error),
    #[error("fs_type: {0}")]
    FileSystem(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Snapshotter(#[from] snapshotter::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_state_directory_or_the_watch_names_it() {
        let error = WiringError::StateDirectory { root: "/r".into(), what: "no".into() };
        assert_eq!(error.to_string(), "state directory /r: no");
        let error = WiringError::Watch(std::io::Error::other("no threads"));
        assert_eq!(error.to_string(), "the pool cannot be watched: no threads");
    }
}

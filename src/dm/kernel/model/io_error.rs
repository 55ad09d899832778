//! Why I/O on a modelled device did not happen.

use nix::errno::Errno;

use super::machine::Stop;

/// Why I/O on a modelled device did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The kernel's answer. EAGAIN stands for what would wait: a suspended device.
    #[error("{0}")]
    Errno(Errno),
    /// The machine has been ended.
    #[error("halted by a fault plan or a power cut")]
    Halted,
}

impl From<Stop> for IoError {
    fn from(stop: Stop) -> IoError {
        match stop {
            Stop::Errno(errno) => IoError::Errno(errno),
            Stop::Halted => IoError::Halted,
        }
    }
}

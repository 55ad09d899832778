//! The error of a filter that cannot be parsed.

use std::fmt;

/// Why a filter cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter.
    pub filter: String,
    /// The byte of the filter at which the problem is; its length if something is missing at the
    /// end.
    pub position: usize,
    /// The problem, or what was expected.
    pub reason: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterError { filter, position, reason } = self;
        match filter.get(*position..).and_then(|rest| rest.chars().next()) {
            Some(found) => write!(f, "filter {filter:?}, at byte {position} ({found:?}): {reason}"),
            None => write!(f, "filter {filter:?}, at its end: {reason}"),
        }
    }
}

impl std::error::Error for FilterError {}

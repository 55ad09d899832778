//! What is on a device that is not blank.

use std::fmt;

/// The first content that was recognised on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The byte of the recognised label, or the first byte that is not zero.
    pub offset: u64,
    /// The kind of content, such as "an ext2, ext3 or ext4 file system"; `None` for bytes of no
    /// known kind.
    pub kind: Option<&'static str>,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.unwrap_or("data of no known kind");
        write!(f, "{kind} (at byte {})", self.offset)
    }
}

//! Why bytes or text and values could not be turned into each other.

use crate::units::Sectors;

/// Why bytes and values could not be turned into each other. `field` is the name in
/// linux/dm-ioctl.h.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The buffer ends before the field does.
    #[error("{field} at byte {offset} needs {needed} bytes, but the reply ends at {end}")]
    Truncated {
        /// The field.
        field: &'static str,
        /// Its offset in bytes.
        offset: usize,
        /// Its length in bytes.
        needed: usize,
        /// The length of the buffer.
        end: usize,
    },
    /// An offset that points outside the reply or back into what was read before.
    #[error("{field} is {value}, which points to no entry")]
    BadOffset {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A number that cannot be true.
    #[error("{field} is {value}, which is out of its range")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A string without its NUL.
    #[error("{field} at byte {offset} has no end")]
    Unterminated {
        /// The field.
        field: &'static str,
        /// Its offset in bytes.
        offset: usize,
    },
    /// A string that is not UTF-8.
    #[error("{field} at byte {offset} is not text")]
    NotText {
        /// The field.
        field: &'static str,
        /// Its offset in bytes.
        offset: usize,
    },
    /// A string that does not fit the field it is for, or holds a NUL.
    #[error("{text:?} does not fit {field}, which holds {limit} bytes without a NUL")]
    DoesNotFit {
        /// The field.
        field: &'static str,
        /// The string.
        text: String,
        /// How many bytes fit.
        limit: usize,
    },
    /// The request is larger than the interface's 32-bit size can say (4 GiB).
    #[error("the request has {bytes} bytes, more than the interface can carry")]
    RequestTooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
}

/// Why a text is not a table line of its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The line ends before this field.
    #[error("{target}: no {field} in {text:?}")]
    Missing {
        /// The target's type.
        target: &'static str,
        /// The field.
        field: &'static str,
        /// The parameters.
        text: String,
    },
    /// A field with a value that it cannot have.
    #[error("{target}: {field} is {value:?}")]
    Invalid {
        /// The target's type.
        target: &'static str,
        /// The field.
        field: &'static str,
        /// The text in its place.
        value: String,
    },
    /// More words than the target takes.
    #[error("{target}: {text:?} goes on after its last field")]
    TooLong {
        /// The target's type.
        target: &'static str,
        /// The parameters.
        text: String,
    },
    /// A pool feature that is not known.
    #[error("thin-pool: there is no feature {value:?}")]
    UnknownFeature {
        /// The text in its place.
        value: String,
    },
    /// A block size outside 64 KiB..1 GiB, or no multiple of 64 KiB.
    #[error("thin-pool: a block of {size} is not a multiple of 64 KiB between 64 KiB and 1 GiB")]
    BlockSize {
        /// The block size in the table.
        size: Sectors,
    },
}

/// Why a text is no message of a pool. The kernel answers EINVAL to all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The first word is no message.
    #[error("a pool has no message {text:?}")]
    Unknown {
        /// The whole message.
        text: String,
    },
    /// Too many or too few words.
    #[error("the pool's message {text:?} has the wrong number of words")]
    WordCount {
        /// The whole message.
        text: String,
    },
    /// A thin's number that does not fit in 24 bits.
    #[error("{id} is above the largest thin id in a pool's message")]
    ThinIdOutOfRange {
        /// The text in its place.
        id: String,
    },
    /// A word that is not the number it should be.
    #[error("{field} is {value:?} in a pool's message")]
    Invalid {
        /// The word.
        field: &'static str,
        /// The text in its place.
        value: String,
    },
}

//! Why bytes or text and values could not be turned into each other.

use crate::units::Sectors;

/// Why bytes and values could not be turned into each other. `field` is the name in
/// linux/dm-ioctl.h.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The buffer ends before the field does.
    #[error("{field} at byte {offset} needs {needed} bytes, but the reply ends at {end}")]
    Truncated {
        /// Which field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
        /// How long it is.
        needed: usize,
        /// Where the buffer ends.
        end: usize,
    },
    /// An offset that leads backwards, nowhere or into what was read before.
    #[error("{field} is {value}, which leads nowhere")]
    BadOffset {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// A number that cannot be true.
    #[error("{field} is {value}, which is out of its range")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// A string without its NUL.
    #[error("{field} at byte {offset} has no end")]
    Unterminated {
        /// Which field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A string that is not UTF-8.
    #[error("{field} at byte {offset} is not text")]
    NotText {
        /// Which field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A string that does not fit the field it is for, or holds a NUL.
    #[error("{text:?} does not fit {field}, which holds {limit} bytes without a NUL")]
    DoesNotFit {
        /// Which field.
        field: &'static str,
        /// What was to be put there.
        text: String,
        /// What fits.
        limit: usize,
    },
    /// The request is larger than the interface can say (4 GiB).
    #[error("the request has {bytes} bytes, more than the interface can carry")]
    RequestTooLarge {
        /// Its size.
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
        /// Which field.
        field: &'static str,
        /// The parameters.
        text: String,
    },
    /// A field that is not what it should be.
    #[error("{target}: {field} is {value:?}")]
    Invalid {
        /// The target's type.
        target: &'static str,
        /// Which field.
        field: &'static str,
        /// What is there.
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
        /// What is there.
        value: String,
    },
    /// A block size outside 64 KiB..1 GiB, or no multiple of 64 KiB.
    #[error("thin-pool: a block of {size} is not a multiple of 64 KiB between 64 KiB and 1 GiB")]
    BlockSize {
        /// What is there.
        size: Sectors,
    },
}

/// Why a text is no message of a pool; the kernel answers EINVAL to each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A word that is no message.
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
        /// What is there.
        id: String,
    },
    /// A word that is not the number it should be.
    #[error("{field} is {value:?} in a pool's message")]
    Invalid {
        /// Which word.
        field: &'static str,
        /// What is there.
        value: String,
    },
}

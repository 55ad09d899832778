//! Device-mapper names and uuids that the kernel will take.
//!
//! The only place where the limits of names are known.
#![warn(missing_docs)]

use std::borrow::Borrow;
use std::fmt;

/// Most bytes of a device's name: `DM_NAME_LEN` of linux/dm-ioctl.h less the terminating NUL.
pub const MAX_NAME_BYTES: usize = 127;

/// Most bytes of a device's uuid: `DM_UUID_LEN` of linux/dm-ioctl.h less the terminating NUL.
pub const MAX_UUID_BYTES: usize = 128;

/// Most bytes of a [`DevicePrefix`]. It leaves space for the longest suffix, `-template-16777215`.
pub const MAX_PREFIX_BYTES: usize = 100;

/// Why a string is no name or uuid of a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An empty text. The kernel would look for the device by something else.
    #[error("a device-mapper {what} must not be empty")]
    Empty {
        /// "name" or "uuid".
        what: &'static str,
    },
    /// Longer than the kernel's field.
    #[error("the device-mapper {what} {text:?} has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// "name" or "uuid".
        what: &'static str,
        /// The text.
        text: String,
        /// Its length in bytes.
        bytes: usize,
        /// The largest length in bytes.
        limit: usize,
    },
    /// A NUL ends the string in the kernel, a slash would leave the node directory, and other
    /// control characters break every tool that prints lists.
    #[error("the device-mapper {what} {text:?} holds the character {character:?}")]
    ForbiddenCharacter {
        /// "name" or "uuid".
        what: &'static str,
        /// The text.
        text: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// A prefix of names with a character that libdevmapper and udev would write as `\\xNN`, or
    /// that cannot begin a name.
    #[error(
        "{text:?} {} {character:?}; a name takes letters of a to z, digits and {PLAIN_MARKS}, \
         and begins with a letter or a digit",
        if *first { "begins with" } else { "holds" }
    )]
    NotPlain {
        /// The text.
        text: String,
        /// The first character that is not allowed.
        character: char,
        /// It is the first character, and would be allowed later.
        first: bool,
    },
    /// A name that means something else in the node directory: `.`, `..` and `control`. Kernels
    /// since 6.5 refuse it, older ones break on it.
    #[error("{text:?} is not usable as the name of a device")]
    Reserved {
        /// The text.
        text: String,
    },
}

/// The name of a device: 1 to 127 bytes, no `/`, no control characters, not `.`, `..` or `control`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmName(String);

impl DmName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] for a name that the kernel would refuse or cut, or that would confuse the node
    /// directory.
    pub fn new(name: impl Into<String>) -> Result<DmName, NameError> {
        let name = name.into();
        check("name", &name, MAX_NAME_BYTES, |c| c == '/' || c.is_control())?;
        if matches!(name.as_str(), "." | ".." | "control") {
            return Err(NameError::Reserved { text: name });
        }
        Ok(DmName(name))
    }

    /// The name as the kernel knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether libdevmapper, `dmsetup` and udev's rules write this name as it is: letters, digits
    /// and `#+-.:=@_`. They write anything else as `\xNN` (libdevmapper: `_is_whitelisted_char`).
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.chars().all(is_plain)
    }
}

/// The plain characters that are neither letters nor digits.
const PLAIN_MARKS: &str = "#+-.:=@_";

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || PLAIN_MARKS.contains(character)
}

/// The beginning of the names of one daemon's devices: 1 to 100 bytes, plain in the sense of
/// [`DmName::is_plain`], a letter or a digit first.
///
/// `dmsetup` and udev write other characters as `\xNN`, and `dmsetup ls` ends with an error as soon
/// as one device of the machine has such a name. A first `-` would be taken for an option, and a
/// first `.` is hidden from `ls`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePrefix(String);

impl DevicePrefix {
    /// Checks a prefix.
    ///
    /// # Errors
    /// [`NameError::Empty`], [`NameError::TooLong`], [`NameError::NotPlain`].
    pub fn new(text: impl Into<String>) -> Result<DevicePrefix, NameError> {
        let text = text.into();
        check("name", &text, MAX_PREFIX_BYTES, |_| false)?;
        if let Some(character) = text.chars().find(|c| !is_plain(*c)) {
            return Err(NameError::NotPlain { text, character, first: false });
        }
        match text.chars().next().filter(|c| !c.is_ascii_alphanumeric()) {
            Some(character) => Err(NameError::NotPlain { text, character, first: true }),
            None => Ok(DevicePrefix(text)),
        }
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The uuid of a device: 1 to 128 bytes, any text without control characters. It is unique among
/// the devices of one kernel, can be given at creation or once later, and never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmUuid(String);

impl DmUuid {
    /// Checks a uuid.
    ///
    /// # Errors
    /// [`NameError`] for one that the kernel would refuse or cut.
    pub fn new(uuid: impl Into<String>) -> Result<DmUuid, NameError> {
        let uuid = uuid.into();
        check("uuid", &uuid, MAX_UUID_BYTES, char::is_control)?;
        Ok(DmUuid(uuid))
    }

    /// The uuid as the kernel knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(
    what: &'static str,
    text: &str,
    limit: usize,
    forbidden: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, text: text.to_owned(), bytes: text.len(), limit });
    }
    match text.chars().find(|c| forbidden(*c)) {
        Some(character) => {
            Err(NameError::ForbiddenCharacter { what, text: text.to_owned(), character })
        }
        None => Ok(()),
    }
}

macro_rules! text_type {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                $type::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $type::new(text)
            }
        }
    };
}

text_type!(DmName);
text_type!(DmUuid);
text_type!(DevicePrefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_127_bytes_and_uuids_at_128() {
        assert!(DmName::new("x".repeat(127)).is_ok());
        assert!(matches!(
            DmName::new("x".repeat(128)),
            Err(NameError::TooLong { bytes: 128, limit: 127, .. })
        ));
        assert!(DmUuid::new("x".repeat(128)).is_ok());
        assert!(matches!(DmUuid::new("x".repeat(129)), Err(NameError::TooLong { limit: 128, .. })));
        // Bytes, not characters: 64 two-byte letters are 128 bytes.
        assert!(matches!(DmName::new("é".repeat(64)), Err(NameError::TooLong { bytes: 128, .. })));
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        assert_eq!(DmName::new(""), Err(NameError::Empty { what: "name" }));
        for reserved in [".", "..", "control"] {
            assert_eq!(
                DmName::new(reserved),
                Err(NameError::Reserved { text: reserved.to_owned() })
            );
        }
        for (text, character) in
            [("a/b", '/'), ("a\0b", '\0'), ("a\nb", '\n'), ("a\u{85}b", '\u{85}')]
        {
            assert!(matches!(
                DmName::new(text),
                Err(NameError::ForbiddenCharacter { character: found, .. }) if found == character
            ));
        }
        assert!(DmUuid::new("CRYPT/1").is_ok());
        assert!(DmUuid::new("a\0b").is_err());
    }

    #[test]
    fn a_prefix_is_what_dmsetup_and_udev_write_as_it_is_and_take_for_nothing_else() {
        for good in [
            "a",
            "7",
            "devmapper-snapshotter",
            "a#+-.:=@_",
            "control",
            "A-snap-1",
            &"x".repeat(100),
        ] {
            let prefix = DevicePrefix::new(good).unwrap();
            assert!(
                DmName::new(format!("{prefix}-template-16777215")).unwrap().is_plain(),
                "{good}"
            );
        }
        let holds = [
            "a b",
            "näme",
            "a/b",
            "a\\x20b",
            "a\nb",
            "a\0b",
            "a\u{200b}b",
            "a%b",
            "a,b",
            "名",
            " a",
            "a\t",
        ];
        for bad in holds {
            let error = DevicePrefix::new(bad).unwrap_err().to_string();
            assert!(
                error.contains("holds") && error.contains("letters of a to z, digits and #+-.:=@_"),
                "{error}"
            );
        }
        for bad in ["-a", ".", "..", ".a", "_a", "@a", "--help"] {
            let error = DevicePrefix::new(bad).unwrap_err().to_string();
            assert!(error.contains("begins with"), "{error}");
        }
        assert!(matches!(DevicePrefix::new(""), Err(NameError::Empty { .. })));
        assert!(matches!(
            DevicePrefix::new("x".repeat(101)),
            Err(NameError::TooLong { limit: 100, .. })
        ));
    }

    #[test]
    fn plain_names_are_those_that_dmsetup_leaves_alone() {
        assert!(DmName::new("pool-snap-12#+.:=@_").unwrap().is_plain());
        assert!(!DmName::new("with space").unwrap().is_plain());
        assert!(!DmName::new("größe").unwrap().is_plain());
    }
}

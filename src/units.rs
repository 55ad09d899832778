//! Sizes, thin ids and device numbers as types.
//!
//! The kernel counts in sectors of 512 bytes, users count in bytes, and each pool counts in its own
//! blocks. With types, a number cannot change its unit on the way.
#![warn(missing_docs)]

mod bytes;

use std::fmt;
use std::str::FromStr;

pub use bytes::{bytes_text, parse_bytes};

/// Bytes in a sector. The block layer counts in this unit whatever the disk's real sector size is
/// (kernel: `SECTOR_SHIFT` in include/linux/blk_types.h).
pub const SECTOR_SIZE: u64 = 512;

/// The length of every device and area that a user asks for is rounded up to a multiple of this, in
/// bytes: dm-thin's smallest block (Documentation/admin-guide/device-mapper/thin-provisioning.rst).
/// It is a multiple of the 4096-byte sectors that some disks have, on which the kernel refuses a
/// table of another length, and of every block that the file systems here have.
pub const DEVICE_GRAIN: u64 = 64 << 10;

/// Why a number is not a size, an id or a device number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A byte count that does not fall on a sector boundary.
    #[error("{bytes} bytes is not a multiple of the {SECTOR_SIZE}-byte sector")]
    NotSectorAligned {
        /// The byte count.
        bytes: u64,
    },
    /// The result does not fit in 64 bits.
    #[error("{what} does not fit in 64 bits")]
    Overflow {
        /// What overflowed.
        what: &'static str,
    },
    /// A thin id above [`ThinId::MAX`].
    #[error("thin id {id} is above the largest one, {max}", max = ThinId::MAX_VALUE)]
    ThinIdOutOfRange {
        /// The number.
        id: u64,
    },
    /// Text that is no size, or zero.
    #[error(
        "{text:?} is not a size: write a number of bytes, or a number and a unit such as 20GiB \
         (KiB, MiB, GiB, TiB; KB, MB, GB, TB are powers of 1000)"
    )]
    NotASize {
        /// The text.
        text: String,
    },
    /// Text that is not a thin id.
    #[error("{text:?} is not a thin id")]
    NotAThinId {
        /// The text.
        text: String,
    },
    /// Text that is not `major:minor`.
    #[error("{text:?} is not a device number (major:minor)")]
    NotADeviceNumber {
        /// The text.
        text: String,
    },
}

/// A length or a position in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sectors(pub u64);

impl Sectors {
    /// No sectors.
    pub const ZERO: Sectors = Sectors(0);

    /// Exactly `bytes` bytes.
    ///
    /// # Errors
    /// [`UnitError::NotSectorAligned`] when `bytes` is no multiple of 512.
    pub const fn from_bytes_exact(bytes: u64) -> Result<Sectors, UnitError> {
        if bytes.is_multiple_of(SECTOR_SIZE) {
            Ok(Sectors(bytes / SECTOR_SIZE))
        } else {
            Err(UnitError::NotSectorAligned { bytes })
        }
    }

    /// The fewest sectors that hold `bytes` bytes.
    pub const fn from_bytes_up(bytes: u64) -> Sectors {
        Sectors(bytes.div_ceil(SECTOR_SIZE))
    }

    /// The whole sectors that `bytes` bytes fill; the rest is dropped.
    pub const fn from_bytes_down(bytes: u64) -> Sectors {
        Sectors(bytes / SECTOR_SIZE)
    }

    /// The length of a device or area that holds `bytes` bytes: rounded up to [`DEVICE_GRAIN`].
    /// Every size that a user gives becomes a length in this way.
    pub const fn of_device(bytes: u64) -> Sectors {
        Sectors(bytes.div_ceil(DEVICE_GRAIN) * (DEVICE_GRAIN / SECTOR_SIZE))
    }

    /// The length of a device as a user writes it: bytes, or a number and a unit; rounded as
    /// [`Sectors::of_device`] does.
    ///
    /// # Errors
    /// [`UnitError::NotASize`] for zero as well.
    pub fn parse_device(text: &str) -> Result<Sectors, UnitError> {
        match parse_bytes(text.trim()) {
            Some(bytes) if bytes > 0 => Ok(Sectors::of_device(bytes)),
            _ => Err(UnitError::NotASize { text: text.to_owned() }),
        }
    }

    /// The size as people read it, such as `10.0 GiB`.
    pub fn to_text(self) -> String {
        bytes_text(self.0.saturating_mul(SECTOR_SIZE))
    }

    /// The size in bytes.
    ///
    /// # Errors
    /// [`UnitError::Overflow`] above 2^64 - 1 bytes.
    pub const fn bytes(self) -> Result<u64, UnitError> {
        match self.0.checked_mul(SECTOR_SIZE) {
            Some(bytes) => Ok(bytes),
            None => Err(UnitError::Overflow { what: "a size in bytes" }),
        }
    }

    /// `self + other`, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Sectors) -> Option<Sectors> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Sectors(sum)),
            None => None,
        }
    }

    /// `self - other`, or `None` when `other` is larger.
    #[must_use]
    pub const fn checked_sub(self, other: Sectors) -> Option<Sectors> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Sectors(rest)),
            None => None,
        }
    }

    /// `self * factor`, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_mul(self, factor: u64) -> Option<Sectors> {
        match self.0.checked_mul(factor) {
            Some(product) => Some(Sectors(product)),
            None => None,
        }
    }

    /// How many blocks of `block` sectors it takes to hold this many; `None` when `block` is zero.
    #[must_use]
    pub const fn blocks_up(self, block: Sectors) -> Option<u64> {
        if block.0 == 0 {
            return None;
        }
        Some(self.0.div_ceil(block.0))
    }

    /// How many whole blocks of `block` sectors fit in this many; `None` when `block` is zero.
    #[must_use]
    pub const fn blocks_down(self, block: Sectors) -> Option<u64> {
        self.0.checked_div(block.0)
    }

    /// Whether this is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Sectors {
    /// The number and its unit, as error messages want it: `2048 sectors`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.0 == 1 { "sector" } else { "sectors" };
        write!(f, "{} {unit}", self.0)
    }
}

/// The number of a thin inside its pool: 24 bits (kernel: `MAX_DEV_ID` in drivers/md/dm-thin.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThinId(u32);

impl ThinId {
    const MAX_VALUE: u32 = (1 << 24) - 1;

    /// The smallest id, 0.
    pub const MIN: ThinId = ThinId(0);

    /// The largest id, 2^24 - 1.
    pub const MAX: ThinId = ThinId(Self::MAX_VALUE);

    /// The id with this number.
    ///
    /// # Errors
    /// [`UnitError::ThinIdOutOfRange`] at 2^24 and above. (The kernel answers such a message with
    /// EINVAL.)
    pub const fn new(id: u32) -> Result<ThinId, UnitError> {
        if id <= Self::MAX_VALUE {
            Ok(ThinId(id))
        } else {
            Err(UnitError::ThinIdOutOfRange { id: id as u64 })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The id after this one, or `None` after [`ThinId::MAX`].
    #[must_use]
    pub const fn next(self) -> Option<ThinId> {
        if self.0 < Self::MAX_VALUE {
            Some(ThinId(self.0 + 1))
        } else {
            None
        }
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for ThinId {
    type Error = UnitError;

    fn try_from(id: u32) -> Result<Self, UnitError> {
        ThinId::new(id)
    }
}

impl FromStr for ThinId {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let not_an_id = || UnitError::NotAThinId { text: text.to_owned() };
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(not_an_id());
        }
        let id: u64 = text.parse().map_err(|_| not_an_id())?;
        match u32::try_from(id) {
            Ok(id) => ThinId::new(id),
            Err(_) => Err(UnitError::ThinIdOutOfRange { id }),
        }
    }
}

/// A block device's number.
///
/// Written `major:minor` in tables and in sysfs. The kernel hands it over in 64 bits in its "huge"
/// encoding (include/linux/kdev_t.h), which for 12 bits of major and 20 of minor is the same as
/// `st_rdev` of stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The driver's number, 12 bits.
    pub major: u32,
    /// The device's number within its driver, 20 bits.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the kernel's 64-bit encoding (`huge_encode_dev`), which is `st_rdev`'s too.
    #[must_use]
    pub const fn from_u64(dev: u64) -> DeviceNumber {
        let major = ((dev >> 8) & 0xfff) as u32;
        let minor = ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32;
        DeviceNumber { major, minor }
    }

    /// To the kernel's 64-bit encoding.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let major = (self.major & 0xfff) as u64;
        let minor = (self.minor & 0xf_ffff) as u64;
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DeviceNumber {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let parse = |part: &str, max: u32| -> Option<u32> {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            part.parse().ok().filter(|number| *number <= max)
        };
        text.split_once(':')
            .and_then(|(major, minor)| {
                Some(DeviceNumber { major: parse(major, 0xfff)?, minor: parse(minor, 0xf_ffff)? })
            })
            .ok_or_else(|| UnitError::NotADeviceNumber { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_become_sectors_exactly_or_rounded() {
        assert_eq!(Sectors::from_bytes_exact(1024), Ok(Sectors(2)));
        assert_eq!(Sectors::from_bytes_exact(1), Err(UnitError::NotSectorAligned { bytes: 1 }));
        assert_eq!(Sectors::from_bytes_up(513), Sectors(2));
        assert_eq!(Sectors::from_bytes_down(513), Sectors(1));
        assert_eq!(Sectors(2).bytes(), Ok(1024));
        assert!(Sectors(u64::MAX).bytes().is_err());
        assert_eq!(Sectors::from_bytes_up(u64::MAX), Sectors(1 << 55));
    }

    #[test]
    fn a_device_is_as_long_as_was_asked_rounded_up_to_64_kib_so_that_disks_with_any_sectors_take_it(
    ) {
        assert_eq!(Sectors::of_device(1), Sectors(128));
        assert_eq!(Sectors::of_device(64 << 10), Sectors(128));
        assert_eq!(Sectors::of_device((64 << 10) + 1), Sectors(256));
        assert_eq!(Sectors::parse_device("12GB").map(|s| s.0 % 128), Ok(0));
        assert_eq!(Sectors::parse_device(" 1GiB "), Ok(Sectors(1 << 21)));
        assert_eq!(Sectors::parse_device("99999999TiB"), Ok(Sectors(1 << 55)));
        let bytes = |text: &str| parse_bytes(text);
        assert_eq!(bytes("1500"), Some(1500));
        assert_eq!(bytes("9007199254740993B"), Some(9_007_199_254_740_993));
        assert_eq!((bytes("1k"), bytes("1KB"), bytes("1Ki")), (Some(1000), Some(1000), Some(1024)));
        assert_eq!((bytes("1.5 gib"), bytes(".5M")), (Some(3 << 29), Some(500_000)));
        assert_eq!((bytes("2T"), bytes("2PiB")), (Some(2_000_000_000_000), Some(2 << 50)));
        for bad in ["", "0", "0GiB", "-1", "many", "10 parsecs", "1e3", "1.5", "1 bib", "1..5G"] {
            assert!(Sectors::parse_device(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn arithmetic_that_does_not_fit_says_so() {
        assert_eq!(Sectors(u64::MAX).checked_add(Sectors(1)), None);
        assert_eq!(Sectors(1).checked_sub(Sectors(2)), None);
        assert_eq!(Sectors(u64::MAX).checked_mul(2), None);
        assert_eq!(Sectors(5).checked_mul(2), Some(Sectors(10)));
        assert_eq!(Sectors(129).blocks_up(Sectors(128)), Some(2));
        assert_eq!(Sectors(129).blocks_down(Sectors(128)), Some(1));
        assert_eq!(Sectors(129).blocks_down(Sectors(0)), None);
        assert_eq!(Sectors(129).blocks_up(Sectors(0)), None);
    }

    #[test]
    fn a_size_is_printed_as_people_read_it() {
        let text = |sectors| Sectors(sectors).to_text();
        assert_eq!((text(0), text(1), text(2)), ("0 B".into(), "512 B".into(), "1.0 KiB".into()));
        assert_eq!((text(2047), text(2048)), ("1023.5 KiB".into(), "1.0 MiB".into()));
        assert_eq!((text(3 << 20), text(10 << 21)), ("1.5 GiB".into(), "10.0 GiB".into()));
        assert_eq!(text(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn sectors_print_with_their_unit() {
        assert_eq!(Sectors(1).to_string(), "1 sector");
        assert_eq!(Sectors(2048).to_string(), "2048 sectors");
    }

    #[test]
    fn thin_ids_end_at_24_bits() {
        assert_eq!(ThinId::new(16_777_215), Ok(ThinId::MAX));
        assert_eq!(ThinId::new(16_777_216), Err(UnitError::ThinIdOutOfRange { id: 16_777_216 }));
        assert_eq!(
            "16777216".parse::<ThinId>(),
            Err(UnitError::ThinIdOutOfRange { id: 16_777_216 })
        );
        assert_eq!(
            "99999999999".parse::<ThinId>(),
            Err(UnitError::ThinIdOutOfRange { id: 99_999_999_999 })
        );
        assert!("".parse::<ThinId>().is_err());
        assert!("+1".parse::<ThinId>().is_err());
        assert_eq!(ThinId::MAX.next(), None);
        assert_eq!(ThinId::MIN.next().map(ThinId::get), Some(1));
    }

    #[test]
    fn device_numbers_are_what_the_kernel_prints() {
        let number: DeviceNumber = "254:3".parse().unwrap();
        assert_eq!(number, DeviceNumber { major: 254, minor: 3 });
        assert_eq!(number.to_u64(), 0xfe03);
        assert_eq!(DeviceNumber::from_u64(0x10_fe03), DeviceNumber { major: 254, minor: 259 });
        for wrong in ["", "254", "254:", ":3", "254:3:1", "+254:3", "4096:0", "0:1048576", "a:b"] {
            assert!(wrong.parse::<DeviceNumber>().is_err(), "{wrong:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn device_numbers_survive_both_encodings(major in 0u32..=0xfff, minor in 0u32..=0xf_ffff) {
            let number = DeviceNumber { major, minor };
            prop_assert_eq!(DeviceNumber::from_u64(number.to_u64()), number);
            prop_assert_eq!(number.to_string().parse::<DeviceNumber>(), Ok(number));
        }

        #[test]
        fn a_device_is_at_most_one_grain_longer_than_asked(bytes in any::<u64>()) {
            let rounded = u128::from(Sectors::of_device(bytes).0) * 512;
            prop_assert_eq!(rounded % u128::from(DEVICE_GRAIN), 0);
            let bytes = u128::from(bytes);
            prop_assert!((bytes..bytes + u128::from(DEVICE_GRAIN)).contains(&rounded));
        }

        #[test]
        fn rounding_up_and_down_differ_by_one_sector_at_most(bytes in any::<u64>()) {
            let (down, up) = (Sectors::from_bytes_down(bytes), Sectors::from_bytes_up(bytes));
            prop_assert_eq!(up.0 - down.0, u64::from(bytes % SECTOR_SIZE != 0));
        }
    }
}

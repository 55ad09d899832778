//! Keys and labels as containerd allows them, and the labels that mean something here.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use super::Error;
use crate::units::Sectors;

/// Labels of a snapshot, by name.
pub type Labels = BTreeMap<String, String>;

/// containerd's limit for a label's name and value together, in bytes (its `labels` package).
const LABEL_MAX: usize = 4096;
/// Longest key, in bytes: far above what containerd makes, far below what would slow the database down.
const KEY_MAX: usize = 16 << 10;
/// The size of a writable snapshot: bytes, or a number with a unit.
pub const MAX_SIZE: &str = "containerd.io/snapshot/max-size";

pub fn check_key(what: &'static str, key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid(format!("an empty {what}"), "every snapshot is known by one"));
    }
    if key.len() > KEY_MAX {
        return Err(Error::invalid(
            format!("a {what} of {} bytes", key.len()),
            format!("{KEY_MAX} bytes are the most"),
        ));
    }
    Ok(())
}

/// Checks the sizes, and drops labels without a value: to containerd that is how a label is deleted.
pub fn check_labels(labels: Labels) -> Result<Labels, Error> {
    for (name, value) in &labels {
        let length = name.len() + value.len();
        if name.is_empty() {
            return Err(Error::invalid("a label without a name", "the name is what it is found by"));
        }
        if length > LABEL_MAX {
            let start: String = name.chars().take(40).collect();
            return Err(Error::invalid(
                format!("label {start:?} of {length} bytes"),
                format!("name and value together take {LABEL_MAX} bytes at the most"),
            ));
        }
    }
    Ok(labels.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

/// The size asked for by [`MAX_SIZE`], rounded up to whole sectors.
pub fn wanted_size(labels: &Labels) -> Result<Option<Sectors>, Error> {
    let Some(text) = labels.get(MAX_SIZE) else { return Ok(None) };
    match text.trim().parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(Some(Sectors(size.as_u64().div_ceil(512)))),
        _ => Err(Error::invalid(
            format!("label {MAX_SIZE}={text:?}"),
            "it takes a number of bytes, or a number and a unit such as 20GiB",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn a_label_may_take_4096_bytes_and_no_more() {
        assert!(check_labels(labels(&[("k", &"v".repeat(4095))])).is_ok());
        let error = check_labels(labels(&[("k", &"v".repeat(4096))])).unwrap_err().to_string();
        assert!(error.contains("\"k\"") && error.contains("4096"), "{error}");
    }

    #[test]
    fn an_empty_value_means_no_label() {
        assert_eq!(check_labels(labels(&[("a", ""), ("b", "1")])).unwrap(), labels(&[("b", "1")]));
    }

    #[test]
    fn keys_with_slashes_spaces_and_utf8_are_fine_and_empty_ones_are_not() {
        for key in ["default/1/sha256:ab", "a b", "schlüssel/鍵", &"k".repeat(4096)] {
            check_key("key", key).unwrap();
        }
        assert!(check_key("key", "").is_err());
        assert!(check_key("key", &"k".repeat(16385)).is_err());
    }

    #[test]
    fn a_size_is_read_in_bytes_or_with_a_unit_and_rounded_up_to_sectors() {
        let size = |text| wanted_size(&labels(&[(MAX_SIZE, text)]));
        assert_eq!(size("1024").unwrap(), Some(Sectors(2)));
        assert_eq!(size("1025").unwrap(), Some(Sectors(3)));
        assert_eq!(size("1GiB").unwrap(), Some(Sectors(1 << 21)));
        for bad in ["", "0", "-1", "many", "10 parsecs"] {
            let error = size(bad).unwrap_err().to_string();
            assert!(error.contains(MAX_SIZE), "{error}");
        }
        assert_eq!(wanted_size(&labels(&[])).unwrap(), None);
    }
}

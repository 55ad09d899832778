//! Keys and labels as containerd allows them.

use std::collections::BTreeMap;

use super::error::Error;

/// Labels of a snapshot, by name.
pub type Labels = BTreeMap<String, String>;

/// containerd's limit for a label's name and value together, in bytes (its `labels` package).
const LABEL_MAX: usize = 4096;
/// The longest key, in bytes. containerd's keys are much shorter, and the database would be slow
/// only with much longer ones.
const KEY_MAX: usize = 16 << 10;

/// Refuses an empty key and one that is too long. `what` is what the message calls it.
pub fn check_key(what: &'static str, key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid(format!("an empty {what}"), "every snapshot needs one"));
    }
    if key.len() > KEY_MAX {
        return Err(Error::invalid(
            format!("a {what} of {} bytes", key.len()),
            format!("at most {KEY_MAX} bytes are allowed"),
        ));
    }
    Ok(())
}

/// Checks the lengths, and drops labels without a value: that is how containerd deletes a label.
pub fn check_labels(labels: Labels) -> Result<Labels, Error> {
    for (name, value) in &labels {
        let length = name.len() + value.len();
        if name.is_empty() {
            return Err(Error::invalid("a label without a name", "a label is found by its name"));
        }
        if length > LABEL_MAX {
            let start: String = name.chars().take(40).collect();
            return Err(Error::invalid(
                format!("label {start:?} of {length} bytes"),
                format!("name and value together can take at most {LABEL_MAX} bytes"),
            ));
        }
    }
    Ok(labels.into_iter().filter(|(_, value)| !value.is_empty()).collect())
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
}

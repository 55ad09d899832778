//! Numbers of bytes as text: what an operator writes, and what a message shows.

/// Each unit by the names that it may be written with, in any case.
const UNITS: [(&[&str], u64); 13] = [
    (&["b"], 1),
    (&["k", "kb"], 1000),
    (&["m", "mb"], 1_000_000),
    (&["g", "gb"], 1_000_000_000),
    (&["t", "tb"], 1_000_000_000_000),
    (&["p", "pb"], 1_000_000_000_000_000),
    (&["e", "eb"], 1_000_000_000_000_000_000),
    (&["ki", "kib"], 1 << 10),
    (&["mi", "mib"], 1 << 20),
    (&["gi", "gib"], 1 << 30),
    (&["ti", "tib"], 1 << 40),
    (&["pi", "pib"], 1 << 50),
    (&["ei", "eib"], 1 << 60),
];

/// Reads a number of bytes: an integer, or a decimal number and a unit such as `20GiB` or `1.5 TB`.
/// Units with an `i` are powers of 1024, the others powers of 1000. What does not fit in 64 bits
/// becomes the largest number that does; part of a byte is dropped.
///
/// `None` for any other text.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    if let Ok(bytes) = text.parse() {
        return Some(bytes);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let named = |names: &&[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(unit));
    let (_, factor) = UNITS.iter().find(|(names, _)| named(names))?;
    if let Ok(whole) = number.parse::<u64>() {
        return Some(whole.saturating_mul(*factor));
    }
    // A conversion from f64 stays inside the limits of u64.
    number.parse::<f64>().ok().map(|number| (number * *factor as f64) as u64)
}

/// A number of bytes with one decimal of the largest unit that fits, such as `10.0 GiB`; below 1024
/// as it is, such as `512 B`.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    match power {
        0 => format!("{bytes} B"),
        _ => {
            let unit = ["K", "M", "G", "T", "P", "E"][power as usize - 1];
            format!("{:.1} {unit}iB", bytes as f64 / (1_u64 << (10 * power)) as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_bytes_is_read_with_any_usual_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("18446744073709551615", u64::MAX),
            ("9007199254740993B", 9_007_199_254_740_993),
            ("20GiB", 20 << 30),
            ("20 gi", 20 << 30),
            ("1.5k", 1500),
            ("0.5 KiB", 512),
            ("12GB", 12_000_000_000),
            ("99999999TiB", u64::MAX),
            ("99999999999999999999b", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text:?}");
        }
        for bad in ["", "-1", "many", "10 parsecs", "1e3", "1.5", "GiB", ".", "1..2k", " 1", "1k "]
        {
            assert_eq!(parse_bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_number_of_bytes_is_shown_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10.0 GiB"),
            ((1 << 20) - 1, "1024.0 KiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}

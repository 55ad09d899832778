//! Quoted text with Go's escapes (Go's specification, "String literals"), for any quote character.

use std::str::Chars;

/// A problem in quoted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The text or the line ends before the closing quote.
    NotClosed,
    /// There is no such escape as the one at this byte of the quoted text.
    Escape(usize),
    /// The bytes of the escapes are not valid UTF-8.
    NotText,
}

/// The value of the quoted text, and its length in bytes with the closing quote. `text` starts
/// after the opening quote.
pub(super) fn unquote(text: &str, quote: char) -> Result<(String, usize), Trouble> {
    let mut value = Vec::new();
    let mut chars = text.chars();
    loop {
        let at = text.len() - chars.as_str().len();
        match chars.next() {
            None | Some('\n' | '\0') => return Err(Trouble::NotClosed),
            Some('\\') => {
                let meant = escape(&mut chars, quote).ok_or(Trouble::Escape(at))?;
                meant.push_to(&mut value);
            }
            Some(c) if c == quote => {
                let value = String::from_utf8(value).map_err(|_| Trouble::NotText)?;
                return Ok((value, at + quote.len_utf8()));
            }
            Some(c) => Meant::Char(c).push_to(&mut value),
        }
    }
}

/// The value of an escape.
enum Meant {
    Char(char),
    Byte(u8),
}

impl Meant {
    fn push_to(self, value: &mut Vec<u8>) {
        match self {
            Meant::Byte(byte) => value.push(byte),
            Meant::Char(c) => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads an escape after its backslash.
fn escape(chars: &mut Chars<'_>, quote: char) -> Option<Meant> {
    let meant = match chars.next()? {
        'a' => Meant::Char('\x07'),
        'b' => Meant::Char('\x08'),
        'f' => Meant::Char('\x0c'),
        'n' => Meant::Char('\n'),
        'r' => Meant::Char('\r'),
        't' => Meant::Char('\t'),
        'v' => Meant::Char('\x0b'),
        '\\' => Meant::Char('\\'),
        'x' => Meant::Byte(u8::try_from(digits(chars, 16, 2, 0)?).ok()?),
        'u' => Meant::Char(character(digits(chars, 16, 4, 0)?)?),
        'U' => Meant::Char(character(digits(chars, 16, 8, 0)?)?),
        c if c == quote => Meant::Char(c),
        c => Meant::Byte(u8::try_from(digits(chars, 8, 2, c.to_digit(8)?)?).ok()?),
    };
    Some(meant)
}

/// Reads exactly `count` more digits of a number that begins with `value`.
fn digits(chars: &mut Chars<'_>, base: u32, count: usize, mut value: u32) -> Option<u32> {
    for _ in 0..count {
        let digit = chars.next()?.to_digit(base)?;
        value = value.checked_mul(base)?.checked_add(digit)?;
    }
    Some(value)
}

/// The character with this number. As in Go, half of a surrogate pair is U+FFFD.
fn character(number: u32) -> Option<char> {
    match number {
        0xD800..=0xDFFF => Some(char::REPLACEMENT_CHARACTER),
        number => char::from_u32(number),
    }
}

//! The words of a table or status line, taken one by one.

use std::str::FromStr;

use super::device_ref::DeviceRef;
use crate::dm::error::TableError;

/// The words of a line, taken one by one.
pub(super) struct Words<'a> {
    target: &'static str,
    text: &'a str,
    words: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub(super) fn new(target: &'static str, text: &'a str) -> Words<'a> {
        Words { target, text, words: text.split_ascii_whitespace().peekable() }
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.words.peek().is_none()
    }

    pub(super) fn word(&mut self, field: &'static str) -> Result<&'a str, TableError> {
        self.words.next().ok_or_else(|| TableError::Missing {
            target: self.target,
            field,
            text: self.text.to_owned(),
        })
    }

    pub(super) fn number<T: FromStr>(&mut self, field: &'static str) -> Result<T, TableError> {
        let word = self.word(field)?;
        // No sign: the kernel prints none and `parse` would take a plus.
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse().ok()).flatten().ok_or_else(|| self.invalid(field, word))
    }

    pub(super) fn device(&mut self, field: &'static str) -> Result<DeviceRef, TableError> {
        let word = self.word(field)?;
        let device = word.parse().unwrap_or_else(|never| match never {});
        Ok(device)
    }

    pub(super) fn end(mut self) -> Result<(), TableError> {
        match self.words.next() {
            None => Ok(()),
            Some(_) => Err(TableError::TooLong { target: self.target, text: self.text.to_owned() }),
        }
    }

    pub(super) fn invalid(&self, field: &'static str, value: &str) -> TableError {
        TableError::Invalid { target: self.target, field, value: value.to_owned() }
    }
}

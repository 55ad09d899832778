//! One selector of a filter, and the fields that it tests.

use std::borrow::Cow;

use regex::bytes::Regex;

/// The fields of an object that is filtered.
pub trait Fields {
    /// The value of the field with this path; `None` if there is no such field. The path has at
    /// least one part. The name of a label is all parts after the first, joined by dots.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// A test on one field.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    pub(super) path: Vec<String>,
    pub(super) test: Test,
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Selector {
    pub(super) fn matches(&self, fields: &impl Fields) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = fields.field(&path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == wanted.as_str()),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != unwanted.as_str(),
            Test::Matches(regex) => regex.is_match(value.unwrap_or_default().as_bytes()),
        }
    }
}

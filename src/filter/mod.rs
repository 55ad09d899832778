//! containerd's filter language: which of many things a client wants to see.
//!
//! ```text
//! filter   := [ selector { "," selector } ]      all selectors must match
//! selector := path [ operator value ]            without an operator: the field is there
//! path     := field { "." field }
//! field    := letters, digits, "_"  |  "quoted"
//! operator := "=="  |  "!="  |  "~="             the last one: a regular expression finds something
//! value    := anything up to "," or a space  |  "quoted"  |  after "~=" also /quoted/ and |quoted|
//! ```
//!
//! Spaces may stand before a field, an operator and a value. Quotes know Go's escapes. A field that
//! is absent counts as empty for `!=` and `~=`, and matches neither `==` nor a selector without an
//! operator. Several filters are alternatives ([`FilterSet`]).
//!
//! It does what containerd's `filters` package does, with these differences, all in what is
//! refused: a regular expression that does not compile is an error here (there it is logged and
//! matches nothing), and so are escapes that make no UTF-8.
//!
//! This module knows nothing about snapshots; whoever has something to filter says what its fields
//! are ([`Fields`]).

mod parse;
mod quote;
mod regexp;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use regex::bytes::Regex;

/// What a filter looks at.
pub trait Fields {
    /// The value of the field with this path, or none where there is no such field. The path has at
    /// least one part; a label's name is all parts after the first, joined by dots.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// One filter: selectors of which all must match.
#[derive(Debug, Clone)]
pub struct Filter {
    selectors: Vec<Selector>,
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Understands a filter. The empty one matches everything.
    ///
    /// # Errors
    /// [`FilterError`] says where it stops making sense, and what would.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let selectors = parse::selectors(text)?;
        Ok(Filter { selectors })
    }

    /// Whether all selectors match.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        self.selectors.iter().all(|selector| selector.matches(fields))
    }
}

impl Selector {
    fn matches(&self, fields: &impl Fields) -> bool {
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

/// Alternative filters, as a client of containerd gives them.
#[derive(Debug, Clone)]
pub struct FilterSet {
    filters: Vec<Filter>,
}

impl FilterSet {
    /// Understands a list of filters.
    ///
    /// # Errors
    /// The [`FilterError`] of the first one that makes no sense.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<FilterSet, FilterError> {
        let filters = texts.iter().map(|text| Filter::parse(text.as_ref()));
        let filters = filters.collect::<Result<_, _>>()?;
        Ok(FilterSet { filters })
    }

    /// Whether any filter matches; true where there is none.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(fields))
    }
}

/// Why a filter makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter.
    pub filter: String,
    /// The byte of it where the trouble starts; its length where something is missing at the end.
    pub position: usize,
    /// What the trouble is, or what was expected instead.
    pub reason: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterError { filter, position, reason } = self;
        match filter.get(*position..).and_then(|rest| rest.chars().next()) {
            Some(found) => write!(f, "filter {filter:?}, at byte {position} ({found:?}): {reason}"),
            None => write!(f, "filter {filter:?}, at its end: {reason}"),
        }
    }
}

impl std::error::Error for FilterError {}

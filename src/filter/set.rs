//! A parsed filter, and a set of alternative filters.

use super::error::FilterError;
use super::parse;
use super::selector::{Fields, Selector};

/// One filter. All its selectors must match.
#[derive(Debug, Clone)]
pub struct Filter {
    selectors: Vec<Selector>,
}

impl Filter {
    /// Parses a filter. The empty filter matches everything.
    ///
    /// # Errors
    /// [`FilterError`] with the position of the problem and what was expected there.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let selectors = parse::selectors(text)?;
        Ok(Filter { selectors })
    }

    /// Whether all selectors match.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        self.selectors.iter().all(|selector| selector.matches(fields))
    }
}

/// Alternative filters, as a client of containerd gives them.
#[derive(Debug, Clone)]
pub struct FilterSet {
    filters: Vec<Filter>,
}

impl FilterSet {
    /// Parses a list of filters.
    ///
    /// # Errors
    /// The [`FilterError`] of the first filter that cannot be parsed.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<FilterSet, FilterError> {
        let filters = texts.iter().map(|text| Filter::parse(text.as_ref()));
        let filters = filters.collect::<Result<_, _>>()?;
        Ok(FilterSet { filters })
    }

    /// Whether any filter matches. Without filters everything matches.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(fields))
    }
}

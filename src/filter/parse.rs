//! Parses a filter into its selectors, by recursive descent.

use regex::bytes::{Regex, RegexBuilder};

use super::error::FilterError;
use super::quote;
use super::selector::{Selector, Test};

/// The maximum size of a compiled regular expression in bytes, so that a client cannot make the
/// daemon use much memory.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// All selectors of a filter.
pub(super) fn selectors(text: &str) -> Result<Vec<Selector>, FilterError> {
    let mut parser = Parser { text, at: 0 };
    let mut selectors = Vec::new();
    if text.is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(parser.selector()?);
        match parser.peek() {
            None => return Ok(selectors),
            Some(',') => parser.at += 1,
            Some(_) => return Err(parser.error("expected \",\" or the end")),
        }
    }
}

/// An operator that takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Matches,
}

struct Parser<'a> {
    text: &'a str,
    /// All bytes before this one are parsed.
    at: usize,
}

impl<'a> Parser<'a> {
    fn selector(&mut self) -> Result<Selector, FilterError> {
        let path = self.path()?;
        let test = match self.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, FilterError> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_spaces();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(c) if is_field_char(c) => Ok(self.take_while(is_field_char).to_owned()),
            _ => Err(self.error("expected a field, plain or in double quotes")),
        }
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        let operator = self.operator()?;
        self.skip_spaces();
        let start = self.at;
        let value = self.value(operator)?;
        match operator {
            Operator::Equal => Ok(Test::Equal(value)),
            Operator::NotEqual => Ok(Test::NotEqual(value)),
            Operator::Matches => {
                compile(&value).map(Test::Matches).map_err(|reason| self.error_at(start, reason))
            }
        }
    }

    fn operator(&mut self) -> Result<Operator, FilterError> {
        self.skip_spaces();
        let start = self.at;
        match self.take_while(|c| matches!(c, '=' | '!' | '~')) {
            "==" => Ok(Operator::Equal),
            "!=" => Ok(Operator::NotEqual),
            "~=" => Ok(Operator::Matches),
            _ => Err(self.error_at(start, "expected \"==\", \"!=\" or \"~=\"")),
        }
    }

    fn value(&mut self, operator: Operator) -> Result<String, FilterError> {
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if operator == Operator::Matches => self.quoted(quote),
            Some('/' | '|') => {
                Err(self.error("these quotes are for \"~=\" only; use double quotes"))
            }
            Some(c) if !matches!(c, '.' | '=' | '!' | '~') && is_value_char(c) => {
                Ok(self.take_while(is_value_char).to_owned())
            }
            _ => Err(self.error("expected a value, plain or in quotes")),
        }
    }

    /// The text between two quotes.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.at;
        let inside = start + quote.len_utf8();
        match quote::unquote(&self.text[inside..], quote) {
            Ok((value, length)) => {
                self.at = inside + length;
                Ok(value)
            }
            Err(quote::Trouble::NotClosed) => {
                Err(self.error_at(start, "this quote is never closed"))
            }
            Err(quote::Trouble::Escape(at)) => {
                Err(self.error_at(inside + at, "no such escape sequence"))
            }
            Err(quote::Trouble::NotText) => {
                Err(self.error_at(start, "the escapes in this quote are not valid UTF-8"))
            }
        }
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn error(&self, reason: impl Into<String>) -> FilterError {
        self.error_at(self.at, reason)
    }

    fn error_at(&self, position: usize, reason: impl Into<String>) -> FilterError {
        FilterError { filter: self.text.to_owned(), position, reason: reason.into() }
    }
}

fn compile(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression).size_limit(REGEX_SIZE_LIMIT).build().map_err(
        |error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("the regular expression {expression:?} is too big")
            }
            _ => format!("not a regular expression: {expression:?}"),
        },
    )
}

fn is_field_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_value_char(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control()
}

//! containerd's filter language, by which a client selects snapshots.
//!
//! ```text
//! filter   := [ selector { "," selector } ]      all selectors must match
//! selector := path [ operator value ]            without an operator: the field exists
//! path     := field { "." field }
//! field    := letters, digits, "_"  |  "quoted"
//! operator := "=="  |  "!="  |  "~="             the last one: a regular expression matches
//! value    := anything up to "," or a space  |  "quoted"  |  after "~=" also /quoted/ and |quoted|
//! ```
//!
//! Spaces are allowed before a field, an operator and a value. Quoted text has Go's escapes. A
//! missing field counts as empty for `!=` and `~=`; it matches neither `==` nor a selector without
//! an operator. Several filters are alternatives ([`FilterSet`]).
//!
//! The language is that of containerd's package `filters`, with two differences. An invalid regular
//! expression is an error here (containerd logs it, and it matches nothing), and so are escapes
//! that are not valid UTF-8.
//!
//! # Regular expressions
//! An expression is compiled by the crate `regex`; containerd uses Go's package `regexp`, which has
//! the syntax of RE2. The two agree except for these corners:
//!
//! | expression | Go | here |
//! |---|---|---|
//! | `\d`, `\s`, `\w`, `\b` | ASCII only | Unicode; `(?-u:\d)` is ASCII only |
//! | `\Q…\E`, `\101` (octal) | literal text, a character | an error |
//! | `a{`, `{}`, `a{,2}` (no repetition) | plain characters | an error; write `\{` |
//! | `[[]`, `[a&&b]`, `[a--b]`, `[a~~b]` | plain characters | nested classes and set operations; write `\[`, `\&`, `\-`, `\~` |
//! | `\<`, `\>` | plain characters | the start and the end of a word |
//! | `\u725b` | an error | a character |
//! | `a**`, `x{1001}` | an error | repetitions; the size of the compiled expression is limited |
//!
//! This module does not know snapshots. The caller provides the fields ([`Fields`]).

mod error;
mod parse;
mod quote;
mod selector;
mod set;

#[cfg(test)]
mod tests;

pub use error::FilterError;
pub use selector::Fields;
pub use set::{Filter, FilterSet};

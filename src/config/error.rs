//! The errors of a configuration.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration {path}: cannot be read: {source}{}", advice(source))]
    Read { path: PathBuf, source: io::Error },
    /// The file is not TOML.
    #[error("configuration {path}: not TOML: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    /// Keys or values are wrong.
    #[error("configuration {path}: {} wrong:{}", count(problems.len()), Listed(problems))]
    Values { path: PathBuf, problems: Vec<Problem> },
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the flag and the environment variable.
    pub key: String,
    /// What is wrong with its value.
    pub what: String,
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| write!(f, "\n  {}: {}", p.key, p.what))
    }
}

fn count(n: usize) -> String {
    if n == 1 {
        "1 thing is".into()
    } else {
        format!("{n} things are")
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; the daemon needs root",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_names_the_file_and_the_keys() {
        let path = || PathBuf::from("/etc/c.toml");
        let problem = |key: &str| Problem { key: key.into(), what: "is wrong".into() };
        let not_toml = "=".parse::<toml::Table>().unwrap_err();
        for (error, start) in [
            (
                ConfigError::Read { path: path(), source: io::ErrorKind::PermissionDenied.into() },
                "configuration /etc/c.toml: cannot be read: permission denied; the daemon needs root",
            ),
            (
                ConfigError::Syntax { path: path(), source: Box::new(not_toml) },
                "configuration /etc/c.toml: not TOML: ",
            ),
            (
                ConfigError::Values { path: path(), problems: vec![problem("root")] },
                "configuration /etc/c.toml: 1 thing is wrong:\n  root: is wrong",
            ),
            (
                ConfigError::Values { path: path(), problems: vec![problem("a"), problem("b")] },
                "configuration /etc/c.toml: 2 things are wrong:\n  a: is wrong\n  b: is wrong",
            ),
        ] {
            let text = error.to_string();
            assert!(text.starts_with(start), "{text}");
        }
    }
}

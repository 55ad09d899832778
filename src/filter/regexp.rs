//! Go's regular expressions (package `regexp/syntax`) with the `regex` crate, which is of the same
//! family but not of the same dialect.
//!
//! Rewritten here: classes such as `\d` and the word boundary are ASCII in Go; a brace that starts
//! no repetition, and brackets, ampersands, tildes and most dashes in a class, are plain
//! characters; there are `\Q…\E` and octal escapes, `\<` is a plain character, and a letter with a
//! backslash that Go does not know is an error. Both find a match anywhere in the text. What is
//! left of the difference: `a**` is an error in Go alone, `(?i)*` here alone.

use regex::bytes::{Regex, RegexBuilder};

/// What a compiled expression may take, so that a client cannot have the daemon fill its memory.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles an expression in Go's dialect; the error says what is wrong with it.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let wrong = || format!("not a regular expression: {expression:?}");
    let translated = Translator::new(expression).translate().map_err(|NoSuchEscape| wrong())?;
    RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "this regular expression is too big".to_owned(),
        _ => wrong(),
    })
}

/// A backslash with something that makes no sense behind it.
struct NoSuchEscape;

type Translated = Result<(), NoSuchEscape>;

/// Rewrites an expression from left to right. What is wrong in both dialects is left as it is, for
/// the compiler to refuse.
struct Translator<'a> {
    rest: &'a str,
    to: String,
}

impl<'a> Translator<'a> {
    fn new(expression: &'a str) -> Self {
        Translator { rest: expression, to: String::with_capacity(expression.len() + 16) }
    }

    fn translate(mut self) -> Result<String, NoSuchEscape> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '{' if !starts_repetition(self.rest) => self.to.push_str(r"\{"),
                c => self.to.push(c),
            }
        }
        Ok(self.to)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Consumes any of these characters if it comes next.
    fn next_of(&mut self, any: &str) -> Option<char> {
        let c = self.rest.chars().next().filter(|c| any.contains(*c))?;
        self.next();
        Some(c)
    }

    /// An escape outside of a class, behind its backslash.
    fn escape(&mut self) -> Translated {
        match self.next_of("QbBAz") {
            Some('Q') => {
                let quoted = self.rest;
                let (literal, rest) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
                self.to.push_str(&regex::escape(literal));
                self.rest = rest;
            }
            Some(c @ ('b' | 'B')) => self.to.push_str(&format!(r"(?-u:\{c})")),
            Some(c) => self.to.push_str(&format!(r"\{c}")),
            None if self.class_escape() => {}
            None => self.literal_escape()?,
        }
        Ok(())
    }

    /// An escape that stands for a class of characters, if it is one.
    fn class_escape(&mut self) -> bool {
        match self.next_of("dDsSwWpP") {
            Some('d') => self.to.push_str("[0-9]"),
            Some('D') => self.to.push_str("[^0-9]"),
            Some('s') => self.to.push_str(r"[\t\n\f\r ]"),
            Some('S') => self.to.push_str(r"[^\t\n\f\r ]"),
            Some('w') => self.to.push_str("[0-9A-Za-z_]"),
            Some('W') => self.to.push_str("[^0-9A-Za-z_]"),
            Some(c) => self.argument(c, 1),
            None => return false,
        }
        true
    }

    /// An escape that stands for one character.
    fn literal_escape(&mut self) -> Translated {
        let digits = self.rest;
        match self.next().ok_or(NoSuchEscape)? {
            c @ ('a' | 'f' | 'n' | 'r' | 't' | 'v') => self.to.push_str(&format!(r"\{c}")),
            'x' => self.argument('x', 2),
            c @ '0'..='7' if c == '0' || self.rest.starts_with(is_octal) => self.octal(digits),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => self.plain(c),
            _ => return Err(NoSuchEscape),
        }
        Ok(())
    }

    /// A character that means itself.
    fn plain(&mut self, c: char) {
        self.to.push_str(&format!(r"\x{{{:x}}}", u32::from(c)));
    }

    /// Up to three octal digits.
    fn octal(&mut self, digits: &'a str) {
        let length = digits.chars().take(3).take_while(|c| is_octal(*c)).count();
        let number = digits[..length].bytes();
        let number = number.fold(0, |number, digit| number * 8 + u32::from(digit - b'0'));
        self.rest = &digits[length..];
        self.to.push_str(&format!(r"\x{{{number:x}}}"));
    }

    /// An escape with an argument: in braces, which are no repetition, or of so many characters.
    fn argument(&mut self, c: char, characters: usize) {
        self.to.push_str(&format!(r"\{c}"));
        let braced = self.rest.strip_prefix('{').and_then(|rest| rest.find('}'));
        let plain = self.rest.chars().take(characters).map(char::len_utf8);
        match braced {
            Some(end) => self.copy(end + 2),
            None => self.copy(plain.sum()),
        }
    }

    /// A class, behind its opening bracket.
    fn class(&mut self) -> Translated {
        self.to.push('[');
        if self.next_of("^").is_some() {
            self.to.push('^');
        }
        let mut first = true;
        while let Some(c) = self.next() {
            match c {
                ']' if !first => {
                    self.to.push(']');
                    return Ok(());
                }
                '[' if self.named_class() => {}
                '\\' if self.class_escape() => {}
                c => self.range(c)?,
            }
            first = false;
        }
        Ok(())
    }

    /// A class such as `[:alpha:]` within a class, behind its opening bracket, if it is one.
    fn named_class(&mut self) -> bool {
        let name = self.rest.strip_prefix(':').and_then(|rest| rest.find(":]"));
        if let Some(end) = name {
            self.to.push('[');
            self.copy(end + 3);
        }
        name.is_some()
    }

    /// A character of a class, or a range of them.
    fn range(&mut self, from: char) -> Translated {
        self.class_char(from)?;
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
            self.next();
            self.to.push('-');
            if let Some(to) = self.next() {
                self.class_char(to)?;
            }
        }
        Ok(())
    }

    fn class_char(&mut self, c: char) -> Translated {
        match c {
            '\\' => self.literal_escape()?,
            c => self.plain(c),
        }
        Ok(())
    }

    /// Copies so many bytes as they are.
    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes);
        self.to.push_str(copied);
        self.rest = rest;
    }
}

fn is_octal(c: char) -> bool {
    matches!(c, '0'..='7')
}

/// Whether what is behind a brace makes it a repetition: `3}`, `3,}` or `3,5}`.
fn starts_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest.split_once('}') else {
        return false;
    };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

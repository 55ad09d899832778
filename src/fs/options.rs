//! Combines this crate's mkfs options with the operator's.

use std::ffi::OsString;

use super::error::FsError;

/// An option of this crate: its letter, and its value if it takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) letter: char,
    pub(super) value: Option<String>,
}

/// The syntax of a mkfs program's arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syntax {
    /// The letters of options that take a value.
    pub(super) with_value: &'static str,
    /// The letter of an option whose value is a list. The program uses only the last one, so
    /// several are joined into one.
    pub(super) joined: Option<char>,
}

/// An option of the operator.
struct Given<'a> {
    letter: char,
    value: Option<&'a str>,
}

/// The arguments for mkfs: this crate's options, without those whose letter the operator gives, and
/// then the operator's. The values of the joined option become one list, the operator's last, where
/// they override earlier ones.
///
/// # Errors
/// [`FsError::StrayArgument`], [`FsError::OptionWithoutValue`].
pub(super) fn arguments(
    syntax: Syntax,
    own: &[Own],
    user: &[String],
) -> Result<Vec<OsString>, FsError> {
    let given = parse(syntax, user)?;
    let mut arguments = Vec::new();
    for option in own {
        let theirs: Vec<_> = given.iter().filter(|given| given.letter == option.letter).collect();
        if theirs.is_empty() {
            push(&mut arguments, option.letter, option.value.as_deref());
        } else if syntax.joined == Some(option.letter) {
            let values = option
                .value
                .iter()
                .map(String::as_str)
                .chain(theirs.iter().filter_map(|given| given.value));
            push(&mut arguments, option.letter, Some(&values.collect::<Vec<_>>().join(",")));
        }
    }
    let is_joined =
        |letter| syntax.joined == Some(letter) && own.iter().any(|own| own.letter == letter);
    for option in given.iter().filter(|given| !is_joined(given.letter)) {
        push(&mut arguments, option.letter, option.value);
    }
    Ok(arguments)
}

fn push(arguments: &mut Vec<OsString>, letter: char, value: Option<&str>) {
    arguments.push(format!("-{letter}").into());
    arguments.extend(value.map(OsString::from));
}

/// Parses the operator's items as getopt(3) does, including clusters such as `-qF`.
fn parse(syntax: Syntax, user: &[String]) -> Result<Vec<Given<'_>>, FsError> {
    let mut given = Vec::new();
    let mut items = user.iter();
    while let Some(item) = items.next() {
        let stray = || FsError::StrayArgument { argument: item.clone() };
        let letters =
            item.strip_prefix('-').filter(|letters| !letters.is_empty()).ok_or_else(stray)?;
        for (position, letter) in letters.char_indices() {
            if !letter.is_ascii_alphanumeric() {
                return Err(stray());
            }
            if !syntax.with_value.contains(letter) {
                given.push(Given { letter, value: None });
                continue;
            }
            let rest = &letters[position + 1..];
            let value = if rest.is_empty() { items.next().map(String::as_str) } else { Some(rest) };
            let missing = || FsError::OptionWithoutValue { option: format!("-{letter}") };
            given.push(Given { letter, value: Some(value.ok_or_else(missing)?) });
            break;
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYNTAX: Syntax = Syntax { with_value: "EmJ", joined: Some('E') };

    fn own() -> Vec<Own> {
        let with = |letter, value: &str| Own { letter, value: Some(value.to_owned()) };
        vec![Own { letter: 'q', value: None }, with('m', "0"), with('E', "nodiscard,resize=5")]
    }

    fn joined(user: &[&str]) -> Result<String, String> {
        let user: Vec<_> = user.iter().map(ToString::to_string).collect();
        let arguments = arguments(SYNTAX, &own(), &user).map_err(|e| e.to_string())?;
        Ok(arguments.iter().map(|item| item.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn without_the_operators_options_there_are_only_ours() {
        assert_eq!(joined(&[]).unwrap(), "-q -m 0 -E nodiscard,resize=5");
    }

    #[test]
    fn the_operators_option_replaces_ours_and_lists_are_joined_with_the_operators_last() {
        assert_eq!(joined(&["-m", "5"]).unwrap(), "-q -E nodiscard,resize=5 -m 5");
        assert_eq!(joined(&["-m5", "-Fv"]).unwrap(), "-q -E nodiscard,resize=5 -m 5 -F -v");
        assert_eq!(
            joined(&["-E", "resize=9", "-J", "size=4", "-Ediscard"]).unwrap(),
            "-q -m 0 -E nodiscard,resize=5,resize=9,discard -J size=4"
        );
        assert_eq!(joined(&["-qE", "a"]).unwrap(), "-m 0 -E nodiscard,resize=5,a -q");
    }

    #[test]
    fn an_item_that_mkfs_would_take_for_the_device_is_refused() {
        for user in [
            &["/dev/sda"][..],
            &["-F", "/dev/sda"],
            &["-m", "1", "x"],
            &["-"],
            &["--"],
            &[""],
            &["-F /dev/sda"],
        ] {
            let error = joined(user).unwrap_err();
            assert!(error.contains("is not an mkfs option"), "{user:?}: {error}");
        }
    }

    #[test]
    fn an_option_at_the_end_that_lacks_its_value_is_named() {
        assert_eq!(
            joined(&["-q", "-m"]).unwrap_err(),
            r#"the mkfs option "-m" needs a value after it"#
        );
    }

    proptest! {
        #[test]
        fn no_user_text_adds_a_bare_word(user in proptest::collection::vec("-?[EmJqF/ é]{0,4}", 0..5)) {
            if let Ok(arguments) = arguments(SYNTAX, &own(), &user) {
                let mut takes_value = false;
                for item in arguments.iter().map(|item| item.to_str().unwrap()) {
                    prop_assert!(takes_value || (item.len() == 2 && item.starts_with('-')), "{arguments:?}");
                    takes_value = !takes_value && SYNTAX.with_value.contains(&item[1..]);
                }
                prop_assert!(!takes_value, "{arguments:?}");
            }
        }
    }
}

//! Filters select the same things as containerd's do, and errors give the position of the problem.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{Fields, Filter, FilterSet};

/// An object with a name, an optional colour, and labels.
struct Thing {
    name: &'static str,
    colour: Option<&'static str>,
    labels: &'static [(&'static str, &'static str)],
}

impl Fields for Thing {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some(self.name.into()),
            ["colour"] => self.colour.map(Into::into),
            ["labels", label @ ..] => {
                let label = label.join(".");
                let found = self.labels.iter().find(|(name, _)| *name == label);
                found.map(|(_, value)| (*value).into())
            }
            _ => None,
        }
    }
}

const THINGS: &[Thing] = &[
    Thing { name: "kettle", colour: Some("red"), labels: &[("room", "kitchen")] },
    Thing {
        name: "chair",
        colour: Some("dark red, matt"),
        labels: &[("room", "hall"), ("legs", "4")],
    },
    Thing { name: "mirror", colour: None, labels: &[("on a wall", "yes"), ("a.b/c", "x.y-z")] },
    Thing {
        name: "armchair",
        colour: Some(""),
        labels: &[("say \"hi\" \\ now", "v"), ("say.so", "v")],
    },
    Thing { name: "牛", colour: Some("a/b|c"), labels: &[] },
];

/// The names of the things that a filter lets through.
fn found(filter: &str) -> Vec<&'static str> {
    let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{error}"));
    THINGS.iter().filter(|thing| filter.matches(*thing)).map(|thing| thing.name).collect()
}

const ALL: [&str; 5] = ["kettle", "chair", "mirror", "armchair", "牛"];

#[test]
fn the_empty_filter_matches_everything() {
    assert_eq!(found(""), ALL);
}

#[test]
fn a_field_alone_asks_whether_it_is_there_even_if_empty() {
    assert_eq!(found("name"), ALL);
    assert_eq!(found("colour"), ["kettle", "chair", "armchair", "牛"]);
    assert_eq!(found("labels.room"), ["kettle", "chair"]);
    assert_eq!(found("weight"), [""; 0]);
}

#[test]
fn equality_needs_the_field() {
    assert_eq!(found("name==chair"), ["chair"]);
    assert_eq!(found("labels.room==hall"), ["chair"]);
    assert_eq!(found(r#"colour=="""#), ["armchair"], "absent is not equal to empty");
}

#[test]
fn inequality_counts_an_absent_field_as_empty() {
    assert_eq!(found("colour!=red"), ["chair", "mirror", "armchair", "牛"]);
    assert_eq!(found(r#"colour!="""#), ["kettle", "chair", "牛"]);
}

#[test]
fn commas_mean_and() {
    assert_eq!(found("labels.room,labels.legs==4,name!=kettle"), ["chair"]);
    assert_eq!(found("labels.room==hall,labels.legs==5"), [""; 0]);
}

#[test]
fn plain_values_go_up_to_a_comma_and_may_hold_dots_slashes_and_operators() {
    assert_eq!(found(r#"labels."a.b/c"==x.y-z"#), ["mirror"]);
    assert_eq!(found("colour==a/b|c"), ["牛"]);
    assert_eq!(found("name==牛"), ["牛"]);
    assert_eq!(found("name==a==b"), [""; 0]);
}

#[test]
fn quoted_fields_may_hold_anything_and_join_with_dots() {
    assert_eq!(found(r#"labels."on a wall""#), ["mirror"]);
    assert_eq!(found(r#"labels."say \"hi\" \\ now"==v"#), ["armchair"]);
    assert_eq!(found(r#"labels."say".so"#), ["armchair"]);
    assert_eq!(found(r#"labels.say."so""#), ["armchair"]);
    assert_eq!(found(r#""labels"."room"=="hall""#), ["chair"]);
}

#[test]
fn quoted_values_know_gos_escapes() {
    assert_eq!(found(r#"colour=="dark red, matt""#), ["chair"]);
    assert_eq!(found(r#"name=="\u725b""#), ["牛"]);
    assert_eq!(found(r#"name=="\U0000725b""#), ["牛"]);
    assert_eq!(found(r#"name=="\xe7\x89\x9b""#), ["牛"]);
    assert_eq!(found(r#"name=="\143hair""#), ["chair"]);
}

#[test]
fn a_regular_expression_is_found_anywhere_in_the_value() {
    assert_eq!(found("name~=chair"), ["chair", "armchair"]);
    assert_eq!(found("name~=^chair$"), ["chair"]);
    assert_eq!(found("name~=^.$"), ["牛"]);
    assert_eq!(found("name~=[km]e"), ["kettle"]);
}

#[test]
fn a_regular_expression_may_be_quoted_in_three_ways() {
    for filter in [r#"colour~="d, m""#, "colour~=/d, m/", "colour~=|d, m|"] {
        assert_eq!(found(filter), ["chair"], "{filter}");
    }
    assert_eq!(found(r"colour~=/a\/b/"), ["牛"]);
    assert_eq!(found(r"colour~=|a/b[\|]c|"), ["牛"]);
    assert_eq!(found("name~=/^.{5,6}$/"), ["kettle", "chair", "mirror"]);
    assert_eq!(found(r"labels.legs~=\d"), ["chair"], "plain, backslashes stay");
    assert_eq!(found(r"labels.legs~=/\\d/"), ["chair"], "quoted, they are doubled");
}

#[test]
fn an_absent_field_is_empty_to_a_regular_expression() {
    assert_eq!(found("colour~=^$"), ["mirror", "armchair"]);
}

#[test]
fn spaces_may_stand_before_fields_operators_and_values() {
    assert_eq!(found(" name ==  chair, labels. legs"), ["chair"]);
}

#[test]
fn several_filters_are_alternatives_and_none_lets_everything_through() {
    let names = |filters: &[&str]| {
        let filters = FilterSet::parse(filters).unwrap();
        let found = THINGS.iter().filter(|thing| filters.matches(*thing));
        found.map(|thing| thing.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ALL);
    assert_eq!(names(&["name==chair", "labels.legs==5", "name==mirror"]), ["chair", "mirror"]);
    assert_eq!(names(&["name==chair", ""]), ALL);
    let error = FilterSet::parse(&["name", "name="]).unwrap_err();
    assert_eq!(error.filter, "name=");
}

#[test]
fn errors_say_where_and_what_was_expected() {
    let cases = [
        ("name==foo,", 10, "expected a field"),
        ("labels.", 7, "expected a field"),
        (",name", 0, "expected a field"),
        (r#"labels.?"x"==y"#, 7, "expected a field"),
        ("labels.|foo|==x", 7, "expected a field"),
        ("labels.a/b==x", 8, r#"expected "==", "!=" or "~=""#),
        ("name=foo", 4, r#"expected "==", "!=" or "~=""#),
        ("name===foo", 4, r#"expected "==", "!=" or "~=""#),
        ("name ", 5, r#"expected "==", "!=" or "~=""#),
        ("name .x", 5, r#"expected "==", "!=" or "~=""#),
        ("name~=,id", 6, "expected a value"),
        ("name==", 6, "expected a value"),
        ("name==.x", 6, "expected a value"),
        ("name==/x/", 6, "use double quotes"),
        ("name==a b", 7, r#"expected "," or the end"#),
        (r#"name=="a"b"#, 9, r#"expected "," or the end"#),
        ("name==a\u{0}", 7, r#"expected "," or the end"#),
        ("name~=/abc", 6, "never closed"),
        ("labels.\"a\nb\"", 7, "never closed"),
        (r#"labels."ab\g""#, 10, "no such escape"),
        (r#"labels."\xaz""#, 8, "no such escape"),
        (r#"name=="\400""#, 7, "no such escape"),
        (r#"name=="\U00110000""#, 7, "no such escape"),
        (r#"name=="\/""#, 7, "no such escape"),
        (r#"name=="\xff""#, 6, "not valid UTF-8"),
        ("name~=a(b", 6, "not a regular expression"),
        ("name,labels.x~=/(/", 15, "not a regular expression"),
    ];
    for (filter, position, reason) in cases {
        let error = Filter::parse(filter).expect_err(filter);
        assert_eq!(error.position, position, "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }
    let shown = Filter::parse("name=foo").unwrap_err().to_string();
    let expected = r#"filter "name=foo", at byte 4 ('='): expected "==", "!=" or "~=""#;
    assert_eq!(shown, expected);
    let shown = Filter::parse("name==").unwrap_err().to_string();
    assert!(shown.starts_with(r#"filter "name==", at its end: expected a value"#), "{shown}");
}

#[test]
fn a_huge_regular_expression_is_refused_rather_than_built() {
    let error = Filter::parse(r"name~=/((((\\pL{100}){100}){100}){100})/").unwrap_err();
    assert!(error.reason.contains("too big"), "{error}");
}

/// Whether the expression, in a quoted value, is found in the text.
fn regex_matches(expression: &str, text: &'static str) -> bool {
    let escaped = expression.replace('\\', r"\\").replace('/', r"\/");
    let filter = Filter::parse(&format!("name~=/{escaped}/"));
    let filter = filter.unwrap_or_else(|error| panic!("{error}"));
    filter.matches(&Thing { name: text, colour: None, labels: &[] })
}

fn refused_regex(expression: &str) -> String {
    let escaped = expression.replace('\\', r"\\").replace('/', r"\/");
    Filter::parse(&format!("name~=/{escaped}/")).expect_err(expression).reason
}

#[test]
fn regular_expressions_that_go_and_rust_both_know_mean_the_same() {
    let cases = [
        (r"^\d$", "7", true),
        (r"^\w+$", "a_9", true),
        (r"^[\W]$", "-", true),
        (r"^\s$", " ", true),
        (r"\bx\b", "a x", true),
        (r"\Bx", "ax", true),
        // A character is a character and not a byte. Case folding is not limited to ASCII.
        ("^.$", "牛", true),
        ("(?i)^É$", "é", true),
        (r"^\p{Greek}\pL$", "λx", true),
        (r"^\P{L}$", "1", true),
        ("^a{2}$", "aa", true),
        ("^a{1,}$", "aaa", true),
        ("^[]a]$", "]", true),
        ("^[^]a]$", "]", false),
        ("^[-a]$", "-", true),
        ("^[a-]$", "-", true),
        (r"^[\pL^]$", "L", true),
        (r"^[\pL^]$", "^", true),
        (r"^[\x41-C]$", "B", true),
        (r"^[a\-c]$", "b", false),
        ("^[[:alpha:][:digit:]]+$", "a1", true),
        (r"^[\]\[]+$", "[]", true),
        (r"^\x41\x{42}$", "AB", true),
        (r"^\.\-\/$", ".-/", true),
    ];
    for (expression, text, expected) in cases {
        assert_eq!(regex_matches(expression, text), expected, "{expression} in {text:?}");
    }
    for broken in
        ["(", "a)", "[a", r"\", "*", "a**b(", "[z-a]", r"\p{Nobody}", r"\é", r"[\b]", r"\1"]
    {
        let reason = refused_regex(broken);
        assert!(reason.contains("not a regular expression"), "{broken}: {reason}");
    }
}

/// The corners that the documentation of the module lists.
#[test]
fn regular_expressions_differ_from_gos_where_the_documentation_says_so() {
    for (expression, text, expected) in [
        (r"^\d$", "٣", true),
        (r"^(?-u:\d)$", "٣", false),
        (r"^\w$", "é", true),
        (r"^\s$", "\u{b}", true),
        (r"\bx\b", "éxé", false),
        ("^[a&&b]$", "&", false),
        (r"^[a\&\&b]$", "&", true),
        ("^[a--b]$", "-", false),
        ("^[a~~b]$", "~", false),
        (r"^\<a\>$", "a", true),
        (r"^\u725b$", "牛", true),
        ("^a**$", "aaa", true),
        ("^x{1001}$", "x", false),
    ] {
        assert_eq!(regex_matches(expression, text), expected, "{expression} in {text:?}");
    }
    for refused in [r"\Qa.b\E", r"\101", "a{", "{}", "a{,2}", "[[]"] {
        let reason = refused_regex(refused);
        assert!(reason.contains("not a regular expression"), "{refused}: {reason}");
    }
}

/// Texts made of tokens of the language, so that they get far into the parser.
fn almost_filters() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "name", "labels", ".", ",", "==", "!=", "~=", "=", "\"", "/", "|", "\\", "x", " ", "\n",
        "[", "]", "(", "{", "}", "\\x4", "\\u12", "\\Q", "\\p{", "^", "-", "&", "é", "牛", "\0",
        "12", ":", "\"a b\"", "/a/",
    ]);
    prop::collection::vec(pieces, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn no_near_filter_makes_the_parser_panic(text in almost_filters()) {
        check_any(&text)?;
    }

    #[test]
    fn any_label_and_value_can_be_asked_for_in_quotes(
        label in any::<String>(),
        value in any::<String>(),
    ) {
        struct One<'a>(&'a str, &'a str);
        impl Fields for One<'_> {
            fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
                (path == ["labels", self.0]).then(|| self.1.into())
            }
        }
        let quoted = |text: &str| {
            let escaped: String = text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
            format!("\"{escaped}\"")
        };
        let filter = format!("labels.{}=={}", quoted(&label), quoted(&value));
        let filter = Filter::parse(&filter).unwrap();
        prop_assert!(filter.matches(&One(&label, &value)));
        let other = format!("{value}.");
        prop_assert!(!filter.matches(&One(&label, &other)));
    }
}

/// Parsing, matching and printing do not panic, and an error points into the text.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    match Filter::parse(text) {
        Ok(filter) => {
            for thing in THINGS {
                let _ = filter.matches(thing);
            }
        }
        Err(error) => {
            prop_assert!(error.position <= text.len());
            prop_assert!(text.is_char_boundary(error.position), "{}", error);
            prop_assert!(!error.to_string().is_empty());
        }
    }
    Ok(())
}

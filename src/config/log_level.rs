//! What is logged: a level, or a filter as tracing-subscriber's `EnvFilter` reads it, less what
//! could match nothing.
//!
//! `EnvFilter` takes a misspelt level for the name of a target, which nothing logs under, and then
//! mutes all the rest. So each directive is checked here against the levels there are and the
//! targets that this program logs under.

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The crate's own target; each file that logs adds its path.
const OWN: &str = "devmapper_snapshotter";

/// Libraries of this program that log.
const LIBRARIES: [&str; 4] = ["h2", "hyper", "tonic", "tower"];

/// Modules of this crate that log. A test compares the list with the sources.
const MODULES: [&str; 37] = [
    "block::loops",
    "block::sparse",
    "dm::verbs::client",
    "dm::verbs::present",
    "dm::verbs::queries",
    "fs::mkfs",
    "fs::tools",
    "grpc::calls",
    "grpc::service",
    "metrics::figures",
    "metrics::http",
    "metrics::scrape",
    "monitor",
    "pool::devices::copy",
    "pool::identity::owned",
    "pool::lapses",
    "pool::open",
    "pool::sharing::external",
    "pool::sharing::features",
    "pool::sharing::join",
    "pool::sharing::unrecorded",
    "pool::space::give_back",
    "pool::space::growth",
    "pool::thins::ids",
    "server",
    "snapshotter::commit",
    "snapshotter::creation",
    "snapshotter::marks",
    "snapshotter::reclaim::delete",
    "snapshotter::reclaim::reclaimer",
    "snapshotter::reclaim::tally",
    "snapshotter::reclaim::trouble",
    "snapshotter::recover",
    "snapshotter::sizes",
    "snapshotter::templates",
    "store::backend",
    "store::database",
];

/// Checks a filter: directives with commas between them, each a level, `target=level`, or a target
/// alone for all its levels. Returns it without blanks and empty directives.
pub fn checked(text: &str) -> Result<String, String> {
    let directives: Vec<&str> =
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if directives.is_empty() {
        return Err(format!("is empty; {FORM}"));
    }
    for directive in &directives {
        check(directive).map_err(|what| format!("{what}; {FORM}"))?;
    }
    Ok(directives.join(","))
}

const FORM: &str =
    "it takes error, warn, info, debug, trace or off, or a filter such as \"info,devmapper_snapshotter::pool=debug\"";

fn check(directive: &str) -> Result<(), String> {
    if directive.contains(['[', ']', '{', '}']) {
        return Err(format!("{directive:?} filters by spans, and this program has none"));
    }
    match directive.split_once('=') {
        Some((_, level)) if !is_level(level) => {
            Err(format!("{level:?} in {directive:?} is no level"))
        }
        Some((target, _)) if !is_target(target) => {
            Err(format!("{target:?} in {directive:?} is no target of this program"))
        }
        None if !is_level(directive) && !is_target(directive) => {
            Err(format!("{directive:?} is neither a level nor a target of this program"))
        }
        _ => Ok(()),
    }
}

/// tracing reads levels in either case, and as the numbers from 0 (off) to 5 (trace).
fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
        || matches!(text.as_bytes(), [b'0'..=b'5'])
}

/// Whether anything is logged under a target that begins so, which is how tracing compares.
fn is_target(text: &str) -> bool {
    let modules = MODULES.iter().any(|module| format!("{OWN}::{module}").starts_with(text));
    let inside = |library: &str| {
        text.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    !text.is_empty() && (modules || LIBRARIES.into_iter().any(inside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn levels_and_filters_that_match_something_are_taken() {
        for good in [
            "info",
            "WARN",
            "off",
            "5",
            "devmapper_snapshotter=debug",
            "devmapper_snapshotter::pool=debug",
            "devmapper_snapshotter::pool::identity=trace",
            "devmapper_snapshotter::snap=debug",
            "devmapper_snapshotter::dm",
            "info,h2=warn,hyper::proto=error,tonic=off",
        ] {
            assert_eq!(checked(good).unwrap(), good);
        }
        // EnvFilter itself would cut the target short.
        assert_eq!(
            checked(" info , devmapper_snapshotter::pool=debug ,").unwrap(),
            "info,devmapper_snapshotter::pool=debug"
        );
    }

    #[test]
    fn a_level_that_is_none_and_a_target_that_nothing_logs_under_are_refused_with_what_is_allowed()
    {
        for (bad, named) in [
            ("wran", "\"wran\" is neither a level nor a target"),
            ("", "is empty"),
            (" , ", "is empty"),
            ("inf", "\"inf\""),
            ("info debug", "\"info debug\""),
            ("6", "\"6\""),
            ("info,wran", "\"wran\""),
            ("devmapper_snapshotter=wran", "\"wran\" in"),
            ("devmapper_snapshotter::pool=", "\"\" in"),
            ("devmapper-snapshotter=debug", "\"devmapper-snapshotter\" in"),
            ("devmapper_snapshotter::pols=debug", "\"devmapper_snapshotter::pols\""),
            ("devmapper_snapshotter::pool::identiti=debug", "identiti"),
            ("=debug", "\"\" in"),
            ("h2x=debug", "\"h2x\""),
            ("[serve]=info", "spans"),
        ] {
            let error = checked(bad).unwrap_err();
            assert!(
                error.contains(named) && error.contains("error, warn, info, debug, trace or off"),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn every_module_that_logs_is_a_target_and_no_other() {
        fn walk(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, found);
                } else if std::fs::read_to_string(&path).unwrap().lines().any(logs) {
                    let path =
                        path.strip_prefix(root).unwrap().to_str().unwrap().trim_end_matches(".rs");
                    found.insert(path.trim_end_matches("/mod").replace('/', "::"));
                }
            }
        }
        /// A call of one of tracing's macros under the module's own target.
        fn logs(line: &str) -> bool {
            let call = |level: &str| line.contains(&format!("tracing::{level}!("));
            !line.contains("target:")
                && !line.trim_start().starts_with("//")
                && LEVELS.iter().any(|level| call(level))
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = BTreeSet::new();
        walk(&root, &root, &mut found);
        // The program's own file logs under the crate's name alone.
        assert!(found.remove("main"));
        found.remove("config::log_level");
        let known: BTreeSet<String> = MODULES.iter().map(ToString::to_string).collect();
        assert_eq!(found, known, "put the modules that log into MODULES");
    }
}

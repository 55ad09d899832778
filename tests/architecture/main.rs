//! Holds the code to its plan: which module may use which, that no files import each other in a
//! circle, where each library and each `unsafe` may live, and how a file begins. ARCHITECTURE.md
//! has the plan; its table of modules is read from there.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{circles, Crates, Imports};

/// Each library that is not for everybody, with the modules that may use it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("nix", &["dm", "block"]),
    ("redb", &["store"]),
    ("tonic", &["grpc", "server"]),
    ("tonic_health", &["server"]),
    ("containerd_snapshots", &["grpc", "server"]),
    ("tokio", &["metrics", "grpc", "server", "monitor", "main"]),
    ("hyper", &["metrics"]),
    ("prometheus_client", &["metrics"]),
    ("regex", &["filter"]),
    ("toml", &["config"]),
    ("clap", &["main"]),
    ("sd_notify", &["main"]),
];

struct Source {
    path: PathBuf,
    module: String,
    /// Without comments and what is for tests alone.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 30, "only {} source files found", found.len());
    found.into_iter().map(|path| source(&root, path)).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap();
    let inside = path.strip_prefix(root).unwrap().to_owned();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    let module = first.trim_end_matches(".rs").to_owned();
    let tests = inside
        .components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    let product =
        if tests { "" } else { text.split("\n#[cfg(test)]\nmod tests {").next().unwrap() };
    let code =
        product.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    Source { path: inside, module, code, text }
}

/// Whether `word` stands in `code` by itself, right before `after`.
fn mentions(code: &str, word: &str, after: &str) -> bool {
    code.match_indices(&format!("{word}{after}")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The table of modules in ARCHITECTURE.md: each module with those it may use.
fn plan() -> Vec<(String, BTreeSet<String>)> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let names = |cell: &str| -> Vec<String> {
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut plan = Vec::new();
    for row in text.lines().skip_while(|line| !line.starts_with("| module | ")).skip(2) {
        let Some(cells) = row.strip_prefix("| `") else { break };
        let cells: Vec<&str> = cells.trim_end_matches('|').split(" | ").collect();
        let [modules, _, uses] = cells[..] else { panic!("not three columns: {row}") };
        let modules = names(modules);
        let uses: BTreeSet<String> = match uses.trim() {
            "all" => plan.iter().map(|(module, _): &(String, _)| module.clone()).collect(),
            some => names(some).into_iter().collect(),
        };
        plan.extend(modules.iter().map(|module| (module.clone(), uses.clone())));
    }
    assert!(plan.len() > 10, "only {} modules in ARCHITECTURE.md's table", plan.len());
    plan
}

fn crates() -> Crates {
    Crates::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "devmapper_snapshotter")
}

/// The module that a file is of; `lib.rs` is of none.
fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The names that `from` takes of `to`, for a message.
fn because(imports: &Imports, from: &Path, to: &Path) -> String {
    imports[from][to].iter().cloned().collect::<Vec<_>>().join(", ")
}

#[test]
fn every_file_is_reached() {
    let crates = crates();
    for source in sources() {
        assert!(crates.has(&source.path), "{} is in no module", source.path.display());
    }
}

#[test]
fn modules_use_only_those_below_them() {
    let plan: BTreeMap<_, _> = plan().into_iter().collect();
    let imports = crates().imports();
    let mut wrong = Vec::new();
    for (from, targets) in imports.iter().filter(|(from, _)| module_of(from) != "lib") {
        let module = module_of(from);
        let may =
            plan.get(&module).unwrap_or_else(|| panic!("{}: not in the plan", from.display()));
        for to in targets.keys() {
            let used = module_of(to);
            if used != module && !may.contains(&used) {
                let names = because(&imports, from, to);
                wrong.push(format!("{} uses {names} of {}", from.display(), to.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not in ARCHITECTURE.md's plan:\n{}", wrong.join("\n"));
}

#[test]
fn the_plan_has_no_circle() {
    let mut above: BTreeSet<String> = BTreeSet::new();
    for (module, uses) in plan() {
        for used in &uses {
            assert!(above.contains(used), "{module} uses {used}, which does not stand above it");
        }
        above.insert(module);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = crates().imports();
    let mut lines = Vec::new();
    for circle in circles(&imports) {
        lines.push(format!("a circle of {} files:", circle.len()));
        for from in &circle {
            for to in circle.iter().filter(|to| imports[*from].contains_key(**to)) {
                let names = because(&imports, from, to);
                lines.push(format!("  {} uses {names} of {}", from.display(), to.display()));
            }
        }
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// The reader of imports looks through re-exports, and sees what is named in a macro, by a path and
/// through a glob.
#[test]
fn what_a_file_names_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod a; pub mod b; #[cfg(test)] mod tests;");
    write("a/mod.rs", "mod plain; mod verbs; pub use plain::Plain; pub use verbs::go;");
    write("a/plain.rs", "pub struct Plain; #[cfg(test)] mod tests { use super::super::go; }");
    write("a/verbs.rs", "use super::Plain; pub fn go() -> Plain { Plain }");
    write("b.rs", "use crate::a; pub const N: u8 = 1; pub fn f() { println!(\"{:?}\", a::go()); }");
    write("main.rs", "mod own; use the_library::b::*; fn main() { own::run(N) }");
    write("main/own.rs", "");
    write("own.rs", "pub fn run(n: u8) { let _ = n + the_library::b::N; }");
    let imports = Crates::read(folder.path(), "the_library").imports();
    let found: BTreeSet<(&str, &str)> = imports
        .iter()
        .flat_map(|(from, to)| to.keys().map(|to| (from.to_str().unwrap(), to.to_str().unwrap())))
        .collect();
    let expected = [
        ("a/verbs.rs", "a/plain.rs"),
        ("b.rs", "a/verbs.rs"),
        ("main.rs", "b.rs"),
        ("main.rs", "own.rs"),
        ("own.rs", "b.rs"),
    ];
    assert_eq!(found, BTreeSet::from(expected));
    assert!(circles(&imports).is_empty());
    write("a/plain.rs", "use crate::b::N; pub struct Plain; pub const M: u8 = N;");
    let imports = Crates::read(folder.path(), "the_library").imports();
    assert_eq!(circles(&imports).concat(), ["a/plain.rs", "a/verbs.rs", "b.rs"].map(Path::new));
}

/// rustfmt lays out the code. It leaves alone what it cannot break: long strings, and what is
/// inside a macro. So code has some more columns here, and a line with a string has no limit.
#[test]
fn comments_are_at_most_100_columns_wide_and_code_120() {
    for folder in ["src", "tests", "contrib"] {
        let mut found = Vec::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
        for path in found {
            for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let comment = line.trim_start().starts_with("//");
                let free = match comment {
                    true => line.contains("//! |") || line.contains("://"),
                    false => line.contains('"') || line.ends_with('\\'),
                };
                let (width, most) = (line.chars().count(), if comment { 100 } else { 120 });
                assert!(free || width <= most, "{}:{} is {width} wide", path.display(), n + 1);
            }
        }
    }
}

#[test]
fn libraries_stay_in_their_modules() {
    for source in sources() {
        for (library, modules) in LIBRARIES {
            let used = mentions(&source.code, library, "::")
                || source.code.contains(&format!("use {library};"));
            assert!(
                !used || modules.contains(&source.module.as_str()),
                "{} uses {library}",
                source.path.display()
            );
        }
    }
}

#[test]
fn programs_are_run_in_fs_alone() {
    for source in sources() {
        let runs = source.code.contains("Command::new") || source.code.contains("process::Command");
        assert!(!runs || source.module == "fs", "{} runs a program", source.path.display());
    }
}

#[test]
fn unsafe_code_is_in_one_file_of_dm_and_one_of_block() {
    let with: BTreeSet<_> = sources()
        .into_iter()
        .filter(|s| {
            mentions(&s.code, "unsafe", " {")
                || mentions(&s.code, "unsafe", " impl")
                || mentions(&s.code, "unsafe", " fn")
        })
        .map(|s| s.path)
        .collect();
    let allowed = [PathBuf::from("block/ioctl.rs"), PathBuf::from("dm/kernel/ioctl.rs")];
    assert!(with.iter().all(|path| allowed.contains(path)), "{with:?}");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if !line.trim_start().starts_with("//") && line.contains("unsafe {") {
                let argued = lines[..n].iter().rev().take(8).any(|above| above.contains("SAFETY:"));
                assert!(argued, "{}:{} has no SAFETY comment", source.path.display(), n + 1);
            }
        }
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is_for() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{}", source.path.display());
    }
}

#[test]
fn no_file_grows_past_500_lines_of_product() {
    for source in sources() {
        let lines = source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = lines.lines().filter(|line| !line.trim().is_empty()).count();
        let tests = source.path.components().any(|part| part.as_os_str() == "tests");
        assert!(tests || lines <= 500, "{} has {lines} lines", source.path.display());
    }
}

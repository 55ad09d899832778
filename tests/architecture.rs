//! Holds the house to its plan: which room may know which, where each library and each `unsafe` may
//! live, and how a file begins. ARCHITECTURE.md says why; a change of plan changes both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms it may use. There is no cycle because each uses earlier ones only; a
/// test checks that too.
const ROOMS: &[(&str, &[&str])] = &[
    ("failpoint", &[]),
    ("units", &[]),
    ("names", &[]),
    ("dm", &["failpoint", "units", "names"]),
    ("block", &["failpoint", "units"]),
    ("prelude", &["units", "names", "dm", "block"]),
    ("store", &["failpoint", "units", "block"]),
    ("filter", &[]),
    ("fs", &["failpoint", "units", "block"]),
    ("config", &["units", "names", "fs"]),
    ("pool", &["units", "names", "dm", "block", "store", "config"]),
    ("snapshotter", &["units", "block", "store", "fs", "pool"]),
    ("metrics", &["snapshotter"]),
    ("grpc", &["store", "filter", "snapshotter", "metrics"]),
    ("server", &["grpc"]),
    ("monitor", &["pool", "snapshotter"]),
];

/// Each library that is not for everybody, with the rooms that may use it.
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
    room: String,
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
    let room = first.trim_end_matches(".rs").to_owned();
    let tests = inside
        .components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    let product =
        if tests { "" } else { text.split("\n#[cfg(test)]\nmod tests {").next().unwrap() };
    let code =
        product.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    Source { path: inside, room, code, text }
}

/// Whether `word` stands in `code` by itself, right before `after`.
fn mentions(code: &str, word: &str, after: &str) -> bool {
    code.match_indices(&format!("{word}{after}")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The rooms that a file names by `crate::room`, also in a group (`crate::{a, b::c}`).
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let starts: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for start in starts {
            used.insert(start.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    for source in
        sources().iter().filter(|s| !["lib", "main", "commands"].contains(&s.room.as_str()))
    {
        let may = allowed
            .get(source.room.as_str())
            .unwrap_or_else(|| panic!("{}: a room without a plan", source.path.display()));
        for used in rooms_used(&source.code) {
            let fine = used == source.room || may.contains(&used.as_str());
            assert!(
                fine,
                "{} uses {used}, which {} must not know",
                source.path.display(),
                source.room
            );
        }
    }
}

#[test]
fn the_plan_has_no_cycle() {
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for (room, uses) in ROOMS {
        for used in *uses {
            assert!(above.contains(used), "{room} uses {used}, which stands below it in the plan");
        }
        above.insert(room);
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    for source in sources() {
        for (library, rooms) in LIBRARIES {
            let used = mentions(&source.code, library, "::")
                || source.code.contains(&format!("use {library};"));
            assert!(
                !used || rooms.contains(&source.room.as_str()),
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
        assert!(!runs || source.room == "fs", "{} runs a program", source.path.display());
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

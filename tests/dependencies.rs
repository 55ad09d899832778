//! What the crate depends on: the library on next to nothing, and nothing on a compiler newer than
//! `rust-version` says.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_library_without_the_daemon_depends_on_nix_thiserror_and_tracing_only() {
    let tree = cargo(&[
        "tree",
        "--no-default-features",
        "--edges=normal",
        "--depth=1",
        "--prefix=none",
        "--format={p}",
    ]);
    let names: BTreeSet<&str> = tree.lines().skip(1).filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names, BTreeSet::from(["nix", "thiserror", "tracing"]));
    // The build script of containerd-snapshots runs protoc.
    let all = cargo(&["tree", "--no-default-features", "--edges=normal,build", "--prefix=none"]);
    assert!(!all.contains("prost") && !all.contains("containerd"), "{all}");
}

#[test]
fn no_dependency_needs_a_newer_compiler_than_rust_version_says() {
    // Packages for other systems need not have been downloaded.
    let platform = format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = cargo(&["metadata", "--format-version=1", &platform]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let version = |package: &Value| -> Option<(u32, u32)> {
        let text = package["rust_version"].as_str()?;
        let mut parts = text.split('.').map(|part| part.parse().unwrap());
        Some((parts.next()?, parts.next().unwrap_or(0)))
    };
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().find(|package| package["name"] == env!("CARGO_PKG_NAME")).unwrap();
    let ours = version(ours).expect("Cargo.toml states rust-version");
    let newer: Vec<String> = packages
        .iter()
        .filter(|package| version(package).is_some_and(|version| version > ours))
        .map(|package| format!("{} needs Rust {}", package["name"], package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "rust-version is {ours:?}, but {newer:?}");
}

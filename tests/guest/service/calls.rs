//! Calls through the daemon's socket: what containerd and its users may get wrong, and what
//! they may ask for. Each test has its own daemon, with a default configuration.
// guest: --mem 2G

use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::lab::{fs_size, refused, Daemon};
use containerd_snapshots::api::snapshots::v1::{Info, UsageResponse};
use containerd_snapshots::tonic::Code;
use kit::{labels, with_mounted, LoopDevice};

#[test]
fn parents_must_exist_and_be_committed() {
    let mut d = Daemon::start("parents");
    refused(d.prepare("a", "nobody"), Code::NotFound, &["\"nobody\"", "does not exist"]);
    refused(d.view("a", "nobody"), Code::NotFound, &["\"nobody\""]);
    d.prepare("active", "").unwrap();
    refused(d.prepare("a", "active"), Code::InvalidArgument, &["\"active\"", "not committed"]);
    refused(d.view("a", "active"), Code::InvalidArgument, &["\"active\"", "not committed"]);
    d.view("view", "").unwrap();
    refused(d.prepare("a", "view"), Code::InvalidArgument, &["\"view\"", "not committed"]);
}

#[test]
fn a_key_in_use_is_in_use_for_everything_and_free_again_after_removal() {
    let mut d = Daemon::start("inuse");
    d.committed("base", "");
    d.prepare("k", "base").unwrap();
    refused(d.prepare("k", "base"), Code::AlreadyExists, &["\"k\""]);
    refused(d.view("k", "base"), Code::AlreadyExists, &["\"k\""]);
    refused(d.prepare("base", ""), Code::AlreadyExists, &["\"base\""]);
    refused(d.commit("base", "k"), Code::AlreadyExists, &["\"base\""]);
    d.mounts("k").unwrap();
    for _ in 0..5 {
        d.remove("k").unwrap();
        refused(d.stat("k"), Code::NotFound, &["\"k\""]);
        d.prepare("k", "base").unwrap();
    }
}

#[test]
fn commit_wants_an_active_snapshot() {
    let mut d = Daemon::start("commit");
    d.committed("base", "");
    d.view("v", "base").unwrap();
    refused(d.commit("c", "v"), Code::FailedPrecondition, &["\"v\"", "a view"]);
    refused(d.commit("c", "unknown"), Code::NotFound, &["\"unknown\""]);
    refused(d.commit("c", "base"), Code::FailedPrecondition, &["\"base\"", "committed"]);
    refused(d.commit("", "v"), Code::InvalidArgument, &["empty name"]);
    refused(d.mounts("base"), Code::FailedPrecondition, &["\"base\""]);
}

#[test]
fn remove_wants_no_children() {
    let mut d = Daemon::start("children");
    d.committed("base", "");
    d.committed("child", "base");
    d.view("v", "child").unwrap();
    refused(d.remove("base"), Code::FailedPrecondition, &["\"base\"", "\"child\""]);
    refused(d.remove("child"), Code::FailedPrecondition, &["\"child\"", "\"v\""]);
    refused(d.remove("unknown"), Code::NotFound, &["\"unknown\""]);
    for key in ["v", "child", "base"] {
        d.remove(key).unwrap();
    }
    d.cleanup();
    assert_eq!(d.devices("snap") + d.devices("view") + d.devices("reclaim"), 0);
}

#[test]
fn keys_may_be_anything_but_empty() {
    let mut d = Daemon::start("keys");
    refused(d.prepare("", ""), Code::InvalidArgument, &["empty key"]);
    refused(d.stat(""), Code::InvalidArgument, &["empty key"]);
    refused(d.remove(""), Code::InvalidArgument, &["empty key"]);
    let long = "k".repeat(4096);
    let keys = [
        "default/12/sha256:0a1b",
        "with spaces and \t tab",
        "schlüssel/鍵/🔑",
        "../../etc/passwd",
        "%s\u{1}\"'\\",
        &long,
    ];
    for key in keys {
        d.prepare(key, "").unwrap();
        assert_eq!(d.stat(key).unwrap().name, key);
        assert_eq!(d.mounts(key).unwrap().len(), 1);
    }
    assert_eq!(d.list(&[]).unwrap().len(), keys.len());
    for key in keys {
        d.remove(key).unwrap();
    }
    refused(d.prepare(&"k".repeat(20_000), ""), Code::InvalidArgument, &["20000 bytes"]);
}

#[test]
fn labels_have_limits() {
    let mut d = Daemon::start("labels");
    refused(
        d.prepare_labelled("a", "", &[("k", &"v".repeat(4096))]),
        Code::InvalidArgument,
        &["\"k\"", "4096"],
    );
    refused(d.prepare_labelled("a", "", &[("", "v")]), Code::InvalidArgument, &["without a name"]);
    refused(
        d.prepare_labelled("a", "", &[("containerd.io/snapshot/max-size", "huge")]),
        Code::InvalidArgument,
        &["max-size", "huge"],
    );
    refused(d.stat("a"), Code::NotFound, &[]);
    d.prepare_labelled("a", "", &[("k", &"v".repeat(4095)), ("a.b/c", "1")]).unwrap();
    assert_eq!(d.stat("a").unwrap().labels["a.b/c"], "1");
    refused(
        d.commit_labelled("c", "a", &[("k", &"v".repeat(4096))]),
        Code::InvalidArgument,
        &["\"k\""],
    );
    d.commit_labelled("c", "a", &[("of", "commit")]).unwrap();
    assert_eq!(
        d.stat("c").unwrap().labels,
        labels(&[("of", "commit")]),
        "a commit's labels replace those of the active snapshot"
    );
}

#[test]
fn updates_change_labels_and_nothing_else() {
    let mut d = Daemon::start("update");
    d.prepare_labelled("a", "", &[("x", "1"), ("y", "2")]).unwrap();
    let before = d.stat("a").unwrap();
    let info = |pairs: &[(&str, &str)]| Info {
        name: "a".into(),
        labels: labels(pairs),
        ..Default::default()
    };
    for field in ["name", "parent", "kind", "created_at", "nonsense"] {
        refused(d.update(info(&[]), &[field]), Code::InvalidArgument, &[field]);
    }
    assert_eq!(
        d.update(info(&[("x", "3"), ("z", "9")]), &["labels.x"]).unwrap().labels,
        labels(&[("x", "3"), ("y", "2")])
    );
    assert_eq!(d.update(info(&[]), &["labels.y"]).unwrap().labels, labels(&[("x", "3")]));
    let all =
        d.update(Info { kind: 3, parent: "other".into(), ..info(&[("n", "1")]) }, &[]).unwrap();
    assert_eq!(
        (all.labels, all.kind, all.parent),
        (labels(&[("n", "1")]), before.kind, before.parent)
    );
    assert_eq!(all.created_at, before.created_at);
    let updated = all.updated_at.unwrap();
    let earlier = before.updated_at.unwrap();
    assert!((updated.seconds, updated.nanos) > (earlier.seconds, earlier.nanos));
    refused(
        d.update(Info { name: "b".into(), ..Default::default() }, &[]),
        Code::NotFound,
        &["\"b\""],
    );
}

#[test]
fn lists_are_filtered_as_containerd_filters() {
    let mut d = Daemon::start("filters");
    d.committed("base", "");
    d.prepare_labelled("one", "base", &[("a.b/c", "x y")]).unwrap();
    d.prepare_labelled("two", "base", &[("tier", "gold")]).unwrap();
    d.view("eye", "base").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["base", "eye", "one", "two"]),
        (&["kind==committed"], &["base"]),
        (&["kind!=committed"], &["eye", "one", "two"]),
        (&["parent==base,kind==active"], &["one", "two"]),
        (&["name~=^(one|eye)$"], &["eye", "one"]),
        (&["labels.\"a.b/c\"==\"x y\""], &["one"]),
        (&["labels.tier"], &["two"]),
        (&["labels.tier==gold", "name==base"], &["base", "two"]),
        (&["parent==\"\""], &["base"]),
        (&["name==nobody"], &[]),
    ];
    for (filters, expected) in cases {
        assert_eq!(d.list(filters).unwrap(), *expected, "{filters:?}");
    }
    for bad in ["name==", "name=x", "==x", "name~=[", "labels.\"a", "a b"] {
        refused(d.list(&[bad]), Code::InvalidArgument, &[]);
    }
}

#[test]
fn a_long_list_comes_whole() {
    let mut d = Daemon::start("long");
    d.committed("base", "");
    for n in 0..600 {
        d.view(&format!("v{n:04}"), "base").unwrap();
    }
    let names = d.list(&["kind==view"]).unwrap();
    assert_eq!(names.len(), 600);
    assert!(names.is_sorted());
    for name in names {
        d.remove(&name).unwrap();
    }
    d.cleanup();
    assert_eq!(d.devices("view"), 0);
}

#[test]
fn mounts_are_one_block_device_each() {
    let mut d = Daemon::start("mounts");
    let active = d.prepare("a", "").unwrap();
    assert_eq!(active.len(), 1);
    assert_eq!(
        (active[0].r#type.as_str(), &active[0].options[..]),
        ("ext4", &["errors=remount-ro".to_owned()][..])
    );
    assert!(active[0].source.starts_with("/dev/mapper/mounts-snap-"), "{}", active[0].source);
    assert_eq!(d.mounts("a").unwrap(), active);
    d.commit("c", "a").unwrap();
    let view = d.view("v", "c").unwrap();
    assert_eq!(view[0].options, ["ro", "errors=remount-ro"]);
    assert!(view[0].source.starts_with("/dev/mapper/mounts-view-"), "{}", view[0].source);
}

#[test]
fn usage_counts_what_a_snapshot_adds() {
    let mut d = Daemon::start("usage");
    d.committed("base", "");
    let base = d.usage("base").unwrap();
    assert!(base.size > 0 && base.size < 4 << 20, "an empty layer takes {} bytes", base.size);
    let mounts = d.prepare("a", "base").unwrap();
    assert_eq!((d.usage("a").unwrap().size, d.usage("a").unwrap().inodes), (0, 0));
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("file"), vec![7; 1 << 20]).unwrap();
    });
    let size = d.usage("a").unwrap().size;
    assert!((1 << 20..2 << 20).contains(&size), "1 MiB written takes {size} bytes");
    d.commit("c", "a").unwrap();
    let committed = d.usage("c").unwrap();
    assert_eq!((committed.size, committed.inodes), (size, 1));
    d.view("v", "c").unwrap();
    assert_eq!(d.usage("v").unwrap(), UsageResponse::default());
    refused(d.usage("unknown"), Code::NotFound, &["\"unknown\""]);
}

#[test]
fn a_snapshot_is_as_large_as_its_label_says_and_never_smaller_than_its_parent() {
    let mut d = Daemon::start_with("sizes", "base_image_size = \"256MiB\"");
    d.committed("base", "");
    let label = "containerd.io/snapshot/max-size";
    let base = fs_size(&d.prepare("a", "base").unwrap());
    let large = fs_size(&d.prepare_labelled("b", "base", &[(label, "1GiB")]).unwrap());
    let small = fs_size(&d.prepare_labelled("c", "base", &[(label, "1MiB")]).unwrap());
    assert!(large > 900 << 20, "{large}");
    assert_eq!(small, base);
    d.commit("b2", "b").unwrap();
    let child = fs_size(&d.prepare("e", "b2").unwrap());
    assert_eq!(child, large);
    let alone = fs_size(&d.prepare_labelled("f", "", &[(label, "2147483648")]).unwrap());
    assert!(alone > 1900 << 20, "{alone}");
}

#[test]
fn a_commit_of_a_mounted_snapshot_is_an_image_of_that_moment() {
    let mut d = Daemon::start("mounted");
    let mounts = d.prepare("a", "").unwrap();
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("before"), b"before").unwrap();
        d.commit("c", "a").unwrap();
        std::fs::write(root.join("after"), b"after").unwrap();
    });
    let view = d.view("v", "c").unwrap();
    with_mounted(&view[0], |root| {
        assert_eq!(std::fs::read(root.join("before")).unwrap(), b"before");
        assert!(!root.join("after").exists());
    });
    let check = Command::new("e2fsck").arg("-fn").arg(&view[0].source).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    d.cleanup();
    assert_eq!(d.devices("snap"), 0, "the frozen original is gone once it is unmounted");
}

#[test]
fn commits_under_a_running_writer_are_images_of_one_moment_each() {
    /// One record of the writer: 64 bytes that hold its number.
    const RECORD: usize = 64;
    let mut d = Daemon::start("writer");
    d.prepare("k0", "").unwrap();
    for round in 0..5 {
        let key = format!("k{round}");
        let mounts = d.mounts(&key).unwrap();
        with_mounted(&mounts[0], |root| {
            let (synced, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
            let (least, most) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let mut file = std::fs::File::create(root.join("records")).unwrap();
                    let mut number = 0;
                    while !stop.load(Ordering::SeqCst) {
                        file.write_all(format!("{number:0RECORD$}").as_bytes()).unwrap();
                        if number % 8 == 0 {
                            file.sync_data().unwrap();
                            synced.store(number + 1, Ordering::SeqCst);
                        }
                        number += 1;
                    }
                    number
                });
                while synced.load(Ordering::SeqCst) < 20 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                let least = synced.load(Ordering::SeqCst);
                d.commit(&format!("c{round}"), &key).unwrap();
                let at_commit = synced.load(Ordering::SeqCst);
                // It goes on: the freeze was short.
                while synced.load(Ordering::SeqCst) < at_commit + 50 {
                    assert!(!writer.is_finished(), "the writer met an error");
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                stop.store(true, Ordering::SeqCst);
                (least, writer.join().unwrap())
            });
            let view = d.view(&format!("v{round}"), &format!("c{round}")).unwrap();
            with_mounted(&view[0], |root| {
                let records = std::fs::read(root.join("records")).unwrap();
                let whole = records.len() / RECORD;
                assert!(
                    (least..most).contains(&whole),
                    "{whole} records, {least} were synced before, {most} in the end"
                );
                for (number, record) in records.chunks_exact(RECORD).enumerate() {
                    assert_eq!(
                        record,
                        format!("{number:0RECORD$}").as_bytes(),
                        "record {number} of {whole}"
                    );
                }
            });
            let check = Command::new("e2fsck").arg("-fn").arg(&view[0].source).output().unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        });
        d.prepare(&format!("k{}", round + 1), &format!("c{round}")).unwrap();
    }
}

#[test]
fn a_mounted_snapshot_is_removed_at_once_and_reclaimed_later() {
    let mut d = Daemon::start("busy");
    d.committed("base", "");
    let mounts = d.prepare("a", "base").unwrap();
    with_mounted(&mounts[0], |root| {
        std::fs::write(root.join("file"), b"still here").unwrap();
        d.remove("a").unwrap();
        d.cleanup();
        refused(d.stat("a"), Code::NotFound, &[]);
        let held = format!("mounted on {} for pid", root.display());
        assert!(d.log().contains(&held), "the log does not say who holds it: {held}");
        d.prepare("a", "base").unwrap();
        d.remove("a").unwrap();
        std::fs::write(root.join("more"), b"written after the removal").unwrap();
        assert_eq!(std::fs::read(root.join("file")).unwrap(), b"still here");
    });
    d.cleanup();
    assert_eq!(d.devices("snap"), 0);
}

#[test]
fn restarts_keep_everything_and_let_mounted_snapshots_be() {
    let mut d = Daemon::start("restart");
    d.committed("base", "");
    let mounts = d.prepare("a", "base").unwrap();
    with_mounted(&mounts[0], |root| {
        for signal in ["TERM", "KILL", "TERM"] {
            std::fs::write(root.join(signal), signal).unwrap();
            d.restart(signal);
            assert_eq!(d.mounts("a").unwrap(), mounts);
            assert_eq!(std::fs::read_to_string(root.join(signal)).unwrap(), signal);
            std::fs::write(root.join("again"), signal).unwrap();
        }
    });
    assert_eq!(d.list(&[]).unwrap(), ["a", "base"]);
    d.commit("c", "a").unwrap();
    d.committed("d", "c");
}

#[test]
fn a_pool_on_one_device_is_carved_and_found_again_and_a_foreign_one_is_refused() {
    let disk = LoopDevice::new("1G");
    let config = format!("data_device = \"{disk}\"\nbase_image_size = \"512MiB\"");
    let mut d = Daemon::start_with("carved", &config);
    d.committed("base", "");
    d.restart("TERM");
    assert_eq!(d.list(&[]).unwrap(), ["base"]);
    d.stop("TERM");
    d.remove_devices();
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["base"]);
    d.prepare("child", "base").unwrap();

    d.stop("TERM");
    d.remove_devices();
    let mut stranger = Daemon::start("stranger");
    stranger.stop("TERM");
    stranger.remove_devices();
    std::fs::remove_dir_all(stranger.state()).unwrap();
    stranger.configure("stranger", &config);
    let said = stranger.start_is_refused();
    assert!(said.contains(&disk.node) && said.contains("whose database is not here"), "{said}");
    drop(d);
}

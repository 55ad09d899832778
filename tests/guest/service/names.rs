//! Names and starts: names that would break other programs are refused; two daemons of one name
//! are told apart before anything is recorded; commands that read change nothing; a start that
//! fails says what it needs.
// guest: --mem 2G

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::lab::{daemon_program, says, Bench, Daemon};
use containerd_snapshots::tonic::Code;
use devmapper_snapshotter::dm::{ActivateOptions, Dm, LinearTable, RealKernel, Target};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};
use kit::{dmsetup, run, with_mounted};

/// Runs the daemon's program, which must end by itself with a failure; returns what it said.
#[track_caller]
fn refuses(command: &mut Command) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut process =
        command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = process.kill();
                let _ = process.wait();
                panic!("{command:?} goes on: {}", std::fs::read_to_string(log.path()).unwrap());
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert!(!status.success(), "{command:?}: {said}");
    said
}

/// The daemon's program on a directory of its own.
fn daemon_in(directory: &Path, config: &str) -> Command {
    let file = directory.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(daemon_program());
    command.arg("--config").arg(file).arg("--root").arg(directory.join("state"));
    command.arg("--address").arg(directory.join("d.sock"));
    command
}

/// Everything below a directory: size, time of the last change, and what is in it. The pool's data,
/// which is large, by the blocks that it takes.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![directory.to_owned()];
    while let Some(path) = ahead.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let content = if metadata.is_dir() {
            ahead.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if path.ends_with("data.img") {
            metadata.blocks().to_le_bytes().to_vec()
        } else if metadata.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        found.insert(path, (metadata.len(), metadata.modified().unwrap(), content));
    }
    found
}

#[track_caller]
fn same_tree(
    directory: &Path,
    before: &BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)>,
    after_what: &str,
) {
    let after = tree(directory);
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "{after_what} changed {changed:?}");
}

#[test]
fn names_that_dmsetup_and_udev_cannot_write_are_refused_and_dmsetup_ls_goes_on_working() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a b", "näme", "-a", ".", "..", "a/b", r"a\x20b", "a,b", "名", "", "a\u{a0}b"] {
        let said = refuses(&mut daemon_in(directory.path(), &format!("name = '{name}'")));
        says(&said, &["\n  name: "]);
        dmsetup(&["ls"]);
    }
    says(
        &refuses(&mut daemon_in(directory.path(), "name = \"a\\nb\"")),
        &["\n  name: ", "control character"],
    );
    says(
        &refuses(&mut daemon_in(directory.path(), &format!("name = '{}'", "x".repeat(101)))),
        &["101 bytes", "100"],
    );
    assert!(
        !directory.path().join("state").exists(),
        "a state directory was made for a name that was refused"
    );
}

#[test]
fn a_name_of_all_that_is_allowed_works_and_every_tool_lists_it() {
    let name = "A7#+-.:=@_z";
    let mut d = Daemon::start(name);
    let mounts = d.prepare("a", "").unwrap();
    with_mounted(&mounts[0], |root| std::fs::write(root.join("file"), "a").unwrap());
    d.commit("c", "a").unwrap();
    d.prepare("b", "c").unwrap();
    let listed = dmsetup(&["ls"]);
    assert!(listed.contains(&format!("{name}-pool")) && !listed.contains("\\x"), "{listed}");
    d.restart("KILL");
    assert_eq!(d.list(&[]).unwrap(), ["b", "c"]);
}

#[test]
fn a_second_daemon_of_one_name_is_told_so_and_starts_under_another() {
    let mut first = Daemon::start("twin");
    first.prepare("a", "").unwrap();
    let mut second = Daemon::start("twinb");
    second.stop("TERM");
    second.remove_devices();
    std::fs::remove_dir_all(second.state()).unwrap();
    second.configure("twin", "");
    for _ in 0..2 {
        let said = second.start_is_refused();
        says(&said, &["name \"twin\" is taken", "twin-", "another daemon", "another 'name'"]);
    }
    let left: Vec<_> = tree(&second.state()).into_keys().collect();
    let pool_files =
        left.iter().filter(|path| path.extension().is_some_and(|end| end == "img")).count();
    assert_eq!(pool_files, 0, "a refused start left {left:?}");
    second.configure("twinc", "");
    second.begin();
    second.prepare("a", "").unwrap();
    assert_eq!(first.list(&[]).unwrap(), ["a"]);

    // One that has a pool already is refused as well, touches nothing, and starts once the other
    // has gone.
    second.stop("TERM");
    second.remove_devices();
    let mut third = Daemon::start("twinc");
    third.prepare("mine", "").unwrap();
    says(&second.start_is_refused(), &["name \"twinc\" is taken", "dmsetup info twinc-"]);
    third.restart("TERM");
    assert_eq!(third.list(&[]).unwrap(), ["mine"]);
    drop(third);
    second.begin();
    assert_eq!(second.list(&[]).unwrap(), ["a"]);
}

#[test]
fn a_second_daemon_of_one_name_on_the_same_external_pool_is_refused() {
    let mut owner = Daemon::start("lender");
    owner.stop("TERM");
    let config = "pool_name = \"lender-pool\"\naccept_pool_features = [\"queue_if_no_space\"]";
    let mut first = Daemon::start_with("guest", config);
    first.prepare("a", "").unwrap();
    let mut second = Daemon::start_with("other", config);
    second.stop("TERM");
    std::fs::remove_dir_all(second.state()).unwrap();
    second.configure("guest", config);
    says(&second.start_is_refused(), &["name \"guest\" is taken", "guest-snap-"]);
    first.restart("TERM");
    assert_eq!(first.list(&[]).unwrap(), ["a"]);
    drop(first);
    drop(second);
    owner.begin();
}

#[test]
fn daemons_whose_names_begin_alike_leave_each_other_alone() {
    let names = ["pre", "pre-snap", "pre-snap-1", "pre-pool"];
    let mut daemons = names.map(Daemon::start);
    for d in &mut daemons {
        d.committed("base", "");
        d.prepare("a", "base").unwrap();
    }
    for signal in ["TERM", "KILL"] {
        for d in &mut daemons {
            d.restart(signal);
        }
        for d in &mut daemons {
            assert_eq!(d.list(&[]).unwrap(), ["a", "base"]);
            with_mounted(&d.mounts("a").unwrap()[0], |root| {
                std::fs::write(root.join("file"), "a").unwrap()
            });
        }
    }
    // From the longest: taking devices away goes by the start of the name.
    let [a, b, c, e] = daemons;
    for mut d in [e, c, b, a] {
        d.stop("TERM");
        let (fine, said) = d.command(&["check"]);
        assert!(fine, "{said}");
    }
}

#[test]
fn nodes_of_others_whose_names_begin_alike_are_neither_made_nor_removed() {
    let mut d = Daemon::start("alike");
    d.stop("TERM");
    let [left, missing, ours] = ["alike-lvol0", "alike-home", "alike-snap-4000"]
        .map(|name| Path::new("/dev/mapper").join(name));
    std::os::unix::fs::symlink("../dm-4000", &left).unwrap();
    std::os::unix::fs::symlink("../dm-4000", &ours).unwrap();
    dmsetup(&["create", "--noudevsync", "alike-home", "--table", "0 2048 zero"]);
    let _ = std::fs::remove_file(&missing);
    d.begin();
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let found = (is_there(&left), is_there(&missing), is_there(&ours));
    let _ = std::fs::remove_file(&left);
    dmsetup(&["remove", "--noudevsync", "alike-home"]);
    assert_eq!(found, (true, false, false), "left over by another, of another, ours");
}

#[test]
fn commands_on_a_mistyped_root_say_so_and_make_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
    let before = tree(directory.path());
    for (root, why) in [
        ("mistyped", "does not exist"),
        ("mistyped/deeper", "does not exist"),
        ("empty", "there is no database"),
        ("file", "no directory"),
        ("link", "does not exist"),
    ] {
        for command in [&["ls"][..], &["check"], &["check", "--repair"]] {
            let root = directory.path().join(root);
            let said =
                refuses(Command::new(daemon_program()).arg("--root").arg(&root).args(command));
            says(&said, &[root.to_str().unwrap(), why, "--root"]);
            same_tree(directory.path(), &before, &format!("{command:?} on {root:?}"));
        }
    }
    for (root, why) in [
        ("/", "names no directory"),
        ("mistyped", "not an absolute path"),
        ("/a\nb", "control character"),
    ] {
        for command in [&["ls"][..], &[]] {
            says(
                &refuses(Command::new(daemon_program()).args(["--root", root]).args(command)),
                &["--root", why],
            );
        }
    }
    for (root, why) in
        [("file", "something that is no directory"), ("link", "a link that leads nowhere")]
    {
        let root = directory.path().join(root);
        says(
            &refuses(Command::new(daemon_program()).arg("--root").arg(&root)),
            &[root.to_str().unwrap(), why],
        );
        same_tree(directory.path(), &before, "a start");
    }
}

#[test]
fn commands_that_read_change_nothing_whatever_they_find() {
    let mut d = Daemon::start("readers");
    d.committed("base", "");
    d.prepare("a", "base").unwrap();
    let unchanged = |d: &Daemon, what: &str, succeed: Option<bool>| {
        // What is on its way to the files below the pool.
        run("sync", &[]);
        let before = tree(&d.state());
        let mut said = Vec::new();
        for command in ["ls", "check", "ls", "check"] {
            let (fine, text) = d.command(&[command]);
            assert!(succeed.is_none_or(|expected| fine == expected), "{what}: {command}: {text}");
            run("sync", &[]);
            same_tree(&d.state(), &before, &format!("{what}: {command}"));
            said.push(text);
        }
        said
    };
    let said = unchanged(&d, "while the daemon serves", Some(false));
    assert!(said.iter().all(|said| said.contains("another daemon works on it")), "{said:?}");

    d.stop("KILL");
    let said = unchanged(&d, "after a crash", Some(true));
    assert!(said[0].contains(" a < base") && said[1].contains("0 disagreements"), "{said:?}");
    d.restart("TERM");
    d.stop("TERM");
    unchanged(&d, "after a stop", Some(true));

    // A disagreement is found and left.
    dmsetup(&["message", "readers-pool", "0", "create_thin 200"]);
    let said = unchanged(&d, "with a thin too many", None);
    says(&said[1], &["thin 200 is on no record", "1 disagreement"]);
    says(&said[3], &["thin 200 is on no record"]);

    // Another program holds a snapshot of the metadata, and lists the pool by it.
    dmsetup(&["message", "readers-pool", "0", "reserve_metadata_snap"]);
    says(&unchanged(&d, "beside another reader", None)[1], &["1 disagreement"]);
    dmsetup(&["message", "readers-pool", "0", "release_metadata_snap"]);

    d.remove_devices();
    std::fs::remove_file(d.state().join("lock")).unwrap();
    let said = unchanged(&d, "after a reboot", Some(true));
    assert!(said[1].contains("the pool is not assembled"), "{said:?}");
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["a", "base"]);
}

#[test]
fn a_pool_that_is_written_to_is_read_all_the_same() {
    let mut d = Daemon::start("busy");
    let mounts = d.prepare("a", "").unwrap();
    with_mounted(&mounts[0], |root| {
        d.stop("TERM");
        let file = format!("of={}", root.join("file").display());
        let mut writer = Command::new("dd")
            .args(["if=/dev/zero", &file, "bs=64K", "oflag=direct"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        for command in ["check", "ls", "check"] {
            let (fine, said) = d.command(&[command]);
            assert!(fine, "{said}");
        }
        assert!(writer.try_wait().unwrap().is_none(), "nothing was written meanwhile");
        writer.kill().unwrap();
        writer.wait().unwrap();
    });
}

#[test]
fn without_root_or_its_rights_it_says_so_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    run("chmod", &["755", directory.path().to_str().unwrap()]);
    let file = directory.path().join("daemon");
    std::fs::copy(daemon_program(), &file).unwrap();
    let before = tree(directory.path());
    let as_nobody = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];
    for rights in [&as_nobody[..], &["--bounding-set", "-all", "--inh-caps", "-all"]] {
        for command in [&[][..], &["ls"], &["check"], &["check", "--repair"]] {
            let mut daemon = Command::new("setpriv");
            daemon.args(rights).arg(&file).arg("--root").arg(directory.path().join("state"));
            daemon.arg("--address").arg(directory.path().join("run/d.sock")).args(command);
            says(
                &refuses(&mut daemon),
                &["no permission for device-mapper", "root", "CAP_SYS_ADMIN"],
            );
            same_tree(directory.path(), &before, "a start without rights");
        }
    }
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "").unwrap();
    run("chmod", &["600", config.to_str().unwrap()]);
    let said =
        refuses(Command::new("setpriv").args(as_nobody).arg(&file).arg("--config").arg(&config));
    says(&said, &["config.toml", "needs root"]);
}

#[test]
fn a_log_level_that_is_none_is_refused_wherever_it_comes_from_and_a_filter_works() {
    let directory = tempfile::tempdir().unwrap();
    let allowed =
        ["\"wran\" is neither a level nor a target", "error, warn, info, debug, trace or off"];
    says(&refuses(&mut daemon_in(directory.path(), "log_level = \"wran\"")), &allowed);
    says(&refuses(daemon_in(directory.path(), "").args(["--log-level", "wran"])), &allowed);
    says(
        &refuses(daemon_in(directory.path(), "").env("DEVMAPPER_SNAPSHOTTER_LOG_LEVEL", "wran")),
        &allowed,
    );
    says(
        &refuses(daemon_in(directory.path(), "").args(["--log-level", ""])),
        &["--log-level", "is empty"],
    );
    says(
        &refuses(
            daemon_in(directory.path(), "")
                .args(["--log-level", "devmapper_snapshotter::pols=debug"]),
        ),
        &["pols"],
    );
    let mut d = Daemon::start_with("loud", "log_level = \"info, devmapper_snapshotter::dm=debug\"");
    says(&d.log(), &["serving"]);
    let _ = d.stat("nobody");
    d.stop("TERM");
    d.configure("loud", "log_level = \"devmapper_snapshotter::pool=debug\"");
    let before = d.log().len();
    d.begin();
    assert!(
        !d.log()[before..].contains("serving"),
        "the filter lets through what is not the pool's"
    );
}

#[test]
fn a_missing_parent_is_told_in_one_text() {
    let mut d = Daemon::start("orphans");
    let by_prepare = d.prepare("a", "nobody").unwrap_err();
    let by_view = d.view("a", "nobody").unwrap_err();
    assert_eq!(by_prepare.message(), "parent snapshot \"nobody\" does not exist");
    assert_eq!(by_view.message(), by_prepare.message());
}

/// A loop device of this size with sectors of 4096 bytes.
fn with_large_sectors(file: &Path, bytes: u64) -> (String, DeviceNumber) {
    std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
    let node =
        run("losetup", &["--find", "--show", "--sector-size", "4096", file.to_str().unwrap()]);
    let number = DeviceNumber::from_u64(std::fs::metadata(&node).unwrap().rdev());
    (node, number)
}

#[test]
fn a_table_that_the_kernel_refuses_is_explained() {
    let mut bench = Bench::new("explained");
    let (node, large) = with_large_sectors(&bench.dir().join("large"), 64 << 20);
    let (small, tiny) = (bench.disk(64 << 20), bench.disk(64 << 10));
    let said = |target: Target| {
        let name = bench.name("refused");
        let error =
            bench.dm.activate(&name, None, &[target], ActivateOptions::default()).unwrap_err();
        assert_eq!(bench.dm.info(&name).unwrap(), None, "a device was left");
        error.to_string()
    };
    let linear = |device: DeviceNumber, length: u64, offset: u64| {
        let (start, length, offset) = (Sectors::ZERO, Sectors(length), Sectors(offset));
        Target::Linear(LinearTable { start, length, device: device.into(), offset })
    };
    says(
        &said(linear(large, 1001, 0)),
        &["length of 1001", "4096-byte sectors", &large.to_string()],
    );
    says(&said(linear(large, 1000, 9)), &["offset of 9", "4096-byte sectors"]);
    says(&said(linear(tiny, 1000, 0)), &["needs 1000", &tiny.to_string(), "which has 128"]);

    let pool = |metadata: DeviceNumber, data: DeviceNumber, megabytes: u64| {
        Target::ThinPool(devmapper_snapshotter::dm::ThinPoolTable {
            start: Sectors::ZERO,
            length: Sectors(megabytes << 11),
            metadata: metadata.into(),
            data: data.into(),
            block_size: Sectors(128),
            low_water_blocks: 1,
            features: Default::default(),
        })
    };
    says(&said(pool(small, small, 64)), &["both for data and for metadata"]);
    says(&said(pool(small, large, 65)), &["needs 133120", &large.to_string()]);

    let name = bench.name("pool");
    let made = bench
        .dm
        .activate(&name, None, &[pool(small, large, 64)], ActivateOptions::default())
        .unwrap();
    let thin = ThinId::new(1).unwrap();
    bench.dm.create_thin(&name, thin).unwrap();
    says(
        &said(Target::thin(made.device, thin, Sectors(1001))),
        &["length of 1001", "4096-byte sectors"],
    );
    bench.dm.remove(&name).unwrap();

    // Below another device: it can be had once more, but a mounted one cannot.
    run("mkfs.ext4", &["-q", "-F", &node]);
    let place = bench.dir().join("mounted");
    std::fs::create_dir(&place).unwrap();
    run("mount", &[&node, place.to_str().unwrap()]);
    let busy = said(linear(large, 1000, 0));
    run("umount", &[place.to_str().unwrap()]);
    run("losetup", &["--detach", &node]);
    says(&busy, &["a device that its table names is in use"]);
}

#[test]
fn metadata_that_is_full_is_no_metadata_that_must_be_checked() {
    let mut d = Daemon::start_with("brimful", "metadata_size = \"2MiB\"");
    d.committed("base", "");
    fill_metadata("brimful-pool");
    let full = [
        "metadata of pool brimful-pool is full, all 2.0 MiB of it",
        "metadata.img larger",
        "start the daemon again",
    ];
    let refusal = d.prepare("more", "base").unwrap_err();
    says(refusal.message(), &full);
    assert!(!refusal.message().contains("must be checked"), "{refusal}");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    d.stop("TERM");
    says(&d.command(&["check"]).1, &["metadata is full"]);
    says(&d.start_is_refused(), &full);

    // What the message says to do.
    d.remove_devices();
    std::fs::File::options()
        .write(true)
        .open(d.state().join("metadata.img"))
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["base"]);
    d.prepare("more", "base").unwrap();
}

/// Makes snapshots of thin 0, whose ids no daemon has leased, and writes to each, until the kernel
/// has no metadata left.
fn fill_metadata(pool: &str) {
    let dm = Dm::new(Arc::new(RealKernel::open().unwrap()), Default::default());
    let [pool, device] = [pool, "filler"].map(|name| DmName::new(name).unwrap());
    let number = dm.info(&pool).unwrap().unwrap().device;
    for id in (100_000..).map(|id| ThinId::new(id).unwrap()) {
        if dm.create_snap(&pool, id, ThinId::new(0).unwrap()).is_err() {
            return;
        }
        let table = [Target::thin(number, id, Sectors(10 << 21))];
        dm.activate(&device, None, &table, ActivateOptions::default()).unwrap();
        let node = std::fs::File::options().write(true).open(dm.node(&device)).unwrap();
        let _ = std::os::unix::fs::FileExt::write_all_at(&node, &[7; 4096], 5 << 30);
        let _ = node.sync_all();
        drop(node);
        dm.remove(&device).unwrap();
    }
}

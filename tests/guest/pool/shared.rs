//! A pool that its owner assembles and that several daemons use. The daemon deletes and
//! activates nothing that is not its own. It notices a database and a pool that do not belong
//! together, and features of the pool that it cannot accept.
// guest: --mem 2G

use crate::lab::{says, Daemon, DirectFile};
use kit::{dmsetup, run, try_dmsetup, used_blocks, wait_until, with_mounted, LoopDevice};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const ZEROING: &str = "1 error_if_no_space";

/// A pool made by dmsetup on loop devices.
struct SharedPool {
    name: String,
    /// For metadata and data.
    loops: [LoopDevice; 2],
}

impl SharedPool {
    fn new(name: &str, features: &str) -> SharedPool {
        let loops = [LoopDevice::new("16M"), LoopDevice::new("384M")];
        let pool = SharedPool { name: name.into(), loops };
        dmsetup(&["create", "--noudevsync", name, "--table", &pool.table(features)]);
        pool
    }

    fn table(&self, features: &str) -> String {
        format!(
            "0 {} thin-pool {} {} 128 0 {features}",
            (384u64 << 20) / 512,
            self.loops[0],
            self.loops[1]
        )
    }

    fn reload(&self, features: &str) {
        dmsetup(&["reload", &self.name, "--table", &self.table(features)]);
        dmsetup(&["resume", "--noudevsync", &self.name]);
    }

    fn config(&self) -> String {
        format!("pool_name = \"{}\"\nbase_image_size = \"64MiB\"\n", self.name)
    }

    fn message(&self, text: &str) -> Result<String, String> {
        try_dmsetup(&["message", &self.name, "0", text])
    }

    /// Whether there is a thin of this id; the question changes nothing.
    fn has(&self, id: u32) -> bool {
        match self.message(&format!("create_thin {id}")) {
            Ok(_) => {
                self.message(&format!("delete {id}")).unwrap();
                false
            }
            Err(error) => {
                assert!(error.contains("File exists"), "{error}");
                true
            }
        }
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        let _ = try_dmsetup(&["remove", "--noudevsync", "--retry", &self.name]);
    }
}

/// The thin that a device shows.
fn thin_of(node: &str) -> u32 {
    thin_in(&dmsetup(&["table", node]))
}

fn thin_in(table: &str) -> u32 {
    table.split_whitespace().nth(4).unwrap().parse().unwrap()
}

/// A device's number, as a table names it.
fn number_of(device: &str) -> String {
    dmsetup(&["info", "-c", "--noheadings", "--separator", ":", "-o", "major,minor", device])
        .trim()
        .to_owned()
}

/// All thins that devices of this daemon show. The device of a layer that was just committed may go
/// away meanwhile.
fn active_thins(name: &str) -> BTreeSet<u32> {
    let devices = std::fs::read_dir("/dev/mapper")
        .unwrap()
        .map(|d| d.unwrap().file_name().into_string().unwrap());
    devices
        .filter(|device| device.starts_with(&format!("{name}-snap-")))
        .filter_map(|device| try_dmsetup(&["table", &device]).ok())
        .map(|table| thin_in(&table))
        .collect()
}

fn uuid_of(device: &str) -> String {
    let text = dmsetup(&["info", "-c", "--noheadings", "-o", "uuid", device]);
    text.trim().split('-').nth(1).unwrap().to_owned()
}

/// Commits a layer with a file of this text in it; returns its thin.
fn layer(d: &mut Daemon, name: &str, parent: &str, text: &str) -> u32 {
    let key = format!("making-{name}");
    let mount = d.prepare(&key, parent).unwrap().remove(0);
    let id = thin_of(&mount.source);
    with_mounted(&mount, |place| std::fs::write(place.join(name), text.repeat(1000)).unwrap());
    d.commit(name, &key).unwrap();
    id
}

/// Looks into a layer through a snapshot of it.
#[track_caller]
fn holds(d: &mut Daemon, name: &str, text: &str) {
    let key = format!("looking-{name}");
    let mount = d.prepare(&key, name).unwrap().remove(0);
    let found = with_mounted(&mount, |place| std::fs::read_to_string(place.join(name)).unwrap());
    assert_eq!(found, text.repeat(1000));
    d.remove(&key).unwrap();
}

/// A daemon that does not run and knows nothing yet.
fn stopped_anew(name: &str, pool: &SharedPool) -> Daemon {
    let mut d = Daemon::start_with(name, &pool.config());
    d.stop("TERM");
    d.remove_devices();
    std::fs::remove_dir_all(d.state()).unwrap();
    d
}

fn database(d: &Daemon) -> PathBuf {
    d.state().join("metadata.redb")
}

#[test]
fn two_daemons_on_one_pool_keep_each_others_layers_in_whatever_order_they_are_killed_and_started() {
    let pool = SharedPool::new("both", ZEROING);
    let mut daemons =
        [Daemon::start_with("one", &pool.config()), Daemon::start_with("two", &pool.config())];
    let mut made: [BTreeMap<String, u32>; 2] = Default::default();
    for (turn, order) in [[0, 1], [1, 0], [0, 0], [1, 1]].into_iter().enumerate() {
        for which in [0, 1] {
            let name = format!("layer-{turn}");
            let parent = if turn == 0 { String::new() } else { format!("layer-{}", turn - 1) };
            let id = layer(&mut daemons[which], &name, &parent, &format!("{which} wrote {turn}. "));
            made[which].insert(name, id);
            daemons[which].prepare(&format!("active-{turn}"), "layer-0").unwrap();
        }
        assert!(active_thins("one").is_disjoint(&active_thins("two")));
        for which in order {
            daemons[which].stop("KILL");
            daemons[1 - which]
                .prepare(&format!("meanwhile-{turn}-{which}-{}", order[0]), "layer-0")
                .unwrap_or_default();
            daemons[which].begin();
            daemons[which].cleanup();
        }
        for which in [0, 1] {
            for (name, id) in &made[which] {
                assert!(
                    pool.has(*id),
                    "thin {id} of {name} of daemon {which} is gone in turn {turn}"
                );
            }
            for n in 0..=turn {
                holds(&mut daemons[which], &format!("layer-{n}"), &format!("{which} wrote {n}. "));
            }
        }
    }
    let ranges = |which: usize| made[which].values().map(|id| id >> 18).collect::<BTreeSet<u32>>();
    assert_eq!((ranges(0).len(), ranges(1).len()), (1, 1), "{made:?}");
    assert!(ranges(0).is_disjoint(&ranges(1)), "{made:?}");
    // Each says of the other that it is there.
    let uuids = ["one", "two"]
        .map(|name| uuid_of(&format!("{name}-snap-{}", active_thins(name).first().unwrap())));
    says(&daemons[0].log(), &["is used by another daemon", &uuids[1], "two-"]);
    says(&daemons[1].log(), &["is used by another daemon", &uuids[0], "one-"]);
    for d in &mut daemons {
        d.stop("TERM");
        let (well, said) = d.command(&["check"]);
        assert!(well, "{said}");
        says(&said, &["note: pool both is used by another daemon", "0 disagreements"]);
    }
    for which in [0, 1] {
        daemons[which].begin();
        holds(&mut daemons[which], "layer-0", &format!("{which} wrote 0. "));
    }
}

#[test]
fn thins_that_somebody_else_makes_in_our_range_are_recognised_and_never_deleted() {
    let pool = SharedPool::new("crowded", ZEROING);
    let mut d = Daemon::start_with("mine", &pool.config());
    let base = layer(&mut d, "base", "", "mine. ");
    // In the lease of this run, some of them on the very ids that come next; one beyond the lease;
    // one beyond the range.
    let theirs: Vec<u32> = (base + 1..base + 9).chain([base + 300, base + (1 << 18)]).collect();
    theirs.iter().for_each(|id| drop(pool.message(&format!("create_thin {id}")).unwrap()));
    let next = layer(&mut d, "next", "base", "after. ");
    assert!(next >= base + 9, "{next} after {base}");
    says(&d.log(), &["not ours; it is set aside"]);
    let all_there = |when: &str| {
        theirs.iter().for_each(|id| assert!(pool.has(*id), "thin {id} is gone {when}"))
    };
    d.restart("KILL");
    d.cleanup();
    all_there("after a crash");
    says(&d.log(), &["pool crowded has 9 thins in this daemon's range that are on no record"]);
    d.stop("TERM");
    d.begin();
    d.cleanup();
    all_there("after a stop");
    // More than a lease of snapshots steps over the one that lies ahead.
    for n in 0..300 {
        d.prepare("passing", "base").unwrap();
        d.remove("passing").unwrap();
        if n % 50 == 0 {
            d.cleanup();
        }
    }
    d.restart("KILL");
    all_there("after another lease");
    d.stop("TERM");
    let (well, said) = d.command(&["check"]);
    assert!(well, "{said}");
    says(
        &said,
        &["note: pool crowded has 9 thins in this daemon's range", "left alone", "delete ID"],
    );
    let (_, said) = d.command(&["check", "--repair"]);
    says(&said, &["0 disagreements"]);
    all_there("after check --repair");
    // One that its owner has deleted is none of theirs any more.
    pool.message(&format!("delete {}", base + 1)).unwrap();
    d.begin();
    d.stop("TERM");
    says(&d.command(&["check"]).1, &["has 8 thins in this daemon's range"]);
    d.begin();
    holds(&mut d, "base", "mine. ");
    holds(&mut d, "next", "after. ");
}

#[test]
fn what_a_crash_left_is_reclaimed_where_a_device_of_ours_stands_on_it_and_set_aside_where_none_does(
) {
    let pool = SharedPool::new("left", ZEROING);
    let mut d = Daemon::start_with("crashed", &pool.config());
    let base = layer(&mut d, "base", "", "kept. ");
    d.prepare("active", "base").unwrap();
    let uuid = uuid_of(&format!("crashed-snap-{}", active_thins("crashed").last().unwrap()));
    d.stop("KILL");
    let (with, without) = (base + 20, base + 21);
    for id in [with, without] {
        pool.message(&format!("create_thin {id}")).unwrap();
    }
    let table = format!("0 2048 thin {} {with}", number_of("left"));
    let device = format!("crashed-template-{with}");
    dmsetup(&[
        "create",
        "--noudevsync",
        &device,
        "--uuid",
        &format!("DMSNAPSHOTTER-{uuid}-template-{with}"),
        "--table",
        &table,
    ]);
    let (_, said) = d.command(&["check"]);
    says(
        &said,
        &[
            &format!("thin {with} is in this daemon's range"),
            &format!("thin {without} is in this daemon's range"),
        ],
    );
    d.begin();
    d.cleanup();
    assert!(!pool.has(with), "the daemon's own device stood on thin {with}");
    assert!(pool.has(without), "thin {without} may be anybody's");
    holds(&mut d, "base", "kept. ");
}

#[test]
fn an_older_copy_of_the_database_is_refused_and_deletes_nothing() {
    let pool = SharedPool::new("aged", ZEROING);
    let mut d = Daemon::start_with("aging", &pool.config());
    let first = layer(&mut d, "first", "", "first. ");
    d.stop("TERM");
    let (file, old, new) = (database(&d), d.state().join("old"), d.state().join("new"));
    std::fs::copy(&file, &old).unwrap();
    d.begin();
    let second = layer(&mut d, "second", "first", "second. ");
    d.prepare("active", "second").unwrap();
    d.stop("TERM");
    d.remove_devices();
    std::fs::rename(&file, &new).unwrap();
    std::fs::copy(&old, &file).unwrap();
    for _ in 0..2 {
        says(
            &d.start_is_refused(),
            &["aged", "the database is a copy from another time", "metadata.redb"],
        );
        let (well, said) = d.command(&["check"]);
        assert!(!well);
        says(&said, &["the database is a copy from another time"]);
    }
    // Nor is it taken when the count beside it is lost as well.
    std::fs::remove_file(d.state().join("metadata.redb.commits")).unwrap();
    says(&d.start_is_refused(), &["aged", "the database is a copy from another time"]);
    assert!(pool.has(first) && pool.has(second));
    std::fs::rename(&new, &file).unwrap();
    d.begin();
    holds(&mut d, "second", "second. ");
    d.mounts("active").unwrap();
}

#[test]
fn a_lost_state_directory_is_recognised_by_its_claim_and_nothing_of_it_is_deleted() {
    let pool = SharedPool::new("wiped", ZEROING);
    let mut d = Daemon::start_with("forgetful", &pool.config());
    let first = layer(&mut d, "first", "", "first. ");
    d.prepare("active", "first").unwrap();
    let lost: BTreeSet<u32> = active_thins("forgetful").into_iter().chain([first]).collect();
    let uuid = uuid_of(&format!("forgetful-snap-{}", lost.last().unwrap()));
    d.stop("KILL");
    d.remove_devices();
    let kept = d.state().with_extension("kept");
    std::fs::rename(d.state(), &kept).unwrap();
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), [""; 0]);
    says(
        &d.log(),
        &["pool wiped is used by another daemon, or was", &uuid, "If that database is lost"],
    );
    let anew = layer(&mut d, "anew", "", "anew. ");
    d.restart("KILL");
    d.cleanup();
    lost.iter().for_each(|id| assert!(pool.has(*id), "thin {id} of the lost database is gone"));
    assert!(!lost.iter().any(|id| id >> 18 == anew >> 18), "{anew} is in the range of {lost:?}");
    d.stop("TERM");
    d.remove_devices();
    // The lost one is found again; now the other is the lost one.
    std::fs::rename(d.state(), d.state().with_extension("other")).unwrap();
    std::fs::rename(&kept, d.state()).unwrap();
    d.begin();
    holds(&mut d, "first", "first. ");
    assert!(pool.has(anew));
}

#[test]
fn another_pool_under_the_same_name_and_an_older_copy_of_the_pool_are_refused() {
    let mut pool = SharedPool::new("same", ZEROING);
    let mut d = Daemon::start_with("loyal", &pool.config());
    d.stop("TERM");
    d.remove_devices();
    dmsetup(&["remove", "--noudevsync", "--retry", "same"]);
    let image =
        |pool: &SharedPool, area: &str| pool.loops[usize::from(area == "data")].file().to_owned();
    let older = std::fs::read(image(&pool, "metadata")).unwrap();
    run(
        "dd",
        &[
            &format!("if={}", image(&pool, "data").display()),
            "of=/tmp/older-data",
            "conv=sparse",
            "bs=1M",
        ],
    );
    dmsetup(&["create", "--noudevsync", "same", "--table", &pool.table(ZEROING)]);
    d.begin();
    let base = layer(&mut d, "base", "", "base. ");
    d.stop("TERM");
    d.remove_devices();
    dmsetup(&["remove", "--noudevsync", "--retry", "same"]);
    // A new pool of the same name, with a thin that is not the daemon's.
    let other = SharedPool::new("same", ZEROING);
    other.message(&format!("create_thin {base}")).unwrap();
    says(&d.start_is_refused(), &["same", "claim, is not in it", "metadata.redb"]);
    assert!(other.has(base));
    drop(other);
    // The pool as it was a start ago.
    let newer = [("metadata", "/tmp/newer-metadata"), ("data", "/tmp/newer-data")];
    for (file, keep) in newer {
        run("cp", &["--sparse=always", image(&pool, file).to_str().unwrap(), keep]);
    }
    let put = |pool: &SharedPool, metadata: &[u8], data: &str| {
        std::fs::write("/tmp/some-metadata", metadata).unwrap();
        run(
            "dd",
            &["if=/tmp/some-metadata", &format!("of={}", pool.loops[0]), "bs=1M", "conv=fsync"],
        );
        run(
            "dd",
            &[&format!("if={data}"), &format!("of={}", pool.loops[1]), "bs=1M", "conv=fsync"],
        );
    };
    put(&pool, &older, "/tmp/older-data");
    dmsetup(&["create", "--noudevsync", "same", "--table", &pool.table(ZEROING)]);
    says(&d.start_is_refused(), &["same", "the pool is a copy from another time"]);
    dmsetup(&["remove", "--noudevsync", "--retry", "same"]);
    put(&pool, &std::fs::read("/tmp/newer-metadata").unwrap(), "/tmp/newer-data");
    dmsetup(&["create", "--noudevsync", "same", "--table", &pool.table(ZEROING)]);
    d.begin();
    holds(&mut d, "base", "base. ");
    pool.name = "same".into();
}

#[test]
fn a_metadata_snapshot_that_somebody_holds_is_no_obstacle_and_stays_theirs() {
    let pool = SharedPool::new("held", ZEROING);
    pool.message("reserve_metadata_snap").unwrap();
    let mut d = Daemon::start_with("patient", &pool.config());
    layer(&mut d, "base", "", "base. ");
    d.restart("KILL");
    holds(&mut d, "base", "base. ");
    pool.message("release_metadata_snap").unwrap();
}

#[test]
fn a_device_of_another_daemon_is_not_removed_whatever_it_is_called() {
    let pool = SharedPool::new("names", ZEROING);
    let mut d = Daemon::start_with("polite", &pool.config());
    let source = d.prepare("a", "").unwrap().remove(0).source;
    let device = source.rsplit('/').next().unwrap().to_owned();
    // Ours goes behind the daemon's back, and another takes its name.
    dmsetup(&["remove", "--noudevsync", &device]);
    dmsetup(&[
        "create",
        "--noudevsync",
        &device,
        "--uuid",
        "DMSNAPSHOTTER-0123-snap-1",
        "--table",
        "0 2048 zero",
    ]);
    d.remove("a").unwrap();
    d.cleanup();
    says(&dmsetup(&["info", &device]), &["DMSNAPSHOTTER-0123-snap-1"]);
    dmsetup(&["remove", "--noudevsync", &device]);
    d.cleanup();
}

#[test]
fn a_pool_that_does_not_zero_new_blocks_is_refused_unless_its_operator_accepts_it() {
    let pool = SharedPool::new("dirty", ZEROING);
    let mut d = stopped_anew("clean", &pool);
    pool.reload("2 skip_block_zeroing error_if_no_space");
    let said = d.start_is_refused();
    says(
        &said,
        &[
            "pool dirty",
            "skip_block_zeroing",
            "another tenant's data",
            "lvchange --zero y",
            "dmsetup reload dirty",
            "accept_pool_features",
        ],
    );
    d.configure(
        "clean",
        &format!("{}accept_pool_features = [\"skip_block_zeroing\"]\n", pool.config()),
    );
    d.begin();
    says(&d.log(), &["accepted by accept_pool_features: skip_block_zeroing"]);
    layer(&mut d, "base", "", "base. ");
    holds(&mut d, "base", "base. ");
    // With zeroing on again, base layers are made that rely on it, and then there is no way back.
    d.stop("TERM");
    pool.reload(ZEROING);
    d.begin();
    layer(&mut d, "other", "", "other. ");
    d.stop("TERM");
    pool.reload("2 skip_block_zeroing error_if_no_space");
    says(
        &d.start_is_refused(),
        &["pool dirty", "skip_block_zeroing", "rely on zeros", "lvchange --zero y"],
    );
    pool.reload(ZEROING);
    d.begin();
    holds(&mut d, "base", "base. ");
    holds(&mut d, "other", "other. ");
}

#[test]
fn a_pool_whose_writes_hang_when_it_is_full_is_refused_unless_its_operator_accepts_it() {
    let pool = SharedPool::new("queueing", ZEROING);
    let mut d = stopped_anew("hasty", &pool);
    pool.reload("0");
    let said = d.start_is_refused();
    says(
        &said,
        &[
            "pool queueing",
            "queue_if_no_space",
            "60 s",
            "lvchange --errorwhenfull y",
            "1 error_if_no_space",
        ],
    );
    d.configure(
        "hasty",
        &format!("{}accept_pool_features = [\"queue_if_no_space\"]\n", pool.config()),
    );
    d.begin();
    says(&d.log(), &["accepted by accept_pool_features: queue_if_no_space"]);
    d.committed("base", "");
}

#[test]
fn a_pool_that_its_owner_suspends_for_a_moment_is_waited_for() {
    let pool = SharedPool::new("moments", ZEROING);
    let mut d = Daemon::start_with("patient", &pool.config());
    d.committed("base", "");
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| {
            for _ in 0..30 {
                dmsetup(&["suspend", &pool.name]);
                std::thread::sleep(std::time::Duration::from_millis(30));
                dmsetup(&["resume", "--noudevsync", &pool.name]);
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        });
        while !owner.is_finished() {
            d.prepare("a", "base").unwrap();
            d.view("v", "base").unwrap();
            d.remove("v").unwrap();
            d.remove("a").unwrap();
        }
    });
    // For longer, and the caller is told what to do.
    dmsetup(&["suspend", &pool.name]);
    says(
        d.prepare("b", "base").unwrap_err().message(),
        &["is suspended", "dmsetup resume moments"],
    );
    dmsetup(&["resume", "--noudevsync", &pool.name]);
    d.prepare("b", "base").unwrap();
}

#[test]
fn features_that_change_under_a_running_daemon_are_seen_and_new_snapshots_are_refused() {
    let pool = SharedPool::new("changing", ZEROING);
    let mut d = Daemon::start_with("watchful", &pool.config());
    layer(&mut d, "base", "", "base. ");
    pool.reload("2 skip_block_zeroing error_if_no_space");
    std::thread::sleep(std::time::Duration::from_secs(5));
    says(&d.log(), &["its owner has changed it", "skip_block_zeroing"]);
    let error = d.prepare("refused", "base").unwrap_err();
    says(error.message(), &["pool changing", "skip_block_zeroing"]);
    d.remove("base").unwrap();
    pool.reload(ZEROING);
    std::thread::sleep(std::time::Duration::from_secs(5));
    d.prepare("fine", "").unwrap();
}

#[test]
fn a_daemon_that_makes_no_claims_is_recognised_by_its_devices() {
    let pool = SharedPool::new("mixed", ZEROING);
    let join = |uuid: &str, id: u32| {
        pool.message(&format!("create_thin {id}")).unwrap();
        let table = format!("0 2048 thin {} {id}", number_of("mixed"));
        let device = format!("{uuid}-snap-{id}");
        dmsetup(&[
            "create",
            "--noudevsync",
            &device,
            "--uuid",
            &format!("DMSNAPSHOTTER-{uuid}-snap-{id}"),
            "--table",
            &table,
        ]);
    };
    join("before", 1 << 23);
    let mut d = Daemon::start_with("newer", &pool.config());
    let base = layer(&mut d, "base", "", "base. ");
    assert!(
        base >= (1 << 23) + (1 << 18),
        "{base} is where a daemon that makes no claims takes its ids"
    );
    says(
        &d.log(),
        &["which claims no thin ids: device before-snap-8388608 of database before stands on it"],
    );
    join("after", (1 << 23) + 1);
    std::thread::sleep(std::time::Duration::from_secs(20));
    says(
        &d.log(),
        &["another daemon of this kind has begun to use the pool", "after-snap-8388609"],
    );
    d.restart("KILL");
    d.cleanup();
    assert!(pool.has(1 << 23) && pool.has((1 << 23) + 1));
    for device in ["before-snap-8388608", "after-snap-8388609"] {
        dmsetup(&["remove", "--noudevsync", device]);
    }
}

/// dm-thin counts a block as used before a thin maps it, and may commit its metadata in between.
#[test]
fn a_block_that_is_being_filled_is_not_counted_as_lost() {
    let pool = SharedPool::new("filling", ZEROING);
    let mut d = Daemon::start_with("watchful", &pool.config());
    d.committed("base", "");
    d.stop("TERM");
    d.remove_devices();
    dmsetup(&["remove", "--noudevsync", "--retry", "filling"]);
    // Writes take 0.8 s, flushes no time.
    run("modprobe", &["dm-delay"]);
    let data = &pool.loops[1].to_string();
    let size = (384u64 << 20) / 512;
    let delay = format!("0 {size} delay {data} 0 0 {data} 0 800 {data} 0 0");
    dmsetup(&["create", "--noudevsync", "filling-below", "--table", &delay]);
    let table = pool.table(ZEROING).replace(data, "/dev/mapper/filling-below");
    dmsetup(&["create", "--noudevsync", "filling", "--table", &table]);
    pool.message("create_thin 5").unwrap();
    let thin = "0 2048 thin /dev/mapper/filling 5";
    dmsetup(&["create", "--noudevsync", "filler", "--table", thin]);
    let before = used_blocks("filling");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let filler = DirectFile::open(Path::new("/dev/mapper/filler")).unwrap();
            filler.write(0, &[7; 65536]).unwrap();
        });
        wait_until("the write takes a block", || used_blocks("filling") > before);
        // Commits the pool's metadata.
        pool.message("create_thin 6").unwrap();
        let (sound, text) = d.command(&["check"]);
        assert!(sound && !text.contains("no thin maps"), "{text}");
        writer.join().unwrap();
    });
    dmsetup(&["remove", "--noudevsync", "--retry", "filler"]);
    d.remove_devices();
    dmsetup(&["remove", "--noudevsync", "--retry", "filling"]);
    dmsetup(&["remove", "--noudevsync", "--retry", "filling-below"]);
}

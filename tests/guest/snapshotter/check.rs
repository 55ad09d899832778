//! `check` finds every disagreement between database, pool and devices. `check --repair`
//! repairs what is safe to repair, and nothing else.
// guest: --mem 2G

use crate::lab::Daemon;
use kit::{dmsetup, run, with_mounted, LoopDevice};
use std::process::Command;

/// A stopped daemon with a committed snapshot and an active child of it, whose devices are still
/// there.
fn stopped(name: &str) -> (Daemon, String) {
    stopped_with(name, "")
}

fn stopped_with(name: &str, config: &str) -> (Daemon, String) {
    let mut d = Daemon::start_with(name, config);
    d.committed("base", "");
    let source = d.prepare("a", "base").unwrap()[0].source.clone();
    d.cleanup();
    d.stop("TERM");
    (d, source.strip_prefix("/dev/mapper/").unwrap().to_owned())
}

#[track_caller]
fn finds(d: &Daemon, parts: &[&str]) {
    let (fine, said) = d.command(&["check"]);
    assert!(!fine, "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[track_caller]
fn finds_nothing(d: &Daemon) {
    let (fine, said) = d.command(&["check"]);
    assert!(fine && said.contains("0 disagreements"), "{said}");
}

#[track_caller]
fn repairs(d: &Daemon) {
    let (fine, said) = d.command(&["check", "--repair"]);
    assert!(fine && said.contains("repaired"), "{said}");
}

#[test]
fn a_sound_state_has_no_disagreements_and_a_running_daemon_is_left_alone() {
    let (mut d, _) = stopped("sound");
    finds_nothing(&d);
    repairs(&d);
    finds_nothing(&d);
    d.begin();
    let (fine, said) = d.command(&["check"]);
    assert!(!fine && said.contains("another daemon works on it"), "{said}");
}

#[test]
fn a_thin_inside_the_lease_that_no_record_owns_is_found_and_deleted() {
    let (d, _) = stopped("leased");
    dmsetup(&["message", "leased-pool", "0", "create_thin 200"]);
    finds(&d, &["thin 200 is on no record", "the next start deletes it", "1 disagreement"]);
    repairs(&d);
    finds_nothing(&d);
}

#[test]
fn a_thin_outside_the_leases_is_found_and_left_alone() {
    let (d, _) = stopped("outside");
    dmsetup(&["message", "outside-pool", "0", "create_thin 9999"]);
    finds(&d, &["thin 9999 is on no record and on no lease"]);
    let (fine, said) = d.command(&["check", "--repair"]);
    assert!(!fine && said.contains("thin 9999"), "{said}");
    dmsetup(&["message", "outside-pool", "0", "delete 9999"]);
    finds_nothing(&d);
}

#[test]
fn the_pool_is_seen_as_it_is_however_often_it_is_looked_at() {
    // So little metadata that dm-thin writes blocks anew that were read before.
    let (d, _) = stopped_with("again", "metadata_size = \"2MiB\"");
    for id in 300..330 {
        dmsetup(&["message", "again-pool", "0", &format!("create_thin {id}")]);
        finds(&d, &[&format!("thin {id} is on no record"), " 1 disagreement"]);
        dmsetup(&["message", "again-pool", "0", &format!("delete {id}")]);
        finds_nothing(&d);
    }
}

#[test]
fn a_suspended_device_is_found_and_resumed() {
    let (d, device) = stopped("frozen");
    dmsetup(&["suspend", "--noudevsync", &device]);
    finds(&d, &[&format!("device {device} is suspended")]);
    repairs(&d);
    finds_nothing(&d);
}

#[test]
fn a_lost_thin_is_found_and_nothing_on_record_is_deleted() {
    let (mut d, device) = stopped("lost");
    let id = device.rsplit('-').next().unwrap().to_owned();
    dmsetup(&["remove", "--noudevsync", &device]);
    dmsetup(&["message", "lost-pool", "0", &format!("delete {id}")]);
    finds(&d, &[&format!("thin {id} of snapshot \"a\" is not in the pool")]);
    let (fine, said) = d.command(&["check", "--repair"]);
    assert!(!fine && said.contains("is not in the pool"), "{said}");
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["a", "base"]);
    d.remove("a").unwrap();
    d.prepare("a", "base").unwrap();
}

#[test]
fn a_device_that_no_record_wants_is_found_and_removed() {
    let (d, device) = stopped("stray");
    let table = dmsetup(&["table", &device]);
    let uuid = dmsetup(&["info", "-c", "--noheadings", "-o", "uuid", &device]);
    let uuid = uuid.trim().replace(&device["stray-".len()..], "view-77");
    dmsetup(&[
        "create",
        "--noudevsync",
        "stray-view-77",
        "--uuid",
        &uuid,
        "--readonly",
        "--table",
        table.trim(),
    ]);
    finds(&d, &["device stray-view-77 is wanted by nothing"]);
    repairs(&d);
    finds_nothing(&d);
}

#[test]
fn a_metadata_snapshot_left_behind_is_released_by_the_next_start() {
    let (mut d, _) = stopped("held");
    dmsetup(&["message", "held-pool", "0", "reserve_metadata_snap"]);
    d.begin();
    d.stop("TERM");
    finds_nothing(&d);
}

#[test]
fn a_suspended_and_mounted_device_goes_on_after_a_start() {
    let mut d = Daemon::start("resumed");
    let mounts = d.prepare("a", "").unwrap();
    let device = mounts[0].source.strip_prefix("/dev/mapper/").unwrap().to_owned();
    with_mounted(&mounts[0], |root| {
        d.stop("KILL");
        dmsetup(&["suspend", "--noudevsync", &device]);
        d.begin();
        std::fs::write(root.join("file"), b"goes on").unwrap();
    });
    d.commit("c", "a").unwrap();
}

#[test]
fn a_removal_that_waits_for_the_last_user_of_a_wanted_device_is_found_and_taken_back() {
    let mut d = Daemon::start("leaving");
    let mounts = d.prepare("a", "").unwrap();
    let device = mounts[0].source.strip_prefix("/dev/mapper/").unwrap().to_owned();
    with_mounted(&mounts[0], |root| {
        dmsetup(&["remove", "--noudevsync", "--deferred", &device]);
        d.stop("TERM");
        finds(&d, &[&format!("device {device} is wanted, and goes as soon as nobody has it open")]);
        d.begin();
        std::fs::write(root.join("file"), b"stays").unwrap();
    });
    assert!(dmsetup(&["ls"]).contains(&device), "the device went with its last user");
    d.stop("TERM");
    finds_nothing(&d);
}

#[test]
fn nodes_that_are_missing_left_over_or_lead_elsewhere_are_put_right_by_a_start() {
    let mut d = Daemon::start("nodes");
    let [missing, elsewhere] = ["a", "b"].map(|key| d.prepare(key, "").unwrap()[0].source.clone());
    let number =
        |node: &str| std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(node).unwrap());
    let right = [number(&missing), number(&elsewhere)];
    d.stop("KILL");
    std::fs::remove_file(&missing).unwrap();
    std::fs::rename(&elsewhere, "/dev/mapper/nodes-snap-4000").unwrap();
    let pool = (number("/dev/mapper/nodes-pool") & 0xff).to_string();
    run("mknod", &[&elsewhere, "b", &(right[1] >> 8 & 0xfff).to_string(), &pool]);
    d.begin();
    assert_eq!([number(&missing), number(&elsewhere)], right);
    assert!(!std::path::Path::new("/dev/mapper/nodes-snap-4000").exists());
    for key in ["a", "b"] {
        with_mounted(&d.mounts(key).unwrap()[0], |root| {
            std::fs::write(root.join("file"), key).unwrap()
        });
    }
}

#[test]
fn ls_shows_each_snapshot_with_its_device_its_thin_and_its_bytes() {
    let (d, device) = stopped("listed");
    let (fine, said) = d.command(&["ls"]);
    assert!(fine, "{said}");
    let line = |key: &str| {
        said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("no {key} in {said}"))
    };
    assert!(line(" a < base").contains(&device) && line(" a < base").contains("KiB"), "{said}");
    assert!(line("committed").ends_with(" base") && line("committed").contains(" - "), "{said}");
    assert!(line("(template)").starts_with("template"), "{said}");
}

/// tests/guest/dm/leak.rs shows how the block comes about.
#[test]
fn a_block_that_a_power_cut_leaked_is_told_and_is_no_disagreement() {
    run("modprobe", &["dm-delay"]);
    let directory = tempfile::tempdir().unwrap();
    let (data, metadata) = (LoopDevice::new("1G"), LoopDevice::new("16M"));
    let sectors = (1u64 << 30) / 512;
    dmsetup(&[
        "create",
        "--noudevsync",
        "slow-disk",
        "--table",
        &format!("0 {sectors} linear {data} 0"),
    ]);
    let config =
        format!("data_device = \"/dev/mapper/slow-disk\"\nmetadata_device = \"{metadata}\"");
    let mut d = Daemon::start_with("leaky", &config);
    let device = d.prepare("a", "").unwrap()[0].source.clone();
    d.stop("KILL");

    // Writes take 3 s from now on; commits of the pool do not wait for them.
    let delay = format!("0 {sectors} delay {data} 0 0 {data} 0 3000 {data} 0 0");
    dmsetup(&["load", "slow-disk", "--table", &delay]);
    dmsetup(&["suspend", "--noudevsync", "--noflush", "slow-disk"]);
    dmsetup(&["resume", "--noudevsync", "slow-disk"]);
    let used = || {
        dmsetup(&["status", "--noflush", "leaky-pool"])
            .split_whitespace()
            .nth(5)
            .unwrap()
            .to_owned()
    };
    let before = used();
    let far = format!("of={device}");
    let mut writer = Command::new("dd")
        .args([
            "if=/dev/zero",
            &far,
            "bs=4096",
            "count=1",
            "seek=1000000",
            "oflag=direct",
            "conv=notrunc",
        ])
        .spawn()
        .unwrap();
    while used() == before {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    dmsetup(&["message", "leaky-pool", "0", "create_thin 200"]);
    let cut = directory.path().join("cut");
    std::fs::copy(metadata.file(), &cut).unwrap();
    assert!(writer.try_wait().unwrap().is_none(), "the write was quicker than the commit");
    assert!(writer.wait().unwrap().success());
    d.remove_devices();
    std::fs::copy(&cut, metadata.file()).unwrap();

    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["a"]);
    d.stop("TERM");
    let (fine, said) = d.command(&["check"]);
    assert!(fine && said.contains("note: 1 of the pool's blocks"), "{said}");
    drop(d);
    dmsetup(&["remove", "--noudevsync", "slow-disk"]);
}

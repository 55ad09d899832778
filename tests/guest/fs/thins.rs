//! File systems on real thins: how many blocks mkfs maps, that this number does not grow by
//! itself, growing, replaying a journal, and failures of mkfs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{
    assert_sound, names_in, sectors, spec, text, thin_id, unmount, ThinLab, GIB, LAZY, MIB,
};
use devmapper_snapshotter::block::{Access, BlockError, Disks, RealDisks};
use devmapper_snapshotter::fs::{Formatter, FsError, FsSpec, FsType, Mkfs, MountOptions, Writer};
use kit::run;

/// A program in a directory of its own, put there under another's name.
fn program(name: &str, script: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let directories = vec![directory.path().to_owned()];
    (directory, directories)
}

/// The device can be claimed, so no process holds it.
fn assert_free(device: &Path) {
    RealDisks.open(device, Access::WriteExclusive).unwrap();
}

#[test]
fn a_new_ext4_maps_few_blocks_is_clean_and_empty_and_does_not_grow_by_itself() {
    let lab = ThinLab::new("few");
    let device = lab.open(1, 10 * GIB);
    let mkfs = Mkfs::new();
    let began = Instant::now();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(10 * GIB)).unwrap();
    let (took, mapped) = (began.elapsed(), lab.mapped(1));
    println!("ext4 of 10 GiB: {mapped} blocks of 64 KiB in {} ms", took.as_millis());
    assert!(mapped <= 20, "{mapped} blocks mapped");
    assert_free(&device);
    assert_sound(&device, FsType::Ext4);

    let state = mkfs.inspect(&device, FsType::Ext4).unwrap();
    assert!(state.clean);
    assert_eq!(state.size, sectors(10 * GIB));
    let uuid = run("blkid", &["-p", "-s", "UUID", "-o", "value", text(&device)]);
    assert_eq!(state.uuid.to_string(), uuid.trim());

    let place = lab.mount(&device, "ext4", "noatime");
    assert_eq!(names_in(&place), [""; 0], "a new file system is empty");
    sleep(LAZY);
    assert!(!mkfs.inspect(&device, FsType::Ext4).unwrap().clean, "clean while it is mounted");
    for name in ["a", "b", "c"] {
        std::fs::write(place.join(name), name).unwrap();
    }
    unmount(&place);
    let later = lab.mapped(1);
    assert!(later <= mapped + 8, "{later} blocks after a while, {mapped} before");
    let after = mkfs.inspect(&device, FsType::Ext4).unwrap();
    assert_eq!(after.used_inodes, state.used_inodes + 3);
    assert!(after.clean);
}

#[test]
fn ext4_grows_tenfold_and_beyond_the_room_reserved_for_it_without_filling_the_pool() {
    let lab = ThinLab::new("grow");
    let device = lab.open(1, 10 * GIB);
    let mkfs = Mkfs::new();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(10 * GIB)).unwrap();
    lab.close(1);
    for (id, size) in [(2, 100 * GIB), (3, 130 * GIB)] {
        lab.snapshot(1, id);
        let device = lab.open(id, size);
        let before = lab.mapped(id);
        let began = Instant::now();
        mkfs.grow(&device, FsType::Ext4, sectors(size), Writer::Anybody).unwrap();
        let (took, mapped) = (began.elapsed(), lab.mapped(id));
        println!(
            "ext4 from 10 to {} GiB: {before} to {mapped} blocks in {} ms",
            size / GIB,
            took.as_millis()
        );
        assert_eq!(mkfs.inspect(&device, FsType::Ext4).unwrap().size, sectors(size));
        assert_sound(&device, FsType::Ext4);
        mkfs.grow(&device, FsType::Ext4, sectors(10 * GIB), Writer::Anybody).unwrap();
        assert_eq!(
            mkfs.inspect(&device, FsType::Ext4).unwrap().size,
            sectors(size),
            "grown twice, the second time to less"
        );

        let place = lab.mount(&device, "ext4", "noatime");
        sleep(LAZY);
        std::fs::write(place.join("file"), vec![7; 8 << 20]).unwrap();
        unmount(&place);
        let later = lab.mapped(id);
        assert!(later <= mapped + 128 + 16, "{later} blocks after writing 128, {mapped} before");
        assert_sound(&device, FsType::Ext4);
        lab.close(id);
    }
}

#[test]
fn ext4_grows_while_somebody_has_it_mounted() {
    let lab = ThinLab::new("online");
    let device = lab.open(1, 2 * GIB);
    let mkfs = Mkfs::new();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap();
    let place = lab.mount(&device, "ext4", "noatime");
    mkfs.grow(&device, FsType::Ext4, sectors(2 * GIB), Writer::Anybody).unwrap();
    let blocks = run("stat", &["-f", "-c", "%b", text(&place)]).trim().parse::<u64>().unwrap();
    assert!(blocks * 4096 > GIB + GIB / 2, "still {blocks} blocks");
    unmount(&place);
    assert_sound(&device, FsType::Ext4);
}

#[test]
fn an_older_mke2fs_is_noticed_and_its_zeros_are_given_back() {
    let lab = ThinLab::new("older");
    let device = lab.open(1, 4 * GIB);
    let log = lab.directory.path().join("log");
    let (_keep, directories) = program("mke2fs", &format!(
        "echo \"$*\" >>{}; case $* in *assume_storage_prezeroed*) echo Bad option >&2; exit 1;; esac; exec /sbin/mke2fs \"$@\"",
        text(&log)
    ));
    let mkfs = Mkfs::new().with_directories(directories);
    let began = Instant::now();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(4 * GIB)).unwrap();
    let (took, mapped) = (began.elapsed(), lab.mapped(1));
    println!(
        "ext4 of 4 GiB by an older mke2fs: {mapped} blocks of 64 KiB in {} ms",
        took.as_millis()
    );
    assert!(mapped <= 40, "{mapped} blocks mapped");
    assert_sound(&device, FsType::Ext4);
    let place = lab.mount(&device, "ext4", "noatime");
    sleep(LAZY);
    unmount(&place);
    assert!(lab.mapped(1) <= mapped + 4, "{} blocks after a while, {mapped} before", lab.mapped(1));

    let asked = |log: &Path| {
        std::fs::read_to_string(log).unwrap().matches("assume_storage_prezeroed").count()
    };
    assert_eq!(asked(&log), 1);
    lab.bench.dm.create_thin(&lab.pool, thin_id(2)).unwrap();
    let second = lab.open(2, GIB);
    mkfs.format(&second, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap();
    assert_eq!(asked(&log), 1, "asked again although the answer was known");
}

#[test]
fn a_new_xfs_maps_few_blocks_grows_and_two_snapshots_mount_side_by_side() {
    let lab = ThinLab::new("xfs");
    let device = lab.open(1, 10 * GIB);
    let mkfs = Mkfs::new();
    let began = Instant::now();
    mkfs.format(&device, &FsSpec::plain(FsType::Xfs), sectors(10 * GIB)).unwrap();
    let (took, mapped) = (began.elapsed(), lab.mapped(1));
    println!("xfs of 10 GiB: {mapped} blocks of 64 KiB in {} ms", took.as_millis());
    assert!(mapped <= 40, "{mapped} blocks mapped");
    assert_sound(&device, FsType::Xfs);
    let state = mkfs.inspect(&device, FsType::Xfs).unwrap();
    assert!(state.clean);
    let uuid = run("blkid", &["-p", "-s", "UUID", "-o", "value", text(&device)]);
    assert_eq!(state.uuid.to_string(), uuid.trim());
    lab.close(1);

    let places: Vec<_> = [(2, 10), (3, 20)]
        .map(|(id, gib)| {
            lab.snapshot(1, id);
            let device = lab.open(id, gib * GIB);
            let began = Instant::now();
            mkfs.grow(&device, FsType::Xfs, sectors(gib * GIB), Writer::Anybody).unwrap();
            println!(
                "xfs grown from 10 to {gib} GiB: {} blocks in {} ms",
                lab.mapped(id),
                began.elapsed().as_millis()
            );
            let grown = mkfs.inspect(&device, FsType::Xfs).unwrap();
            assert_eq!((grown.size, grown.clean), (sectors(gib * GIB), true));
            assert_sound(&device, FsType::Xfs);
            (lab.mount(&device, "xfs", &MountOptions::of(FsType::Xfs).data()), device)
        })
        .into();
    for (place, device) in &places {
        assert_eq!(names_in(place), [""; 0]);
        (0..3).for_each(|name| std::fs::write(place.join(name.to_string()), "x").unwrap());
        unmount(place);
        let after = mkfs.inspect(device, FsType::Xfs).unwrap();
        assert_eq!(after.used_inodes, state.used_inodes + 3);
        assert!(after.clean);
        assert_sound(device, FsType::Xfs);
    }
}

#[test]
fn a_file_system_that_was_not_unmounted_is_seen_and_made_clean() {
    for fs_type in FsType::ALL {
        let lab = ThinLab::new("replay");
        let device = lab.open(1, GIB);
        let mkfs = Mkfs::new();
        mkfs.format(&device, &FsSpec::plain(fs_type), sectors(GIB)).unwrap();
        let options = MountOptions::of(fs_type).data();
        let place = lab.mount(&device, fs_type.name(), &format!("defaults,{options}"));
        std::fs::create_dir(place.join("directory")).unwrap();
        std::fs::write(place.join("directory/file"), "content").unwrap();
        run("sync", &["-f", text(&place)]);
        // As after a power cut: what is on the disk now, and no more.
        lab.snapshot(1, 2);
        unmount(&place);
        let copy = lab.open(2, GIB);
        assert!(
            mkfs.inspect(&device, fs_type).unwrap().clean,
            "{fs_type}: not clean after unmounting"
        );
        assert!(
            !mkfs.inspect(&copy, fs_type).unwrap().clean,
            "{fs_type}: clean without unmounting"
        );
        mkfs.replay(&copy, fs_type).unwrap();
        assert!(
            mkfs.inspect(&copy, fs_type).unwrap().clean,
            "{fs_type}: not clean after replaying"
        );
        assert_free(&copy);
        assert_sound(&copy, fs_type);
        let place = lab.mount(&copy, fs_type.name(), &format!("ro,{options}"));
        assert_eq!(std::fs::read_to_string(place.join("directory/file")).unwrap(), "content");
        unmount(&place);
    }
}

#[test]
fn a_frozen_ext4_counts_as_clean_and_a_frozen_xfs_does_not() {
    for (fs_type, clean) in [(FsType::Ext4, true), (FsType::Xfs, false)] {
        let lab = ThinLab::new("frozen");
        let device = lab.open(1, GIB);
        let mkfs = Mkfs::new();
        mkfs.format(&device, &FsSpec::plain(fs_type), sectors(GIB)).unwrap();
        let place = lab.mount(&device, fs_type.name(), "noatime");
        std::fs::write(place.join("file"), "content").unwrap();
        run("fsfreeze", &["--freeze", text(&place)]);
        lab.snapshot(1, 2);
        run("fsfreeze", &["--unfreeze", text(&place)]);
        unmount(&place);
        let copy = lab.open(2, GIB);
        assert_eq!(mkfs.inspect(&copy, fs_type).unwrap().clean, clean, "{fs_type}");
        mkfs.replay(&copy, fs_type).unwrap();
        assert_sound(&copy, fs_type);
    }
}

#[test]
fn a_damaged_file_system_is_not_called_clean() {
    let lab = ThinLab::new("damaged");
    let device = lab.open(1, GIB);
    let mkfs = Mkfs::new();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap();
    run("debugfs", &["-w", "-R", "ssv state 2", text(&device)]);
    let error = mkfs.replay(&device, FsType::Ext4).unwrap_err();
    assert!(matches!(error, FsError::NotClean { .. }), "{error}");
    let error = mkfs.inspect(&device, FsType::Xfs).unwrap_err();
    assert!(error.to_string().contains("no sound xfs"), "{error}");
}

#[test]
fn a_mkfs_that_hangs_is_killed_with_its_children_and_lets_go_of_the_device() {
    let lab = ThinLab::new("hang");
    let device = lab.open(1, GIB);
    let (_keep, directories) =
        program("mke2fs", "exec 3>\"$(for last in \"$@\"; do case $last in /dev/*) echo $last;; esac; done)\"; echo working >&2; sleep 1000");
    let mkfs = Mkfs::new().with_directories(directories).with_time_limit(Duration::from_secs(2));
    let error = mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap_err();
    let FsError::ProgramTimedOut { stderr, .. } = &error else { panic!("{error}") };
    assert_eq!(stderr, "working");
    assert!(error.to_string().contains(text(&device)), "{error}");
    // The last reference to the device goes when the kernel has buried the killed ones.
    let info = || lab.bench.dm.info(&lab.bench.name("thin1")).unwrap().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while info().open_count > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(10));
    }
    assert_eq!(info().open_count, 0);
}

#[test]
fn a_missing_mkfs_and_its_package_are_named() {
    let lab = ThinLab::new("missing");
    let device = lab.open(1, GIB);
    let mkfs = Mkfs::new().with_directories(vec!["/no/such/place".into()]);
    for (fs_type, names) in
        [(FsType::Ext4, ["mke2fs", "e2fsprogs"]), (FsType::Xfs, ["mkfs.xfs", "xfsprogs"])]
    {
        let error = mkfs.format(&device, &FsSpec::plain(fs_type), sectors(GIB)).unwrap_err();
        assert!(matches!(error, FsError::ProgramMissing { .. }), "{error}");
        for name in names.iter().chain(&["/no/such/place"]) {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    assert_eq!(lab.mapped(1), 0);
}

#[test]
fn users_options_reach_mkfs_and_bad_ones_come_back_in_its_own_words() {
    let lab = ThinLab::new("options");
    let device = lab.open(1, GIB);
    let mkfs = Mkfs::new();
    let error = mkfs.format(&device, &spec(FsType::Ext4, &["-I", "7"]), sectors(GIB)).unwrap_err();
    assert!(error.to_string().contains("invalid inode size"), "{error}");
    let error =
        mkfs.format(&device, &spec(FsType::Xfs, &["-i", "size=7"]), sectors(GIB)).unwrap_err();
    assert!(error.to_string().contains("size") && !error.to_string().contains("Usage"), "{error}");
    let error =
        mkfs.format(&device, &spec(FsType::Ext4, &["/dev/null"]), sectors(GIB)).unwrap_err();
    assert!(matches!(error, FsError::StrayArgument { .. }), "{error}");

    let options = ["-N", "4096", "-L", "a label; $(touch /tmp/shell)", "-E", "root_owner=7:8"];
    mkfs.format(&device, &spec(FsType::Ext4, &options), sectors(GIB)).unwrap();
    assert!(!Path::new("/tmp/shell").exists());
    let shown = run("dumpe2fs", &["-h", text(&device)]);
    assert!(shown.contains("Inode count:              4096"), "{shown}");
    assert!(shown.contains("a label; $(touch"), "{shown}");
    let place = lab.mount(&device, "ext4", "ro");
    assert_eq!(run("stat", &["-c", "%u:%g", text(&place)]).trim(), "7:8");
    unmount(&place);
    assert!(
        lab.mapped(1) <= 20,
        "this crate's own extended options were lost: {} blocks",
        lab.mapped(1)
    );
}

#[test]
fn a_device_with_something_on_it_or_mounted_or_too_small_is_left_alone() {
    let lab = ThinLab::new("refuse");
    let device = lab.open(1, GIB);
    let mkfs = Mkfs::new();
    mkfs.format(&device, &FsSpec::plain(FsType::Xfs), sectors(GIB)).unwrap();
    let before = mkfs.inspect(&device, FsType::Xfs).unwrap();
    let error = mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap_err();
    assert!(error.to_string().contains("an xfs file system (at byte 0)"), "{error}");
    assert_eq!(mkfs.inspect(&device, FsType::Xfs).unwrap(), before);

    let place = lab.mount(&device, "xfs", "ro,norecovery");
    let error = mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap_err();
    assert!(matches!(error, FsError::Block(BlockError::Busy { .. })), "{error}");
    unmount(&place);

    lab.bench.dm.create_thin(&lab.pool, thin_id(2)).unwrap();
    let small = lab.open(2, 64 * MIB);
    let error = mkfs.format(&small, &FsSpec::plain(FsType::Ext4), sectors(GIB)).unwrap_err();
    assert!(matches!(error, FsError::DeviceTooSmall { .. }), "{error}");
    let error = mkfs.grow(&device, FsType::Xfs, sectors(2 * GIB), Writer::Anybody).unwrap_err();
    assert!(matches!(error, FsError::DeviceTooSmall { .. }), "{error}");
    assert_eq!(lab.mapped(2), 0);
}

#[test]
fn an_ext4_smaller_than_its_device_stays_so() {
    let lab = ThinLab::new("smaller");
    let device = lab.open(1, 10 * GIB);
    let mkfs = Mkfs::new();
    mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(64 * MIB)).unwrap();
    assert_eq!(mkfs.inspect(&device, FsType::Ext4).unwrap().size, sectors(64 * MIB));
    assert_sound(&device, FsType::Ext4);
    mkfs.grow(&device, FsType::Ext4, sectors(10 * GIB), Writer::Anybody).unwrap();
    assert_eq!(mkfs.inspect(&device, FsType::Ext4).unwrap().size, sectors(10 * GIB));
    assert_sound(&device, FsType::Ext4);
    let status = Command::new("mount")
        .args(["-t", "ext4", "-o", "ro"])
        .arg(&device)
        .arg(lab.directory.path())
        .status();
    assert!(status.unwrap().success());
    unmount(lab.directory.path());
}

#[test]
fn an_ext4_of_any_size_can_be_made_and_grown() {
    let lab = ThinLab::new("sizes");
    let mkfs = Mkfs::new();
    for (id, size) in
        [(2, 8 * MIB), (3, 16 * MIB), (4, 64 * MIB), (5, 511 * MIB), (6, 512 * MIB + 512)]
    {
        lab.bench.dm.create_thin(&lab.pool, thin_id(id)).unwrap();
        let device = lab.open(id, 4 * GIB);
        mkfs.format(&device, &FsSpec::plain(FsType::Ext4), sectors(size)).unwrap();
        let made = mkfs.inspect(&device, FsType::Ext4).unwrap();
        assert!(
            made.size <= sectors(size) && made.size > sectors(size - MIB),
            "{size} bytes: {made:?}"
        );
        assert_sound(&device, FsType::Ext4);
        let mapped = lab.mapped(id);
        mkfs.grow(&device, FsType::Ext4, sectors(4 * GIB), Writer::Anybody).unwrap();
        let grown = mkfs.inspect(&device, FsType::Ext4).unwrap();
        assert!(grown.size > sectors(4 * GIB - 128 * MIB), "{size} bytes: {grown:?}");
        println!(
            "ext4 of {} MiB: {mapped} blocks, {} when grown to {:?}",
            size / MIB,
            lab.mapped(id),
            grown.size
        );
        assert_sound(&device, FsType::Ext4);
        lab.close(id);
    }
}

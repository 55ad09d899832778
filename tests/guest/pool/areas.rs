//! The daemon does not touch what is not its own: disks that changed their names, files that
//! were exchanged, devices of other programs under its names. A start that is refused leaves
//! nothing behind. When the right disks are put back, all data is there.
// guest: --mem 2G

use crate::lab::{says, Daemon};
use kit::{dmsetup, run, with_mounted, LoopDevice};
use std::path::{Path, PathBuf};

/// A disk under a name of its own, which can be given to another disk as a reboot does.
struct DiskName(PathBuf);

/// A disk with an ext4 on it that fills all of it.
fn disk_with_ext4(size: &str) -> LoopDevice {
    let disk = LoopDevice::new(size);
    run("mkfs.ext4", &["-q", "-F", &disk.node]);
    disk
}

fn checksum(disk: &LoopDevice) -> String {
    run("cksum", &[&disk.node])
}

impl DiskName {
    fn of(name: &str, disk: &LoopDevice) -> DiskName {
        let name = DiskName(Path::new("/dev").join(name));
        name.now_leads_to(disk);
        name
    }

    fn now_leads_to(&self, disk: &LoopDevice) {
        let _ = std::fs::remove_file(&self.0);
        std::os::unix::fs::symlink(&disk.node, &self.0).unwrap();
    }
}

/// What a start that is refused must leave as it was.
#[track_caller]
fn refused_and_untouched(d: &mut Daemon, disks: &[&LoopDevice], parts: &[&str]) {
    let before: Vec<String> = disks.iter().map(|disk| checksum(disk)).collect();
    let devices = dmsetup(&["ls"]);
    says(&d.start_is_refused(), parts);
    assert_eq!(
        disks.iter().map(|disk| checksum(disk)).collect::<Vec<_>>(),
        before,
        "a disk was written to"
    );
    assert_eq!(dmsetup(&["ls"]), devices, "devices were left behind");
}

fn keep_a_file(d: &mut Daemon) {
    let mount = d.prepare("active", "").unwrap().remove(0);
    with_mounted(&mount, |root| std::fs::write(root.join("file"), vec![0x5a; 3 << 20]).unwrap());
    d.commit("layer", "active").unwrap();
}

#[track_caller]
fn has_the_file(d: &mut Daemon) {
    let view = d.view("view", "layer").unwrap().remove(0);
    with_mounted(&view, |root| {
        assert_eq!(std::fs::read(root.join("file")).unwrap(), vec![0x5a; 3 << 20])
    });
    d.remove("view").unwrap();
    d.cleanup();
}

#[test]
fn another_disk_under_the_name_of_the_data_device_is_refused_and_untouched() {
    let (data, metadata) = (LoopDevice::new("72M"), LoopDevice::new("40M"));
    let name = DiskName::of("moved-data", &data);
    let config =
        format!("data_device = \"/dev/moved-data\"\nmetadata_device = \"{}\"", metadata.node);
    let mut d = Daemon::start_with("moved", &config);
    keep_a_file(&mut d);
    d.stop("TERM");
    d.remove_devices();
    let cases = [
        (disk_with_ext4("72M"), "ext4 file system"),
        (disk_with_ext4("144M"), "ext4 file system"),
        (LoopDevice::new("72M"), "it is blank"),
        (disk_with_ext4("66M"), "ext4 file system"),
    ];
    for (other, found) in &cases {
        name.now_leads_to(other);
        refused_and_untouched(
            &mut d,
            &[other, &data, &metadata],
            &["/dev/moved-data is not the disk", "moved-pool", found],
        );
    }
    // A copy of the right disk from before the last start.
    let copy = LoopDevice::new("72M");
    run(
        "dd",
        &[&format!("if={}", data.node), &format!("of={}", copy.node), "bs=1M", "status=none"],
    );
    name.now_leads_to(&data);
    d.begin();
    d.stop("TERM");
    d.remove_devices();
    name.now_leads_to(&copy);
    refused_and_untouched(
        &mut d,
        &[&copy, &data, &metadata],
        &["moved-pool", "copy from another time", "data area"],
    );
    name.now_leads_to(&data);
    d.begin();
    has_the_file(&mut d);
}

#[test]
fn disks_given_the_wrong_way_round_and_another_pools_disk_are_refused() {
    let (data, metadata, others) =
        (LoopDevice::new("72M"), LoopDevice::new("72M"), LoopDevice::new("140M"));
    let two = |data: &LoopDevice, metadata: &LoopDevice| {
        format!("data_device = \"{}\"\nmetadata_device = \"{}\"", data.node, metadata.node)
    };
    let mut other = Daemon::start_with("others", &format!("data_device = \"{}\"", others.node));
    other.stop("TERM");
    let mut d = Daemon::start_with("swapped", &two(&data, &metadata));
    keep_a_file(&mut d);
    d.stop("TERM");
    d.remove_devices();
    for (config, part) in [
        (two(&metadata, &data), "it holds the pool's metadata area"),
        (format!("data_device = \"{}\"", data.node), "it holds the pool's data area"),
        (two(&data, &others), "its label is of pool"),
        (two(&others, &metadata), "its label is of pool"),
    ] {
        d.configure("swapped", &config);
        refused_and_untouched(&mut d, &[&data, &metadata, &others], &[part]);
    }
    d.configure("swapped", &two(&data, &metadata));
    d.begin();
    has_the_file(&mut d);
}

#[test]
fn one_carved_disk_is_known_again_and_another_is_refused() {
    let (right, wrong) = (LoopDevice::new("140M"), disk_with_ext4("140M"));
    let name = DiskName::of("carved-disk", &right);
    let mut d = Daemon::start_with("carved", "data_device = \"/dev/carved-disk\"");
    keep_a_file(&mut d);
    d.stop("TERM");
    // The pool is still assembled on the right disk, and the configuration leads to the wrong one.
    name.now_leads_to(&wrong);
    refused_and_untouched(&mut d, &[&wrong], &["/dev/carved-disk"]);
    d.remove_devices();
    refused_and_untouched(&mut d, &[&wrong, &right], &["/dev/carved-disk is not the disk", "ext4"]);
    name.now_leads_to(&right);
    d.begin();
    has_the_file(&mut d);
}

#[test]
fn after_a_first_start_that_failed_a_disk_with_content_is_still_refused() {
    let (small, right, precious) =
        (LoopDevice::new("20M"), LoopDevice::new("140M"), disk_with_ext4("140M"));
    // Its partition table is gone, and what was in the first partition is not.
    let wiped = LoopDevice::new("140M");
    run("mkfs.ext4", &["-q", "-F", "-E", "offset=1048576", &wiped.node, "128M"]);
    let mut d = Daemon::prepared("failed", "");
    let one = |disk: &LoopDevice| format!("data_device = \"{}\"", disk.node);
    let two = |data: &LoopDevice, metadata: &LoopDevice| {
        format!("{}\nmetadata_device = \"{}\"", one(data), metadata.node)
    };
    for (config, parts) in [
        (one(&small), vec!["too small"]),
        (two(&right, &right), vec!["are the same device", "metadata_device"]),
        (two(&small, &right), vec!["too small"]),
        (two(&right, &precious), vec!["not empty", "ext4"]),
        (one(&precious), vec!["not empty", "ext4", "left untouched"]),
        (one(&wiped), vec!["not empty", "ext4", "left untouched"]),
        (two(&wiped, &right), vec!["not empty", "ext4", "left untouched"]),
    ] {
        d.configure("failed", &config);
        refused_and_untouched(&mut d, &[&small, &right, &precious, &wiped], &parts);
    }
    // Neither the name nor anything else of the failed attempts binds.
    d.configure("corrected", &one(&right));
    d.begin();
    keep_a_file(&mut d);
    d.restart("KILL");
    has_the_file(&mut d);
}

#[test]
fn a_first_start_that_fails_in_the_middle_leaves_no_claim() {
    let disk = LoopDevice::new("140M");
    let mut d = Daemon::prepared("middle", &format!("data_device = \"{}\"", disk.node));
    // Both areas can be made, and the pool cannot.
    dmsetup(&[
        "create",
        "--noudevsync",
        "middle-pool",
        "--uuid",
        "SOMEBODY-ELSE",
        "--table",
        "0 2048 zero",
    ]);
    refused_and_untouched(&mut d, &[&disk], &["middle-pool", "SOMEBODY-ELSE"]);
    dmsetup(&["remove", "--noudevsync", "middle-pool"]);
    d.begin();
    keep_a_file(&mut d);
    has_the_file(&mut d);
}

#[test]
fn a_device_under_the_name_of_an_area_that_somebody_else_made_is_refused() {
    let disk = LoopDevice::new("140M");
    let precious = disk_with_ext4("72M");
    let mut d = Daemon::prepared("taken", &format!("data_device = \"{}\"", disk.node));
    let table = format!("0 147456 linear {} 0", precious.node);
    for (area, uuid) in [("taken-data", "LVM-somebody"), ("taken-metadata", "")] {
        let mut arguments = vec!["create", "--noudevsync", area, "--table", &table];
        if !uuid.is_empty() {
            arguments.extend(["--uuid", uuid]);
        }
        dmsetup(&arguments);
        refused_and_untouched(&mut d, &[&disk, &precious], &[area, "Choose another 'name'", uuid]);
        dmsetup(&["remove", "--noudevsync", area]);
    }
    d.begin();
    keep_a_file(&mut d);
    d.stop("TERM");
    d.remove_devices();
    dmsetup(&["create", "--noudevsync", "taken-data", "--table", &table]);
    refused_and_untouched(&mut d, &[&disk, &precious], &["taken-data"]);
    dmsetup(&["remove", "--noudevsync", "taken-data"]);
    d.begin();
    has_the_file(&mut d);
}

#[test]
fn a_live_area_that_stands_on_another_disk_than_the_record_says_is_refused() {
    let (right, wrong) = (LoopDevice::new("140M"), disk_with_ext4("140M"));
    let mut d = Daemon::start_with("tampered", &format!("data_device = \"{}\"", right.node));
    keep_a_file(&mut d);
    d.stop("TERM");
    let table = dmsetup(&["table", "tampered-data"]);
    let words: Vec<&str> = table.split(' ').collect();
    let load = |table: &str| {
        dmsetup(&["load", "tampered-data", "--table", table]);
        dmsetup(&["suspend", "--noudevsync", "tampered-data"]);
        dmsetup(&["resume", "--noudevsync", "tampered-data"]);
    };
    load(&format!("0 {} linear {} 0", words[1], wrong.node));
    refused_and_untouched(&mut d, &[&wrong], &["tampered-data", "stands on", "should stand on"]);
    load(&table);
    d.begin();
    has_the_file(&mut d);
}

#[test]
fn a_live_snapshot_that_shows_another_thin_than_its_record_says_is_not_handed_out() {
    let mut d = Daemon::start("shows");
    keep_a_file(&mut d);
    let device = d.prepare("child", "layer").unwrap().remove(0).source;
    let name = device.rsplit('/').next().unwrap().to_owned();
    let other = d.prepare("other", "").unwrap().remove(0).source;
    let right = dmsetup(&["table", &name]);
    let wrong = dmsetup(&["table", other.rsplit('/').next().unwrap()]);
    d.stop("TERM");
    let load = |table: &str| {
        dmsetup(&["load", &name, "--table", table]);
        dmsetup(&["suspend", "--noudevsync", &name]);
        dmsetup(&["resume", "--noudevsync", &name]);
    };
    load(&wrong);
    let open = std::fs::File::open(&device).unwrap();
    says(&d.start_is_refused(), &[&name, "stands on", "should stand on"]);
    drop(open);
    d.begin();
    d.mounts("child").unwrap();
    assert_eq!(dmsetup(&["table", &name]), right);
}

#[test]
fn a_data_file_that_is_gone_or_exchanged_is_refused_whether_the_pool_is_assembled_or_not() {
    let mut other = Daemon::start("otherfiles");
    other.stop("TERM");
    other.remove_devices();
    let mut d = Daemon::start("files");
    keep_a_file(&mut d);
    d.stop("TERM");
    let file = d.state().join("data.img");
    let kept = d.state().join("kept");
    for assembled in [true, false] {
        if !assembled {
            d.remove_devices();
        }
        std::fs::rename(&file, &kept).unwrap();
        refused_and_untouched(&mut d, &[], &["data.img", "is not there"]);
        assert!(!file.exists(), "a file was made in its place");
        std::fs::copy(other.state().join("data.img"), &file).unwrap();
        let before = run("cksum", &[file.to_str().unwrap()]);
        refused_and_untouched(&mut d, &[], &["data.img"]);
        assert_eq!(run("cksum", &[file.to_str().unwrap()]), before);
        std::fs::rename(&kept, &file).unwrap();
    }
    // A copy of its own file from before the last start.
    std::fs::copy(&file, &kept).unwrap();
    d.begin();
    d.stop("TERM");
    d.remove_devices();
    let newest = d.state().join("newest");
    std::fs::rename(&file, &newest).unwrap();
    std::fs::copy(&kept, &file).unwrap();
    refused_and_untouched(&mut d, &[], &["files-pool", "copy from another time"]);
    std::fs::rename(&newest, &file).unwrap();
    d.begin();
    has_the_file(&mut d);
}

//! File systems that a hostile guest has written, or that lost writes to a bad disk. Commit and
//! Prepare must return, the kernel must survive, and a layer that is known to have lost data
//! must not be committed.
// guest: --mem 3G

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::lab::{refused, Daemon};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::{Code, Status};
use kit::{dmsetup, run, try_dmsetup, with_mounted, LoopDevice};
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};

const SMALL: &str = "base_image_size = \"512MiB\"";

fn debugfs(device: &str, commands: &[&str]) {
    commands.iter().for_each(|command| drop(run("debugfs", &["-w", "-R", command, device])));
}

/// Writes files as an unpacker does, and unmounts.
fn unpack(mount: &Mount) {
    with_mounted(mount, |root| {
        std::fs::create_dir_all(root.join("etc")).unwrap();
        (0..40).for_each(|n| std::fs::write(root.join(format!("etc/{n}")), vec![n; 7000]).unwrap());
    });
}

/// Mounts, runs, and ends the file system without unmounting it, as the end of a virtual machine
/// does: the log is on the disk.
fn cut_short(mount: &Mount, action: impl FnOnce(&Path)) {
    with_mounted(mount, |root| {
        action(root);
        run("sync", &["-f", root.to_str().unwrap()]);
        run("xfs_io", &["-x", "-c", "shutdown -f", root.to_str().unwrap()]);
    });
}

/// How often the kernel has mounted an ext4 since it began, by its own log.
fn ext4_mounts() -> usize {
    run("dmesg", &[]).matches("mounted filesystem with").count()
}

/// Mounts with the options that were handed out; a file system that the kernel does not take is
/// fine, too.
fn try_to_write(mount: &Mount) {
    let target = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", &mount.r#type, "-o", &mount.options.join(","), &mount.source])
        .arg(target.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if mounted.success() {
        for n in 0..20 {
            let _ = std::fs::create_dir(target.path().join(format!("d{n}")));
            let _ = std::fs::write(target.path().join(format!("d{n}/file")), vec![1; 100_000]);
            let _ = std::fs::remove_file(target.path().join(format!("etc/{n}")));
        }
        let _ = Command::new("sync").arg("-f").arg(target.path()).stderr(Stdio::null()).status();
        run("umount", &[target.path().to_str().unwrap()]);
    }
}

#[test]
fn a_file_system_that_asks_for_a_panic_gets_an_answer_and_the_host_lives() {
    let mut d = Daemon::start_with("hostile", SMALL);
    let kill = "ssv errors 3";
    // Each with what Commit must say; nothing where either answer is right.
    let cases: &[(&str, &[&str], Option<Code>)] = &[
        ("an orphan beyond all inodes", &[kill, "ssv last_orphan 99999999"], Some(Code::DataLoss)),
        ("the root as an orphan", &[kill, "ssv last_orphan 2"], Some(Code::DataLoss)),
        ("the journal as an orphan", &[kill, "ssv last_orphan 8"], None),
        ("a file as an orphan", &[kill, "ssv last_orphan 15"], None),
        (
            "a journal to replay that is none",
            &[kill, "zap -f <8> 0", "feature needs_recovery"],
            Some(Code::DataLoss),
        ),
        (
            "a journal without an inode",
            &[kill, "clri <8>", "feature needs_recovery"],
            Some(Code::DataLoss),
        ),
        ("a journal of another inode", &[kill, "ssv journal_inum 12"], Some(Code::Internal)),
        ("a journal on another device", &[kill, "ssv journal_dev 1793"], Some(Code::Internal)),
        (
            "unknown features",
            &[kill, "ssv last_orphan 15", "ssv feature_incompat 0x800002c6"],
            Some(Code::Internal),
        ),
        ("more blocks than the device", &[kill, "ssv blocks_count 9999999"], Some(Code::Internal)),
        ("groups of one block", &[kill, "ssv blocks_per_group 1"], Some(Code::Internal)),
        (
            "bitmaps that lie",
            &[kill, "ssv mount_opts errors=panic", "zap -f <2> 0 -p 0x55", "freei <15>"],
            None,
        ),
        (
            "descriptors that lie",
            &[kill, "set_bg 0 block_bitmap 1", "set_bg 0 inode_table 2"],
            None,
        ),
        ("errors that it noted", &[kill, "ssv error_count 3", "ssv state 3"], Some(Code::DataLoss)),
    ];
    for (n, (what, commands, expected)) in cases.iter().enumerate() {
        let key = format!("active-{n}");
        let mount = d.prepare(&key, "").unwrap().remove(0);
        unpack(&mount);
        debugfs(&mount.source, commands);
        let mounted = ext4_mounts();
        let answer = d.commit(&format!("layer-{n}"), &key);
        println!("{what}: {}", answer.as_ref().map_or_else(Status::message, |()| "committed"));
        assert_eq!(ext4_mounts(), mounted, "{what}: Commit mounted it");
        match (answer, expected) {
            (Err(status), Some(code)) => {
                assert_eq!(status.code(), *code, "{what}: {status}");
                // What it found damaged is not sound the next time.
                refused(d.commit(&format!("layer-{n}"), &key), *code, &[]);
            }
            (Ok(()), Some(_)) => panic!("{what}: committed"),
            (Err(_), None) => {}
            (Ok(()), None) => {
                let child =
                    d.prepare(&format!("child-{n}"), &format!("layer-{n}")).unwrap().remove(0);
                try_to_write(&child);
                d.remove(&format!("child-{n}")).unwrap();
                d.remove(&format!("layer-{n}")).unwrap();
                continue;
            }
        }
        // As it is, it is there to be looked at, and mounted by the options that were handed out.
        try_to_write(&d.mounts(&key).unwrap().remove(0));
        d.remove(&key).unwrap();
    }
    d.cleanup();
    d.committed("after", "");
}

#[test]
fn a_child_of_a_hostile_parent_is_grown_without_the_kernel() {
    let mut d = Daemon::start_with("hostgrow", SMALL);
    let mount = d.prepare("a", "").unwrap().remove(0);
    unpack(&mount);
    debugfs(&mount.source, &["ssv errors 3", "ssv mount_opts errors=panic"]);
    d.commit("layer", "a").unwrap();
    let mounted = ext4_mounts();
    let child = d
        .prepare_labelled("child", "layer", &[("containerd.io/snapshot/max-size", "2GiB")])
        .unwrap()
        .remove(0);
    assert_eq!(ext4_mounts(), mounted, "it was mounted to be grown");
    run("e2fsck", &["-fn", &child.source]);
    with_mounted(&child, |root| {
        assert_eq!(std::fs::read(root.join("etc/7")).unwrap(), [7; 7000]);
        std::fs::write(root.join("large"), vec![1; 700 << 20]).unwrap();
    });
}

#[test]
fn every_kind_of_ext4_mounts_by_the_options_that_are_handed_out_and_they_win_over_the_superblock() {
    let kinds = [
        "",
        "fs_options = [\"-b\", \"1024\"]",
        "fs_options = [\"-O\", \"^has_journal\"]",
        "fs_options = [\"-e\", \"panic\"]",
        "fs_options = [\"-O\", \"^metadata_csum,^64bit,^extents\"]",
        "fs_options = [\"-O\", \"bigalloc\"]",
    ];
    for (n, kind) in kinds.iter().enumerate() {
        let mut d = Daemon::start_with(&format!("kind{n}"), &format!("{SMALL}\n{kind}"));
        let mount = d.prepare("a", "").unwrap().remove(0);
        assert_eq!(mount.options, ["errors=remount-ro"], "{kind}");
        // journal_data, user_xattr, nobarrier and more by default; and a policy.
        debugfs(&mount.source, &["ssv default_mount_opts 0x0864", "ssv errors 3"]);
        if n % 2 == 1 {
            debugfs(&mount.source, &["ssv mount_opts errors=panic"]);
        }
        with_mounted(&mount, |root| {
            let table = std::fs::read_to_string("/proc/mounts").unwrap();
            let line = table.lines().find(|line| line.contains(root.to_str().unwrap())).unwrap();
            println!("{kind}: {line}");
            assert!(line.contains("errors=remount-ro"), "{line}");
            std::fs::write(root.join("file"), "content").unwrap();
        });
        d.commit("layer", "a").unwrap();
        let view = d.view("v", "layer").unwrap().remove(0);
        assert_eq!(view.options, ["ro", "errors=remount-ro"], "{kind}");
        with_mounted(&view, |root| {
            assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "content")
        });
    }
}

#[test]
fn a_layer_that_was_cut_short_is_replayed_without_the_kernel_and_whole() {
    let mut d = Daemon::start_with("cutshort", &format!("{SMALL}\nmount_untrusted = false"));
    let mount = d.prepare("a", "").unwrap().remove(0);
    let mut open = None;
    with_mounted(&mount, |root| {
        std::fs::write(root.join("old"), "old").unwrap();
    });
    let target = tempfile::tempdir().unwrap();
    run("mount", &["-t", "ext4", &mount.source, target.path().to_str().unwrap()]);
    for n in 0..100 {
        std::fs::write(target.path().join(format!("f{n}")), vec![n; 5000]).unwrap();
    }
    std::fs::rename(target.path().join("f1"), target.path().join("renamed")).unwrap();
    // Deleted while open: an orphan.
    open.replace(File::open(target.path().join("f2")).unwrap());
    std::fs::remove_file(target.path().join("f2")).unwrap();
    run("sync", &["-f", target.path().to_str().unwrap()]);
    run("xfs_io", &["-x", "-c", "shutdown -f", target.path().to_str().unwrap()]);
    drop(open);
    run("umount", &[target.path().to_str().unwrap()]);
    let mounted = ext4_mounts();
    d.commit("layer", "a").unwrap();
    assert_eq!(ext4_mounts(), mounted, "Commit mounted it");
    let view = d.view("v", "layer").unwrap().remove(0);
    run("e2fsck", &["-fn", &view.source]);
    with_mounted(&view, |root| {
        assert_eq!(std::fs::read_to_string(root.join("old")).unwrap(), "old");
        assert_eq!(std::fs::read(root.join("renamed")).unwrap(), [1; 5000]);
        assert!(
            (3..100).all(|n| std::fs::read(root.join(format!("f{n}"))).unwrap() == vec![n; 5000])
        );
        assert!(!root.join("f1").exists() && !root.join("f2").exists());
    });
}

#[test]
fn an_xfs_that_others_wrote_is_not_mounted_where_that_is_forbidden() {
    let config = format!("{SMALL}\nfs_type = \"xfs\"\nmount_untrusted = false");
    let mut d = Daemon::start_with("hostxfs", &config);
    // Our own template may be grown; what was unmounted in order needs no mount.
    let larger = [("containerd.io/snapshot/max-size", "600MiB")];
    unpack(&d.prepare_labelled("whole", "", &larger).unwrap().remove(0));
    d.commit("layer", "whole").unwrap();

    let mount = d.prepare("cut", "layer").unwrap().remove(0);
    cut_short(&mount, |root| std::fs::write(root.join("file"), "content").unwrap());
    let says = ["mount_untrusted = false", "replay its log", "unmount it before it is committed"];
    refused(d.commit("layer-2", "cut"), Code::FailedPrecondition, &says);
    let larger = [("containerd.io/snapshot/max-size", "1GiB")];
    let says = ["mount_untrusted = false", "grow it", "max-size"];
    refused(d.prepare_labelled("larger", "layer", &larger), Code::FailedPrecondition, &says);
    with_mounted(&d.mounts("cut").unwrap()[0], |root| {
        assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "content");
    });
    d.commit("layer-2", "cut").unwrap();
}

#[test]
fn an_xfs_is_not_mounted_while_damage_in_one_would_end_the_kernel() {
    let mut d = Daemon::start_with("panicmask", &format!("{SMALL}\nfs_type = \"xfs\""));
    cut_short(&d.prepare("cut", "").unwrap()[0], |root| {
        std::fs::write(root.join("file"), "content").unwrap()
    });
    std::fs::write("/proc/sys/fs/xfs/panic_mask", "127").unwrap();
    let answer = d.commit("layer", "cut");
    std::fs::write("/proc/sys/fs/xfs/panic_mask", "0").unwrap();
    refused(answer, Code::FailedPrecondition, &["fs.xfs.panic_mask is 127", "set it to 0"]);
    d.commit("layer", "cut").unwrap();
}

/// A device for the pool's data that can be made to lose writes, and a sound one for its metadata.
struct Losing {
    data: LoopDevice,
    metadata: LoopDevice,
    sectors: u64,
}

impl Losing {
    fn new() -> Losing {
        let (data, metadata) = (LoopDevice::new("2G"), LoopDevice::new("64M"));
        let losing = Losing { data, metadata, sectors: (2 << 30) / 512 };
        dmsetup(&["create", "losing", "--table", &losing.table(false)]);
        dmsetup(&["mknodes"]);
        losing
    }

    fn config(&self) -> String {
        format!(
            "{SMALL}\ndata_device = \"/dev/mapper/losing\"\nmetadata_device = \"{}\"",
            self.metadata
        )
    }

    /// What lies behind the first 64 MiB is lost. (The target `error` leaves flushes alone,
    /// `flakey` does not, and then dm-thin's own commits fail.)
    fn table(&self, losing: bool) -> String {
        let Losing { data, sectors, .. } = self;
        let sound = if losing { 64 << 11 } else { *sectors };
        let rest = format!("\n{sound} {} error", sectors - sound);
        format!("0 {sound} linear {data} 0{}", if losing { &rest } else { "" })
    }

    fn lose_writes(&self, losing: bool) {
        dmsetup(&["suspend", "--nolockfs", "--noflush", "losing"]);
        dmsetup(&["reload", "losing", "--table", &self.table(losing)]);
        dmsetup(&["resume", "losing"]);
    }
}

impl Drop for Losing {
    fn drop(&mut self) {
        let _ = try_dmsetup(&["remove", "--retry", "losing"]);
    }
}

/// Writes a file of `size` bytes, and has the kernel write it out while the disk loses writes, for
/// as long as that takes. The file's writer asks for nothing, and hears of nothing.
fn lose(losing: &Losing, path: &Path, size: usize) {
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all_at(&vec![0xa5; size], 0).unwrap();
    losing.lose_writes(true);
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    sleep(Duration::from_secs(1));
    losing.lose_writes(false);
}

#[test]
fn a_layer_that_a_failing_disk_lost_a_write_of_is_not_committed() {
    for journal_sector in [false, true] {
        let losing = Losing::new();
        let mut d = Daemon::start_with("lost", &losing.config());
        d.committed("base", "");
        let mount = d.prepare("a", "base").unwrap().remove(0);
        with_mounted(&mount, |root| {
            std::fs::write(root.join("before"), vec![1; 64 << 20]).unwrap();
            run("sync", &["-f", root.to_str().unwrap()]);
            lose(&losing, &root.join("lost"), 3 << 20);
            if journal_sector {
                // The journal's commit as well: the error is on record then.
                let _ = Command::new("sync").arg("-f").arg(root).stderr(Stdio::null()).status();
                let _ = std::fs::write(root.join("after"), "x");
            }
        });
        let status = d.commit("layer", "a").expect_err("a layer with a hole was committed");
        println!("{status}");
        assert_eq!(status.code(), Code::DataLoss, "{status}");
        for part in ["cannot be committed", "met errors", "remove the snapshot and make it again"] {
            assert!(status.message().contains(part), "{part:?}: {status}");
        }
        // Refused again, and nothing else is.
        refused(d.commit("layer", "a"), Code::DataLoss, &["met errors"]);
        d.remove("a").unwrap();
        unpack(&d.prepare("b", "base").unwrap()[0]);
        d.commit("layer", "b").unwrap();
        drop(d);
        drop(losing);
    }
}

#[test]
fn a_layer_that_lost_a_write_is_not_committed_while_it_is_mounted_either() {
    let losing = Losing::new();
    let mut d = Daemon::start_with("lostopen", &losing.config());
    let mount = d.prepare("a", "").unwrap().remove(0);
    with_mounted(&mount, |root| {
        std::fs::write(root.join("before"), vec![1; 64 << 20]).unwrap();
        run("sync", &["-f", root.to_str().unwrap()]);
        lose(&losing, &root.join("lost"), 3 << 20);
        let status = d.commit("layer", "a").expect_err("a layer with a hole was committed");
        println!("{status}");
    });
    refused(d.commit("layer", "a"), Code::DataLoss, &["met errors"]);
    drop(d);
}

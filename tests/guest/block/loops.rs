//! Loop devices: attached, found by the file below them, grown, detached.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::PathBuf;
use std::thread;

use crate::lab::{is_attached, sectors, text, OnLoop, MIB};
use devmapper_snapshotter::block::{
    allocated, create_sparse, discard_all, Access, BlockError, Disks, LoopDevice, LoopOptions,
    Loops, RealDisks,
};
use kit::{run, soon};

#[test]
fn a_file_is_attached_found_by_what_it_is_detached_and_attached_again() {
    let loops = Loops::default();
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (directory.path().join("file"), directory.path().join("other"));
    create_sparse(&file, 8 * MIB).unwrap();
    create_sparse(&other, 8 * MIB).unwrap();
    assert!(!is_attached(&file));
    let device = loops.attach(&file, LoopOptions::default()).unwrap();
    assert_eq!(device.size().unwrap(), sectors(8 * MIB));
    assert!(std::fs::metadata(device.path()).unwrap().file_type().is_block_device());
    let listed = run("losetup", &["--noheadings", "--output", "BACK-FILE", text(device.path())]);
    assert_eq!(listed.trim(), text(&file));

    // By another name it is the same file; another file under its old name is not.
    let renamed = directory.path().join("renamed");
    std::fs::rename(&file, &renamed).unwrap();
    std::fs::rename(&other, &file).unwrap();
    assert!(!is_attached(&file), "found by its name");
    let found = loops.find(&renamed).unwrap();
    assert_eq!(found.iter().map(LoopDevice::number).collect::<Vec<_>>(), [device.number()]);

    let disk = RealDisks.open(device.path(), Access::Write).unwrap();
    disk.write_at(b"kept", 4096).unwrap();
    disk.flush().unwrap();
    drop((disk, found));
    device.detach().unwrap();
    assert!(!is_attached(&renamed));
    let again = loops.attach(&renamed, LoopOptions::default()).unwrap();
    let mut content = [0; 4];
    RealDisks.open(again.path(), Access::Read).unwrap().read_at(&mut content, 4096).unwrap();
    assert_eq!(&content, b"kept");
    drop(again);
    assert_eq!(loops.detach_all(&renamed).unwrap(), 1);
    assert!(!is_attached(&renamed));
    assert_eq!(loops.detach_all(&renamed).unwrap(), 0);
}

#[test]
fn a_device_that_is_open_elsewhere_is_detached_when_that_ends() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    create_sparse(&file, 8 * MIB).unwrap();
    let device = Loops::default().attach(&file, LoopOptions::default()).unwrap();
    let opener = RealDisks.open(device.path(), Access::Write).unwrap();
    let backing = backing_file(&device);
    device.detach().unwrap();
    assert!(backing.exists());
    opener.write_at(b"still there", 0).unwrap();
    opener.flush().unwrap();
    drop(opener);
    assert!(soon(|| !backing.exists()), "still attached");
    assert_eq!(&std::fs::read(&file).unwrap()[..11], b"still there");
}

/// What sysfs has for as long as the device is attached.
fn backing_file(device: &LoopDevice) -> PathBuf {
    let name = device.path().file_name().unwrap();
    PathBuf::from("/sys/block").join(name).join("loop/backing_file")
}

#[test]
fn a_device_over_a_part_of_the_file_is_not_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    create_sparse(&file, 8 * MIB).unwrap();
    let part = run("losetup", &["--find", "--show", "--offset", "4096", text(&file)]);
    assert!(!is_attached(&file));
    run("losetup", &["--detach", part.trim()]);
}

#[test]
fn a_device_follows_its_file_when_that_grows() {
    let disk = OnLoop::new(8 * MIB);
    assert_eq!(create_sparse(&disk.file, 24 * MIB).unwrap(), 24 * MIB);
    assert_eq!(disk.device.size().unwrap(), sectors(8 * MIB), "grown without being told");
    assert_eq!(disk.device.set_capacity().unwrap(), sectors(24 * MIB));
    assert_eq!(
        RealDisks.open(disk.path(), Access::Read).unwrap().size().unwrap(),
        sectors(24 * MIB)
    );
}

#[test]
fn a_missing_node_is_made_and_a_wrong_one_is_refused() {
    let disk = OnLoop::new(8 * MIB);
    let node = disk.path().to_owned();
    std::fs::remove_file(&node).unwrap();
    let found = Loops::default().find(&disk.file).unwrap();
    assert_eq!(found[0].path(), node);
    assert!(std::fs::metadata(&node).unwrap().file_type().is_block_device());

    std::fs::remove_file(&node).unwrap();
    run("mknod", &[text(&node), "b", "7", "200"]);
    let error = Loops::default().find(&disk.file).unwrap_err();
    std::fs::remove_file(&node).unwrap();
    assert!(matches!(error, BlockError::LoopWrongNode { .. }), "{error}");
    assert!(error.to_string().contains(text(&node)), "{error}");
    assert!(is_attached(&disk.file));
}

#[test]
fn with_autoclear_a_device_goes_with_its_last_opener() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    create_sparse(&file, 8 * MIB).unwrap();
    let options = LoopOptions { autoclear: true, ..LoopOptions::default() };
    let device = Loops::default().attach(&file, options).unwrap();
    let opener = RealDisks.open(device.path(), Access::Read).unwrap();
    let backing = backing_file(&device);
    drop(device);
    assert!(backing.exists(), "gone although somebody has it open");
    drop(opener);
    assert!(soon(|| !backing.exists()), "still attached");
}

#[test]
fn options_are_what_the_device_has_by_the_newer_call_and_by_the_older_ones() {
    for loops in [Loops::default(), Loops::default().in_steps()] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        create_sparse(&file, 8 * MIB).unwrap();
        let options =
            LoopOptions { block_size: 4096, read_only: true, direct_io: false, autoclear: true };
        let device = loops.attach(&file, options).unwrap();
        assert!(!device.direct_io());
        assert!(RealDisks.open(device.path(), Access::Read).unwrap().is_read_only().unwrap());
        let shown = run(
            "losetup",
            &["-n", "-O", "LOG-SEC,AUTOCLEAR,RO,DIO,BACK-FILE", text(device.path())],
        );
        assert_eq!(
            shown.split_whitespace().collect::<Vec<_>>(),
            ["4096", "1", "1", "0", text(&file)]
        );
        device.detach().unwrap();
        let error = loops.attach(&file, LoopOptions { block_size: 777, ..options }).unwrap_err();
        assert!(matches!(error, BlockError::LoopAttach { .. }), "{error}");
        assert!(!is_attached(&file), "left attached after failing");
        let error = loops.attach(&directory.path().join("missing"), options).unwrap_err();
        assert!(matches!(error, BlockError::Open { .. }), "{error}");
        let plain = loops.attach(&file, LoopOptions::default()).unwrap();
        RealDisks.open(plain.path(), Access::Write).unwrap().write_at(b"written", 0).unwrap();
        drop(plain);
        assert_eq!(Loops::default().detach_all(&file).unwrap(), 1, "gone with its opener");
    }
}

#[test]
fn direct_io_is_used_where_the_file_system_has_it_and_done_without_elsewhere() {
    let outer = OnLoop::ext4(64 * MIB);
    let place = outer.mount();
    let on_ext4 = place.join("file");
    let on_proc = PathBuf::from("/dev/shm/file");
    for (file, direct) in [(&on_ext4, Some(true)), (&on_proc, None)] {
        create_sparse(file, 8 * MIB).unwrap();
        let device = Loops::default().attach(file, LoopOptions::default()).unwrap();
        let flag =
            PathBuf::from("/sys/block").join(device.path().file_name().unwrap()).join("loop/dio");
        let flag = std::fs::read_to_string(flag).unwrap().trim() == "1";
        assert_eq!(device.direct_io(), flag);
        assert!(
            direct.is_none_or(|direct| direct == flag),
            "{}: direct I/O {flag}",
            file.display()
        );
        let disk = RealDisks.open(device.path(), Access::Write).unwrap();
        disk.write_at(b"content", 8192).unwrap();
        disk.flush().unwrap();
        drop(disk);
        device.detach().unwrap();
        let mut content = [0; 7];
        File::open(file).unwrap().read_exact_at(&mut content, 8192).unwrap();
        assert_eq!(&content, b"content");
        std::fs::remove_file(file).unwrap();
    }
    run("umount", &[text(&place)]);
}

#[test]
fn a_discard_through_the_loop_device_shrinks_the_file() {
    let disk = OnLoop::new(64 * MIB);
    let device = RealDisks.open(disk.path(), Access::Write).unwrap();
    device.write_at(&vec![5; 16 << 20], 0).unwrap();
    device.flush().unwrap();
    assert!(allocated(&disk.file).unwrap() >= 16 * MIB);
    assert!(
        discard_all(device.as_ref(), devmapper_snapshotter::units::Sectors(128), || true).unwrap()
    );
    assert!(allocated(&disk.file).unwrap() < MIB, "{} bytes left", allocated(&disk.file).unwrap());
    assert_eq!(std::fs::metadata(&disk.file).unwrap().len(), 64 * MIB, "the file was cut");
}

#[test]
fn many_at_once_each_get_a_device_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let numbers: BTreeSet<_> = thread::scope(|scope| {
        let attaching: Vec<_> = (0..24)
            .map(|index| {
                let file = directory.path().join(index.to_string());
                scope.spawn(move || {
                    create_sparse(&file, MIB).unwrap();
                    let device = Loops::default().attach(&file, LoopOptions::default()).unwrap();
                    device.number().minor
                })
            })
            .collect();
        attaching.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(numbers.len(), 24);
    for index in 0..24 {
        assert_eq!(
            Loops::default().detach_all(&directory.path().join(index.to_string())).unwrap(),
            1
        );
    }
}

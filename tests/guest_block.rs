//! Block devices on a real kernel: claiming, sealing, discarding, loop devices, mounts that nobody else sees.
//! Needs root, loop devices and device-mapper; the rig runs it in a guest.

mod dm_common;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use devmapper_snapshotter::block::{
    allocated, create_sparse, discard_all, find_content, with_private_mount, Access, BlockError, Disks, LoopDevice,
    LoopOptions, Loops, PrivateMount, RealDisks,
};
use devmapper_snapshotter::dm::{ActivateOptions, Target, ThinStatus};
use devmapper_snapshotter::units::Sectors;
use dm_common::{run, thin_id, Bench, MIB};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes / 512)
}

/// A directory with a sparse file in it, and the file's loop device, detached at the end.
struct OnLoop {
    directory: tempfile::TempDir,
    file: PathBuf,
    device: LoopDevice,
}

impl OnLoop {
    fn new(bytes: u64) -> OnLoop {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        create_sparse(&file, bytes).unwrap();
        let device = Loops::default().attach(&file, LoopOptions::default()).unwrap();
        OnLoop { directory, file, device }
    }

    fn ext4(bytes: u64) -> OnLoop {
        let disk = OnLoop::new(bytes);
        run("mke2fs", &["-q", "-t", "ext4", text(disk.path())]);
        disk
    }

    fn path(&self) -> &Path {
        self.device.path()
    }

    fn mount(&self) -> PathBuf {
        let place = self.directory.path().join("mounted");
        std::fs::create_dir_all(&place).unwrap();
        run("mount", &["-t", "ext4", text(self.path()), text(&place)]);
        place
    }
}

impl Drop for OnLoop {
    fn drop(&mut self) {
        let _ = Loops::default().detach_all(&self.file);
    }
}

fn is_attached(file: &Path) -> bool {
    !Loops::default().find(file).unwrap().is_empty()
}

/// Whether something comes true within ten seconds.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

// --- open, seal, discard, flush ---

#[test]
fn a_mounted_or_claimed_device_is_busy_for_those_who_want_it_alone() {
    let disk = OnLoop::ext4(16 * MIB);
    let place = disk.mount();
    for access in [Access::ReadExclusive, Access::WriteExclusive] {
        let error = RealDisks.open(disk.path(), access).unwrap_err();
        assert!(matches!(error, BlockError::Busy { .. }), "{access:?} while mounted: {error}");
        assert!(error.to_string().contains(text(disk.path())), "{error}");
    }
    RealDisks.open(disk.path(), Access::Read).unwrap();
    run("umount", &[text(&place)]);

    let claimed = RealDisks.open(disk.path(), Access::ReadExclusive).unwrap();
    let error = RealDisks.open(disk.path(), Access::WriteExclusive).unwrap_err();
    assert!(matches!(error, BlockError::Busy { .. }), "{error}");
    RealDisks.open(disk.path(), Access::Write).unwrap();
    let mount = PrivateMount { device: disk.path(), fs_type: "ext4", read_only: true, options: "" };
    let error = with_private_mount(&mount, |_| Ok::<_, BlockError>(())).unwrap_err();
    assert!(matches!(error, BlockError::Mount { .. }), "{error}");
    assert_eq!(error.errno(), Some(nix::libc::EBUSY), "{error}");
    drop(claimed);
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();
}

#[test]
fn a_sealed_device_takes_no_write_from_whoever_opens_it_until_it_is_unsealed() {
    let mut bench = Bench::new("seal");
    let (pool, number) = bench.pool(64 * MIB);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let path = bench.dm.node(&bench.thin(number, 1, 16 * MIB));
    let sealer = RealDisks.open(&path, Access::Read).unwrap();
    assert!(!sealer.is_read_only().unwrap());
    sealer.set_read_only(true).unwrap();
    drop(sealer);

    let refused = |path: &Path| {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.and_then(|file| file.write_all_at(&[1; 4096], 0).and_then(|()| file.sync_all())).is_err()
    };
    let again = RealDisks.open(&path, Access::Read).unwrap();
    assert!(again.is_read_only().unwrap(), "the seal went with its maker");
    assert!(refused(&path), "a new opener could write");
    let mut content = [7; 4096];
    again.read_at(&mut content, 0).unwrap();
    assert_eq!(content, [0; 4096], "the refused write is there");
    let mounted = Command::new("mke2fs").args(["-q", "-F"]).arg(&path).status().unwrap();
    assert!(!mounted.success(), "mke2fs wrote to it");

    again.set_read_only(false).unwrap();
    assert!(!refused(&path), "still sealed");
}

#[test]
fn a_discard_gives_the_blocks_of_a_thin_back() {
    let mut bench = Bench::new("discard");
    let (pool, number) = bench.pool(3 << 30);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let name = bench.thin(number, 1, (2 << 30) + MIB);
    let disk = RealDisks.open(&bench.dm.node(&name), Access::Write).unwrap();
    assert_eq!(disk.size().unwrap(), sectors((2 << 30) + MIB));
    let mapped = || match bench.dm.thin_status(&name).unwrap() {
        ThinStatus::Working { mapped, .. } => mapped.0 / 128,
        other => panic!("{other:?}"),
    };
    // One block in each step of a discard, and in the rest behind the last.
    let places = [0, (1 << 30) - 65536, 1 << 30, 2 << 30];
    for place in places {
        disk.write_at(&[9; 65536], place).unwrap();
    }
    disk.flush().unwrap();
    assert_eq!(mapped(), 4);
    disk.discard(sectors(1 << 30), Sectors(128)).unwrap();
    assert_eq!(mapped(), 3);
    let mut content = vec![1; 65536];
    disk.read_at(&mut content, 1 << 30).unwrap();
    assert!(content.iter().all(|byte| *byte == 0), "the discarded block still reads as before");

    let mut asked = 0;
    let done = discard_all(disk.as_ref(), || {
        asked += 1;
        asked < 3
    })
    .unwrap();
    assert_eq!((done, mapped()), (false, 1), "stopped before the third step");
    assert!(discard_all(disk.as_ref(), || true).unwrap());
    assert_eq!(mapped(), 0);
    let beyond = disk.discard(sectors(2 << 30), sectors(64 * MIB)).unwrap_err();
    assert!(matches!(beyond, BlockError::Discard { .. }), "{beyond}");
    let beyond = disk.read_at(&mut content, (2 << 30) + MIB).unwrap_err();
    assert!(matches!(beyond, BlockError::Transfer { .. }), "{beyond}");
}

#[test]
fn a_flush_that_loses_data_says_so() {
    let bench = Bench::new("flush");
    let name = bench.name("error");
    bench
        .dm
        .activate(
            &name,
            None,
            &[Target::Error { start: Sectors::ZERO, length: Sectors(2048) }],
            ActivateOptions::default(),
        )
        .unwrap();
    let disk = RealDisks.open(&bench.dm.node(&name), Access::Write).unwrap();
    disk.write_at(&[1; 4096], 0).unwrap();
    let error = disk.flush().unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::EIO), "{error}");
    let error = discard_all(disk.as_ref(), || true).unwrap_err();
    assert!(matches!(error, BlockError::DiscardUnsupported { .. } | BlockError::Discard { .. }), "{error}");
}

#[test]
fn what_is_on_a_device_is_recognised() {
    let make: [(&str, &[&str], &str); 3] = [
        ("mke2fs", &["-q", "-t", "ext4"], "an ext2, ext3 or ext4 file system"),
        ("mkfs.xfs", &["-q"], "an xfs file system"),
        ("mkswap", &["-q"], "swap space"),
    ];
    for (program, arguments, kind) in make {
        let disk = OnLoop::new(320 * MIB);
        let look = || find_content(RealDisks.open(disk.path(), Access::Read).unwrap().as_ref()).unwrap();
        assert_eq!(look(), None);
        run(program, &[arguments, &[text(disk.path())]].concat());
        assert_eq!(look().and_then(|found| found.kind), Some(kind));
        run("wipefs", &["-q", "-a", text(disk.path())]);
        let left = look().map(|found| found.kind);
        assert!(matches!(left, None | Some(None)), "{program}: {left:?} after wipefs");
    }
    let mut bench = Bench::new("content");
    let metadata = bench.disk(4 * MIB);
    let mut table = bench.pool_table(64 * MIB);
    table.metadata = metadata.into();
    let pool = bench.name("pool");
    bench.dm.activate(&pool, None, &[Target::ThinPool(table)], ActivateOptions::default()).unwrap();
    bench.dm.remove(&pool).unwrap();
    let node = PathBuf::from(format!("/dev/block/{metadata}"));
    let node = if node.exists() { node } else { PathBuf::from(format!("/dev/loop{}", metadata.minor)) };
    let found = find_content(RealDisks.open(&node, Access::Read).unwrap().as_ref()).unwrap();
    assert_eq!(found.unwrap().kind, Some("the metadata of a device-mapper thin pool"));
}

// --- loop devices ---

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
    assert_eq!(RealDisks.open(disk.path(), Access::Read).unwrap().size().unwrap(), sectors(24 * MIB));
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
fn options_are_what_the_device_has() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    create_sparse(&file, 8 * MIB).unwrap();
    let options = LoopOptions { block_size: 4096, read_only: true, direct_io: false, ..LoopOptions::default() };
    let device = Loops::default().attach(&file, options).unwrap();
    assert!(!device.direct_io());
    assert!(RealDisks.open(device.path(), Access::Read).unwrap().is_read_only().unwrap());
    assert_eq!(run("blockdev", &["--getss", text(device.path())]).trim(), "4096");
    device.detach().unwrap();
    let error = Loops::default().attach(&file, LoopOptions { block_size: 777, ..options }).unwrap_err();
    assert!(matches!(error, BlockError::LoopAttach { .. }), "{error}");
    assert!(!is_attached(&file), "left attached after failing");
    let error = Loops::default().attach(&directory.path().join("missing"), options).unwrap_err();
    assert!(matches!(error, BlockError::Open { .. }), "{error}");
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
        let flag = PathBuf::from("/sys/block").join(device.path().file_name().unwrap()).join("loop/dio");
        let flag = std::fs::read_to_string(flag).unwrap().trim() == "1";
        assert_eq!(device.direct_io(), flag);
        assert!(direct.is_none_or(|direct| direct == flag), "{}: direct I/O {flag}", file.display());
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
    assert!(discard_all(device.as_ref(), || true).unwrap());
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
        assert_eq!(Loops::default().detach_all(&directory.path().join(index.to_string())).unwrap(), 1);
    }
}

// --- private mounts ---

fn private<T: Send>(device: &Path, work: impl FnOnce(&Path) -> Result<T, BlockError> + Send) -> Result<T, BlockError> {
    let mount = PrivateMount { device, fs_type: "ext4", read_only: false, options: "" };
    with_private_mount(&mount, work)
}

/// Whether any process or thread but the one that mounted it has the device in its mount table.
fn seen_in(device: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().parse::<u32>().is_err() {
            continue;
        }
        let tasks = entry.path().join("task");
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let table = std::fs::read_to_string(task.path().join("mountinfo")).unwrap_or_default();
            if table.contains(&format!(" {} ", text(device))) {
                seen.push(std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_owned());
            }
        }
    }
    seen
}

#[test]
fn a_private_mount_is_seen_by_its_own_thread_alone_and_what_is_written_stays() {
    let disk = OnLoop::ext4(16 * MIB);
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    private(disk.path(), |place| {
        std::fs::remove_dir(place.join("lost+found")).unwrap();
        std::fs::write(place.join("written"), "inside").unwrap();
        assert_eq!(seen_in(disk.path()), ["private-mount"]);
        Ok(())
    })
    .unwrap();
    assert_eq!(seen_in(disk.path()), [""; 0]);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();
    run("e2fsck", &["-fn", text(disk.path())]);
    let place = disk.mount();
    assert_eq!(std::fs::read_to_string(place.join("written")).unwrap(), "inside");
    assert!(!place.join("lost+found").exists());
    run("umount", &[text(&place)]);
}

#[test]
fn whatever_becomes_of_the_work_the_device_is_free_afterwards() {
    let disk = OnLoop::ext4(16 * MIB);
    let error = private(disk.path(), |place| create_sparse(&place.join("no/such/place"), 1)).unwrap_err();
    assert!(matches!(error, BlockError::Open { .. }), "{error}");
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();

    let panicked = std::panic::catch_unwind(|| private::<()>(disk.path(), |_| panic!("in the middle")));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"in the middle"));
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();

    // A descriptor that outlives the work: unmounting says so, and with the descriptor the mount goes.
    let mut kept = None;
    let error = private(disk.path(), |place| {
        kept = Some(File::open(place).unwrap());
        Ok(())
    })
    .unwrap_err();
    assert!(matches!(error, BlockError::Unmount { .. }), "{error}");
    assert_eq!(seen_in(disk.path()), [""; 0]);
    drop(kept);
    assert!(soon(|| RealDisks.open(disk.path(), Access::WriteExclusive).is_ok()));
}

#[test]
fn what_cannot_be_mounted_is_named_with_the_kernels_answer() {
    let disk = OnLoop::new(16 * MIB);
    let error = private(disk.path(), |_| Ok(())).unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::EINVAL), "{error}");
    assert!(error.to_string().contains(text(disk.path())), "{error}");
    let mount = PrivateMount { device: disk.path(), fs_type: "nosuchfs", read_only: true, options: "" };
    let error = with_private_mount(&mount, |_| Ok::<_, BlockError>(())).unwrap_err();
    assert!(error.to_string().contains("nosuchfs"), "{error}");
    assert_eq!(error.errno(), Some(nix::libc::ENODEV), "{error}");
}

#[test]
fn a_private_mount_keeps_nobody_elses_device_busy() {
    let (ours, theirs) = (OnLoop::ext4(16 * MIB), OnLoop::ext4(16 * MIB));
    // A mount that a slave namespace follows is one below a shared one, as all are under systemd.
    let shared = tempfile::tempdir().unwrap();
    run("mount", &["-t", "tmpfs", "none", text(shared.path())]);
    run("mount", &["--make-shared", text(shared.path())]);
    let place = shared.path().join("theirs");
    std::fs::create_dir(&place).unwrap();
    run("mount", &[text(theirs.path()), text(&place)]);
    private(ours.path(), |_| {
        let (sender, receiver) = mpsc::channel();
        // The work's own thread is in the private namespace; they are not.
        thread::scope(|scope| {
            scope.spawn(|| {
                run("nsenter", &["--mount=/proc/1/ns/mnt", "umount", text(&place)]);
                sender.send(RealDisks.open(theirs.path(), Access::WriteExclusive).is_ok()).unwrap();
            });
        });
        assert!(receiver.recv().unwrap(), "unmounted, and still in use");
        Ok(())
    })
    .unwrap();
    run("umount", &[text(shared.path())]);
}

/// What the next test does in another process: mounts, says so, and waits to be killed.
fn mount_and_wait(device: &Path) {
    private(device, |place| {
        std::fs::write(place.join("half"), "written").unwrap();
        println!("\nmounted");
        std::io::stdout().flush().unwrap();
        thread::sleep(Duration::from_secs(600));
        Ok(())
    })
    .unwrap();
}

/// The helper in a process of its own, once it has mounted the device.
fn helper(device: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_killed_in_the_middle_leaves_nothing_mounted", "--nocapture"])
        .env("HELPER_DEVICE", device)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mounted = output.lines().map_while(Result::ok).any(|line| line == "mounted");
    assert!(mounted, "the helper ended early");
    child
}

#[test]
fn a_process_killed_in_the_middle_leaves_nothing_mounted() {
    if let Some(device) = std::env::var_os("HELPER_DEVICE") {
        return mount_and_wait(Path::new(&device));
    }
    let disk = OnLoop::ext4(16 * MIB);
    let mut child = helper(disk.path());
    assert_eq!(seen_in(disk.path()), ["private-mount"]);
    let busy = RealDisks.open(disk.path(), Access::WriteExclusive).unwrap_err();
    assert!(matches!(busy, BlockError::Busy { .. }), "{busy}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(soon(|| RealDisks.open(disk.path(), Access::WriteExclusive).is_ok()), "still in use");
    assert_eq!(seen_in(disk.path()), [""; 0]);
    run("e2fsck", &["-fp", text(disk.path())]);
}

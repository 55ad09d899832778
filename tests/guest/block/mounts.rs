//! Private mounts: no other process sees them, and nothing of them is left after errors, panics
//! and a kill.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::lab::{text, OnLoop, MIB};
use devmapper_snapshotter::block::{
    create_sparse, with_private_mount, Access, BlockError, Disks, PrivateMount, RealDisks,
};
use kit::{run, soon};

fn private<T: Send>(
    device: &Path,
    work: impl FnOnce(&Path) -> Result<T, BlockError> + Send,
) -> Result<T, BlockError> {
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
                seen.push(
                    std::fs::read_to_string(task.path().join("comm"))
                        .unwrap_or_default()
                        .trim()
                        .to_owned(),
                );
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
    let error =
        private(disk.path(), |place| create_sparse(&place.join("no/such/place"), 1)).unwrap_err();
    assert!(matches!(error, BlockError::Open { .. }), "{error}");
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();

    let panicked =
        std::panic::catch_unwind(|| private::<()>(disk.path(), |_| panic!("in the middle")));
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"in the middle"));
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();

    // A descriptor that outlives the work: unmounting says so, and with the descriptor the mount
    // goes.
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
    let mount =
        PrivateMount { device: disk.path(), fs_type: "nosuchfs", read_only: true, options: "" };
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
        .args([
            "--exact",
            "block::mounts::a_process_killed_in_the_middle_leaves_nothing_mounted",
            "--nocapture",
        ])
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

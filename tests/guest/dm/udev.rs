//! Devices with a real systemd-udevd and the rules of the dmsetup package, then without.
//! Cookies are waited for and removed, nodes exist when a verb returns, and udev leaves a
//! device alone when the flags say so. It is one test, because there is one udevd for all.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Bench, MIB};
use devmapper_snapshotter::dm::{
    udev, ActivateOptions, Cookie, Dm, Error, LoadOptions, NodePolicy, Request, Settings, Target,
    UdevFlags, UdevPolicy, Verb,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors};
use kit::run;

const LIMIT: Duration = Duration::from_secs(60);

/// A running udevd.
struct Udevd(Child);

impl Udevd {
    fn start() -> Udevd {
        let program = ["/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd"];
        let program = program
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("Debian's package udev");
        let udevd = Udevd(
            Command::new(program).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
        );
        let deadline = Instant::now() + LIMIT;
        while !udev::is_running() {
            assert!(Instant::now() < deadline, "udevd does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        run("udevadm", &["settle"]);
        udevd
    }

    fn stop(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        // It would remove its socket itself if it were asked to end.
        std::fs::remove_file("/run/udev/control").unwrap();
        assert!(!udev::is_running());
    }
}

fn wait(flags: UdevFlags, limit: Duration) -> Settings {
    Settings { udev: UdevPolicy::Wait { flags, limit }, ..Settings::default() }
}

/// As many semaphores as there are in the system.
fn semaphores() -> usize {
    std::fs::read_to_string("/proc/sysvipc/sem").unwrap().lines().count() - 1
}

fn activate(dm: &Dm, name: &DmName, disk: DeviceNumber) {
    let table = [Target::linear(disk, Sectors::ZERO, Sectors(2048))];
    dm.activate(name, None, &table, ActivateOptions::default()).unwrap();
}

fn is_symlink(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// The symlinks below /dev that lead to a device, but for the kernel's own by number.
fn links_to(dm: &Dm, name: &DmName) -> Vec<PathBuf> {
    let device = dm.info(name).unwrap().unwrap().device;
    let target = PathBuf::from(format!("/dev/dm-{}", device.minor));
    assert!(target.exists());
    let listing = run("find", &["/dev", "-type", "l", "-not", "-path", "/dev/block/*"]);
    let links = listing.lines().map(PathBuf::from);
    links.filter(|link| std::fs::canonicalize(link).is_ok_and(|led| led == target)).collect()
}

#[test]
fn devices_come_and_go_with_udev_and_without() {
    let mut bench = Bench::new("udev");
    let disk = bench.disk(4 * MIB);
    let (_, file) = bench.loop_of(disk);
    run("mkfs.ext4", &["-q", "-F", "-L", "udevtest", &file.to_string_lossy()]);
    let kernel = bench.dm.kernel().clone();
    let before = semaphores();

    without_udevd(&bench, disk);
    let udevd = Udevd::start();
    waited_for(&bench, disk);
    told_to_keep_out(&bench, disk);
    a_cookie_for_several_requests(&bench, disk);
    udevd.stop();
    without_udevd(&bench, disk);

    // udevd's socket is there and no process listens: the wait ends, and the verb has done its
    // work.
    std::fs::write("/run/udev/control", "").unwrap();
    let hasty = Dm::new(kernel, wait(UdevFlags::NONE, Duration::from_millis(200)));
    let name = bench.name("hasty");
    let started = Instant::now();
    activate(&hasty, &name, disk);
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(hasty.node(&name).exists(), "made by ourselves");
    hasty.remove(&name).unwrap();
    assert!(!hasty.node(&name).exists());
    std::fs::remove_file("/run/udev/control").unwrap();
    assert_eq!(semaphores(), before, "no semaphore is left");
}

/// Nothing waits, and nodes are made all the same.
fn without_udevd(bench: &Bench, disk: DeviceNumber) {
    let dm = Dm::new(bench.dm.kernel().clone(), wait(UdevFlags::NONE, LIMIT));
    let name = bench.name("alone");
    let started = Instant::now();
    activate(&dm, &name, disk);
    let node = dm.node(&name);
    assert!(node.exists() && !is_symlink(&node));
    let renamed = bench.name("renamed");
    dm.rename(&name, &renamed).unwrap();
    assert!(!node.exists() && dm.node(&renamed).exists());
    dm.remove(&renamed).unwrap();
    assert!(!dm.node(&renamed).exists());
    assert!(started.elapsed() < LIMIT / 4, "udev was not waited for");

    // Left to others, there is no node at all.
    let leave = Dm::new(
        bench.dm.kernel().clone(),
        Settings { nodes: NodePolicy::Leave, ..Settings::default() },
    );
    activate(&leave, &name, disk);
    assert!(!leave.node(&name).exists());
    assert_eq!(bench.dm.sweep_nodes(name.as_str()).unwrap().made, std::slice::from_ref(&name));
    assert!(leave.node(&name).exists());
    leave.remove(&name).unwrap();
    let swept = bench.dm.sweep_nodes(name.as_str()).unwrap();
    assert_eq!(swept.removed, [bench.dm.node(&name)]);
}

/// udev makes the symlinks, and they are there when the verb returns.
fn waited_for(bench: &Bench, disk: DeviceNumber) {
    let dm = Dm::new(bench.dm.kernel().clone(), wait(UdevFlags::NONE, LIMIT));
    let (name, renamed) = (bench.name("waited"), bench.name("renamed"));
    activate(&dm, &name, disk);
    assert!(is_symlink(&dm.node(&name)), "udev's rules make a symlink");
    let by_name = Path::new("/dev/disk/by-id").join(format!("dm-name-{name}"));
    assert!(by_name.exists(), "and those of disks");
    assert!(Path::new("/dev/disk/by-label/udevtest").exists(), "blkid has looked at it");
    assert!(links_to(&dm, &name).contains(&by_name));
    dm.rename(&name, &renamed).unwrap();
    assert!(!dm.node(&name).exists() && dm.node(&renamed).exists());
    assert!(!by_name.exists());
    // A resume of a running device causes no event, and is not waited for.
    let started = Instant::now();
    dm.resume(&renamed).unwrap();
    assert!(started.elapsed() < LIMIT / 4);
    dm.remove(&renamed).unwrap();
    assert!(!dm.node(&renamed).exists());
    assert!(matches!(dm.remove(&renamed), Err(Error::NoSuchDevice { .. })));
}

/// The daemon's way: udev runs, looks at nothing and links nothing.
fn told_to_keep_out(bench: &Bench, disk: DeviceNumber) {
    let name = bench.name("layer");
    activate(&bench.dm, &name, disk);
    run("udevadm", &["settle"]);
    let node = bench.dm.node(&name);
    assert!(node.exists() && !is_symlink(&node), "the node is ours");
    assert_eq!(links_to(&bench.dm, &name), Vec::<PathBuf>::new());
    bench.dm.remove(&name).unwrap();
    run("udevadm", &["settle"]);
    assert!(!node.exists());
}

/// One wait for what two requests cause.
fn a_cookie_for_several_requests(bench: &Bench, disk: DeviceNumber) {
    let dm = &bench.dm;
    let cookie = Cookie::new().unwrap();
    let names = [bench.name("one"), bench.name("two")];
    for name in &names {
        dm.create(name, None).unwrap();
        dm.load(
            name,
            &[Target::linear(disk, Sectors::ZERO, Sectors(2048))],
            LoadOptions::default(),
        )
        .unwrap();
        std::fs::remove_file(dm.node(name)).unwrap();
        cookie.expect().unwrap();
        let resume =
            Request::new(Verb::Resume).name(name.clone()).cookie(cookie.with(UdevFlags::NONE));
        dm.kernel().submit(&resume).unwrap();
    }
    cookie.wait(LIMIT).unwrap();
    for name in &names {
        assert!(is_symlink(&dm.node(name)));
        dm.remove(name).unwrap();
    }
}

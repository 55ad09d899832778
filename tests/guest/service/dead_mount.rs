//! A FUSE server on the host has stopped answering: every access to its mount hangs, and a file
//! on it is open. The daemon does not depend on that mount, so it must not hang.
// guest: --mem 2G

use crate::lab::Daemon;
use kit::with_mounted;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const ADDRESS: &str = "127.0.0.1:9654";

/// A mount whose server answered until its root was open, and has not answered since. Gone when
/// dropped.
struct DeadMount {
    _server: File,
    _open: File,
    directory: tempfile::TempDir,
}

impl DeadMount {
    fn new() -> DeadMount {
        let loaded = Command::new("modprobe").arg("fuse").status().unwrap();
        assert!(loaded.success(), "the kernel has no fuse");
        let directory = tempfile::tempdir().unwrap();
        let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("dead"),
            directory.path(),
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        let open = std::thread::scope(|scope| {
            scope.spawn(|| answer_until_open(&server));
            File::open(directory.path()).unwrap()
        });
        DeadMount { _server: server, _open: open, directory }
    }

    /// An access to it really hangs.
    fn must_hang(&self) {
        let (sender, answer) = mpsc::channel();
        let link = format!("/proc/self/fd/{}", self._open.as_raw_fd());
        std::thread::spawn(move || sender.send(std::fs::metadata(link).is_ok()));
        assert!(answer.recv_timeout(Duration::from_secs(2)).is_err(), "the dead mount answers");
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.directory.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The least that a FUSE server must say for its root to be opened (include/uapi/linux/fuse.h).
fn answer_until_open(mut server: &File) {
    const INIT: u32 = 26;
    const OPENDIR: u32 = 27;
    let mut request = vec![0; 1 << 20];
    loop {
        let length = server.read(&mut request).unwrap();
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let unique = request[8..16].to_vec();
        assert!(length >= 40);
        let (error, body) = match opcode {
            // Version 7.31, nothing special; all else is zero.
            INIT => (
                0,
                [7u32.to_ne_bytes(), 31u32.to_ne_bytes()]
                    .concat()
                    .into_iter()
                    .chain([0; 56])
                    .collect(),
            ),
            OPENDIR => (0, vec![0; 16]),
            _ => (-38_i32, Vec::new()),
        };
        let total = (16 + body.len()) as u32;
        server
            .write_all(&[&total.to_ne_bytes()[..], &error.to_ne_bytes(), &unique, &body].concat())
            .unwrap();
        if opcode == OPENDIR {
            return;
        }
    }
}

fn scrape() -> String {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer
}

/// Threads and descriptors of a process.
fn held_by(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

#[test]
fn with_a_dead_mount_on_the_host_removals_cleanup_and_scrapes_go_on_and_a_stop_is_quick() {
    let mut d = Daemon::start_with("dead", &format!("metrics_address = \"{ADDRESS}\""));
    d.committed("base", "");
    let mounted = d.prepare("mounted", "base").unwrap();
    let opened = d.prepare("opened", "base").unwrap();
    for n in 0..10 {
        d.prepare(&format!("free-{n}"), "base").unwrap();
    }
    let dead = DeadMount::new();
    dead.must_hang();

    let node = Path::new(&opened[0].source).to_owned();
    let mut reader = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::from(File::open(node).unwrap()))
        .spawn()
        .unwrap();
    with_mounted(&mounted[0], |root| {
        let began = Instant::now();
        for key in ["mounted", "opened"] {
            d.remove(key).unwrap();
        }
        d.cleanup();
        for n in 0..10 {
            d.remove(&format!("free-{n}")).unwrap();
        }
        d.cleanup();
        assert_eq!(d.devices("snap"), 2, "the two that are in use are left, and no other");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        let log = d.log();
        for by in [
            format!("mounted on {} for pid", root.display()),
            format!("open in pid {} (sleep)", reader.id()),
        ] {
            assert!(log.contains(&by), "the log does not say {by:?}");
        }

        let first = scrape();
        for by in ["mounted on ", "open in pid "] {
            assert!(
                first.lines().any(|l| l.contains("reclaim_stuck_seconds{") && l.contains(by)),
                "{by}: {first}"
            );
        }
        let before = held_by(d.pid());
        for _ in 0..200 {
            scrape();
        }
        let after = held_by(d.pid());
        assert!(
            after.0 <= before.0 + 2 && after.1 <= before.1 + 2,
            "threads and descriptors: {before:?}, {after:?}"
        );
    });
    reader.kill().unwrap();
    reader.wait().unwrap();
    d.cleanup();
    assert_eq!(d.devices("snap"), 0);

    let began = Instant::now();
    d.restart("TERM");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    d.prepare("afterwards", "base").unwrap();
    dead.must_hang();
}

#[test]
fn idle_and_slow_clients_of_the_metrics_take_a_limited_number_of_descriptors() {
    let d = Daemon::start_with("idle", &format!("metrics_address = \"{ADDRESS}\""));
    let (_, before) = held_by(d.pid());
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(ADDRESS).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let (_, after) = held_by(d.pid());
    assert!(
        after <= before + 20,
        "{before} descriptors before, {after} with 100 clients that ask for nothing"
    );
    drop(idle);
    assert!(scrape().ends_with("# EOF\n"));
}

//! Space of removed snapshots goes back to the file system below the embedded pool. Every block
//! that the pool hands out keeps its space: while the host is full, after the daemon was
//! killed, and after a reboot.
// guest: --mem 2G

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{refused, Daemon, SmallHost};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::Code;
use kit::{dmsetup, with_mounted};

const MIB: u64 = 1 << 20;
/// A pool that may take 1 GiB grows by 64 MiB, and keeps twice as much free.
const CONFIG: &str = "data_size = \"1GiB\"";

#[test]
fn removed_layers_go_back_to_a_host_of_ext4_and_come_from_there_again() {
    gives_and_takes("ext4");
}

#[test]
fn removed_layers_go_back_to_a_host_of_xfs_and_come_from_there_again() {
    gives_and_takes("xfs");
}

fn gives_and_takes(host_fs: &str) {
    let host = SmallHost::new(host_fs, "800M");
    let mut d = Daemon::start_with("gb", CONFIG);
    d.committed("base", "");
    let before = allocated(&d);
    write_layer(&mut d, "large", 400).unwrap();
    d.commit("large-c", "large").unwrap();
    let with = allocated(&d);
    assert!(with > before + 300 * MIB, "the pool has grown: {before} {with}");
    d.remove("large-c").unwrap();
    d.cleanup();
    let given = settled(&d, |allocated| allocated < with - 200 * MIB);
    assert!(host.free_space() > 300 * MIB);

    // The host is full: what has its space can be used, no more, and what is refused is said.
    host.fill(0);
    write_layer(&mut d, "small", 60).unwrap();
    d.commit("small-c", "small").unwrap();
    assert_right(&mut d, "small-c", 60);
    let written = write_layer(&mut d, "too-large", 300);
    if written.is_ok() {
        let code = d.commit("too-large-c", "too-large").unwrap_err().code();
        assert!(matches!(code, Code::DataLoss | Code::ResourceExhausted), "{code:?}");
    }
    assert_right(&mut d, "small-c", 60);
    d.remove("too-large").unwrap();
    d.cleanup();

    // Killed and started again on the full host, and after a reboot: nothing is taken that went
    // back.
    d.restart("KILL");
    assert!(allocated(&d) <= given + 8 * MIB, "{} after {given}", allocated(&d));
    d.stop("KILL");
    d.remove_devices();
    d.begin();
    assert!(allocated(&d) <= given + 8 * MIB, "{} after {given}", allocated(&d));
    assert_right(&mut d, "small-c", 60);
    host.free();
    let end = Instant::now() + Duration::from_secs(20);
    while !dmsetup(&["status", "gb-pool"]).contains("queue_if_no_space") {
        assert!(
            Instant::now() < end,
            "whoever meets the end does not wait, though there is room: {}",
            dmsetup(&["status", "gb-pool"])
        );
        std::thread::sleep(Duration::from_millis(100));
    }

    // It is taken again when it is needed.
    write_layer(&mut d, "large", 400).unwrap();
    d.commit("large-c", "large").unwrap();
    assert_right(&mut d, "large-c", 400);
    assert!(allocated(&d) > given + 150 * MIB);
    assert!(!dmsetup(&["status", "gb-pool"]).contains("out_of_data_space"));
    for key in ["large-c", "small-c", "base"] {
        d.remove(key).unwrap();
    }
    d.cleanup();
    d.stop("TERM");
    let (sound, text) = d.command(&["check"]);
    assert!(sound && !text.contains("no thin maps them"), "{text}");
}

#[test]
fn a_daemon_that_is_killed_while_it_gives_back_or_takes_leaves_no_block_without_space() {
    let host = SmallHost::new("ext4", "800M");
    let mut d = Daemon::start_with("gb", CONFIG);
    d.committed("base", "");
    for round in 0..12u64 {
        let (key, name) = (format!("l{round}"), format!("c{round}"));
        write_layer(&mut d, &key, 330).unwrap();
        d.commit(&name, &key).unwrap();
        assert_right(&mut d, &name, 330);
        d.remove(&name).unwrap();
        d.cleanup();
        // The daemon looks every 2 s, so this is before, in the middle of it and behind.
        std::thread::sleep(Duration::from_millis(1500 + 90 * round));
        d.restart("KILL");
        // What it can hand out now has its space, so that a full host is not met.
        host.fill(0);
        write_layer(&mut d, "probe", 40).unwrap();
        d.commit("probe-c", "probe").unwrap();
        assert_right(&mut d, "probe-c", 40);
        host.free();
        d.remove("probe-c").unwrap();
        d.cleanup();
    }
    d.stop("TERM");
    let (sound, text) = d.command(&["check"]);
    assert!(sound && !text.contains("no thin maps them"), "{text}");
}

#[test]
fn with_discard_off_nothing_goes_back() {
    let _host = SmallHost::new("ext4", "800M");
    let mut d = Daemon::start_with("gb", &format!("{CONFIG}\ndiscard = false"));
    d.committed("base", "");
    write_layer(&mut d, "large", 400).unwrap();
    d.commit("large-c", "large").unwrap();
    let with = allocated(&d);
    d.remove("large-c").unwrap();
    d.cleanup();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(allocated(&d), with);
    refused(d.stat("large-c"), Code::NotFound, &[]);
}

/// Bytes that the data file takes.
fn allocated(d: &Daemon) -> u64 {
    std::fs::metadata(d.state().join("data.img")).unwrap().blocks() * 512
}

/// Waits until what the data file takes is as wanted, and stays that for a while.
fn settled(d: &Daemon, wanted: impl Fn(u64) -> bool) -> u64 {
    let end = Instant::now() + Duration::from_secs(40);
    let (mut last, mut since) = (allocated(d), Instant::now());
    loop {
        let now = allocated(d);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if wanted(now) && since.elapsed() > Duration::from_secs(5) {
            return now;
        }
        assert!(
            Instant::now() < end,
            "the data file takes {} MiB; the daemon's log:\n{}",
            now / MIB,
            d.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A file of so many MiB in which no two blocks are alike.
fn fill(path: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let write = |n: u64| std::io::Write::write_all(&mut file, &block(n));
    (0..mib * 256).try_for_each(write)?;
    file.into_inner().map(drop).map_err(std::io::IntoInnerError::into_error)
}

fn block(n: u64) -> [u8; 4096] {
    let mut block = [n as u8 | 1; 4096];
    block[..8].copy_from_slice(&n.to_le_bytes());
    block
}

fn write_layer(d: &mut Daemon, key: &str, mib: u64) -> Result<(), String> {
    let mount: Mount = d.prepare(key, "base").map_err(|status| status.to_string())?.remove(0);
    let mut written = Ok(());
    with_mounted(&mount, |root| written = fill(&root.join("file"), mib));
    written.map_err(|error| error.to_string())
}

fn assert_right(d: &mut Daemon, name: &str, mib: u64) {
    let view = d.view("look", name).unwrap().remove(0);
    with_mounted(&view, |root| {
        let content = std::fs::read(root.join("file")).unwrap();
        assert_eq!(content.len() as u64, mib * MIB);
        let wrong = content
            .chunks_exact(4096)
            .enumerate()
            .filter(|(n, found)| **found != block(*n as u64))
            .count();
        assert_eq!(wrong, 0, "blocks of {name} are not what was written");
    });
    d.remove("look").unwrap();
}

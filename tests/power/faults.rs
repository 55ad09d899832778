//! What is below the daemon fails: its database's disk is full, mkfs fails or hangs, the pool's disk returns errors. Each call
//! must end in time with a status that says what is wrong, and once the fault is gone everything must be as the clients were
//! told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_snapshots::tonic::{Code, Status};

use super::daemon::{Daemon, Place};
use super::machine::{self, dmsetup, run, Mounted};
use super::run::Run;

/// No call may take longer, whatever is broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const MKFS: &str = "/usr/sbin/mke2fs";

type Case = fn(&Bench) -> Result<(), String>;

struct Bench {
    out: PathBuf,
    program: PathBuf,
    state_disk: String,
    pool_disk: String,
}

pub fn faults() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let bench = Bench {
        out: variable("OUT")?.into(),
        program: variable("DAEMON")?.into(),
        state_disk: variable("DISK0")?,
        pool_disk: variable("DISK1")?,
    };
    let cases: [(&str, Case); 5] = [
        ("a full disk under the database: calls are refused as such, and work again once there is room", full_database),
        ("an mkfs that fails: the start says so, and the next one works", failing_mkfs),
        ("a daemon killed while mkfs hangs: the next one starts beside it, and nothing is left", hanging_mkfs),
        ("a pool whose data disk fails: calls fail in time, and nothing committed is lost", failing_data),
        ("a pool whose metadata disk fails: calls fail in time, and nothing committed is lost", failing_metadata),
    ];
    let mut failed = 0;
    for (name, case) in cases {
        let result = case(&bench);
        let taken_apart = machine::remove_devices("pw-disk");
        let _ = dmsetup(&["remove", "--retry", "pw-disk-data", "pw-disk-metadata"]);
        match result.and(taken_apart) {
            Ok(()) => println!("PASS: {name}"),
            Err(error) => {
                failed += 1;
                println!("FAIL: {name}: {error}");
            }
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(format!("{failed} cases failed"))
}

impl Bench {
    /// A fresh state on a small file system, and a run with nothing in it.
    fn fresh(&self, name: &str, config: &str) -> Result<(Mounted, Run), String> {
        run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &self.state_disk, "64M"])?;
        run("blkdiscard", &[&self.pool_disk])?;
        let mounted = Mounted::device("state", &self.state_disk, "ext4", &[])?;
        let place = Place {
            program: self.program.clone(),
            state: mounted.folder.join("lib"),
            config: format!("base_image_size = \"64MiB\"\nmetadata_size = \"8MiB\"\n{config}"),
            log: self.out.join(format!("{name}.log")),
            environment: Vec::new(),
        };
        Ok((mounted, Run::new(&self.out.join(name), place, 2)))
    }

    fn on_one_disk(&self, name: &str) -> Result<(Mounted, Run), String> {
        self.fresh(name, &format!("data_device = {:?}", self.pool_disk))
    }

    /// A pool on two devices that can be made to fail.
    fn on_two_devices(&self, name: &str) -> Result<(Mounted, Run), String> {
        let fresh = self.fresh(
            name,
            "data_device = \"/dev/mapper/pw-disk-data\"\nmetadata_device = \"/dev/mapper/pw-disk-metadata\"",
        );
        for area in ["data", "metadata"] {
            dmsetup(&["create", &format!("pw-disk-{area}"), "--table", &self.area(area)])?;
        }
        fresh
    }

    fn area(&self, area: &str) -> String {
        let (start, length) = if area == "metadata" { (0, 32768) } else { (32768, 1_000_000) };
        format!("0 {length} linear {} {start}", self.pool_disk)
    }
}

/// Puts another table under the pool without anybody being told.
fn replace(device: &str, table: &str) -> Result<(), String> {
    dmsetup(&["suspend", "--noflush", "--nolockfs", device])?;
    dmsetup(&["load", device, "--table", table])?;
    dmsetup(&["resume", device]).map(drop)
}

fn refused<T>(what: &str, codes: &[Code], call: impl FnOnce() -> Result<T, Status>) -> Result<(), String> {
    let begun = Instant::now();
    let result = call();
    if begun.elapsed() > ANSWER_LIMIT {
        return Err(format!("{what} took {:?}", begun.elapsed()));
    }
    match result {
        Ok(_) => Err(format!("{what} succeeded")),
        Err(status) if codes.contains(&status.code()) => {
            println!("    {what}: {:?}: {}", status.code(), status.message());
            Ok(())
        }
        Err(status) => Err(format!("{what} was answered by {status:?}")),
    }
}

/// Works without a fault for a while, so that there is something to lose.
fn work(run: &mut Run, daemon: &Daemon) -> Result<(), String> {
    let (common, threads) = run.load(&daemon.client, 7, 12, |_| false);
    threads.into_iter().for_each(|thread| thread.join().expect("a client does not panic"));
    run.problems_of(&common)
}

fn full_database(bench: &Bench) -> Result<(), String> {
    let (mounted, mut run) = bench.on_one_disk("full-database")?;
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)?;
    work(&mut run, &daemon)?;
    let filler = mounted.folder.join("filler");
    let fill = || -> std::io::Result<()> {
        let mut file = fs::File::create(&filler)?;
        loop {
            std::io::Write::write_all(&mut file, &[1; 65536])?;
        }
    };
    let _ = fill();
    nix::unistd::sync();
    // Until the database needs to grow, calls may still succeed; a large label makes it.
    let mut answer = Ok(());
    for n in 0..4000 {
        answer = daemon.client.label_large("full", n);
        if answer.is_err() {
            break;
        }
    }
    refused("a call that makes the database grow", &[Code::ResourceExhausted], || answer)?;
    daemon.client.list().map_err(|e| format!("List on a full disk: {e}"))?;
    fs::remove_file(&filler).map_err(|e| e.to_string())?;
    for (key, _) in daemon.client.list().map_err(|e| e.to_string())? {
        if key.starts_with("full-") {
            daemon.client.remove(&key).map_err(|e| format!("removing {key} once there is room: {e}"))?;
        }
    }
    run.check(&mut daemon.client, false)?;
    daemon.kill();
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)
}

/// Another mkfs in the place of the right one, which comes back when this is dropped.
struct FakeMkfs(Vec<u8>);

impl FakeMkfs {
    fn new(script: &str) -> Result<FakeMkfs, String> {
        let right = fs::read(MKFS).map_err(|e| e.to_string())?;
        let fake = FakeMkfs(right);
        put_program(script.as_bytes()).map_err(|e| e.to_string())?;
        Ok(fake)
    }
}

impl Drop for FakeMkfs {
    fn drop(&mut self) {
        put_program(&self.0).expect("the guest's root is writable");
    }
}

fn put_program(bytes: &[u8]) -> std::io::Result<()> {
    let new = Path::new("/usr/sbin/mkfs.new");
    fs::write(new, bytes)?;
    fs::set_permissions(new, PermissionsExt::from_mode(0o755))?;
    fs::rename(new, MKFS)
}

fn failing_mkfs(bench: &Bench) -> Result<(), String> {
    let (_mounted, mut run) = bench.on_one_disk("failing-mkfs")?;
    let fake = FakeMkfs::new("#!/bin/sh\necho 'mkfs: the reason' >&2\nexit 1\n")?;
    if Daemon::start(&run.place, &run.runtime).is_ok() {
        return Err("the daemon serves without a template".into());
    }
    let log = fs::read_to_string(&run.place.log).map_err(|e| e.to_string())?;
    let said = log.lines().find(|line| line.contains("mkfs: the reason")).ok_or("the log does not say why")?;
    println!("    {said}");
    drop(fake);
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)?;
    run.empty(&mut daemon.client)
}

fn hanging_mkfs(bench: &Bench) -> Result<(), String> {
    let (_mounted, mut run) = bench.on_one_disk("hanging-mkfs")?;
    // It holds the device open, as an mkfs does.
    let fake = FakeMkfs::new("#!/bin/bash\nfor last; do [[ -b $last ]] && exec 9<>\"$last\"; done\necho $$ >/run/mkfs.pid\nexec sleep 1000\n")?;
    let mut process = run.place.spawn();
    let end = Instant::now() + Duration::from_secs(30);
    let pid = loop {
        match fs::read_to_string("/run/mkfs.pid") {
            Ok(pid) if !pid.trim().is_empty() => break pid.trim().to_owned(),
            _ if Instant::now() > end => {
                let _ = process.kill();
                return Err("mkfs was not run".into());
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let _ = process.kill();
    let _ = process.wait();
    drop(fake);
    let mut daemon = run.start()?;
    daemon.client.prepare("beside", "").map_err(|e| e.to_string())?;
    daemon.client.remove("beside").map_err(|e| e.to_string())?;
    super::machine::run("kill", &["-KILL", &pid])?;
    std::thread::sleep(Duration::from_millis(200));
    daemon.client.cleanup().map_err(|e| e.to_string())?;
    run.check(&mut daemon.client, false)?;
    run.empty(&mut daemon.client)
}

fn failing_data(bench: &Bench) -> Result<(), String> {
    failing(bench, "data", 1_000_000)
}

fn failing_metadata(bench: &Bench) -> Result<(), String> {
    failing(bench, "metadata", 32768)
}

fn failing(bench: &Bench, area: &str, length: u64) -> Result<(), String> {
    let (_mounted, mut run) = bench.on_two_devices(&format!("failing-{area}"))?;
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)?;
    work(&mut run, &daemon)?;
    let device = format!("pw-disk-{area}");
    replace(&device, &format!("0 {length} error"))?;
    let codes = [Code::Internal, Code::Unavailable, Code::ResourceExhausted, Code::FailedPrecondition];
    // The kernel hides it from a message's sender when the commit that belongs to it fails.
    let first = daemon.client.prepare("failing-1", "");
    println!("    the first Prepare: {:?}", first.as_ref().map(drop).map_err(Status::to_string));
    if area == "data" {
        // A snapshot is made in the metadata alone; its content is not there.
        refused("Commit on a failed pool", &codes, || daemon.client.commit("failing-c", "failing-1"))?;
    } else {
        refused("Prepare on a failed pool", &codes, || daemon.client.prepare("failing-2", ""))?;
    }
    daemon.client.list().map_err(|e| format!("List on a failed pool: {e}"))?;
    let suspended = machine::suspended()?;
    if !suspended.is_empty() {
        return Err(format!("left suspended: {suspended:?}"));
    }
    daemon.kill();
    machine::remove_devices("pw-disk")?;
    replace(&device, &bench.area(area))?;
    // The kernel marks a pool whose metadata could not be written; only thin_check takes that off, and the start says so.
    if let Err(error) = Daemon::start(&run.place, &run.runtime) {
        let log = fs::read_to_string(&run.place.log).unwrap_or_default();
        println!("    {error}: {}", log.lines().last().unwrap_or_default());
        machine::remove_devices("pw-disk")?;
        super::machine::run("thin_check", &["--clear-needs-check-flag", "/dev/mapper/pw-disk-metadata"])?;
    }
    let mut daemon = run.start()?;
    if first.is_ok() {
        daemon.client.mounts("failing-1").map_err(|e| format!("a Prepare that was acknowledged is lost: {e}"))?;
        daemon.client.remove("failing-1").map_err(|e| e.to_string())?;
    }
    daemon.client.cleanup().map_err(|e| e.to_string())?;
    run.check(&mut daemon.client, false)
}

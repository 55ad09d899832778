//! Something below the daemon fails: the disk of its database is full, mkfs fails or hangs, the
//! pool's disk returns errors. Each call must return in time with a status that says what is
//! wrong. When the fault is gone, everything must be as the clients were told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_snapshots::tonic::{Code, Status};

use super::check::Below;
use super::daemon::{list, prepare_with_large_labels, Daemon, Place};
use super::machine::{self, Mounted};
use super::run::Run;
use kit::{try_dmsetup, try_run};

/// The longest time that a call may take, with any fault.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The size of the label before an area, in sectors.
const LABEL: u64 = 2048;
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
    let cases: [(&str, Case); 8] = [
        ("full disk under the database: calls say so, and work once there is space", full_database),
        ("mkfs fails: the log and the answers say so, and Prepare works afterwards", failing_mkfs),
        ("the daemon is killed while mkfs hangs: the next start works", hanging_mkfs),
        ("the data disk fails writes every other second: no acknowledged call is lost", flaky_data),
        ("bad sectors under a layer: reads of them fail, and nothing else", bad_sectors),
        ("the data disk fails: calls fail in time, no committed layer is lost", failing_data),
        (
            "the metadata disk fails: calls fail in time, no committed layer is lost",
            failing_metadata,
        ),
        ("a disk fails during a deletion: the thin is deleted when it works", failing_deletion),
    ];
    let mut failed = 0;
    for (name, case) in cases {
        let result = case(&bench);
        let taken_apart = machine::remove_devices("pw-disk");
        let _ = try_dmsetup(&["remove", "--retry", "pw-disk-data", "pw-disk-metadata"]);
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
    /// A new state on a small file system, and a run without snapshots.
    fn fresh(&self, name: &str, config: &str) -> Result<(Mounted, Run), String> {
        try_run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &self.state_disk, "64M"])?;
        try_run("blkdiscard", &[&self.pool_disk])?;
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
    fn on_two_devices(&self, name: &str, config: &str) -> Result<(Mounted, Run), String> {
        let devices = "data_device = \"/dev/mapper/pw-disk-data\"\n\
                       metadata_device = \"/dev/mapper/pw-disk-metadata\"";
        let fresh = self.fresh(name, &format!("{devices}\n{config}"));
        for area in ["data", "metadata"] {
            try_dmsetup(&["create", &format!("pw-disk-{area}"), "--table", &self.area(area)])?;
        }
        fresh
    }

    /// The first sector and the length of an area of the disk.
    fn place(area: &str) -> (u64, u64) {
        if area == "metadata" {
            (0, 32768)
        } else {
            (32768, 1_000_000)
        }
    }

    fn area(&self, area: &str) -> String {
        let (start, length) = Bench::place(area);
        format!("0 {length} linear {} {start}", self.pool_disk)
    }
}

/// Replaces the table below the pool without telling the daemon.
fn replace(device: &str, table: &str) -> Result<(), String> {
    try_dmsetup(&["suspend", "--noflush", "--nolockfs", device])?;
    try_dmsetup(&["load", device, "--table", table])?;
    try_dmsetup(&["resume", device]).map(drop)
}

fn refused<T>(
    what: &str,
    codes: &[Code],
    call: impl FnOnce() -> Result<T, Status>,
) -> Result<(), String> {
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

/// Works for a while without a fault, so that there is content to lose.
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
    // Calls succeed until the database has to grow. Large labels make it grow.
    let mut answer = Ok(());
    for n in 0..4000 {
        answer = prepare_with_large_labels(&mut daemon.client, &format!("full-{n}"));
        if answer.is_err() {
            break;
        }
    }
    refused("a call that makes the database grow", &[Code::ResourceExhausted], || answer)?;
    list(&mut daemon.client).map_err(|e| format!("List on a full disk: {e}"))?;
    fs::remove_file(&filler).map_err(|e| e.to_string())?;
    for (key, _) in list(&mut daemon.client).map_err(|e| e.to_string())? {
        if key.starts_with("full-") {
            daemon
                .client
                .remove(&key)
                .map_err(|e| format!("removing {key} when there is space: {e}"))?;
        }
    }
    run.check(&mut daemon.client, false)?;
    daemon.kill();
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)
}

/// A script in the place of mkfs. The drop puts mkfs back.
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
    let mut daemon = run.start()?;
    let log = fs::read_to_string(&run.place.log).map_err(|e| e.to_string())?;
    let said = log
        .lines()
        .find(|line| line.contains("mkfs: the reason"))
        .ok_or("the log does not say why")?;
    println!("    {said}");
    refused("Prepare without a template", &[Code::FailedPrecondition, Code::Internal], || {
        daemon.client.prepare("early", "")
    })?;
    drop(fake);
    daemon.client.prepare("late", "").map_err(|e| format!("Prepare with the right mkfs: {e}"))?;
    daemon.client.remove("late").map_err(|e| e.to_string())?;
    daemon.client.cleanup().map_err(|e| e.to_string())?;
    run.check(&mut daemon.client, false)?;
    run.empty(&mut daemon.client)
}

fn hanging_mkfs(bench: &Bench) -> Result<(), String> {
    let (_mounted, mut run) = bench.on_one_disk("hanging-mkfs")?;
    // The script holds the device open, as mkfs does.
    let fake = FakeMkfs::new(
        "#!/bin/bash\n\
         for last; do [[ -b $last ]] && exec 9<>\"$last\"; done\n\
         echo $$ >/run/mkfs.pid\n\
         exec sleep 1000\n",
    )?;
    let mut process = run.place.spawn();
    let end = Instant::now() + Duration::from_secs(30);
    let pid = loop {
        match fs::read_to_string("/run/mkfs.pid") {
            Ok(pid) if !pid.trim().is_empty() => break pid.trim().to_owned(),
            _ if Instant::now() > end => {
                let _ = process.kill();
                let _ = process.wait();
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
    try_run("kill", &["-KILL", &pid])?;
    std::thread::sleep(Duration::from_millis(200));
    daemon.client.cleanup().map_err(|e| e.to_string())?;
    run.check(&mut daemon.client, false)?;
    run.empty(&mut daemon.client)
}

/// dm-flakey (Documentation/admin-guide/device-mapper/dm-flakey.rst): writes succeed for a second
/// and then fail for a second.
fn flaky_data(bench: &Bench) -> Result<(), String> {
    try_run("modprobe", &["dm-flakey"])?;
    let (_mounted, mut run) = bench.on_two_devices("flaky-data", "")?;
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)?;
    work(&mut run, &daemon)?;
    run.check(&mut daemon.client, false)?;
    let (start, length) = Bench::place("data");
    replace(
        "pw-disk-data",
        &format!("0 {length} flakey {} {start} 1 1 1 error_writes", bench.pool_disk),
    )?;
    let answers = |code| matches!(code, Code::Internal | Code::ResourceExhausted | Code::DataLoss);
    let (common, threads) = run.load(&daemon.client, 11, usize::MAX, answers);
    std::thread::sleep(Duration::from_secs(12));
    super::run::join(&common, threads);
    println!(
        "    {} calls acknowledged meanwhile",
        common.answered.load(std::sync::atomic::Ordering::SeqCst)
    );
    run.problems_of(&common)?;
    daemon.kill();
    machine::remove_devices("pw-disk")?;
    replace("pw-disk-data", &bench.area("data"))?;
    run.below = Below::WritesFailed;
    let mut daemon = start_after_failure(&mut run)?;
    run.check(&mut daemon.client, false)?;
    run.empty(&mut daemon.client)?;
    println!("    {} blocks that dm-thin itself leaked", run.sum.kernel_leak);
    Ok(())
}

/// dm-dust (Documentation/admin-guide/device-mapper/dm-dust.rst): a read of a block on its list
/// fails until the block is written again.
fn bad_sectors(bench: &Bench) -> Result<(), String> {
    try_run("modprobe", &["dm-dust"])?;
    let (_mounted, mut run) = bench.on_two_devices("bad-sectors", "")?;
    let mut daemon = run.start()?;
    let client = &mut daemon.client;
    let refused = |what: &'static str| move |status: Status| format!("{what}: {status}");
    let (template, used) =
        (machine::thins()?.into_keys().collect::<Vec<_>>(), machine::used_blocks()?);
    let mounts = client.prepare("active", "").map_err(refused("Prepare"))?;
    {
        let mounted = Mounted::new("bad", &mounts[0])?;
        fs::write(mounted.folder.join("file"), vec![7; 4 << 20]).map_err(|e| e.to_string())?;
    }
    client.commit("layer", "active").map_err(refused("Commit"))?;

    let (start, length) = Bench::place("data");
    replace("pw-disk-data", &format!("0 {length} dust {} {start} 65536", bench.pool_disk))?;
    let template = machine::data_blocks(Some(template[0]))?;
    let layer = machine::thins()?.into_keys().last().expect("the layer's thin");
    let own: Vec<u64> = machine::data_blocks(Some(layer))?.difference(&template).copied().collect();
    println!("    {} bad blocks", own.len());
    // dm-dust counts blocks from the beginning of the disk below. The area begins after a label of
    // 1 MiB.
    for block in own {
        let block = (start + LABEL) / 128 + block;
        try_dmsetup(&["message", "pw-disk-data", "0", "addbadblock", &block.to_string()])?;
    }
    try_dmsetup(&["message", "pw-disk-data", "0", "enable"])?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| e.to_string())?;

    let read = |mounts: &[containerd_snapshots::api::types::Mount]| {
        let mounted = Mounted::new("bad", &mounts[0])?;
        fs::read(mounted.folder.join("file")).map_err(|e| e.to_string())
    };
    let child = client.prepare("child", "layer").map_err(refused("Prepare on bad sectors"))?;
    match read(&child) {
        Ok(_) => return Err("bad sectors can be read".into()),
        Err(error) => println!("    a read of them: {error}"),
    }
    client.remove("child").map_err(refused("Remove on bad sectors"))?;
    let beside = client.prepare("beside", "").map_err(refused("Prepare beside them"))?;
    {
        let mounted = Mounted::new("bad", &beside[0])?;
        fs::write(mounted.folder.join("file"), "good").map_err(|e| e.to_string())?;
    }
    client.commit("other", "beside").map_err(refused("Commit beside them"))?;
    client.cleanup().map_err(refused("Cleanup"))?;
    daemon.kill();

    replace("pw-disk-data", &bench.area("data"))?;
    let mut daemon = run.start()?;
    let client = &mut daemon.client;
    let view = client.view("view", "layer").map_err(refused("View"))?;
    if read(&view)? != vec![7; 4 << 20] {
        return Err("the layer has changed".into());
    }
    for key in ["view", "layer", "other"] {
        client.remove(key).map_err(refused("Remove"))?;
    }
    client.cleanup().map_err(refused("Cleanup"))?;
    match machine::used_blocks()? {
        left if left == used => Ok(()),
        left => Err(format!("{left} blocks in use, {used} before")),
    }
}

fn failing_data(bench: &Bench) -> Result<(), String> {
    failing(bench, "data")
}

fn failing_metadata(bench: &Bench) -> Result<(), String> {
    failing(bench, "metadata")
}

/// The kernel marks a pool whose metadata could not be committed, and refuses changes until
/// thin_check has removed the mark. The daemon's start says so.
fn start_after_failure(run: &mut Run) -> Result<Daemon, String> {
    if let Err(error) = Daemon::start(&run.place, &run.runtime) {
        let log = fs::read_to_string(&run.place.log).unwrap_or_default();
        let said = log.lines().last().unwrap_or_default();
        println!("    {error}: {said}");
        let command = said.split('\'').find(|quoted| quoted.starts_with("thin_check "));
        let command: Vec<&str> = command
            .ok_or(format!("the start does not say what to do: {said}"))?
            .split(' ')
            .collect();
        machine::remove_all_but_areas()?;
        try_run(command[0], &command[1..])?;
        machine::remove_devices("pw-disk")?;
    }
    run.start()
}

/// The kernel acknowledges the deletion of the thin, and cannot commit it.
fn failing_deletion(bench: &Bench) -> Result<(), String> {
    for area in ["data", "metadata"] {
        let (_mounted, mut run) =
            bench.on_two_devices(&format!("failing-deletion-{area}"), "discard = false")?;
        let mut daemon = run.start()?;
        run.check(&mut daemon.client, false)?;
        daemon.client.prepare("gone", "").map_err(|e| e.to_string())?;
        daemon.kill();
        // A start deletes unrecorded thins of the daemon before it, and not of earlier ones.
        let mut daemon = run.start()?;
        let device = format!("pw-disk-{area}");
        replace(&device, &format!("0 {} error", Bench::place(area).1))?;
        daemon.client.remove("gone").map_err(|e| format!("Remove on a failed {area} disk: {e}"))?;
        daemon.client.cleanup().map_err(|e| format!("Cleanup on a failed {area} disk: {e}"))?;
        daemon.kill();
        machine::remove_devices("pw-disk")?;
        replace(&device, &bench.area(area))?;
        let mut daemon = start_after_failure(&mut run)?;
        run.check(&mut daemon.client, false)?;
        run.empty(&mut daemon.client)?;
        daemon.kill();
        machine::remove_devices("pw-disk")?;
        try_dmsetup(&["remove", "--retry", "pw-disk-data", "pw-disk-metadata"])?;
    }
    Ok(())
}

fn failing(bench: &Bench, area: &str) -> Result<(), String> {
    let (_mounted, mut run) = bench.on_two_devices(&format!("failing-{area}"), "")?;
    let mut daemon = run.start()?;
    run.check(&mut daemon.client, false)?;
    work(&mut run, &daemon)?;
    let device = format!("pw-disk-{area}");
    replace(&device, &format!("0 {} error", Bench::place(area).1))?;
    let codes =
        [Code::Internal, Code::Unavailable, Code::ResourceExhausted, Code::FailedPrecondition];
    // The kernel acknowledges a message also when the commit for it fails.
    let first = daemon.client.prepare("failing-1", "");
    println!("    the first Prepare: {:?}", first.as_ref().map(drop).map_err(Status::to_string));
    if area == "data" {
        // A Prepare changes only the pool's metadata. A Commit needs the content, which cannot be
        // read.
        refused("Commit on a failed pool", &codes, || {
            daemon.client.commit("failing-c", "failing-1")
        })?;
    } else {
        refused("Prepare on a failed pool", &codes, || daemon.client.prepare("failing-2", ""))?;
    }
    list(&mut daemon.client).map_err(|e| format!("List on a failed pool: {e}"))?;
    let suspended = machine::suspended()?;
    if !suspended.is_empty() {
        return Err(format!("left suspended: {suspended:?}"));
    }
    daemon.kill();
    machine::remove_devices("pw-disk")?;
    replace(&device, &bench.area(area))?;
    let mut daemon = start_after_failure(&mut run)?;
    if first.is_ok() {
        daemon
            .client
            .mounts("failing-1")
            .map_err(|e| format!("a Prepare that was acknowledged is lost: {e}"))?;
        daemon.client.remove("failing-1").map_err(|e| e.to_string())?;
    }
    daemon.client.cleanup().map_err(|e| e.to_string())?;
    run.check(&mut daemon.client, false)
}

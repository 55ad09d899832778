//! What a disk that loses its cache leaves: a workload is recorded by dm-log-writes, and
//! replayed up to one of its flushes.
//!
//! dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst,
//! drivers/md/dm-log-writes.c) records what was on disk at each flush, in the order in which
//! the disk got it; writes that no flush followed come with the next one. An image of
//! everything up to a flush is a disk that lost all that it was not told to flush. With some of
//! the later writes, it is a disk that kept a part of its cache.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::{Dm, RealKernel};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::Sectors;

use super::daemon::{Daemon, Place};
use super::machine::{self, Mounted};
use super::model::{journals, Line, Mark, State};
use super::run::{join, Run, Sum};
use kit::{try_dmsetup, try_run, Random};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
/// The part of the disk that holds the state's file system.
const STATE_SECTORS: u64 = (160 << 20) / 512;
const RECORDED: &str = "pw-disk-log";

/// One entry of a log.
#[derive(Debug, Clone)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// The position of the entry's data in the log, in bytes.
    data: u64,
    mark: Option<String>,
}

/// The entries of a log.
struct Log {
    disk: fs::File,
    sector_size: u64,
    entries: Vec<Entry>,
}

impl Log {
    fn open(path: &str) -> Result<Log, String> {
        let disk = fs::File::open(path).map_err(|e| format!("{path}: {e}"))?;
        let mut head = [0; 28];
        disk.read_exact_at(&mut head, 0).map_err(|e| e.to_string())?;
        if word(&head, 0) != MAGIC || word(&head, 8) != 1 {
            return Err(format!("{path} holds no log"));
        }
        let (count, sector_size) =
            (word(&head, 16), u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap())));
        let mut entries = Vec::new();
        let mut at = sector_size;
        for _ in 0..count {
            let mut block = vec![0; sector_size as usize];
            disk.read_exact_at(&mut block, at).map_err(|e| e.to_string())?;
            let (sector, sectors, flags, length) =
                (word(&block, 0), word(&block, 8), word(&block, 16), word(&block, 24));
            at += sector_size;
            let is_mark = flags & MARK != 0;
            let mark = is_mark
                .then(|| String::from_utf8_lossy(&block[32..32 + length as usize]).into_owned());
            entries.push(Entry { sector, sectors, flags, data: at, mark });
            if flags & DISCARD == 0 && !is_mark {
                at += sectors * sector_size;
            }
        }
        Ok(Log { disk, sector_size, entries })
    }

    fn apply(&self, entry: &Entry, target: &fs::File) -> Result<(), String> {
        if entry.mark.is_some() || entry.sectors == 0 {
            return Ok(());
        }
        let mut data = vec![0; (entry.sectors * self.sector_size) as usize];
        // Discarded sectors read as zeros.
        if entry.flags & DISCARD == 0 {
            self.disk
                .read_exact_at(&mut data, entry.data)
                .map_err(|e| format!("the log at {}: {e}", entry.data))?;
        }
        target.write_all_at(&data, entry.sector * self.sector_size).map_err(|e| e.to_string())
    }

    fn is_flush(&self, at: usize) -> bool {
        self.entries[at].flags & (FLUSH | FUA) != 0
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sectors_of(device: &str) -> Result<u64, String> {
    try_run("blockdev", &["--getsz", device])?.trim().parse().map_err(|e| format!("{e}"))
}

/// Makes `pw-disk-state` and `pw-disk-pool` on the disk.
fn carve(device: &str, size: u64) -> Result<(), String> {
    try_dmsetup(&[
        "create",
        "pw-disk-state",
        "--table",
        &format!("0 {STATE_SECTORS} linear {device} 0"),
    ])?;
    let rest = size - STATE_SECTORS;
    try_dmsetup(&[
        "create",
        "pw-disk-pool",
        "--table",
        &format!("0 {rest} linear {device} {STATE_SECTORS}"),
    ])
    .map(drop)
}

/// Removes all devices on the disk, and then its two parts.
fn take_apart() -> Result<(), String> {
    machine::remove_devices("pw-disk")?;
    try_dmsetup(&["remove", "--retry", "pw-disk-pool"])?;
    try_dmsetup(&["remove", "--retry", "pw-disk-state"]).map(drop)
}

struct Bench {
    out: PathBuf,
    place: Place,
    disk: String,
    log: String,
    image: String,
    cow: String,
}

/// Records `seconds` of work, and checks `points` images of the recorded disk.
pub fn replay(points: usize, seconds: usize, seed: u64) -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    for module in ["dm-log-writes", "dm-snapshot"] {
        try_run("modprobe", &[module])?;
    }
    let out = PathBuf::from(variable("OUT")?);
    let place = Place {
        program: variable("DAEMON")?.into(),
        state: "/run/mounts/state/lib".into(),
        config: "data_device = \"/dev/mapper/pw-disk-pool\"\n\
                 metadata_size = \"8MiB\"\nbase_image_size = \"64MiB\""
            .into(),
        log: out.join("daemon.log"),
        environment: Vec::new(),
    };
    let (disk, log, image, cow) =
        (variable("DISK0")?, variable("DISK1")?, variable("DISK2")?, variable("DISK3")?);
    let bench = Bench { out, place, disk, log, image, cow };
    let recorded = bench.record(seconds, seed)?;
    let started = Instant::now();
    let result = bench.check_points(&recorded, points, seed);
    let (sum, error) = match result {
        Ok(sum) => (sum, None),
        Err((sum, error)) => (sum, Some(error)),
    };
    println!(
        "{}",
        sum.table("flush marks of a recorded disk, replayed", started.elapsed().as_secs())
    );
    fs::write(bench.out.join("sum.json"), serde_json::to_string(&sum).unwrap())
        .map_err(|e| e.to_string())?;
    match error {
        None => {
            println!("PASS: {} replayed images", sum.cycles);
            Ok(())
        }
        Some(error) => Err(error),
    }
}

struct Recorded {
    log: Log,
    size: u64,
    journals: BTreeMap<String, Vec<Line>>,
    /// The first entry at which an image is checked.
    start: usize,
}

impl Bench {
    /// Records the work of clients for some seconds.
    fn record(&self, seconds: usize, seed: u64) -> Result<Recorded, String> {
        let size = sectors_of(&self.disk)?;
        try_dmsetup(&[
            "create",
            RECORDED,
            "--table",
            &format!("0 {size} log-writes {} {}", self.disk, self.log),
        ])?;
        carve(&format!("/dev/mapper/{RECORDED}"), size)?;
        try_run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", "/dev/mapper/pw-disk-state"])?;
        let mounted = Mounted::device("state", "/dev/mapper/pw-disk-state", "ext4", &[])?;
        try_run("sync", &["-f", "/run/mounts/state"])?;
        let dm =
            Dm::new(Arc::new(RealKernel::open().map_err(|e| e.to_string())?), Default::default());
        let name = DmName::new(RECORDED).map_err(|e| e.to_string())?;
        let mark: Mark = Arc::new(move |client, line| {
            dm.message(&name, Sectors(0), &format!("mark {client}-{line}"))
                .map(drop)
                .unwrap_or_else(|error| panic!("the log takes no mark: {error}"));
        });
        mark("mounted", 0);
        let mut work = Run::new(&self.out.join("recording"), self.place.clone(), 2);
        work.slots = 3;
        let mut daemon = work.start()?;
        mark("served", 0);
        work.mark = Some(mark);
        let (common, threads) = work.load(&daemon.client, seed, usize::MAX, |_| false);
        let end = Instant::now() + Duration::from_secs(seconds as u64);
        while Instant::now() < end && daemon.is_alive() {
            std::thread::sleep(Duration::from_millis(50));
        }
        join(&common, threads);
        daemon.kill();
        work.problems_of(&common)?;
        let journals = journals(&work.out, 0).map_err(|e| e.to_string())?;
        drop(mounted);
        take_apart()?;
        try_dmsetup(&["remove", "--retry", RECORDED])?;
        let log = Log::open(&self.log)?;
        let start = log.entries.iter().position(|entry| entry.mark.as_deref() == Some("mounted-0"));
        Ok(Recorded { log, size, journals, start: start.ok_or("the log has lost its marks")? })
    }

    fn check_points(
        &self,
        recorded: &Recorded,
        points: usize,
        seed: u64,
    ) -> Result<Sum, (Sum, String)> {
        let mut random = Random::new(seed);
        let mut sum = Sum::default();
        let entries = &recorded.log.entries;
        let flushes: Vec<usize> =
            (recorded.start..entries.len()).filter(|at| recorded.log.is_flush(*at)).collect();
        println!("{} entries, {} flushes", entries.len(), flushes.len());
        let chosen = sample(flushes, points, &mut random);
        let image = fs::File::options()
            .write(true)
            .open(&self.image)
            .map_err(|e| (sum.clone(), e.to_string()))?;
        let mut next = 0;
        for at in chosen {
            let point = self.point(recorded, &image, &mut next, at, &mut random, &mut sum);
            if let Err(error) = point {
                return Err((sum, format!("the image up to entry {at}: {error}")));
            }
        }
        match self.rest_is_the_disk(&recorded.log, &image, next) {
            Ok(()) => Ok(sum),
            Err(error) => Err((sum, error)),
        }
    }

    /// Applies the rest of the log. The image must then equal the recorded disk.
    fn rest_is_the_disk(&self, log: &Log, image: &fs::File, next: usize) -> Result<(), String> {
        for entry in &log.entries[next..] {
            log.apply(entry, image)?;
        }
        image.sync_all().map_err(|e| e.to_string())?;
        try_run("cmp", &[&self.disk, &self.image])?;
        println!("PASS: the whole log gives the disk that was recorded");
        Ok(())
    }

    /// Applies the log up to the flush at `at`, and checks a copy-on-write of the image.
    fn point(
        &self,
        recorded: &Recorded,
        image: &fs::File,
        next: &mut usize,
        at: usize,
        random: &mut Random,
        sum: &mut Sum,
    ) -> Result<(), String> {
        let log = &recorded.log;
        for entry in &log.entries[*next..=at] {
            log.apply(entry, image)?;
        }
        *next = at + 1;
        image.sync_all().map_err(|e| e.to_string())?;
        try_dmsetup(&[
            "create",
            "pw-disk-copy",
            "--table",
            &format!("0 {} snapshot {} {} N 8", recorded.size, self.image, self.cow),
        ])?;
        if random.one_in(2) {
            sum.crash("image up to a flush, and some of what followed it");
            self.some_more(log, at, random)?;
        } else {
            sum.crash("image up to a flush");
        }
        carve("/dev/mapper/pw-disk-copy", recorded.size)?;
        let checked = self.check_image(recorded, at, sum);
        take_apart()?;
        try_dmsetup(&["remove", "--retry", "pw-disk-copy"])?;
        checked
    }

    /// Applies some of the writes that were in the disk's cache.
    fn some_more(&self, log: &Log, at: usize, random: &mut Random) -> Result<(), String> {
        let copy = fs::File::options()
            .write(true)
            .open("/dev/mapper/pw-disk-copy")
            .map_err(|e| e.to_string())?;
        let cached = log.entries[at + 1..]
            .iter()
            .take_while(|entry| entry.flags & (FLUSH | FUA | MARK) == 0);
        for entry in cached {
            if random.one_in(2) {
                log.apply(entry, &copy)?;
            }
        }
        copy.sync_all().map_err(|e| e.to_string())
    }

    fn check_image(&self, recorded: &Recorded, at: usize, sum: &mut Sum) -> Result<(), String> {
        let mounted = Mounted::device("state", "/dev/mapper/pw-disk-state", "ext4", &[])?;
        let out = self.out.join("point");
        let _ = fs::remove_dir_all(&out);
        let mut point = Run::new(&out, self.place.clone(), 0);
        let result = self.check_daemon(recorded, at, &mut point);
        point.sum.cycles = u64::from(result.is_ok());
        sum.add(&point.sum);
        drop(mounted);
        result
    }

    fn check_daemon(&self, recorded: &Recorded, at: usize, point: &mut Run) -> Result<(), String> {
        let mut daemon: Daemon = point.start()?;
        point.state = State::default();
        let lines = lines_until(&recorded.journals, &recorded.log.entries[..=at]);
        point.check_against(&mut daemon.client, &lines, true)?;
        daemon.kill();
        Ok(())
    }
}

/// The acknowledged calls up to then, and the calls that may have been sent.
fn lines_until(
    journals: &BTreeMap<String, Vec<Line>>,
    entries: &[Entry],
) -> BTreeMap<String, Vec<Line>> {
    let mut marked: BTreeMap<&str, usize> = BTreeMap::new();
    for mark in entries.iter().filter_map(|entry| entry.mark.as_deref()) {
        if let Some((client, line)) = mark.rsplit_once('-') {
            marked.insert(client, line.parse().unwrap_or(0));
        }
    }
    let cut = |client: &String, lines: &Vec<Line>| {
        let sure = marked.get(client.as_str()).copied().unwrap_or(0);
        let unsure =
            lines[sure..].iter().take_while(|line| !matches!(line, Line::Done | Line::Kept { .. }));
        let until = sure + unsure.count();
        lines[..until].to_vec()
    };
    journals.iter().map(|(client, lines)| (client.clone(), cut(client, lines))).collect()
}

/// A random choice of `points` elements, in their order.
fn sample(mut all: Vec<usize>, points: usize, random: &mut Random) -> Vec<usize> {
    while all.len() > points {
        let at = random.below(all.len());
        all.swap_remove(at);
    }
    all.sort_unstable();
    all
}

//! What each verb costs beside the bare ioctls it stands for, and beside `dmsetup`: medians, in
//! microseconds.
//!
//! `tests/bench/run` starts it in a guest; it needs root and dm-thin. ROUNDS sets how often each is
//! measured (default 300; dmsetup a tenth).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::{
    ActivateOptions, Dm, NodePolicy, PoolFeatures, RealKernel, Settings, StatusOptions, Target,
    ThinPoolTable,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};
use kit::{dmsetup, run};
use nix::libc;

const MIB: u64 = 1 << 20;

/// How large the pool is, in bytes.
const POOL: u64 = 256 * MIB;

/// How large the thins claim to be, in sectors.
const THIN: u64 = 10 * 1024 * MIB / 512;

/// The ioctls with nothing around them: one buffer, no checks, answers unread.
struct Bare {
    control: File,
    buffer: Vec<u8>,
}

const HEADER: usize = 312;

impl Bare {
    fn new() -> Bare {
        let control = File::options().read(true).write(true).open("/dev/mapper/control").unwrap();
        Bare { control, buffer: vec![0; 16 << 10] }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Sends the header with what has been put behind it.
    fn send(&mut self, command: u8, name: &str, flags: u32, targets: u32, size: usize) {
        self.buffer[..HEADER].fill(0);
        self.put(0, &4u32.to_ne_bytes());
        self.put(12, &(size as u32).to_ne_bytes());
        self.put(16, &(HEADER as u32).to_ne_bytes());
        self.put(20, &targets.to_ne_bytes());
        self.put(28, &flags.to_ne_bytes());
        self.put(32, &0x006f_0000u32.to_ne_bytes());
        self.put(48, name.as_bytes());
        let request = nix::request_code_readwrite!(0xfd, command, HEADER);
        // SAFETY: the kernel accesses `size` bytes at the pointer, which are all in the buffer.
        let result = unsafe {
            libc::ioctl(self.control.as_raw_fd(), request as _, self.buffer.as_mut_ptr())
        };
        assert_eq!(result, 0, "ioctl {command}: {}", std::io::Error::last_os_error());
    }

    fn message(&mut self, pool: &str, text: &str) {
        self.put(HEADER, &0u64.to_ne_bytes());
        self.put(HEADER + 8, text.as_bytes());
        self.put(HEADER + 8 + text.len(), &[0]);
        self.send(14, pool, 0, 0, HEADER + 8 + text.len() + 1);
    }

    fn activate(&mut self, name: &str, params: &str) {
        self.send(3, name, 0, 0, HEADER);
        let length = (40 + params.len() + 1).next_multiple_of(8);
        self.buffer[HEADER..HEADER + length].fill(0);
        self.put(HEADER + 8, &THIN.to_ne_bytes());
        self.put(HEADER + 20, &(length as u32).to_ne_bytes());
        self.put(HEADER + 24, b"thin");
        self.put(HEADER + 40, params.as_bytes());
        self.send(9, name, 0, 1, HEADER + length);
        self.send(6, name, 0, 0, HEADER);
    }
}

/// What is measured, and how long it took each of the three ways.
struct Verb {
    name: &'static str,
    ours: Vec<Duration>,
    bare: Vec<Duration>,
    dmsetup: Vec<Duration>,
}

fn timed<T>(act: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let made = act();
    let took = start.elapsed();
    drop(made);
    took
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

struct Field {
    dm: Dm,
    with_nodes: Dm,
    bare: Bare,
    pool: DmName,
    device: DeviceNumber,
    name: DmName,
}

impl Field {
    /// One round of everything, each way; which comes first changes from round to round.
    fn round(&mut self, verbs: &mut [Verb], number: usize, with_dmsetup: bool) {
        for way in 0..2 {
            if (way + number).is_multiple_of(2) {
                self.ours(verbs);
            } else {
                self.bare(verbs);
            }
        }
        if with_dmsetup {
            self.dmsetup(verbs);
        }
    }

    fn table(&self) -> [Target; 1] {
        [Target::thin(self.device, thin_id(2), Sectors(THIN))]
    }

    fn ours(&mut self, verbs: &mut [Verb]) {
        let (dm, pool, name, table) = (&self.dm, &self.pool, &self.name, self.table());
        let options = ActivateOptions::default();
        let mut took = |verb: usize, duration| verbs[verb].ours.push(duration);
        took(0, timed(|| dm.driver_version().unwrap()));
        took(1, timed(|| dm.create_thin(pool, thin_id(3)).unwrap()));
        took(2, timed(|| dm.create_snap(pool, thin_id(2), thin_id(1)).unwrap()));
        took(3, timed(|| drop(dm.activate(name, None, &table, options).unwrap())));
        took(4, timed(|| drop(dm.info(name).unwrap())));
        took(5, timed(|| dm.pool_status(pool, StatusOptions::NO_FLUSH).unwrap()));
        took(6, timed(|| drop(dm.table(name).unwrap())));
        took(7, timed(|| drop(dm.list().unwrap())));
        took(8, timed(|| drop(dm.suspend(name, Default::default()).unwrap())));
        took(9, timed(|| drop(dm.resume(name).unwrap())));
        took(10, timed(|| dm.remove(name).unwrap()));
        took(11, timed(|| dm.delete_thin(pool, thin_id(2)).unwrap()));
        dm.delete_thin(pool, thin_id(3)).unwrap();
        // The same with a node, which the bare ioctls do not make.
        dm.create_snap(pool, thin_id(2), thin_id(1)).unwrap();
        took(12, timed(|| drop(self.with_nodes.activate(name, None, &table, options).unwrap())));
        took(13, timed(|| self.with_nodes.remove(name).unwrap()));
        dm.delete_thin(pool, thin_id(2)).unwrap();
    }

    fn bare(&mut self, verbs: &mut [Verb]) {
        let (pool, name) = (self.pool.to_string(), self.name.to_string());
        let params = format!("{} 2", self.device);
        let bare = &mut self.bare;
        let mut took = |verb: usize, duration| verbs[verb].bare.push(duration);
        took(0, timed(|| bare.send(0, "", 0, 0, HEADER)));
        took(1, timed(|| bare.message(&pool, "create_thin 3")));
        took(2, timed(|| bare.message(&pool, "create_snap 2 1")));
        took(3, timed(|| bare.activate(&name, &params)));
        took(4, timed(|| bare.send(7, &name, 0, 0, HEADER)));
        took(5, timed(|| bare.send(12, &pool, 1 << 11, 0, 4096)));
        took(6, timed(|| bare.send(12, &name, 1 << 4 | 1 << 11, 0, 4096)));
        took(7, timed(|| bare.send(2, "", 1 << 14, 0, 16 << 10)));
        took(8, timed(|| bare.send(6, &name, 1 << 1, 0, HEADER)));
        took(9, timed(|| bare.send(6, &name, 0, 0, HEADER)));
        took(10, timed(|| bare.send(4, &name, 0, 0, HEADER)));
        took(11, timed(|| bare.message(&pool, "delete 2")));
        bare.message(&pool, "delete 3");
        bare.message(&pool, "create_snap 2 1");
        took(12, timed(|| bare.activate(&name, &params)));
        took(13, timed(|| bare.send(4, &name, 0, 0, HEADER)));
        bare.message(&pool, "delete 2");
    }

    fn dmsetup(&self, verbs: &mut [Verb]) {
        let (pool, name) = (self.pool.as_str(), self.name.as_str());
        let table = self.table()[0].to_string();
        let mut took = |verb: usize, duration| verbs[verb].dmsetup.push(duration);
        took(0, timed(|| dmsetup(&["version"])));
        took(1, timed(|| dmsetup(&["message", pool, "0", "create_thin 3"])));
        took(2, timed(|| dmsetup(&["message", pool, "0", "create_snap 2 1"])));
        took(3, timed(|| dmsetup(&["create", name, "--table", &table])));
        took(4, timed(|| dmsetup(&["info", name])));
        took(5, timed(|| dmsetup(&["status", "--noflush", pool])));
        took(6, timed(|| dmsetup(&["table", name])));
        took(7, timed(|| dmsetup(&["ls"])));
        took(8, timed(|| dmsetup(&["suspend", name])));
        took(9, timed(|| dmsetup(&["resume", name])));
        took(10, timed(|| dmsetup(&["remove", name])));
        took(11, timed(|| dmsetup(&["message", pool, "0", "delete 2"])));
        self.dm.delete_thin(&self.pool, thin_id(3)).unwrap();
    }
}

/// A loop device on a sparse file.
fn disk(file: &Path, bytes: u64) -> DeviceNumber {
    File::create(file).and_then(|file| file.set_len(bytes)).unwrap();
    let node = run("losetup", &["--find", "--show", &file.to_string_lossy()]);
    DeviceNumber::from_u64(std::fs::metadata(node).unwrap().rdev())
}

fn thin_id(id: u32) -> ThinId {
    ThinId::new(id).unwrap()
}

/// A pool with one thin, of which 16 blocks are written.
fn pool(dm: &Dm, folder: &Path) -> (DmName, DeviceNumber) {
    let table = Target::ThinPool(ThinPoolTable {
        start: Sectors::ZERO,
        length: Sectors(POOL / 512),
        metadata: disk(&folder.join("metadata"), 4 * MIB).into(),
        data: disk(&folder.join("data"), POOL).into(),
        block_size: Sectors(128),
        low_water_blocks: 8,
        features: PoolFeatures::default(),
    });
    let activate = |name: &str, table| {
        let name = DmName::new(name).unwrap();
        let info = dm.activate(&name, None, &[table], ActivateOptions::default()).unwrap();
        (name, info.device)
    };
    let (pool, device) = activate("bench-pool", table);
    dm.create_thin(&pool, thin_id(1)).unwrap();
    let (origin, _) = activate("bench-origin", Target::thin(device, thin_id(1), Sectors(THIN)));
    let node = File::options().write(true).open(dm.node(&origin)).unwrap();
    node.write_all_at(&[1; 16 * 65536], 0).and_then(|()| node.sync_all()).unwrap();
    drop(node);
    dm.remove(&origin).unwrap();
    (pool, device)
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = std::sync::Arc::new(RealKernel::open().unwrap());
    let settings = Settings { nodes: NodePolicy::Leave, ..Settings::default() };
    let with_nodes = Dm::new(kernel.clone(), Settings::default());
    let (pool, device) = pool(&with_nodes, folder.path());
    let mut field = Field {
        dm: Dm::new(kernel, settings),
        with_nodes,
        bare: Bare::new(),
        pool,
        device,
        name: DmName::new("bench-layer").unwrap(),
    };
    let names = [
        "version",
        "create_thin",
        "create_snap",
        "activate (3 ioctls)",
        "info",
        "pool status, no flush",
        "table",
        "list",
        "suspend",
        "resume",
        "remove",
        "delete",
        "activate with node",
        "remove with node",
    ];
    let empty = |name| Verb { name, ours: Vec::new(), bare: Vec::new(), dmsetup: Vec::new() };
    let mut verbs = names.map(empty);
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    for number in 0..rounds {
        field.round(&mut verbs, number, number % 10 == 0);
    }
    println!("{:<24} {:>10} {:>10} {:>7} {:>10}", "verb", "ours", "bare", "ratio", "dmsetup");
    for verb in &mut verbs {
        let micros = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        let (ours, bare) = (micros(median(&mut verb.ours)), micros(median(&mut verb.bare)));
        let dmsetup = match verb.dmsetup.is_empty() {
            true => String::new(),
            false => format!("{:.0}", micros(median(&mut verb.dmsetup))),
        };
        println!("{:<24} {ours:>10.1} {bare:>10.1} {:>7.2} {dmsetup:>10}", verb.name, ours / bare);
    }
}

//! Pools that refuse writes for a while, and pools that only have events. A layer that may have
//! holes is never committed, by this run of the daemon or a later one. No other layer is
//! refused.
// guest: --mem 2G

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lab::{refused, Daemon};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::Code;
use devmapper_snapshotter::dm::{
    Dm, PoolMode, RealKernel, Settings, StatusOptions, Target, WorkingPool,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{Sectors, ThinId};
use kit::{dmsetup, run, try_dmsetup, wait_until, with_mounted, LoopDevice};

const MIB: usize = 1 << 20;
/// Blocks of 64 KiB in a MiB.
const BLOCKS: usize = 16;

fn dm() -> Dm {
    Dm::new(Arc::new(RealKernel::open().unwrap()), Settings::without_nodes())
}

fn pool_name(pool: &str) -> DmName {
    DmName::new(pool).unwrap()
}

fn events(pool: &str) -> u32 {
    dm().info(&pool_name(pool)).unwrap().unwrap().event_nr
}

fn status(pool: &str) -> WorkingPool {
    *dm().pool_status(&pool_name(pool), StatusOptions::NO_FLUSH).unwrap().working().unwrap()
}

/// Writes as an unpacker does: into the page cache, and never asking what became of it.
fn unpack(mount: &Mount, size: usize) {
    with_mounted(mount, |root| std::fs::write(root.join("file"), vec![0xa5; size]).unwrap());
}

fn prepared(d: &mut Daemon, key: &str) -> Mount {
    d.prepare(key, "base").unwrap().remove(0)
}

/// Commits a snapshot that must be whole, reads what was written to it, and takes it away again.
#[track_caller]
fn is_whole(d: &mut Daemon, key: &str, size: usize) {
    d.commit(&format!("{key}-c"), key).unwrap_or_else(|status| panic!("{key}: {status}"));
    let view = d.view("view", &format!("{key}-c")).unwrap();
    with_mounted(&view[0], |root| {
        assert!(std::fs::read(root.join("file")).unwrap() == vec![0xa5; size], "{key}")
    });
    d.remove("view").unwrap();
    d.remove(&format!("{key}-c")).unwrap();
    d.cleanup();
}

#[track_caller]
fn is_refused(d: &mut Daemon, key: &str) {
    refused(d.commit("never", key), Code::DataLoss, &[key, "refused writes", "make it again"]);
}

/// Fills an embedded pool of 256 MiB while `layer` is written to, and frees space again.
fn full_episode(d: &mut Daemon, layer: &Mount) {
    let filler = prepared(d, "filler");
    unpack(&filler, 160 * MIB);
    unpack(layer, 160 * MIB);
    d.remove("filler").unwrap();
    d.cleanup();
}

#[test]
fn one_full_episode_refuses_whoever_was_there_and_nobody_else_over_restarts() {
    let mut d = Daemon::start_with("episode", "data_size = \"256MiB\"");
    d.committed("base", "");
    let layer = prepared(&mut d, "layer");
    let idle = prepared(&mut d, "idle");
    full_episode(&mut d, &layer);
    // At once: the daemon has not looked at the pool since it has space again.
    let after = prepared(&mut d, "after");
    unpack(&after, MIB);
    is_refused(&mut d, "layer");
    for signal in ["TERM", "KILL", "KILL"] {
        d.restart(signal);
        is_refused(&mut d, "layer");
        // It was there to be written to, and it is not known whether it was.
        is_refused(&mut d, "idle");
        let new = prepared(&mut d, "new");
        unpack(&new, 2 * MIB);
        is_whole(&mut d, "new", 2 * MIB);
    }
    is_whole(&mut d, "after", MIB);
    drop(idle);
    // The machine goes down and comes up again: what is missing is still missing.
    prepared(&mut d, "later");
    d.stop("TERM");
    d.remove_devices();
    d.begin();
    is_refused(&mut d, "layer");
    let later = d.mounts("later").unwrap().remove(0);
    unpack(&later, MIB);
    is_whole(&mut d, "later", MIB);
}

#[test]
fn a_daemon_killed_before_it_looked_finds_the_lapse_that_it_did_not_see() {
    let mut d = Daemon::start_with("unseen", "data_size = \"256MiB\"");
    d.committed("base", "");
    let layer = prepared(&mut d, "layer");
    let filler = prepared(&mut d, "filler");
    unpack(&filler, 160 * MIB);
    d.stop("KILL");
    unpack(&layer, 160 * MIB);
    assert_eq!(status("unseen-pool").mode, PoolMode::OutOfDataSpace);
    // Its blocks go while the daemon is away.
    let thin = filler.source.rsplit('-').next().unwrap().parse().unwrap();
    dm().remove(&pool_name(Path::new(&filler.source).file_name().unwrap().to_str().unwrap()))
        .unwrap();
    dm().delete_thin(&pool_name("unseen-pool"), ThinId::new(thin).unwrap()).unwrap();
    assert_eq!(status("unseen-pool").mode, PoolMode::ReadWrite);
    d.begin();
    let after = prepared(&mut d, "after");
    unpack(&after, MIB);
    is_refused(&mut d, "layer");
    d.restart("KILL");
    is_refused(&mut d, "layer");
    is_whole(&mut d, "after", MIB);
}

/// A pool that is not the daemon's own, on loop devices that are larger than its table.
struct External {
    name: String,
    loops: [LoopDevice; 2],
    blocks: usize,
    low_water: usize,
    features: &'static str,
}

impl External {
    fn new(name: &str, mib: usize, metadata: &str, features: &'static str) -> External {
        let loops = [LoopDevice::new(metadata), LoopDevice::new("1G")];
        let name = format!("{name}-pool");
        let pool = External { name, loops, blocks: mib * BLOCKS, low_water: 1 << 20, features };
        dmsetup(&["create", &pool.name, "--noudevsync", "--table", &pool.table()]);
        pool
    }

    /// The mark is above all there is: each resume is followed by an event as soon as a block is
    /// taken.
    fn table(&self) -> String {
        let External { loops: [metadata, data], blocks, low_water, features, .. } = self;
        format!("0 {} thin-pool {metadata} {data} 128 {low_water} {features}", blocks * 128)
    }

    fn grow(&mut self, mib: usize) {
        self.blocks += mib * BLOCKS;
        let (dm, name) = (dm(), pool_name(&self.name));
        let mut table = dm.table(&name).unwrap();
        let Target::ThinPool(pool) = &mut table[0] else { panic!("{} is no pool", self.name) };
        pool.length = Sectors(self.blocks as u64 * 128);
        pool.low_water_blocks = self.low_water as u64;
        dm.reload(&name, &table).unwrap();
    }

    fn daemon(&self, name: &str) -> Daemon {
        let accepted = if self.features == QUEUE {
            "accept_pool_features = [\"queue_if_no_space\"]"
        } else {
            ""
        };
        let mut d = Daemon::start_with(name, &format!("pool_name = \"{}\"\n{accepted}", self.name));
        d.committed("base", "");
        d
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let _ = try_dmsetup(&["remove", "--noudevsync", "--retry", &self.name]);
    }
}

const ERROR: &str = "1 error_if_no_space";
const QUEUE: &str = "0";

/// Grows the pool ten times within a second or so, an event each time, while a file grows in a
/// layer.
fn extended_while_written(pool: &mut External, layer: &Mount) {
    let before = events(&pool.name);
    with_mounted(layer, |root| {
        let began = Instant::now();
        for part in 1..=10 {
            let mut file = std::fs::File::create(root.join(format!("part{part}"))).unwrap();
            file.write_all(&[0x5a; 4 * 65536]).unwrap();
            file.sync_all().unwrap();
            pool.grow(8);
        }
        println!("ten times in {:?}", began.elapsed());
        std::fs::write(root.join("file"), vec![0xa5; 4 * MIB]).unwrap();
    });
    assert!(events(&pool.name) >= before + 10);
}

#[test]
fn a_pool_that_its_owner_extends_ten_times_while_a_layer_is_written_refuses_nothing() {
    for (name, features) in [("exterror", ERROR), ("extqueue", QUEUE)] {
        let mut pool = External::new(&format!("own{name}"), 64, "4M", features);
        let mut d = pool.daemon(name);
        let layer = prepared(&mut d, "layer");
        extended_while_written(&mut pool, &layer);
        is_whole(&mut d, "layer", 4 * MIB);
        // Nor while the daemon is away.
        let layer = prepared(&mut d, "layer");
        d.stop("TERM");
        extended_while_written(&mut pool, &layer);
        d.begin();
        is_whole(&mut d, "layer", 4 * MIB);
        let again = prepared(&mut d, "again");
        unpack(&again, MIB);
        d.restart("KILL");
        is_whole(&mut d, "again", MIB);
    }
}

#[test]
fn metadata_at_its_low_water_mark_refuses_nothing() {
    let mut pool = External::new("ownmeta", 64, "2M", ERROR);
    let mut d = pool.daemon("meta");
    pool.low_water = 0;
    pool.grow(0);
    let (layer, name, dm) = (prepared(&mut d, "layer"), pool_name(&pool.name), dm());
    let before = events(&pool.name);
    let mut id = 1;
    while events(&pool.name) == before {
        assert!(id < 400, "{}", status(&pool.name).metadata);
        dm.create_thin(&name, ThinId::new(id).unwrap()).unwrap();
        id += 1;
    }
    for round in 0..400 {
        if events(&pool.name) >= before + 10 {
            break;
        }
        for n in 0..8 {
            dm.create_thin(&name, ThinId::new(id + n).unwrap()).unwrap();
        }
        for n in 0..8 {
            dm.delete_thin(&name, ThinId::new(id + n).unwrap()).unwrap();
        }
        assert!(
            round < 399,
            "{} events, {}",
            events(&pool.name) - before,
            status(&pool.name).metadata
        );
    }
    unpack(&layer, MIB);
    is_whole(&mut d, "layer", MIB);
    for id in 1..id {
        dm.delete_thin(&name, ThinId::new(id).unwrap()).unwrap();
    }
}

/// Writes more than fits into the pool, and lets the owner extend it.
fn lapse(pool: &mut External, layer: &Mount) {
    let free = status(&pool.name).data.free() as usize / BLOCKS;
    unpack(layer, (free + 8) * MIB);
    assert_eq!(status(&pool.name).mode, PoolMode::OutOfDataSpace);
    pool.grow(32);
    assert_eq!(status(&pool.name).mode, PoolMode::ReadWrite);
}

#[test]
fn an_external_pool_that_refused_writes_while_the_daemon_ran_or_not_costs_who_was_there() {
    let mut pool = External::new("ownlapse", 64, "4M", ERROR);
    let mut d = pool.daemon("lapse");
    for away in [false, true] {
        let layer = prepared(&mut d, "layer");
        if away {
            d.stop("TERM");
        }
        lapse(&mut pool, &layer);
        if away {
            d.begin();
        }
        let after = prepared(&mut d, "after");
        unpack(&after, MIB);
        is_refused(&mut d, "layer");
        d.restart("KILL");
        is_refused(&mut d, "layer");
        is_whole(&mut d, "after", MIB);
        d.remove("layer").unwrap();
        d.cleanup();
    }
}

#[test]
fn a_pool_that_queues_refuses_nothing_until_its_time_is_out() {
    const TIME_OUT: &str = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    let mut pool = External::new("ownwait", 64, "4M", QUEUE);
    let mut d = pool.daemon("wait");
    let layer = prepared(&mut d, "layer");
    let size = (status(&pool.name).data.free() as usize / BLOCKS + 8) * MIB;
    std::thread::scope(|scope| {
        scope.spawn(|| unpack(&layer, size));
        wait_until("the pool is full", || status(&pool.name).mode == PoolMode::OutOfDataSpace);
        // The monitor sees it.
        std::thread::sleep(Duration::from_secs(3));
        pool.grow(32);
    });
    is_whole(&mut d, "layer", size);

    let before = std::fs::read_to_string(TIME_OUT).unwrap();
    std::fs::write(TIME_OUT, "2").unwrap();
    let layer = prepared(&mut d, "layer");
    d.stop("TERM");
    let free = status(&pool.name).data.free() as usize / BLOCKS;
    unpack(&layer, (free + 8) * MIB);
    pool.grow(32);
    std::fs::write(TIME_OUT, before).unwrap();
    d.begin();
    is_refused(&mut d, "layer");
}

/// Something else in the place of the kernel's log, until this is dropped.
struct NoLog;

impl NoLog {
    fn new() -> NoLog {
        run("mount", &["--bind", "/dev/null", "/dev/kmsg"]);
        NoLog
    }
}

impl Drop for NoLog {
    fn drop(&mut self) {
        run("umount", &["/dev/kmsg"]);
    }
}

#[test]
fn without_the_kernels_log_a_lapse_is_still_found_and_what_is_seen_is_not_doubted() {
    let _nolog = NoLog::new();
    let mut pool = External::new("ownblind", 64, "4M", ERROR);
    let mut d = pool.daemon("blind");
    for away in [false, true] {
        // One event between two looks is none.
        let layer = prepared(&mut d, "layer");
        unpack(&layer, MIB);
        if away {
            d.stop("TERM");
        }
        pool.grow(1);
        unpack(&layer, 2 * MIB);
        if away {
            d.begin();
        }
        is_whole(&mut d, "layer", 2 * MIB);
        let layer = prepared(&mut d, "layer");
        if away {
            d.stop("KILL");
        }
        lapse(&mut pool, &layer);
        if away {
            d.begin();
        }
        is_refused(&mut d, "layer");
        d.restart("KILL");
        is_refused(&mut d, "layer");
        let after = prepared(&mut d, "after");
        unpack(&after, MIB);
        is_whole(&mut d, "after", MIB);
        d.remove("layer").unwrap();
        d.cleanup();
    }
}

#[test]
fn a_log_that_was_overwritten_leaves_a_lapse_in_doubt_and_that_is_refused() {
    let mut pool = External::new("ownflood", 64, "4M", ERROR);
    let mut d = pool.daemon("flood");
    let layer = prepared(&mut d, "layer");
    d.stop("TERM");
    lapse(&mut pool, &layer);
    std::fs::write("/proc/sys/kernel/printk_devkmsg", "on\n").unwrap();
    let line = [b'x'; 900];
    for _ in 0..4000 {
        std::fs::write("/dev/kmsg", line).unwrap();
    }
    d.begin();
    let after = prepared(&mut d, "after");
    is_refused(&mut d, "layer");
    unpack(&after, MIB);
    pool.grow(1);
    is_whole(&mut d, "after", MIB);
}

//! dm-thin can leak a block, and no user of it can prevent that. If the power goes while a
//! block of a thin is filled for the first time, or the disk fails that write, the block stays
//! allocated and no thin maps it. The crash campaigns count such blocks separately; see I6 in
//! ARCHITECTURE.md.

use std::time::{Duration, Instant};

use crate::lab::{thin_id, Bench, BLOCK, MIB};
use devmapper_snapshotter::dm::{
    ActivateOptions, LinearTable, StatusOptions, Target, ThinPoolTable, ThinStatus,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::Sectors;
use kit::run;

/// How long the pool's data disk takes for a write, in milliseconds.
const DELAY: u64 = 3000;

#[test]
fn a_block_that_was_taken_and_not_yet_mapped_when_the_power_went_is_leaked_until_thin_repair() {
    let mut bench = Bench::new("leak");
    run("modprobe", &["dm-delay"]);
    let mut table = bench.pool_table(64 * MIB);
    let metadata = table.metadata.number().unwrap();

    // Reads and flushes are quick, so a commit of the pool gets ahead of a write.
    let data = table.data.to_string();
    let slow = Target::Other {
        kind: "delay".into(),
        start: Sectors::ZERO,
        length: table.length,
        params: format!("{data} 0 0 {data} 0 {DELAY} {data} 0 0"),
    };
    put_below(&bench, &mut table, &[slow]);
    let pool = bench.name("pool");
    let device = bench
        .dm
        .activate(&pool, None, &[Target::ThinPool(table.clone())], ActivateOptions::default())
        .unwrap()
        .device;
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(device, 1, 16 * MIB);

    let used = |bench: &Bench| used(bench, &pool);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| bench.write(&thin, 0, 4096, 0xaa));
        let end = Instant::now() + Duration::from_secs(20);
        while used(&bench) == 0 {
            assert!(Instant::now() < end, "the write takes no block");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Any message that changes metadata commits all of it: the block is taken on disk now.
        bench.dm.create_thin(&pool, thin_id(2)).unwrap();
        assert!(
            !writer.is_finished(),
            "the commit came after the write, so this run shows nothing"
        );
        // The power goes: what the metadata disk holds at this moment is all there is.
        let (_, file) = bench.loop_of(metadata);
        std::fs::copy(file, bench.dir().join("after-the-cut")).unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(used(&bench), 1);
    let mapped = ThinStatus::Working { mapped: Sectors(128), highest: Some(Sectors(127)) };
    assert_eq!(
        bench.dm.thin_status(&thin).unwrap(),
        mapped,
        "without a power cut the block is mapped"
    );
    for name in [&thin, &pool] {
        bench.dm.remove(name).unwrap();
    }

    // The next boot.
    let (_, file) = bench.loop_of(metadata);
    std::fs::copy(bench.dir().join("after-the-cut"), file).unwrap();
    only_thin_repair_gives_it_back(&mut bench, &pool, &table, &[1, 2]);
}

#[test]
fn a_block_whose_first_write_the_disk_failed_is_leaked_until_thin_repair() {
    let mut bench = Bench::new("failed");
    let mut table = bench.pool_table(64 * MIB);
    // The first block alone fails: flushes work, or the pool could not commit its metadata.
    let (first, data) = (BLOCK, table.data.clone());
    let rest = LinearTable {
        start: first,
        length: Sectors(table.length.0 - first.0),
        device: data,
        offset: first,
    };
    let disk = [Target::Error { start: Sectors::ZERO, length: first }, Target::Linear(rest)];
    put_below(&bench, &mut table, &disk);
    let pool = bench.name("pool");
    let device = bench
        .dm
        .activate(&pool, None, &[Target::ThinPool(table.clone())], ActivateOptions::default())
        .unwrap()
        .device;
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(device, 1, 16 * MIB);

    let error = bench.write(&thin, 0, 4096, 0xaa).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    assert_eq!(used(&bench, &pool), 1);
    assert_eq!(
        bench.dm.thin_status(&thin).unwrap(),
        ThinStatus::Working { mapped: Sectors::ZERO, highest: None },
        "the block that was taken is not mapped"
    );
    for name in [&thin, &pool] {
        bench.dm.remove(name).unwrap();
    }
    only_thin_repair_gives_it_back(&mut bench, &pool, &table, &[1]);
}

/// Puts a device of these targets in the place of the pool's data disk.
fn put_below(bench: &Bench, table: &mut ThinPoolTable, targets: &[Target]) {
    table.data = bench
        .dm
        .activate(&bench.name("below"), None, targets, ActivateOptions::default())
        .unwrap()
        .device
        .into();
}

fn used(bench: &Bench, pool: &DmName) -> u64 {
    bench.dm.pool_status(pool, StatusOptions::NO_FLUSH).unwrap().working().unwrap().data.used
}

/// Assembles the pool again: deleting its thins leaves one block taken. thin_check 0.9 finds
/// nothing wrong with it; thin_repair writes metadata anew, with what is mapped and nothing else.
fn only_thin_repair_gives_it_back(
    bench: &mut Bench,
    pool: &DmName,
    table: &ThinPoolTable,
    thins: &[u32],
) {
    let spare = bench.disk(4 * MIB);
    let assemble = |bench: &Bench| {
        bench
            .dm
            .activate(pool, None, &[Target::ThinPool(table.clone())], ActivateOptions::default())
            .unwrap();
    };
    assemble(bench);
    for id in thins {
        bench.dm.delete_thin(pool, thin_id(*id)).unwrap();
    }
    assert_eq!(used(bench, pool), 1, "no thin is left, and the block is still taken");
    bench.dm.remove(pool).unwrap();

    let node = |number| bench.loop_of(number).0.to_string_lossy().into_owned();
    let (node, spare) = (node(table.metadata.number().unwrap()), node(spare));
    run("thin_check", &["--quiet", &node]);
    run("thin_repair", &["-i", &node, "-o", &spare]);
    run("dd", &[&format!("if={spare}"), &format!("of={node}"), "bs=1M", "status=none"]);
    assemble(bench);
    assert_eq!(used(bench, pool), 0, "thin_repair gives it back");
}

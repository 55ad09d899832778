//! A fact about dm-thin that no user of it can change: when the power goes while a thin's block is being filled for the first
//! time, that block stays taken and nothing maps it. The crash campaigns count such blocks in a row of their own, and
//! ARCHITECTURE.md says so under I6.

mod dm_common;

use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::{ActivateOptions, Target, ThinStatus};
use devmapper_snapshotter::units::Sectors;
use dm_common::{run, thin_id, Bench, MIB};

/// How long the pool's data disk takes for a write, in milliseconds.
const DELAY: u64 = 3000;

#[test]
fn a_block_that_was_taken_and_not_yet_mapped_when_the_power_went_is_leaked_until_thin_repair() {
    let mut bench = Bench::new("leak");
    run("modprobe", &["dm-delay"]);
    let mut table = bench.pool_table(64 * MIB);
    let spare = bench.disk(4 * MIB);
    let data = table.data.to_string();
    let metadata = table.metadata.number().unwrap();

    // Reads and flushes are quick, so a commit of the pool gets ahead of a write.
    let slow = Target::Other {
        kind: "delay".into(),
        start: Sectors::ZERO,
        length: table.length,
        params: format!("{data} 0 0 {data} 0 {DELAY} {data} 0 0"),
    };
    let slow = bench.dm.activate(&bench.name("slow"), None, &[slow], ActivateOptions::default()).unwrap();
    table.data = slow.device.into();
    let pool = bench.name("pool");
    let device =
        bench.dm.activate(&pool, None, &[Target::ThinPool(table.clone())], ActivateOptions::default()).unwrap().device;
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let thin = bench.thin(device, 1, 16 * MIB);

    let used = |bench: &Bench| bench.dm.pool_status(&pool, true).unwrap().working().unwrap().data.used;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| bench.write(&thin, 0, 4096, 0xaa));
        let end = Instant::now() + Duration::from_secs(20);
        while used(&bench) == 0 {
            assert!(Instant::now() < end, "the write takes no block");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Any message that changes metadata commits all of it: the block is taken on disk now.
        bench.dm.create_thin(&pool, thin_id(2)).unwrap();
        assert!(!writer.is_finished(), "the commit came after the write, so this run shows nothing");
        // The power goes: what the metadata disk holds at this moment is all there is.
        let (_, file) = bench.loop_of(metadata);
        std::fs::copy(file, bench.dir().join("after-the-cut")).unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(used(&bench), 1);
    let mapped = ThinStatus::Working { mapped: Sectors(128), highest: Some(Sectors(127)) };
    assert_eq!(bench.dm.thin_status(&thin).unwrap(), mapped, "without a power cut the block is mapped");
    for name in [&thin, &pool] {
        bench.dm.remove(name).unwrap();
    }

    // The next boot.
    let (node, file) = bench.loop_of(metadata);
    let node = node.to_string_lossy().into_owned();
    std::fs::copy(bench.dir().join("after-the-cut"), file).unwrap();
    let assemble = || {
        drop(bench.dm.activate(&pool, None, &[Target::ThinPool(table.clone())], ActivateOptions::default()).unwrap())
    };
    assemble();
    for id in [1, 2] {
        bench.dm.delete_thin(&pool, thin_id(id)).unwrap();
    }
    assert_eq!(used(&bench), 1, "no thin is left, and the block is still taken");
    bench.dm.remove(&pool).unwrap();

    // thin_check 0.9 finds nothing wrong with it; thin_repair writes metadata anew, with what is mapped and nothing else.
    let spare = bench.loop_of(spare).0.to_string_lossy().into_owned();
    run("thin_check", &["--quiet", &node]);
    run("thin_repair", &["-i", &node, "-o", &spare]);
    run("dd", &[&format!("if={spare}"), &format!("of={node}"), "bs=1M", "status=none"]);
    assemble();
    assert_eq!(used(&bench), 0, "thin_repair gives it back");
}

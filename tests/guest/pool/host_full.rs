//! The host's file system below the embedded pool is full, for a moment or for longer, while a
//! layer is written through the page cache. Commit refuses the layer, or all of it is there;
//! and no block of the pool is lost.
//!
//! `HOST_FULL_RUNS` is the number of runs of each case (2), `HOST_FULL_CASES` the number of
//! cases (4, which is all). `tests/run` passes neither on. At full size, with DAEMON and TEST
//! being the two programs that `tests/run guest` has built: `tests/rig/guest --mem 2G
//! --time-limit 7200 --env DAEMON=… --env HOST_FULL_RUNS=200 -- TEST --test-threads=1
//! --nocapture pool::host_full::`. A table shows what happened.
// guest: --mem 2G

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{Daemon, SmallHost, KIB};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::Code;
use kit::{Mounted, Random};

const FILES: usize = 60;
/// Layers of every other run, of 240 MiB, are larger than what the pool has set aside at the most,
/// so that it meets its end.
const FILE_SIZES: [usize; 2] = [512 << 10, 4 << 20];

#[test]
fn a_layer_of_ext4_over_a_full_host_of_ext4_is_whole_or_refused() {
    campaign("ext4", "ext4");
}

#[test]
fn a_layer_of_ext4_over_a_full_host_of_xfs_is_whole_or_refused() {
    campaign("ext4", "xfs");
}

#[test]
fn a_layer_of_xfs_over_a_full_host_of_ext4_is_whole_or_refused() {
    campaign("xfs", "ext4");
}

#[test]
fn a_layer_of_xfs_over_a_full_host_of_xfs_is_whole_or_refused() {
    campaign("xfs", "xfs");
}

/// What happens while a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Another program takes all there is, and gives it back 0.2 to 0.5 s later.
    FullForAMoment,
    /// 28 to 84 KiB are free from before the first write until after the commit.
    NearlyFullThroughout,
    /// As the first, after layers were removed and their space went back to the host, as far as it
    /// does.
    FullAfterARemoval,
    /// As the first, and the daemon is killed at some moment of it and started again at once.
    FullAndTheDaemonKilled,
}

const CASES: [Case; 4] = [
    Case::FullForAMoment,
    Case::NearlyFullThroughout,
    Case::FullAfterARemoval,
    Case::FullAndTheDaemonKilled,
];

/// What became of the runs of a case.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    committed: usize,
    /// Refused by Commit, with DataLoss or ResourceExhausted.
    refused: usize,
    /// The writer was told, so there is no Commit.
    told: usize,
    /// Committed layers that are not what was written, and how many of their files.
    wrong: usize,
    wrong_files: usize,
    /// Refused by Commit with other codes.
    odd: usize,
    /// Blocks of the pool in use that no thin maps, and other disagreements that `check` found.
    leaked: u64,
    disagreements: bool,
}

fn campaign(layer_fs: &str, host_fs: &str) {
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let (runs, cases) = (number("HOST_FULL_RUNS", 2), number("HOST_FULL_CASES", CASES.len()));
    // Written back as it is written, not all of it when it is unmounted.
    std::fs::write("/proc/sys/vm/dirty_background_bytes", "2097152").unwrap();
    let tallies: Vec<_> = CASES[..cases]
        .iter()
        .map(|case| (case, run_case(*case, layer_fs, host_fs, runs)))
        .collect();
    println!("\nlayer {layer_fs}, host {host_fs}: runs committed refused told wrong (files) other leaked");
    for (case, tally) in &tallies {
        let Tally { runs, committed, refused, told, wrong, wrong_files, odd, leaked, .. } = tally;
        println!(
            "{case:?}: {runs} {committed} {refused} {told} {wrong} ({wrong_files}) {odd} {leaked}"
        );
    }
    for (case, tally) in tallies {
        assert_eq!(
            (tally.wrong, tally.odd, tally.leaked, tally.disagreements),
            (0, 0, 0, false),
            "{case:?}: {tally:?}"
        );
    }
}

fn run_case(case: Case, layer_fs: &str, host_fs: &str, runs: usize) -> Tally {
    let host = SmallHost::new(host_fs, "480M");
    let config = format!("fs_type = \"{layer_fs}\"\nbase_image_size = \"1GiB\"");
    let mut d = Daemon::start_with("hf", &config);
    d.committed("base", "");
    let mut tally = Tally::default();
    let mut chance = Random::new(case as u64);
    let mut usual = Duration::from_millis(600);
    for run in 0..runs {
        if case == Case::FullAfterARemoval {
            remove_layers(&mut d, run);
        }
        one_run(case, &host, &mut d, run, &mut usual, &mut chance, &mut tally);
        assert!(!host.is_full(), "the host file system is full, and nobody fills it");
    }
    d.remove("base").unwrap();
    d.cleanup();
    d.stop("TERM");
    let (sound, text) = d.command(&["check"]);
    tally.leaked = leaked(&text);
    tally.disagreements = !sound;
    if !sound {
        println!("{text}");
    }
    tally
}

fn one_run(
    case: Case,
    host: &SmallHost,
    d: &mut Daemon,
    run: usize,
    usual: &mut Duration,
    chance: &mut Random,
    tally: &mut Tally,
) {
    let (key, name) = (format!("layer-{run}"), format!("committed-{run}"));
    tally.runs += 1;
    let mount = match d.prepare(&key, "base") {
        Ok(mut mounts) => mounts.remove(0),
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            tally.refused += 1;
            return;
        }
    };
    let within =
        |chance: &mut Random, most: Duration| most.mul_f64(chance.next() as f64 / u64::MAX as f64);
    let start = within(chance, *usual);
    let hold = Duration::from_millis(200) + within(chance, Duration::from_millis(300));
    let kill_at = within(chance, *usual);
    let written = match case {
        Case::NearlyFullThroughout => {
            let left = 28 * KIB + chance.below(56 * KIB as usize) as u64;
            write_layer(&mount, run, || host.fill(left))
        }
        _ => std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let begin = Instant::now();
                (write_layer(&mount, run, || ()), begin.elapsed())
            });
            let other = scope.spawn(|| {
                std::thread::sleep(start);
                host.fill(0);
                std::thread::sleep(hold);
                host.free();
            });
            if case == Case::FullAndTheDaemonKilled {
                std::thread::sleep(kill_at);
                d.restart("KILL");
            }
            other.join().unwrap();
            let (written, took) = writer.join().unwrap();
            // The next one is hit while it is written, or shortly before or after.
            if written.is_ok() {
                *usual = took.min(Duration::from_secs(2));
            }
            written
        }),
    };
    match written {
        Err(error) => {
            println!("{case:?} run {run}: whoever wrote it was told: {error}");
            tally.told += 1;
        }
        Ok(()) => match d.commit(&name, &key) {
            Ok(()) => {
                tally.committed += 1;
                host.free();
                let wrong = wrong_files(d, &name, run);
                tally.wrong += usize::from(wrong > 0);
                tally.wrong_files += wrong;
            }
            Err(status) if matches!(status.code(), Code::DataLoss | Code::ResourceExhausted) => {
                tally.refused += 1
            }
            Err(status) => {
                println!("{case:?} run {run}: {status}");
                tally.odd += 1;
            }
        },
    }
    host.free();
    for key in [&key, &name] {
        let _ = d.remove(key);
    }
    d.cleanup();
}

/// Makes two layers without trouble and removes them again, so that their space is free, in the
/// pool or on the host.
fn remove_layers(d: &mut Daemon, run: usize) {
    for n in 0..2 {
        let key = format!("before-{run}-{n}");
        let Ok(mut mounts) = d.prepare(&key, "base") else { continue };
        write_layer(&mounts.remove(0), 2 * n, || ()).unwrap();
        d.commit(&format!("{key}-committed"), &key).unwrap();
        d.remove(&format!("{key}-committed")).unwrap();
    }
    d.cleanup();
    // What gives space back in the background has had a moment to do so.
    std::thread::sleep(Duration::from_millis(300));
}

/// The content of a file of a layer: no two blocks of all layers are alike.
fn content(run: usize, file: usize) -> Vec<u8> {
    let mut bytes = vec![0; FILE_SIZES[run % FILE_SIZES.len()]];
    for (n, block) in bytes.chunks_exact_mut(4096).enumerate() {
        let mut chance = Random::new((((run * FILES + file) as u64) << 16) + n as u64 + 1);
        block.fill(chance.next() as u8 | 1);
        block[..8].copy_from_slice(&chance.next().to_le_bytes());
    }
    bytes
}

/// Writes a layer as an unpacker does, without a sync; fails where the unpacker would have heard of
/// it.
fn write_layer(mount: &Mount, run: usize, before: impl FnOnce()) -> Result<(), String> {
    mounted(mount, |root| {
        before();
        (0..FILES).try_for_each(|file| {
            let mut at = File::create(root.join(format!("file-{file}")))?;
            at.write_all(&content(run, file))
        })
    })
}

/// How many files of a committed layer are not what was written.
fn wrong_files(d: &mut Daemon, name: &str, run: usize) -> usize {
    let view = d.view("view", name).unwrap().remove(0);
    let mut wrong = FILES;
    let looked = mounted(&view, |root| {
        let right = |file: &usize| {
            std::fs::read(root.join(format!("file-{file}")))
                .is_ok_and(|found| found == content(run, *file))
        };
        wrong = (0..FILES).filter(|file| !right(file)).count();
        Ok(())
    });
    if let Err(error) = looked {
        println!("a committed layer cannot be read: {error}");
    }
    d.remove("view").unwrap();
    wrong
}

/// Mounts, runs, unmounts.
fn mounted(mount: &Mount, action: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), String> {
    let mounted = Mounted::new(mount)?;
    let done = action(mounted.path());
    mounted.unmount();
    done.map_err(|error| error.to_string())
}

/// The number in the note of `check` about blocks that nothing maps.
fn leaked(text: &str) -> u64 {
    let note = text.lines().find_map(|line| {
        line.strip_prefix("note: ")?.split_once(" of the pool's blocks are in use")
    });
    note.map_or(0, |(number, _)| number.parse().unwrap())
}

//! Campaigns that run entirely inside a guest: starts several guests and adds up their results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::cuts::scratch;
use super::run::Sum;

/// The sizes of the disk, the log, the image and the copy-on-write area of a replay.
pub const REPLAY_DISKS: [u64; 4] = [640 << 20, 16 << 30, 640 << 20, 1 << 30];

pub fn campaign(
    word: &str,
    words: &[String],
    guests: usize,
    seed: u64,
    disks: &[u64],
    title: &str,
) -> Result<(), String> {
    let started = Instant::now();
    let mut sum = Sum::default();
    let mut errors = Vec::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..guests as u64)
            .map(|n| {
                scope
                    .spawn(move || one(word, words, seed.wrapping_mul(1000).wrapping_add(n), disks))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a guest's thread does not panic"))
            .collect()
    });
    for (guest, error) in results {
        sum.add(&guest);
        errors.extend(error.err());
    }
    if sum.cycles > 0 {
        println!("{}", sum.table(title, started.elapsed().as_secs()));
    }
    if errors.is_empty() && sum.faults() == 0 {
        println!("PASS: {title}");
        return Ok(());
    }
    Err(errors.join("\n"))
}

fn one(word: &str, words: &[String], seed: u64, disks: &[u64]) -> (Sum, Result<(), String>) {
    let work = scratch();
    let out = work.path().join("out");
    fs::create_dir(&out).unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(top.join("tests/rig/guest"));
    command.current_dir(top).args(["--mem", "1G", "--time-limit", "7200", "--out"]).arg(&out);
    for (number, size) in disks.iter().enumerate() {
        let disk = work.path().join(format!("disk{number}"));
        fs::File::create(&disk).unwrap().set_len(*size).unwrap();
        command.arg("--disk").arg(disk);
    }
    let daemon = std::env::var("DAEMON").expect("DAEMON is the path of the daemon to test");
    command.args(["--env", &format!("DAEMON={daemon}"), "--env", "RUST_BACKTRACE=1", "--"]);
    command.arg(std::env::current_exe().unwrap()).arg(word).args(words).arg(seed.to_string());
    let ended = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("tests/rig/guest runs");
    let said = fs::read_to_string(out.join("console.log")).unwrap_or_default();
    said.lines()
        .filter(|line| line.starts_with("PASS: ") || line.starts_with("FAIL: "))
        .for_each(|line| println!("{line}"));
    let sum = fs::read_to_string(out.join("sum.json"))
        .map_or(Sum::default(), |text| serde_json::from_str(&text).unwrap());
    if ended.success() {
        return (sum, Ok(()));
    }
    let kept =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("campaign-failed/{word}-{seed}"));
    let _ = fs::remove_dir_all(&kept);
    let _ = fs::create_dir_all(&kept);
    let _ = Command::new("cp").arg("-r").arg(&out).arg(&kept).status();
    let tail: Vec<&str> = said.lines().rev().take(20).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    (sum, Err(format!("{word}, seed {seed}: {ended}; logs in {}\n{tail}", kept.display())))
}

//! Crash campaigns on a real kernel: the daemon, or the whole guest with it, is ended at random moments while several clients
//! work, and after each crash everything is looked through.
//!
//! `cuts` and `replay` start on the host, the others run in a guest. Every crash is checked by the same checker (`check`),
//! which `selftest` shows broken states to.

mod check;
mod cuts;
mod daemon;
mod load;
mod machine;
mod model;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cuts::{Lane, Pool};
use run::Sum;

const USAGE: &str = "usage: power COMMAND

  cuts CYCLES LANES [SEED]   power cuts: so many, in so many guests side by side (on the host)
  boot ...                   one boot of such a guest

DAEMON is the path of the daemon to test.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["cuts", cycles, lanes, rest @ ..] => cut_power(number(cycles), number(lanes), rest.first().map_or(1, |s| number(s) as u64)),
        ["boot", pool, seed, last, early] => {
            let pool = if *pool == "disk" { Pool::Disk } else { Pool::Embedded };
            cuts::boot(pool, seed.parse().unwrap(), *last == "true", *early == "true")
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAIL: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn cut_power(cycles: usize, lanes: usize, seed: u64) -> Result<(), String> {
    let started = Instant::now();
    let failed = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("power-failed");
    let lanes = lanes.clamp(1, cycles.max(1));
    let threads: Vec<_> = (0..lanes)
        .map(|number| {
            let pool = if number % 2 == 0 { Pool::Embedded } else { Pool::Disk };
            let cuts = cycles / lanes + usize::from(number < cycles % lanes);
            let lane = Lane { number, pool, cuts, seed: seed.wrapping_mul(1000).wrapping_add(number as u64) };
            let failed = failed.clone();
            std::thread::spawn(move || lane.campaign(&failed))
        })
        .collect();
    let mut sum = Sum::default();
    let mut errors = Vec::new();
    for thread in threads {
        let (lane, result) = thread.join().expect("a lane does not panic");
        sum.add(&lane);
        errors.extend(result.err());
    }
    println!("{}", sum.table("power cuts", started.elapsed().as_secs()));
    if errors.is_empty() && sum.faults() == 0 {
        println!("PASS: power cuts, {} of them", sum.cycles);
        return Ok(());
    }
    Err(errors.join("\n"))
}

//! Crash campaigns on a real kernel: the daemon, or the whole guest, ends at random moments
//! while several clients work. After each crash everything is checked.
//!
//! A campaign starts on the host and boots guests, in which this same program runs. `check` is
//! the checker for all of them; `selftest` shows it broken states.
//!
//! | campaign | what happens |
//! |---|---|
//! | `cuts` | the power of a guest is cut |
//! | `replays` | a disk loses its cache |
//! | `kills` | the daemon is killed |
//! | `faults` | disks and programs below the daemon fail |

mod check;
mod cuts;
mod daemon;
mod faults;
mod guests;
mod kills;
mod load;
mod machine;
mod model;
mod replays;
mod run;
mod selftest;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cuts::{Lane, Pool};
use run::Sum;

const USAGE: &str = "usage: campaigns_real COMMAND

  cuts CYCLES LANES [SEED]
      power cuts, CYCLES in all, in LANES guests side by side (on the host)
  replays POINTS GUESTS [SEED]
      POINTS images in all of recorded disks, recorded and checked in GUESTS guests (on the host)
  kills ROUNDS STEPS GUESTS [SEED]
      the daemon is killed, in each of GUESTS guests ROUNDS times under load and at STEPS of its
      steps (on the host)
  faults
      disks and programs below the daemon fail (on the host)
  selftest
      the checker must find states that are broken on purpose (on the host)
  boot, replay, kill, fault, broken
      the parts of these that run in the guests

DAEMON is the path of the daemon to test.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["cuts", cycles, lanes, rest @ ..] => cut_power(number(cycles), number(lanes), seed(rest)),
        ["replays", points, guests, rest @ ..] => {
            let (points, guests) = (number(points), number(guests).max(1));
            let seconds = 20 + points / guests / 10;
            let words = [points.div_ceil(guests).to_string(), seconds.to_string()];
            guests::campaign(
                "replay",
                &words,
                guests,
                seed(rest),
                &guests::REPLAY_DISKS,
                "flush marks of a recorded disk, replayed",
            )
        }
        ["kills", rounds, steps, guests, rest @ ..] => {
            let words = [(*rounds).to_owned(), (*steps).to_owned()];
            guests::campaign(
                "kill",
                &words,
                number(guests).max(1),
                seed(rest),
                &[2 << 30],
                "the daemon killed",
            )
        }
        ["faults"] => {
            guests::campaign("fault", &[], 1, 1, &[256 << 20, 1 << 30], "faults below the daemon")
        }
        ["fault", _] => faults::faults(),
        ["selftest"] => guests::campaign("broken", &[], 1, 1, &[2 << 30], "broken states"),
        ["replay", points, seconds, seed] => {
            replays::replay(number(points), number(seconds), number(seed) as u64)
        }
        ["kill", rounds, steps, seed] => {
            kills::kills(number(rounds), number(steps), number(seed) as u64)
        }
        ["broken", _] => selftest::selftest(),
        ["boot", pool, seed, last, early] => {
            let pool = Pool::ALL
                .into_iter()
                .find(|kind| kind.name() == *pool)
                .expect("POOL is the name of a kind of pool");
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

fn seed(rest: &[&str]) -> u64 {
    rest.first().map_or(1, |text| number(text) as u64)
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn cut_power(cycles: usize, lanes: usize, seed: u64) -> Result<(), String> {
    let started = Instant::now();
    let failed = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign-failed");
    let lanes = lanes.clamp(1, cycles.max(1));
    let threads: Vec<_> = (0..lanes)
        .map(|number| {
            let pool = Pool::ALL[number % Pool::ALL.len()];
            let cuts = cycles / lanes + usize::from(number < cycles % lanes);
            let lane = Lane {
                number,
                pool,
                cuts,
                seed: seed.wrapping_mul(1000).wrapping_add(number as u64),
            };
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
        println!("PASS: power cuts, {} of them", sum.crashes.values().sum::<u64>());
        return Ok(());
    }
    Err(errors.join("\n"))
}

//! The daemon is killed while the kernel goes on: at random moments under load, and at chosen
//! steps.
//!
//! What it had made in the kernel stays: devices that are half made or suspended.

use std::fs;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::run::{join, Run};
use kit::Random;

/// A daemon ends at each of its steps up to this one. After it the gaps between steps grow.
const EACH: u64 = 40;
const LAST: u64 = 400;

/// Kills the daemon `rounds` times under load, and then at `steps` of its steps. The second needs
/// a build with failpoints.
pub fn kills(rounds: usize, steps: usize, seed: u64) -> Result<(), String> {
    let (_mounted, mut guest) =
        Run::on_first_disk("data_size = \"1GiB\"\nbase_image_size = \"64MiB\"", 4)?;
    let started = Instant::now();
    let result = all(&mut guest, rounds, steps, seed);
    println!("{}", guest.sum.table("the daemon killed", started.elapsed().as_secs()));
    fs::write(guest.out.join("sum.json"), serde_json::to_string(&guest.sum).unwrap())
        .map_err(|e| e.to_string())?;
    result?;
    println!("PASS: {} kills", guest.sum.cycles);
    Ok(())
}

fn all(guest: &mut Run, rounds: usize, steps: usize, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    checked_start(guest)?.kill();
    for _ in 0..rounds {
        under_load(guest, &mut random)?;
    }
    let mut step = 1;
    for round in 0..steps as u64 {
        if round >= EACH {
            step += (round - EACH) / 8;
        }
        if step > LAST {
            step = 1;
        }
        at_step(guest, step, random.next())?;
        step += 1;
    }
    let mut daemon = checked_start(guest)?;
    guest.empty(&mut daemon.client)
}

fn checked_start(guest: &mut Run) -> Result<Daemon, String> {
    guest.place.environment.clear();
    let mut daemon = guest.start()?;
    guest.check(&mut daemon.client, false)?;
    Ok(daemon)
}

fn under_load(guest: &mut Run, random: &mut Random) -> Result<(), String> {
    let mut daemon = checked_start(guest)?;
    let (common, threads) = guest.load(&daemon.client, random.next(), usize::MAX, |_| false);
    std::thread::sleep(Duration::from_millis(random.below(2500) as u64));
    let alive = daemon.is_alive();
    daemon.kill();
    join(&common, threads);
    guest.problems_of(&common)?;
    if !alive {
        return Err("the daemon ended by itself".into());
    }
    // Killed again during its recovery.
    if random.one_in(4) {
        let mut process = guest.place.spawn();
        std::thread::sleep(Duration::from_millis(random.below(400) as u64));
        let _ = process.kill();
        let _ = process.wait();
        guest.sum.crash("SIGKILL during recovery");
    }
    guest.sum.crash("SIGKILL under load");
    checked_start(guest)?.kill();
    guest.sum.cycles += 1;
    Ok(())
}

/// The daemon ends itself at its `step`-th step, in recovery or under load.
fn at_step(guest: &mut Run, step: u64, seed: u64) -> Result<(), String> {
    guest.place.environment = vec![("DMS_FAILPOINT".into(), format!("any:{step}"))];
    let said = fs::read_to_string(&guest.place.log).map_or(0, |log| log.len());
    if let Ok(mut daemon) = Daemon::start(&guest.place, &guest.runtime) {
        let (common, threads) = guest.load(&daemon.client, seed, 40, |_| false);
        while threads.iter().any(|thread| !thread.is_finished()) && daemon.is_alive() {
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.kill();
        join(&common, threads);
        guest.problems_of(&common)?;
    }
    let log = fs::read_to_string(&guest.place.log).map_err(|e| e.to_string())?;
    match log[said..].lines().find_map(|line| line.strip_prefix("failpoint: ended at ")) {
        Some(name) => guest.sum.crash(&format!("ended {name}")),
        None => {
            return Err(format!(
                "the daemon did not end at step {step}; is it built with failpoints?"
            ))
        }
    }
    checked_start(guest)?.kill();
    guest.sum.cycles += 1;
    Ok(())
}

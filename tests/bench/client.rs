//! Measures a snapshotter over containerd's snapshots API: drives one or more sockets with the same
//! calls and prints the medians side by side. `tests/bench/run` starts what is measured.
//!
//! It speaks for any containerd client: the daemon's own socket and containerd's take the same
//! requests, apart from the snapshotter's name in them and containerd's namespace header. Labels
//! keep containerd's garbage collector away.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::{Code, Status};
use kit::{labels, Client, Target};
use nix::mount::{MntFlags, MsFlags};

type AnyError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage:
  bench-client table ROUNDS TITLE=SNAPSHOTTER@SOCKET...   in pairs: ours and the one to compare it with
  bench-client fill COUNT SNAPSHOTTER@SOCKET              makes that many snapshots and leaves them there";

/// What a layer of the unpacking rows holds.
const LAYER_BYTES: usize = 1 << 20;

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["table", rounds, targets @ ..] if !targets.is_empty() => table(rounds.parse()?, targets),
        ["fill", count, target] => fill(count.parse()?, target),
        _ => Err(USAGE.into()),
    }
}

/// The targets take turns, so that other load on the machine slows all of them.
fn table(rounds: usize, targets: &[&str]) -> Result<(), AnyError> {
    let mut columns = Vec::new();
    for target in targets {
        let (title, place) = target.split_once('=').ok_or(USAGE)?;
        let mut bench = Bench::connect(place)?;
        // The first round is not counted: it makes the template, and much else that is done once.
        bench.layer("base", "")?;
        bench.round().map_err(|e| format!("{title}: {e}"))?;
        columns.push((title, bench, Rows::new()));
    }
    for _ in 0..rounds {
        for (title, bench, rows) in &mut columns {
            for (row, (name, took)) in
                bench.round().map_err(|e| format!("{title}: {e}"))?.into_iter().enumerate()
            {
                match rows.get_mut(row) {
                    Some((_, times)) => times.push(took),
                    None => rows.push((name, vec![took])),
                }
            }
        }
    }
    print_table(rounds, &columns);
    Ok(())
}

/// A column's rows, each a name and what its rounds took.
type Rows = Vec<(&'static str, Vec<Duration>)>;

fn print_table(rounds: usize, columns: &[(&str, Bench, Rows)]) {
    print!("{:<28}", format!("medians of {rounds}, ms"));
    for pair in columns.chunks(2) {
        pair.iter().for_each(|(title, ..)| print!(" {title:>16}"));
        print!(" {:>8}", "ratio");
    }
    println!();
    for (row, (name, _)) in columns[0].2.iter().enumerate() {
        print!("{name:<28}");
        for pair in columns.chunks(2) {
            let medians: Vec<f64> = pair.iter().map(|(_, _, rows)| median(&rows[row].1)).collect();
            medians.iter().for_each(|value| print!(" {value:>16.2}"));
            match medians.as_slice() {
                [ours, peer] => print!(" {:>7.1}x", peer / ours),
                _ => print!(" {:>8}", ""),
            }
        }
        println!();
    }
}

fn median(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2].as_secs_f64() * 1000.0
}

fn fill(count: usize, target: &str) -> Result<(), AnyError> {
    let mut bench = Bench::connect(target)?;
    bench.layer("fill-base", "")?;
    let started = Instant::now();
    for number in 0..count {
        bench.client.prepare(&format!("fill-{number}"), "fill-base")?;
    }
    println!("{count} snapshots made in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// One snapshotter behind one socket.
struct Bench {
    client: Client,
    /// Tells keys of one round from those of the next.
    rounds: usize,
}

impl Bench {
    fn connect(place: &str) -> Result<Bench, AnyError> {
        let (snapshotter, socket) = place.split_once('@').ok_or(USAGE)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let target = Target {
            snapshotter: snapshotter.into(),
            labels: labels(&[("containerd.io/gc.root", "bench")]),
        };
        let client = Client::connect(Path::new(socket), &Arc::new(runtime), target)?;
        Ok(Bench { client, rounds: 0 })
    }

    /// Every call once; gives what each took.
    fn round(&mut self) -> Result<Vec<(&'static str, Duration)>, AnyError> {
        let base = "base";
        self.rounds += 1;
        let key = |what: &str| format!("{what}-{}", self.rounds);
        let (root, root_layer, child, view) =
            (key("root"), key("root-layer"), key("child"), key("view"));
        let (layer, unpacked) = (key("layer"), key("unpacked"));
        let mut took = vec![
            ("Prepare, no parent", timed(|| self.client.prepare(&root, ""))?.1),
            ("Commit, nothing written", timed(|| self.client.commit(&root_layer, &root))?.1),
            ("Prepare, child", timed(|| self.client.prepare(&child, base))?.1),
            ("View", timed(|| self.client.view(&view, base))?.1),
            ("Mounts", timed(|| self.client.mounts(&child))?.1),
            ("Stat", timed(|| self.client.stat(&child))?.1),
            ("Remove, active", timed(|| self.client.remove(&child))?.1),
            ("Remove, view", timed(|| self.client.remove(&view))?.1),
            ("Remove, committed", timed(|| self.client.remove(&root_layer))?.1),
            // What Remove has put off, three snapshots' worth; nothing where it puts nothing off.
            ("Cleanup after these", timed(|| self.cleanup())?.1),
        ];

        let (commit, whole) = timed(|| self.layer(&layer, base))?;
        took.push(("Commit, 1 MiB written", commit));
        took.push(("a layer: Prepare to Commit", whole));
        took.push(("Prepare on that layer", timed(|| self.client.prepare(&unpacked, &layer))?.1));
        self.client.remove(&unpacked)?;
        self.client.remove(&layer)?;
        self.cleanup()?;
        Ok(took)
    }

    /// What unpacking does for each layer: prepare, mount, write, unmount, commit. Gives the time
    /// of the commit.
    fn layer(&mut self, name: &str, parent: &str) -> Result<Duration, AnyError> {
        let active = format!("{name}-active");
        let mounts = self.client.prepare(&active, parent)?;
        write_layer(&mounts)?;
        Ok(timed(|| self.client.commit(name, &active))?.1)
    }

    /// Where Cleanup is not implemented, Remove has left nothing for it.
    fn cleanup(&mut self) -> Result<(), Status> {
        match self.client.cleanup() {
            Err(status) if status.code() != Code::Unimplemented => Err(status),
            _ => Ok(()),
        }
    }
}

fn timed<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let started = Instant::now();
    let answer = call()?;
    Ok((answer, started.elapsed()))
}

/// Mounts the snapshot, writes one file of [`LAYER_BYTES`], unmounts it: no sync, since Commit is
/// what makes it durable.
fn write_layer(mounts: &[Mount]) -> Result<(), AnyError> {
    let [mount] = mounts else {
        return Err(format!("{} mounts where one is needed", mounts.len()).into());
    };
    let target = std::env::temp_dir().join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&target)?;
    let data: Vec<&str> =
        mount.options.iter().map(String::as_str).filter(|option| *option != "rw").collect();
    let data = data.join(",");
    nix::mount::mount(
        Some(Path::new(&mount.source)),
        &target,
        Some(mount.r#type.as_str()),
        MsFlags::empty(),
        Some(data.as_str()),
    )?;
    let written = fs::File::create(target.join("file"))
        .and_then(|mut file| file.write_all(&[7; LAYER_BYTES]));
    nix::mount::umount2(&target, MntFlags::empty())?;
    Ok(written?)
}

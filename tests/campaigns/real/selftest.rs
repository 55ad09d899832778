//! The checker must complain about states that are broken on purpose, each in the right way.

use std::fs;
use std::time::Duration;

use super::check::{check, Fault};
use super::machine::devices;
use super::model::{journals, Content, Kind, Line, Op, State};
use super::run::{join, Run};
use kit::{try_dmsetup, Client};

type Break = Box<dyn Fn(&mut State, &mut Client) -> Result<Box<dyn FnOnce()>, String>>;

pub fn selftest() -> Result<(), String> {
    let (_mounted, mut guest) = Run::on_first_disk("data_size = \"1GiB\"", 4)?;
    let mut daemon = guest.start()?;
    guest.check(&mut daemon.client, false)?;
    let (common, threads) = guest.load(&daemon.client, 1, 25, |_| false);
    while threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(20));
    }
    join(&common, threads);
    guest.problems_of(&common)?;
    let lines = journals(&guest.out, guest.state.generation).map_err(|e| e.to_string())?;
    let sound = check(&mut daemon.client, &mut guest.state, &lines, false);
    if !sound.problems.is_empty() {
        return Err(format!("the checker finds faults in a sound state: {:?}", sound.problems));
    }
    println!(
        "PASS: no faults in a sound state, {} layers with {} files",
        sound.layers, sound.files
    );
    guest.state.generation += 1;

    let mut failed = 0;
    for (what, fault, breaking) in broken() {
        let mut state = guest.state.clone();
        let mend = breaking(&mut state, &mut daemon.client)?;
        let found = check(&mut daemon.client, &mut state, &Default::default(), false);
        mend();
        if found.count(fault) > 0 {
            println!("PASS: {what}: {}", found.problems[0].1);
        } else {
            println!("FAIL: {what} was not found: {:?}", found.problems);
            failed += 1;
        }
    }
    if failed > 0 {
        return Err(format!("{failed} broken states were not found"));
    }
    Ok(())
}

fn nothing() -> Box<dyn FnOnce()> {
    Box::new(|| {})
}

fn a_layer(state: &State) -> Result<String, String> {
    let layer = state
        .snapshots
        .iter()
        .find(|(_, s)| s.kind == Kind::Committed && s.exact && !s.files.is_empty());
    layer.map(|(name, _)| name.clone()).ok_or_else(|| "the load made no layer".into())
}

fn broken() -> Vec<(&'static str, Fault, Break)> {
    vec![
        (
            "an acknowledged Prepare whose snapshot is missing",
            Fault::Lost,
            Box::new(|state, _| {
                state.apply(&Op::Prepare { key: "c0-never".into(), parent: String::new() });
                Ok(nothing())
            }),
        ),
        (
            "an acknowledged Remove whose snapshot exists",
            Fault::Lost,
            Box::new(|state, _| {
                let layer = a_layer(state)?;
                state.apply(&Op::Remove { key: layer });
                Ok(nothing())
            }),
        ),
        (
            "a changed label that has its old value",
            Fault::Lost,
            Box::new(|state, _| {
                let layer = a_layer(state)?;
                state.apply(&Op::Label { key: layer, value: "new".into() });
                Ok(nothing())
            }),
        ),
        (
            "a file with other content",
            Fault::Lost,
            Box::new(|state, _| {
                let layer = a_layer(state)?;
                let files = &mut state.snapshots.get_mut(&layer).unwrap().files;
                files.values_mut().next().unwrap().hash ^= 1;
                Ok(nothing())
            }),
        ),
        (
            "a synced file that is missing",
            Fault::Lost,
            Box::new(|state, _| {
                let layer = a_layer(state)?;
                let line = Line::Kept {
                    key: layer,
                    file: "gone".into(),
                    content: Content { length: 1, hash: 1 },
                };
                state.replay(&[line]);
                Ok(nothing())
            }),
        ),
        (
            "a file that was written after the commit",
            Fault::Lost,
            Box::new(|state, _| {
                let layer = a_layer(state)?;
                state.snapshots.get_mut(&layer).unwrap().files.pop_first();
                Ok(nothing())
            }),
        ),
        (
            "a thin on no record",
            Fault::Leaked,
            Box::new(|_, _| {
                try_dmsetup(&["message", "pw-pool", "0", "create_thin 9999999"])?;
                Ok(Box::new(|| drop(try_dmsetup(&["message", "pw-pool", "0", "delete 9999999"]))))
            }),
        ),
        (
            "a device of no snapshot",
            Fault::Stuck,
            Box::new(|_, _| {
                try_dmsetup(&["create", "pw-snap-8888888", "--table", "0 8 zero"])?;
                Ok(Box::new(|| drop(try_dmsetup(&["remove", "pw-snap-8888888"]))))
            }),
        ),
        (
            "a suspended device",
            Fault::Stuck,
            Box::new(|_, _| {
                try_dmsetup(&["create", "pw-snap-7777777", "--table", "0 8 zero"])?;
                try_dmsetup(&["suspend", "pw-snap-7777777"])?;
                Ok(Box::new(|| drop(try_dmsetup(&["remove", "pw-snap-7777777"]))))
            }),
        ),
        (
            "a committed layer that was written to",
            Fault::Lost,
            Box::new(|state, client| {
                // This one is not undone, so it is the last. It changes the superblock's count of
                // free blocks.
                let layer = a_layer(state)?;
                let thin = thin_of(client, &layer)?;
                let pool =
                    try_dmsetup(&["info", "-c", "--noheadings", "-o", "blkdevname", "pw-pool"])?;
                let table = format!("0 131072 thin /dev/{} {thin}", pool.trim());
                try_dmsetup(&["create", "pw-snap-6666666", "--table", &table])?;
                let device = fs::File::options().write(true).open("/dev/mapper/pw-snap-6666666");
                device
                    .and_then(|device| {
                        std::os::unix::fs::FileExt::write_all_at(&device, &[7; 64], 1024 + 12)?;
                        device.sync_all()
                    })
                    .map_err(|e| e.to_string())?;
                try_dmsetup(&["remove", "pw-snap-6666666"])?;
                Ok(nothing())
            }),
        ),
    ]
}

/// The thin of a committed layer, read from a view of it.
fn thin_of(client: &mut Client, layer: &str) -> Result<u32, String> {
    let mounts = client.view("thin-of", layer).map_err(|e| e.to_string())?;
    let name = mounts[0].source.replace("/dev/mapper/", "");
    let thin =
        devices()?.get(&name).copied().flatten().ok_or_else(|| format!("{name} shows no thin"));
    client.remove("thin-of").map_err(|e| e.to_string())?;
    thin
}

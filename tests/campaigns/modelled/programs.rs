//! Programs of calls: generated ones, most of which make sense, and the classics, which are
//! written by hand.

use proptest::prelude::*;

use devmapper_snapshotter::store::Kind;

use super::files::FIRST;
use super::machine::BLOCKS;
use super::model::{Model, Op};

/// A call without its keys. They are chosen when the program is made.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    what: u8,
    first: u8,
    second: u8,
}

/// Seeds of a program with up to `most` calls.
pub fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    let seed = (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(what, first, second)| Seed {
        what,
        first,
        second,
    });
    proptest::collection::vec(seed, 3..=most)
}

/// Makes a program from seeds. Each call is one that makes sense after the calls before it, but for
/// one in sixteen, whose key may not exist.
pub fn program(seeds: &[Seed], prefix: &str) -> Vec<Op> {
    let mut model = Model { base: BLOCKS, ..Model::default() };
    let mut tag = 1000;
    let choose = |seed: &Seed, model: &Model, tag: u64| call(*seed, model, prefix, tag);
    seeds
        .iter()
        .map(|seed| {
            tag += 1;
            let op = choose(seed, &model, tag);
            let _ = model.apply(&op);
            op
        })
        .collect()
}

fn pick(keys: &[String], by: u8, otherwise: String) -> String {
    match keys.len() {
        0 => otherwise,
        count => keys[usize::from(by) % count].clone(),
    }
}

fn call(seed: Seed, model: &Model, prefix: &str, tag: u64) -> Op {
    let of = |kind: Kind| -> Vec<String> {
        model.snapshots.iter().filter(|(_, s)| s.kind == kind).map(|(key, _)| key.clone()).collect()
    };
    let (active, committed) = (of(Kind::Active), of(Kind::Committed));
    let all: Vec<String> = model.snapshots.keys().cloned().collect();
    let wild = seed.second % 16 == 15;
    let any_key =
        format!("{prefix}{}", ["a0", "a1", "a2", "c0", "c1", "v0"][usize::from(seed.first) % 6]);
    let some = |keys: &[String]| {
        if wild {
            any_key.clone()
        } else {
            pick(keys, seed.first, any_key.clone())
        }
    };
    let parent = || match seed.second % 4 {
        0 if !wild => String::new(),
        _ if wild => any_key.clone(),
        _ => pick(&committed, seed.second / 4, String::new()),
    };
    let new = |kind: &str| format!("{prefix}{kind}{}", seed.first % 3);
    match seed.what % 32 {
        0..=6 => Op::Prepare {
            key: new("a"),
            parent: parent(),
            size: (seed.second >= 224).then_some(BLOCKS + 8),
        },
        7..=8 => Op::View { key: new("v"), parent: parent() },
        9..=14 => Op::Commit { name: new("c"), key: some(&active) },
        15..=18 => Op::Write {
            key: some(&active),
            block: FIRST + u64::from(seed.second % 4),
            tag,
            flush: seed.second & 64 == 0,
        },
        19..=22 => Op::Remove { key: some(&all) },
        23..=24 => Op::Attach { key: some(&active), mount: seed.second & 64 == 0 },
        25 => Op::Detach { key: some(&active) },
        26..=27 => Op::Cleanup,
        28 => Op::Update { key: some(&all), label: tag },
        29 => Op::Mounts { key: some(&all) },
        30 => Op::Usage { key: some(&all) },
        _ => Op::Restart,
    }
}

/// Short names for programs written by hand.
pub mod by_hand {
    use super::Op;

    pub fn prepare(key: &str, parent: &str) -> Op {
        Op::Prepare { key: key.into(), parent: parent.into(), size: None }
    }
    pub fn prepare_sized(key: &str, parent: &str, size: u64) -> Op {
        Op::Prepare { key: key.into(), parent: parent.into(), size: Some(size) }
    }
    pub fn view(key: &str, parent: &str) -> Op {
        Op::View { key: key.into(), parent: parent.into() }
    }
    pub fn commit(name: &str, key: &str) -> Op {
        Op::Commit { name: name.into(), key: key.into() }
    }
    pub fn remove(key: &str) -> Op {
        Op::Remove { key: key.into() }
    }
    pub fn update(key: &str, label: u64) -> Op {
        Op::Update { key: key.into(), label }
    }
    pub fn attach(key: &str, mount: bool) -> Op {
        Op::Attach { key: key.into(), mount }
    }
    pub fn detach(key: &str) -> Op {
        Op::Detach { key: key.into() }
    }
    pub fn write(key: &str, block: u64, tag: u64, flush: bool) -> Op {
        Op::Write { key: key.into(), block, tag, flush }
    }
}
use by_hand::*;

/// Programs that have broken other snapshotters (USERS), and the shortest program of each call,
/// each with its story.
pub fn classics() -> Vec<(&'static str, Vec<Op>)> {
    vec![
        ("a pull of three layers, and a container on them", pull()),
        ("a layer is committed while a container writes to it", committed_while_mounted(true)),
        (
            "a layer is committed while a virtual machine has its device open",
            committed_while_mounted(false),
        ),
        (
            "the writes of a closed layer are not flushed before its commit",
            vec![
                prepare("a", ""),
                write("a", 4, 1, false),
                write("a", 5, 2, false),
                commit("c", "a"),
                view("v", "c"),
            ],
        ),
        (
            "a container is removed while it runs, and its key used again",
            vec![
                prepare("a", ""),
                attach("a", true),
                write("a", 4, 7, true),
                remove("a"),
                Op::Cleanup,
                prepare("a", ""),
                write("a", 5, 8, true),
                detach("a"),
                Op::Cleanup,
            ],
        ),
        (
            "a parent is removed right after its last child and view",
            vec![
                prepare("a", ""),
                write("a", 4, 3, true),
                commit("c", "a"),
                prepare("b", "c"),
                view("v", "c"),
                remove("b"),
                remove("v"),
                remove("c"),
                Op::Cleanup,
            ],
        ),
        (
            "a container gets a larger disk than its image",
            vec![
                prepare("a", ""),
                commit("c", "a"),
                prepare_sized("b", "c", BLOCKS + 8),
                write("b", BLOCKS + 2, 9, true),
                commit("d", "b"),
                prepare("e", "d"),
            ],
        ),
        (
            "labels change, and Usage and Mounts are called",
            vec![
                prepare("a", ""),
                update("a", 1),
                Op::Usage { key: "a".into() },
                Op::Mounts { key: "a".into() },
                commit("c", "a"),
                update("c", 2),
                Op::Usage { key: "c".into() },
            ],
        ),
        (
            "the daemon is restarted under load",
            vec![
                prepare("a", ""),
                attach("a", true),
                write("a", 4, 5, false),
                Op::Restart,
                write("a", 4, 6, true),
                commit("c", "a"),
                Op::Restart,
                prepare("a", "c"),
                remove("a"),
                Op::Restart,
            ],
        ),
    ]
}

fn pull() -> Vec<Op> {
    let mut program = Vec::new();
    let mut parent = String::new();
    for layer in 0..3 {
        let (key, name) = (format!("extract-{layer}"), format!("layer-{layer}"));
        program.push(prepare(&key, &parent));
        program.push(attach(&key, true));
        program.push(write(&key, FIRST + layer, 10 + layer, false));
        program.push(detach(&key));
        program.push(commit(&name, &key));
        parent = name;
    }
    program.extend([
        prepare("container", &parent),
        attach("container", true),
        write("container", 4, 99, true),
    ]);
    program
}

fn committed_while_mounted(mount: bool) -> Vec<Op> {
    vec![
        prepare("a", ""),
        attach("a", mount),
        write("a", 4, 1, true),
        write("a", 5, 2, false),
        commit("c", "a"),
        prepare("b", "c"),
        write("b", 4, 3, true),
        detach("a"),
        Op::Cleanup,
    ]
}

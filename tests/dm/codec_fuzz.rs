//! A fuzz target for the kernel's replies, and the table, status and message lines in them. It
//! has its own generator: a run is repeatable. FUZZ_SEED and FUZZ_SECONDS change it (default:
//! one second).
//!
//! [`target`] takes bytes and nothing else, so that a coverage-guided fuzzer can call it.

use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::codec::{decode, decode_flags, decode_version};
use devmapper_snapshotter::dm::PoolMessage;
use devmapper_snapshotter::dm::{
    DriverVersion, Flags, Header, ListEntry, Reply, ReplyData, Target, TargetLine, TargetStatus,
    TargetVersion, Verb,
};
use devmapper_snapshotter::units::{DeviceNumber, Sectors};
use kit::Random;

use crate::layout::reply;

/// The first byte chooses the verb, the rest is the reply. Answers whether it was taken for a good
/// one.
fn target(input: &[u8]) -> bool {
    let Some((choice, buffer)) = input.split_first() else { return false };
    let verb = Verb::ALL[usize::from(*choice) % Verb::ALL.len()];
    let _ = (decode_version(buffer), decode_flags(buffer));
    let Ok(reply) = decode(verb, buffer) else { return false };
    match reply.data {
        ReplyData::Targets(lines) => {
            // Each line takes at least its struct, so no more lines come out than went in.
            assert!(lines.len() <= buffer.len() / 40 + 1);
            for line in lines {
                if let Ok(target) = Target::from_line(&line) {
                    assert_eq!(Target::from_line(&target.to_line()).as_ref(), Ok(&target));
                }
                let _ = TargetStatus::from_line(&line);
                let _ = PoolMessage::parse(&line.params);
            }
        }
        ReplyData::Devices(devices) => assert!(devices.len() <= buffer.len() / 8),
        ReplyData::Versions(versions) => assert!(versions.len() <= buffer.len() / 8),
        ReplyData::Deps(deps) => assert!(deps.len() <= buffer.len() / 8),
        ReplyData::Text(text) => drop(PoolMessage::parse(&text)),
        ReplyData::None => {}
    }
    true
}

/// Good replies, to begin with.
fn seeds() -> Vec<Vec<u8>> {
    let line = |kind: &str, params: &str| TargetLine {
        start: Sectors(0),
        length: Sectors(2048),
        kind: kind.to_owned(),
        params: params.to_owned(),
    };
    let lines = vec![
        line("thin-pool", "7:1 7:0 128 32 2 skip_block_zeroing error_if_no_space"),
        line("thin-pool", "1 80/1024 3/256 - rw discard_passdown queue_if_no_space - 256"),
        line("thin", "253:0 7 7:2"),
        line("thin", "384 383"),
        line("linear", "7:0 4096"),
        line("error", ""),
    ];
    let device = |minor| ListEntry {
        device: DeviceNumber { major: 253, minor },
        name: format!("device-{minor}").into_bytes(),
        event_nr: minor,
        uuid: (minor % 2 == 0).then(|| b"DM-0123456789".to_vec()),
    };
    let version =
        |name: &str| TargetVersion { name: name.to_owned(), version: DriverVersion::new(1, 22, 0) };
    let all = [
        (Verb::Table, ReplyData::Targets(lines.clone())),
        (Verb::Status, ReplyData::Targets(lines)),
        (Verb::List, ReplyData::Devices((0..5).map(device).collect())),
        (Verb::ListVersions, ReplyData::Versions(vec![version("linear"), version("thin-pool")])),
        (Verb::Deps, ReplyData::Deps(vec![DeviceNumber { major: 7, minor: 1 }; 3])),
        (Verb::Message, ReplyData::Text("create_snap 7 1".to_owned())),
        (Verb::Info, ReplyData::None),
    ];
    let seed = |(verb, data): (Verb, ReplyData)| {
        let target_count =
            if let ReplyData::Targets(lines) = &data { lines.len() as u32 } else { 0 };
        let flags = Flags::NONE.with_if(matches!(data, ReplyData::Text(_)), Flags::DATA_OUT);
        let header = Header {
            version: DriverVersion::new(4, 47, 0),
            flags,
            target_count,
            ..Header::default()
        };
        let choice = Verb::ALL.iter().position(|v| *v == verb).unwrap() as u8;
        let mut input = vec![choice];
        input.extend(reply(&Reply { header, data }, 0));
        input
    };
    all.into_iter().map(seed).collect()
}

const NUMBERS: [u32; 12] =
    [0, 1, 7, 8, 39, 40, 312, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff, 4096];

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    let place = random.below(input.len());
    match random.below(7) {
        0 => input[place] ^= 1 << random.below(8),
        1 => input[place] = random.next() as u8,
        // Where the fields are: offsets and counts, in whole words.
        2 | 3 => {
            let word = 1 + place / 4 * 4;
            let number = if random.below(2) == 0 {
                NUMBERS[random.below(12)]
            } else {
                random.below(1024) as u32
            };
            if let Some(field) = input.get_mut(word..word + 4) {
                field.copy_from_slice(&number.to_ne_bytes());
            }
        }
        4 => input.truncate(place.max(1)),
        5 => {
            let piece: Vec<u8> = input[place..(place + random.below(64)).min(input.len())].to_vec();
            let at = random.below(input.len());
            input.splice(at..at, piece);
        }
        _ => {
            let end = (place + random.below(32)).min(input.len());
            input[place..end].fill(random.next() as u8);
        }
    }
}

#[test]
fn no_reply_makes_the_codec_panic() {
    let setting = |name: &str, default| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let mut random = Random::new(setting("FUZZ_SEED", 0x5eed_cafe_f00d));
    let seeds = seeds();
    for seed in &seeds {
        assert!(target(seed), "a seed must be a good reply");
    }
    let deadline = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 1));
    let (mut tried, mut taken) = (0u64, 0u64);
    let mut corpus = seeds.clone();
    while Instant::now() < deadline {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &mut random);
        }
        tried += 1;
        if target(&input) {
            taken += 1;
            // What still passes is a start for more; the corpus stays small.
            if corpus.len() < 256 {
                corpus.push(input);
            } else {
                let place = seeds.len() + random.below(corpus.len() - seeds.len());
                corpus[place] = input;
            }
        }
    }
    println!("{tried} replies tried, {taken} of them taken for good");
    assert!(tried > 1000, "only {tried} replies were tried");
    assert!(
        taken > tried / 100 && taken < tried,
        "{taken} of {tried}: the mutations are too tame or too wild"
    );
}

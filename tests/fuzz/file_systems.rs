//! A fuzz target for file systems that others may have written: superblocks, group descriptors
//! and the journal of an ext4, superblock and log of an xfs. File systems made by mke2fs and
//! mkfs.xfs are changed in these places and read by this crate's readers, which must return an
//! answer or an error: no panic, no overflow, and no more reads than a bound that depends on
//! the device's size alone.
//!
//! It runs anywhere that has e2fsprogs and xfsprogs. It has its own generator: a run is
//! repeatable. FUZZ_SEED and FUZZ_SECONDS change it (default: three seconds). What it finds is
//! printed as a line for `file_systems.cases`, whose lines are tried first.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use devmapper_snapshotter::block::{BlockError, Disk};
use devmapper_snapshotter::fs::{inspect, note_zeros_behind, zeroed_ranges, FsType};
use devmapper_snapshotter::units::Sectors;
use kit::Random;

const PAGE: u64 = 4096;

/// What one look into a file system may cost, whatever the device's size: reads, and bytes of them.
const INSPECT_READS: u64 = 1200;
const INSPECT_BYTES: u64 = 3 << 20;

/// A file system as mkfs made it: its pages that are not zeros.
struct Seed {
    fs_type: FsType,
    pages: BTreeMap<u64, Vec<u8>>,
    size: u64,
    /// Where things are that are worth changing, in bytes.
    places: Vec<std::ops::Range<u64>>,
}

/// A seed, the size that the device claims to have, and what was written over it.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    seed: usize,
    size: u64,
    changes: Vec<(u64, Vec<u8>)>,
}

impl Case {
    fn to_line(&self) -> String {
        let mut line = format!("{} {}", self.seed, self.size);
        for (offset, bytes) in &self.changes {
            let _ = write!(line, " {offset}:");
            for byte in bytes {
                let _ = write!(line, "{byte:02x}");
            }
        }
        line
    }

    fn from_line(line: &str) -> Option<Case> {
        let mut words = line.split_whitespace();
        let (seed, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let change = |word: &str| {
            let (offset, hex) = word.split_once(':')?;
            let bytes =
                (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).ok());
            Some((offset.parse().ok()?, bytes.collect::<Option<Vec<_>>>()?))
        };
        Some(Case { seed, size, changes: words.map(change).collect::<Option<_>>()? })
    }
}

/// A case as a disk, which counts what is read and fails the test above a bound.
#[derive(Debug)]
struct Counting<'a> {
    pages: &'a BTreeMap<u64, Vec<u8>>,
    case: &'a Case,
    reads: Cell<u64>,
    bytes: Cell<u64>,
    bound: Cell<(u64, u64)>,
}

impl Disk for Counting<'_> {
    fn path(&self) -> &Path {
        Path::new("case")
    }
    fn size(&self) -> Result<Sectors, BlockError> {
        Ok(Sectors::from_bytes_down(self.case.size))
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
    fn discard(&self, _: Sectors, _: Sectors) -> Result<(), BlockError> {
        Ok(())
    }
    fn set_read_only(&self, _: bool) -> Result<(), BlockError> {
        Ok(())
    }
    fn is_read_only(&self) -> Result<bool, BlockError> {
        Ok(false)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buffer.len() as u64);
        let (reads, bytes) = self.bound.get();
        assert!(self.reads.get() <= reads, "more than {reads} reads");
        assert!(self.bytes.get() <= bytes, "more than {bytes} bytes");
        let length = buffer.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.case.size) {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(BlockError::Transfer {
                step: "read",
                path: "case".into(),
                offset,
                length: buffer.len(),
                source,
            });
        }
        buffer.fill(0);
        for (page, content) in self.pages.range(offset / PAGE..=(offset + length) / PAGE) {
            overlay(buffer, offset, content, page * PAGE);
        }
        self.case.changes.iter().for_each(|(at, bytes)| overlay(buffer, offset, bytes, *at));
        Ok(())
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
        assert!(offset + data.len() as u64 <= self.case.size, "a write behind the end");
        Ok(())
    }
}

/// Puts what of `content`, which is at `at`, falls into the buffer, which is at `offset`, in its
/// place.
fn overlay(buffer: &mut [u8], offset: u64, content: &[u8], at: u64) {
    let start = at.max(offset);
    let end = (at + content.len() as u64).min(offset + buffer.len() as u64);
    if start < end {
        let (to, from) = ((start - offset) as usize, (start - at) as usize);
        let length = (end - start) as usize;
        buffer[to..to + length].copy_from_slice(&content[from..from + length]);
    }
}

/// Reads a case with all readers. Answers whether it was taken for a file system.
fn target(seeds: &[Seed], case: &Case) -> bool {
    let seed = &seeds[case.seed % seeds.len()];
    let bound = Cell::new((INSPECT_READS, INSPECT_BYTES));
    let disk =
        Counting { pages: &seed.pages, case, reads: Cell::new(0), bytes: Cell::new(0), bound };
    let state = inspect(&disk, seed.fs_type);
    if let Ok(state) = &state {
        assert!(
            state.size.0 <= case.size / 512,
            "{} on a device of {} bytes",
            state.size,
            case.size
        );
        assert!(state.errors.map_or(0, |errors| errors.to_string().len()) < 300);
    }
    if seed.fs_type == FsType::Ext4 {
        // Groups have 256 blocks of 1 KiB at the least, and a descriptor is read once.
        let groups = case.size / (256 << 10) + 1;
        disk.bound
            .set((disk.reads.get() + 2 * groups + 8, disk.bytes.get() + 2 * 1024 * groups + 8192));
        let _ = note_zeros_behind(&disk, case.changes.len() as u64 * 8192);
        if let Ok(ranges) = zeroed_ranges(&disk) {
            assert!(ranges.len() as u64 <= groups + 4);
        }
    }
    state.is_ok()
}

fn seed(fs_type: FsType, program: &str, arguments: &[&str], size: u64) -> Seed {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    let output = Command::new(program)
        .args(arguments)
        .arg(file.path())
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} (of e2fsprogs, xfsprogs) makes the seeds: {error}")
        });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut pages, mut page, zeros) =
        (BTreeMap::new(), vec![0; PAGE as usize], vec![0; PAGE as usize]);
    for number in 0..size / PAGE {
        file.as_file().read_exact_at(&mut page, number * PAGE).unwrap();
        if page != zeros {
            pages.insert(number, page.clone());
        }
    }
    let be = |offset: usize, length: usize| {
        pages[&0][offset..offset + length].iter().fold(0, |n, b| n << 8 | u64::from(*b))
    };
    let places = match fs_type {
        // The superblock (its first half, the journal's map, the errors), the descriptors.
        FsType::Ext4 => {
            vec![
                1024..1304,
                1024 + 268..1024 + 336,
                1024 + 400..1024 + 640,
                2048..2048 + 256,
                4096..4096 + 640,
            ]
        }
        // The superblock, and the log around its head and its ends.
        FsType::Xfs => {
            let (group, block) = (be(48, 8) >> be(124, 1), be(48, 8) & ((1 << be(124, 1)) - 1));
            let log = (group * be(84, 4) + block) * be(4, 4);
            let end = log + be(96, 4) * be(4, 4);
            vec![0..144, 0..144, log..log + 512, log..log + 8192, log..end, end - 4096..end]
        }
    };
    Seed { fs_type, pages, size, places }
}

fn seeds() -> Vec<Seed> {
    let ext4 = |more: &[&str], mib: u64| {
        let own = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-E",
            "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        ];
        seed(FsType::Ext4, "mke2fs", &[&own[..], more].concat(), mib << 20)
    };
    vec![
        ext4(&["-b", "4096", "-G", "128"], 64),
        ext4(&["-b", "1024"], 64),
        ext4(&["-b", "4096", "-O", "meta_bg,^resize_inode,^metadata_csum"], 300),
        ext4(&["-b", "4096", "-O", "^has_journal,^64bit,sparse_super2"], 64),
        seed(FsType::Xfs, "mkfs.xfs", &["-q", "-K"], 320 << 20),
        seed(FsType::Xfs, "mkfs.xfs", &["-q", "-K", "-m", "crc=0", "-b", "size=1024"], 320 << 20),
    ]
}

/// A number that programs trip over.
fn number(random: &mut Random) -> u64 {
    let near: [u64; 20] = [
        0,
        1,
        2,
        3,
        31,
        32,
        63,
        64,
        255,
        256,
        512,
        1024,
        4096,
        32768,
        1 << 16,
        1 << 31,
        1 << 32,
        1 << 47,
        1 << 48,
        1 << 63,
    ];
    match random.below(3) {
        0 => random.next(),
        1 => near[random.below(near.len())].wrapping_sub(random.below(3) as u64),
        _ => 1 << random.below(64),
    }
}

fn mutate(case: &mut Case, seeds: &[Seed], random: &mut Random) {
    let seed = &seeds[case.seed];
    if random.below(8) == 0 {
        case.size =
            [seed.size, seed.size - 512, 1 << 20, 3 << 30, 1 << 40, 1 << 50, i64::MAX as u64]
                [random.below(7)];
        // Descriptors are read by the group: large ones only where that is no matter.
        if seed.fs_type == FsType::Ext4 {
            case.size = case.size.min(3 << 30);
        }
    }
    let place = &seed.places[random.below(seed.places.len())];
    let offset = place.start + random.below((place.end - place.start) as usize) as u64;
    let width = [1, 2, 4, 8][random.below(4)];
    let number = number(random);
    let bytes = if random.below(2) == 0 {
        number.to_le_bytes()[..width].to_vec()
    } else {
        number.to_be_bytes()[8 - width..].to_vec()
    };
    let change = match (seed.fs_type, random.below(4)) {
        // A field where one is.
        (_, 0 | 1) => (offset / width as u64 * width as u64, bytes),
        (FsType::Xfs, 2) => (offset / 512 * 512, record(random)),
        _ => (offset, bytes),
    };
    case.changes.push(change);
}

/// The head of a log record, with what stands where the cycle and the lengths are.
fn record(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[0..4].copy_from_slice(&0xFEED_BABE_u32.to_be_bytes());
    for (offset, plain) in [(4, 1), (8, 2), (12, 512), (40, 1), (320, 32768)] {
        let value = if random.below(3) == 0 { number(random) as u32 } else { plain };
        bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Tries a case; one that fails is printed as a line before the test goes down.
fn tried(seeds: &[Seed], case: &Case) -> bool {
    match catch_unwind(AssertUnwindSafe(|| target(seeds, case))) {
        Ok(taken) => taken,
        Err(panicked) => {
            println!("a finding, as a line for tests/fuzz/file_systems.cases:\n{}", case.to_line());
            resume_unwind(panicked)
        }
    }
}

#[test]
fn what_was_found_once_ends_in_an_answer() {
    let seeds = seeds();
    let lines = include_str!("file_systems.cases")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let cases: Vec<_> = lines
        .map(|line| Case::from_line(line).unwrap_or_else(|| panic!("not a case: {line}")))
        .collect();
    assert!(cases.len() >= 5);
    for case in &cases {
        assert_eq!(Case::from_line(&case.to_line()).as_ref(), Some(case));
        tried(&seeds, case);
    }
}

#[test]
fn no_file_system_makes_the_readers_panic_or_read_without_end() {
    let setting = |name: &str, default| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let mut random = Random::new(setting("FUZZ_SEED", 0x5eed_cafe_f00d));
    let seeds = seeds();
    let plain = |seed: usize| Case { seed, size: seeds[seed].size, changes: Vec::new() };
    for seed in 0..seeds.len() {
        assert!(target(&seeds, &plain(seed)), "seed {seed} must be a good file system");
    }
    let deadline = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 3));
    let (mut all, mut taken) = (0_u64, 0_u64);
    let mut corpus: Vec<Case> = (0..seeds.len()).map(plain).collect();
    while Instant::now() < deadline {
        let mut case = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut case, &seeds, &mut random);
        }
        all += 1;
        if tried(&seeds, &case) {
            taken += 1;
            // What still passes is a start for more; the corpus stays small, and so do its members.
            if case.changes.len() > 24 {
                continue;
            }
            if corpus.len() < 512 {
                corpus.push(case);
            } else {
                let place = seeds.len() + random.below(corpus.len() - seeds.len());
                corpus[place] = case;
            }
        }
    }
    println!("{all} file systems tried, {taken} of them taken for good");
    assert!(all > 300, "only {all} were tried");
    assert!(
        taken > all / 100 && taken < all,
        "{taken} of {all}: the changes are too tame or too wild"
    );
}

//! Bits flip and sectors are lost, in the file of a store that was closed or killed. The store is
//! refused, or it takes no commits and says what is missing, or all acknowledged changes are there.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, Power, Survivors};
use super::fixture::*;
use crate::store::{SnapshotRecord, Store, StoreError, Tally};

/// A tally in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Beside(Arc<Mutex<Vec<u8>>>);

impl Beside {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    fn of(bytes: Vec<u8>) -> Beside {
        Beside(Arc::new(Mutex::new(bytes)))
    }
}

impl Tally for Beside {
    fn name(&self) -> PathBuf {
        "(tally)".into()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let length = all.len().max(offset + bytes.len());
        all.resize(length, 0);
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn open(bytes: Vec<u8>, tally: &Beside) -> Result<Store, StoreError> {
    let disk = Disk::with_bytes(bytes);
    Store::with_tally(move || Ok(disk.clone()), tally.clone())
}

type Page = Vec<(String, SnapshotRecord)>;

fn page(store: &Store) -> Page {
    store.read(|r| r.page(None, usize::MAX)).unwrap()
}

/// The results of one kind of damage.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    refused: usize,
    harmless: usize,
    /// Opened on the commit before, and the loss was noticed.
    behind: usize,
}

impl Ends {
    /// Opens the damaged image with its tally.
    fn add(&mut self, bytes: Vec<u8>, tally: &Beside, acknowledged: &Page, context: &str) {
        match open(bytes, tally) {
            Err(StoreError::Corrupted { .. }) => self.refused += 1,
            Err(error) => panic!("{context}: {error}"),
            Ok(store) => match store.check_complete() {
                Ok(()) => {
                    assert_eq!(
                        &page(&store),
                        acknowledged,
                        "{context}: an acknowledged commit is missing and no error says so"
                    );
                    self.harmless += 1;
                }
                Err(error) => {
                    assert!(
                        error.to_string().contains("(backend)")
                            && error.to_string().contains("(tally)"),
                        "{error}"
                    );
                    let error =
                        refused(&store, |c| c.insert_snapshot("next", &active(999, None), None));
                    assert!(matches!(error, StoreError::Behind { .. }), "{context}: {error}");
                    self.behind += 1;
                }
            },
        }
    }
}

/// The image of a used store, its tally, its acknowledged records, and the images and tallies
/// before its last commits.
struct Lived {
    closed: Vec<u8>,
    killed: Vec<u8>,
    tally: Vec<u8>,
    acknowledged: Page,
    earlier: Vec<Vec<u8>>,
}

fn lived() -> Lived {
    let disk = Disk::blank(&Power::steady());
    let tally = Beside::default();
    let on = disk.clone();
    let store = Store::with_tally(move || Ok(on.clone()), tally.clone()).unwrap();
    let mut earlier = Vec::new();
    for n in 1..=24 {
        earlier.push(disk.bytes());
        commit(&store, |c| c.insert_snapshot(&format!("key-{n}"), &active(n, None), None));
        if n % 3 == 0 {
            earlier.push(disk.bytes());
            commit(&store, |c| c.remove_snapshot(&format!("key-{}", n - 1)));
        }
    }
    let acknowledged = page(&store);
    let killed = disk.bytes();
    drop(store);
    Lived { closed: disk.bytes(), killed, tally: tally.bytes(), acknowledged, earlier }
}

/// The part of the image with content: to the last byte that is not zero, and a bit more.
fn used(bytes: &[u8]) -> usize {
    (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 4097).min(bytes.len())
}

#[test]
fn no_flipped_bit_takes_back_what_was_acknowledged() {
    let lived = lived();
    let (mut ends, mut without) = (Ends::default(), 0);
    for (image, what) in [(&lived.closed, "closed"), (&lived.killed, "killed")] {
        for at in (0..4096).step_by(7).chain((4096..used(image)).step_by(61)) {
            let mut bytes = image.clone();
            bytes[at] ^= 1 << (at % 8);
            // The result without the tally.
            if let Ok(store) = Store::with_backend(Disk::with_bytes(bytes.clone())) {
                without += usize::from(page(&store) != lived.acknowledged);
            }
            ends.add(
                bytes,
                &Beside::of(lived.tally.clone()),
                &lived.acknowledged,
                &format!("{what}, bit at {at}"),
            );
        }
    }
    println!("{ends:?}; {without} would have opened on an earlier commit");
    assert!(ends.behind > 10 && ends.refused > 10 && ends.harmless > 10, "{ends:?}");
    assert!(without > 10 && ends.behind >= without, "{ends:?}, {without}");
}

#[test]
fn no_lost_sector_takes_back_what_was_acknowledged() {
    let lived = lived();
    let mut ends = Ends::default();
    for (image, what) in [(&lived.closed, "closed"), (&lived.killed, "killed")] {
        for size in [512, 4096] {
            for at in (0..used(image)).step_by(size) {
                let end = (at + size).min(image.len());
                for (content, fill) in [("zeros", 0), ("ones", 0xff)] {
                    let mut bytes = image.clone();
                    bytes[at..end].fill(fill);
                    let context = format!("{what}, {size} bytes at {at} are {content}");
                    ends.add(
                        bytes,
                        &Beside::of(lived.tally.clone()),
                        &lived.acknowledged,
                        &context,
                    );
                }
            }
        }
    }
    println!("{ends:?}");
    assert!(ends.behind > 5 && ends.refused > 10 && ends.harmless > 10, "{ends:?}");
}

#[test]
fn no_write_that_never_reached_the_disk_takes_back_what_was_acknowledged() {
    let lived = lived();
    let mut ends = Ends::default();
    for earlier in lived.earlier.iter().rev().take(4) {
        for at in (0..used(&lived.killed)).step_by(4096) {
            let (mut bytes, end) = (lived.killed.clone(), (at + 4096).min(earlier.len()));
            bytes[at..end].copy_from_slice(&earlier[at..end]);
            let context = format!("the page at {at} is an older one");
            ends.add(bytes, &Beside::of(lived.tally.clone()), &lived.acknowledged, &context);
        }
    }
    println!("{ends:?}");
    assert!(ends.behind > 0, "{ends:?}");
}

#[test]
fn an_older_copy_of_the_whole_file_is_noticed_whatever_its_age() {
    let lived = lived();
    let mut ends = Ends::default();
    for earlier in lived.earlier {
        ends.add(earlier, &Beside::of(lived.tally.clone()), &lived.acknowledged, "an older copy");
    }
    assert_eq!((ends.refused, ends.harmless), (0, 0), "{ends:?}");
}

#[test]
fn a_tally_that_is_damaged_or_lost_refuses_nothing() {
    let lived = lived();
    let mut tallies: Vec<Vec<u8>> = (0..lived.tally.len())
        .filter(|at| lived.tally[*at] != 0)
        .map(|at| {
            let mut tally = lived.tally.clone();
            tally[at] ^= 1 << (at % 8);
            tally
        })
        .collect();
    tallies.extend([Vec::new(), vec![0; 8192], vec![0xff; 8192], lived.tally[..40].to_vec()]);
    for tally in tallies {
        let tally = Beside::of(tally);
        let store = open(lived.closed.clone(), &tally).unwrap();
        store.check_complete().unwrap();
        commit(&store, |c| c.insert_snapshot("next", &active(999, None), None));
        drop(store);
        // It counts again after that.
        let store = open(lived.closed.clone(), &tally).unwrap();
        assert!(matches!(store.check_complete(), Err(StoreError::Behind { .. })));
    }
}

#[test]
fn the_tally_of_another_database_refuses_nothing() {
    let lived = lived();
    let tally = Beside::of(lived.tally);
    let disk = Disk::blank(&Power::steady());
    let on = disk.clone();
    let store = Store::with_tally(move || Ok(on.clone()), tally.clone()).unwrap();
    commit(&store, |c| c.insert_snapshot("a", &active(1, None), None));
    drop(store);
    open(disk.bytes(), &tally).unwrap().check_complete().unwrap();
}

#[test]
fn a_power_cut_never_leaves_a_tally_ahead_of_the_database() {
    let steps = {
        let power = Power::steady();
        let disk = Disk::blank(&power);
        let store = Store::with_backend(disk).unwrap();
        (1..6).for_each(|n| {
            commit(&store, |c| c.insert_snapshot(&format!("key-{n}"), &active(n, None), None))
        });
        power.steps()
    };
    for cut in 0..steps {
        let (power, tally) = (Power::lasting(cut), Beside::default());
        let disk = Disk::blank(&power);
        let on = disk.clone();
        let mut acknowledged = 0;
        if let Ok(store) = Store::with_tally(move || Ok(on.clone()), tally.clone()) {
            let lives = |n: &u32| {
                store
                    .commit(|c| c.insert_snapshot(&format!("key-{n}"), &active(*n, None), None))
                    .is_ok()
            };
            acknowledged = (1..6).take_while(lives).count();
        }
        for survivors in [Survivors::Nothing, Survivors::Everything, Survivors::Some(cut)] {
            let Ok(store) = open(disk.after_cut(survivors, &Power::steady()).bytes(), &tally)
            else {
                assert_eq!(acknowledged, 0);
                continue;
            };
            store
                .check_complete()
                .unwrap_or_else(|error| panic!("cut at {cut}, {survivors:?}: {error}"));
            let found = page(&store).len();
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "{found}, {acknowledged} acknowledged"
            );
        }
    }
}

#[test]
fn a_file_and_its_tally_are_found_again_and_an_older_file_beside_it_is_refused() {
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("metadata.redb");
    commit(&fixture.store, |c| c.insert_snapshot("a", &active(1, None), None));
    let copy = std::fs::read(&path).unwrap();
    commit(&fixture.store, |c| c.insert_snapshot("b", &active(2, None), None));
    let fixture = fixture.reopen();
    fixture.store.check_complete().unwrap();
    let Fixture { store, directory } = fixture;
    drop(store);
    std::fs::write(&path, copy).unwrap();
    let store = Store::open(&path).unwrap();
    let error = refused(&store, |c| c.insert_snapshot("c", &active(3, None), None)).to_string();
    for part in [
        "the last 1 commits",
        "metadata.redb",
        "metadata.redb.commits",
        "Put back",
        "nothing deleted",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    drop(store);
    std::fs::remove_file(directory.path().join("metadata.redb.commits")).unwrap();
    let store = Store::open(&path).unwrap();
    commit(&store, |c| c.insert_snapshot("c", &active(3, None), None));
}

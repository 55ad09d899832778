//! Group commit: there are fewer syncs than changes, every acknowledged change is on disk, and a
//! refusal, a panic or a failure of one caller does not affect the others.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use super::disk::{Disk, Power, Survivors};
use super::fixture::*;
use crate::store::{Store, StoreError};
use redb::StorageBackend;

/// A disk whose syncs wait at a gate until it is opened, and can be made to fail.
#[derive(Clone)]
struct Gated {
    disk: Disk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

struct Gate {
    closed: bool,
    waiting: usize,
    /// How many more syncs succeed.
    good: usize,
    takes: Duration,
}

impl std::fmt::Debug for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gated")
    }
}

impl Gated {
    fn new() -> Self {
        let gate = Gate { closed: false, waiting: 0, good: usize::MAX, takes: Duration::ZERO };
        Gated {
            disk: Disk::blank(&Power::steady()),
            gate: Arc::new((Mutex::new(gate), Condvar::new())),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.0.lock().unwrap());
        self.gate.1.notify_all();
    }

    /// Waits until a sync waits at the closed gate.
    fn wait_for_sync(&self) {
        let gate = self.gate.0.lock().unwrap();
        drop(self.gate.1.wait_while(gate, |gate| gate.waiting == 0).unwrap());
    }
}

impl StorageBackend for Gated {
    fn len(&self) -> std::io::Result<u64> {
        self.disk.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.disk.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.disk.set_len(len)
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.disk.write(offset, data)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        let mut gate = self.gate.0.lock().unwrap();
        gate.waiting += 1;
        self.gate.1.notify_all();
        gate = self.gate.1.wait_while(gate, |gate| gate.closed).unwrap();
        gate.waiting -= 1;
        let good = gate.good > 0;
        gate.good = gate.good.saturating_sub(1);
        let takes = gate.takes;
        drop(gate);
        std::thread::sleep(takes);
        match good {
            true => self.disk.sync_data(),
            false => Err(std::io::Error::other("the disk is broken")),
        }
    }
}

/// The work of a thread on the store.
type Caller<'a> = Box<dyn FnOnce(&Store) + Send + 'a>;

/// Holds one commit at its sync while `others` start their commits, which form the next group.
/// Returns when all threads have ended.
fn with_next_group(store: &Store, gated: &Gated, failing: bool, others: Vec<Caller<'_>>) {
    gated.set(|gate| gate.closed = true);
    let arrived = AtomicUsize::new(0);
    let count = others.len();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.commit(|c| c.put_foreign(thin(999))));
        gated.wait_for_sync();
        for other in others {
            scope.spawn(|| {
                arrived.fetch_add(1, Ordering::SeqCst);
                other(store);
            });
        }
        while arrived.load(Ordering::SeqCst) < count || store.arriving() < count {
            std::thread::sleep(Duration::from_millis(1));
        }
        gated.set(|gate| {
            gate.closed = false;
            gate.good = if failing { 1 } else { usize::MAX };
        });
        first.join().unwrap().unwrap();
    });
}

#[test]
fn many_threads_share_syncs_and_nothing_acknowledged_is_lost() {
    const THREADS: u32 = 16;
    const EACH: u32 = 25;
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    gated.set(|gate| gate.takes = Duration::from_millis(2));
    let before = store.commits();
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..EACH {
                    let number = thread * EACH + n + 1;
                    let key = format!("key-{number}");
                    commit(store, |c| add(c, &key, &active(number, None)));
                    let read = store.read(|r| r.snapshot(&key)).unwrap();
                    assert_eq!(read.number, u64::from(number), "acknowledged means visible");
                }
            });
        }
    });
    let commits = store.commits() - before;
    println!("{} changes in {commits} commits", THREADS * EACH);
    assert!(commits < u64::from(THREADS * EACH) / 2, "{commits}");
    let found = gated.disk.after_cut(Survivors::Nothing, &Power::steady());
    let store = Store::with_backend(found).unwrap();
    let page = store.read(|r| r.page(None, usize::MAX)).unwrap();
    assert_eq!(page.len() as u32, THREADS * EACH);
    assert_eq!(store.read(|r| r.check_indexes()).unwrap(), [""; 0]);
}

#[test]
fn those_who_come_while_a_group_is_written_go_to_disk_together() {
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    let before = store.commits();
    let others = (1..=8).map(|n| {
        Box::new(move |store: &Store| {
            commit(store, |c| add(c, &format!("k{n}"), &active(n, None)));
        }) as Caller<'_>
    });
    with_next_group(&store, &gated, false, others.collect());
    assert_eq!(store.commits() - before, 2, "one commit for the first change, one for the eight");
    assert_eq!(store.read(|r| r.page(None, 100)).unwrap().len(), 8);
}

#[test]
fn changes_of_one_group_see_each_other() {
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    let (won, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let others = (1..=6).map(|n| {
        let (won, lost) = (&won, &lost);
        Box::new(move |store: &Store| {
            match store.commit(|c| add(c, "same", &active(n, None))) {
                Ok(()) => won.fetch_add(1, Ordering::SeqCst),
                Err(StoreError::AlreadyExists { .. }) => lost.fetch_add(1, Ordering::SeqCst),
                Err(error) => panic!("{error}"),
            };
        }) as Caller<'_>
    });
    with_next_group(&store, &gated, false, others.collect());
    assert_eq!((won.into_inner(), lost.into_inner()), (1, 5));
}

#[test]
fn a_refusal_and_a_panic_in_a_group_leave_the_others_alone() {
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    let before = store.commits();
    let mut others: Vec<Caller<'_>> = Vec::new();
    for n in 1..=4 {
        others.push(Box::new(move |store| {
            commit(store, |c| add(c, &format!("good-{n}"), &active(n, None)));
        }));
        others.push(Box::new(move |store| {
            let error = refused(store, |c| {
                add(c, &format!("bad-{n}"), &active(10 + n, None))?;
                c.remove_snapshot("nobody")
            });
            assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
        }));
        others.push(Box::new(move |store| {
            let panicking = AssertUnwindSafe(|| {
                store.commit(|c| -> Result<(), StoreError> {
                    add(c, &format!("ugly-{n}"), &active(20 + n, None))?;
                    panic!("on purpose");
                })
            });
            catch_unwind(panicking).expect_err("the panic reaches its own caller");
        }));
    }
    with_next_group(&store, &gated, false, others);
    assert_eq!(store.commits() - before, 2);
    let page = store.read(|r| r.page(None, 100)).unwrap();
    let keys: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["good-1", "good-2", "good-3", "good-4"]);
    assert_eq!(store.read(|r| r.check_indexes()).unwrap(), [""; 0]);
    commit(&store, |c| add(c, "later", &active(30, None)));
}

#[test]
fn a_failed_sync_is_reported_to_every_caller_of_the_group_and_to_all_after_it() {
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    let failed = AtomicUsize::new(0);
    let others = (1..=5).map(|n| {
        let failed = &failed;
        Box::new(move |store: &Store| {
            let error = refused(store, |c| add(c, &format!("k{n}"), &active(n, None)));
            assert!(error.to_string().contains("the disk is broken"), "{error}");
            failed.fetch_add(1, Ordering::SeqCst);
        }) as Caller<'_>
    });
    with_next_group(&store, &gated, true, others.collect());
    assert_eq!(failed.into_inner(), 5);
    let error = refused(&store, |c| c.put_foreign(thin(998)));
    assert!(matches!(error, StoreError::SyncFailed { .. }), "{error}");
    let error = store.read(|r| r.leases()).unwrap_err();
    assert!(matches!(error, StoreError::SyncFailed { .. }), "{error}");
}

#[test]
fn a_refusal_that_may_stand_on_a_lost_change_is_not_reported_as_one() {
    let gated = Gated::new();
    let store = Store::with_backend(gated.clone()).unwrap();
    let others = (1..=3).map(|n| {
        Box::new(move |store: &Store| {
            // Two of the three are refused because of the third, which never reaches the disk.
            let error = refused(store, |c| add(c, "same", &active(n, None)));
            assert!(error.to_string().contains("the disk is broken"), "{error}");
        }) as Caller<'_>
    });
    with_next_group(&store, &gated, true, others.collect());
}

#[test]
fn a_lone_panic_leaves_the_store_usable() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        let panicking = AssertUnwindSafe(|| {
            fixture.store.commit(|c| -> Result<(), StoreError> {
                add(c, "ugly", &active(1, None))?;
                panic!("on purpose");
            })
        });
        catch_unwind(panicking).unwrap_err();
    }
    commit(&fixture.store, |c| add(c, "good", &active(1, None)));
    assert_eq!(fixture.store.read(|r| r.page(None, 9)).unwrap().len(), 1);
}

#[test]
fn a_change_that_only_reads_costs_no_commit() {
    let fixture = Fixture::new();
    let commits = fixture.store.commits();
    assert_eq!(commit(&fixture.store, |c| c.leases()), []);
    assert_eq!(fixture.store.commits(), commits);
}

#[test]
fn a_reader_keeps_its_view_while_others_commit() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| add(c, "old", &active(1, None)));
    fixture
        .store
        .read(|r| {
            commit(&fixture.store, |c| add(c, "new", &active(2, None)));
            assert_eq!(r.page(None, 9)?.len(), 1);
            Ok(())
        })
        .unwrap();
    assert_eq!(fixture.store.read(|r| r.page(None, 9)).unwrap().len(), 2);
}

#[test]
fn the_callers_own_error_type_is_what_comes_back() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        No,
        Store(String),
    }
    impl From<StoreError> for Mine {
        fn from(error: StoreError) -> Self {
            Mine::Store(error.to_string())
        }
    }
    let fixture = Fixture::new();
    let refused: Result<(), Mine> = fixture.store.commit(|_| Err(Mine::No));
    assert_eq!(refused, Err(Mine::No));
    let refused: Result<(), Mine> = fixture.store.commit(|c| {
        c.remove_snapshot("x")?;
        Ok(())
    });
    assert_eq!(refused, Err(Mine::Store("snapshot \"x\" does not exist".to_owned())));
}

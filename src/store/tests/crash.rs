//! The power fails at every step of a workload. Whatever part of its cache the disk has kept, the
//! store opens again. It shows exactly the acknowledged changes, and possibly the complete change
//! that was not acknowledged yet. It can be written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::{Disk, Power, Survivors};
use super::fixture::*;
use crate::store::{Changes, IdRange, SnapshotRecord, Store, StoreError};

type State = BTreeMap<String, SnapshotRecord>;
type Change = fn(&mut Changes<'_>) -> Result<(), StoreError>;

/// The operations of layers and containers, with big records so that pages split.
const WORKLOAD: &[Change] = &[
    |c| add(c, "base", &big(1, None)),
    |c| {
        add(c, "layer-1", &big(2, Some("base")))?;
        add(c, "layer-2", &big(3, Some("layer-1")))
    },
    |c| add(c, "container", &active(4, Some("layer-2"))),
    |c| {
        c.put_template(&template_key("ext4", 2048), &template(5))?;
        c.put_leases(&[IdRange { start: 0, end: 256 }])
    },
    |c| {
        let record = c.remove_snapshot("container")?;
        c.put_reclaim(&reclaim(4))?;
        add(c, "other", &active(6, record.parent.as_deref()))
    },
    |c| (10..40).try_for_each(|n| add(c, &format!("many-{n}"), &big(n, None))),
    |c| (10..40).try_for_each(|n| c.remove_snapshot(&format!("many-{n}")).map(drop)),
    |c| {
        let record = c.remove_snapshot("other")?;
        add(c, "layer-3", &committed(6, record.parent.as_deref()))
    },
    |c| c.remove_reclaim(4).map(drop),
];

fn big(number: u32, parent: Option<&str>) -> SnapshotRecord {
    let mut record = committed(number, parent);
    record.labels.insert("big".to_owned(), "x".repeat(700));
    record
}

fn state(store: &Store) -> State {
    let snapshots = store.read(|r| r.page(None, usize::MAX)).unwrap();
    assert_eq!(store.read(|r| r.check_indexes()).unwrap(), [""; 0]);
    snapshots.into_iter().collect()
}

/// The states of the store during the workload, from the empty store to the end.
fn expected_states() -> Vec<State> {
    let store = Store::with_backend(Disk::blank(&Power::steady())).unwrap();
    let mut states = vec![state(&store)];
    for change in WORKLOAD {
        commit(&store, change);
        states.push(state(&store));
    }
    states
}

/// A disk with an empty store, and the number of steps to create it.
fn prepared(power: &Arc<Power>) -> (Disk, Store) {
    let disk = Disk::blank(power);
    let store = Store::with_backend(disk.clone()).unwrap();
    (disk, store)
}

/// Runs the workload until the power fails; returns how many changes were acknowledged.
fn run(store: &Store) -> usize {
    WORKLOAD.iter().take_while(|change| store.commit(**change).is_ok()).count()
}

fn all_survivors(seed: u64) -> [Survivors; 5] {
    [
        Survivors::Nothing,
        Survivors::Everything,
        Survivors::Some(3 * seed),
        Survivors::Some(3 * seed + 1),
        Survivors::Some(3 * seed + 2),
    ]
}

/// Checks the store after a power cut with this number of acknowledged changes.
fn check(found: &State, states: &[State], acknowledged: usize, context: &str) {
    let whole = states[acknowledged..].iter().take(2).any(|state| state == found);
    assert!(whole, "{context}: {acknowledged} changes acknowledged, found {:?}", found.keys());
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged_and_halves_nothing() {
    let states = expected_states();
    let (_, store) = prepared(&Power::steady());
    drop(store);
    let mut points = 0;
    let made = {
        let power = Power::steady();
        let _store = prepared(&power);
        power.steps()
    };
    for step in made.. {
        let power = Power::lasting(step);
        let (disk, store) = prepared(&power);
        let acknowledged = run(&store);
        drop(store);
        for survivors in all_survivors(step) {
            points += 1;
            let context = format!("power cut at step {step}, {survivors:?}");
            let steady = Power::steady();
            let found = Store::with_backend(disk.after_cut(survivors, &steady));
            let store = found.unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&state(&store), &states, acknowledged, &context);
            commit(&store, |c| add(c, "afterwards", &active(99, None)));
        }
        if !power.is_off() {
            assert_eq!(acknowledged, WORKLOAD.len());
            break;
        }
    }
    println!("{points} power cuts explored");
    assert!(points > 200, "only {points}");
}

#[test]
fn a_power_cut_at_any_step_of_opening_again_loses_nothing_either() {
    let states = expected_states();
    let made = {
        let power = Power::steady();
        let (_disk, store) = prepared(&power);
        run(&store);
        power.steps()
    };
    // The power fails in the middle of the workload, then at every later step.
    for first in (made / 2..made / 2 + 12).step_by(3) {
        let power = Power::lasting(first);
        let (disk, store) = prepared(&power);
        let acknowledged = run(&store);
        drop(store);
        for second in 0.. {
            let power = Power::lasting(second);
            let once = disk.after_cut(Survivors::Some(second), &power);
            drop(Store::with_backend(once.clone()));
            for survivors in all_survivors(second) {
                let context = format!("cuts at {first} and {second}, {survivors:?}");
                let twice = once.after_cut(survivors, &Power::steady());
                let store =
                    Store::with_backend(twice).unwrap_or_else(|error| panic!("{context}: {error}"));
                check(&state(&store), &states, acknowledged, &context);
            }
            if !power.is_off() {
                break;
            }
        }
    }
}

#[test]
fn a_failed_commit_is_reported_and_shows_whole_or_not_at_all_afterwards() {
    let power = Power::lasting(u64::MAX);
    let (_, store) = prepared(&power);
    commit(&store, |c| add(c, "base", &committed(1, None)));
    let steps = power.steps();
    drop(store);
    let power = Power::lasting(steps + 1);
    let (disk, store) = prepared(&power);
    commit(&store, |c| add(c, "base", &committed(1, None)));
    let error = refused(&store, |c| add(c, "next", &active(2, Some("base"))));
    let message = error.to_string();
    assert!(message.starts_with("committing to database (backend): "), "{message}");
    assert!(message.contains("the power is off"), "{message}");
    assert_eq!(store.commits(), 1);
    drop(store);
    let store = Store::with_backend(disk.after_cut(Survivors::Nothing, &Power::steady())).unwrap();
    assert_eq!(state(&store).into_keys().collect::<Vec<_>>(), ["base"]);
}

#[test]
fn a_lone_commit_is_one_sync() {
    let store = Store::with_backend(Disk::blank(&Power::steady())).unwrap();
    commit(&store, |c| add(c, "base", &committed(1, None)));
    let (syncs, commits) = (store.syncs(), store.commits());
    // The file grows once, which needs one more sync.
    for n in 2..52 {
        commit(&store, |c| add(c, &format!("k{n}"), &active(n, Some("base"))));
    }
    assert_eq!((store.syncs() - syncs, store.commits() - commits), (51, 50));
}

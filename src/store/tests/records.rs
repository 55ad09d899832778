//! What is put is what is read, now and after the file was opened again.

use super::fixture::*;
use crate::store::{Kind, Lease, Owner, PoolRecord, ReclaimKind, ReclaimRecord, StoreError};
use crate::units::Sectors;

#[test]
fn a_snapshot_reads_as_it_was_put() {
    let fixture = Fixture::new();
    let mut record = committed(7, None);
    record.mapped = Some(1 << 20);
    record.own = Some(4096);
    record.inodes = Some(12);
    commit(&fixture.store, |c| c.insert_snapshot("layer", &record));
    let fixture = fixture.reopen();
    let read = fixture.store.read(|r| r.snapshot("layer")).unwrap();
    assert_eq!(read, record);
    assert_eq!(
        fixture.store.read(|r| r.find_snapshot("other")).unwrap(),
        None
    );
    let error = fixture.store.read(|r| r.snapshot("other")).unwrap_err();
    assert_eq!(error.to_string(), "\"other\" does not exist");
}

#[test]
fn keys_may_hold_slashes_spaces_nuls_and_four_kilobytes() {
    let fixture = Fixture::new();
    let long = "k/ \u{1F40B}".repeat(600);
    assert!(long.len() > 4096);
    let keys = ["a/b c", "ünïcode 牛", "with\0nul", "with", long.as_str()];
    for (key, number) in keys.iter().zip(1..) {
        commit(&fixture.store, |c| {
            c.insert_snapshot(key, &committed(number, None))
        });
        let child = format!("child of {key}");
        commit(&fixture.store, |c| {
            c.insert_snapshot(&child, &active(number + 10, Some(key)))
        });
    }
    let fixture = fixture.reopen();
    for key in keys {
        let children = fixture.store.read(|r| r.children_of(key)).unwrap();
        assert_eq!(children, [format!("child of {key}")]);
    }
}

#[test]
fn an_empty_key_is_refused() {
    let fixture = Fixture::new();
    let error = refused(&fixture.store, |c| c.insert_snapshot("", &active(1, None)));
    assert!(matches!(error, StoreError::EmptyKey));
}

#[test]
fn pages_walk_through_all_snapshots_in_the_order_of_their_keys() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| {
        (1..=25).try_for_each(|n| c.insert_snapshot(&format!("key-{n:03}"), &committed(n, None)))
    });
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = fixture
            .store
            .read(|r| r.page(after.as_deref(), 10))
            .unwrap();
        let Some((last, _)) = page.last() else { break };
        assert!(page.len() <= 10);
        after = Some(last.clone());
        seen.extend(page);
    }
    let expected: Vec<_> = (1..=25)
        .map(|n| (format!("key-{n:03}"), committed(n, None)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_inside_a_change_shows_what_the_change_did() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| {
        c.insert_snapshot("b", &committed(1, None))?;
        c.insert_snapshot("d", &committed(2, None))
    });
    let keys = commit(&fixture.store, |c| {
        c.remove_snapshot("b")?;
        c.insert_snapshot("a", &active(3, None))?;
        c.insert_snapshot("c", &active(4, None))?;
        c.insert_snapshot("e", &active(5, Some("d")))?;
        let all = c.page(None, 10)?;
        let some = c.page(Some("a"), 2)?;
        Ok([all, some].map(|page| page.into_iter().map(|(key, _)| key).collect::<Vec<_>>()))
    });
    assert_eq!(keys, [vec!["a", "c", "d", "e"], vec!["c", "d"]]);
}

#[test]
fn templates_reclaim_entries_pool_and_lease_read_as_they_were_put() {
    let fixture = Fixture::new();
    let pool = PoolRecord {
        uuid: "6f0c0d4e".to_owned(),
        name: "pool".to_owned(),
        block_size: Sectors(128),
        formatted: true,
        epoch: 3,
        epoch_next: Some(4),
        backing: "loop".to_owned(),
        data_size: Sectors(1 << 30),
        metadata_size: Sectors(1 << 20),
    };
    let lease = Lease {
        first: 256,
        limit: 512,
    };
    let (ext4, xfs) = (template_key("ext4", 2048), template_key("xfs", 4096));
    let view = ReclaimRecord {
        kind: ReclaimKind::View { of: thin(1) },
        ..reclaim(9)
    };
    commit(&fixture.store, |c| {
        c.put_pool(&pool)?;
        c.put_lease(lease)?;
        c.put_template(&xfs, &template(2))?;
        c.put_template(&ext4, &template(1))?;
        c.put_reclaim(&view)?;
        c.put_reclaim(&reclaim(5))
    });
    let fixture = fixture.reopen();
    fixture
        .store
        .read(|r| {
            assert_eq!(r.pool()?, Some(pool));
            assert_eq!(r.lease()?, Some(lease));
            assert_eq!(r.template(&ext4)?, Some(template(1)));
            assert_eq!(r.template(&template_key("ext4", 1))?, None);
            let expected = vec![(xfs.clone(), template(2)), (ext4, template(1))];
            assert_eq!(r.templates()?, expected);
            assert_eq!(r.reclaims(None, 10)?, [reclaim(5), view.clone()]);
            assert_eq!(r.reclaims(Some(5), 10)?, [view]);
            assert_eq!(r.reclaims(None, 1)?, [reclaim(5)]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_recorded_thin_is_listed_with_its_owner() {
    let fixture = Fixture::new();
    let key = template_key("ext4", 2048);
    commit(&fixture.store, |c| {
        c.insert_snapshot("layer", &committed(1, None))?;
        c.insert_snapshot("view", &snapshot(2, Kind::View, Some("layer")))?;
        c.put_template(&key, &template(3))?;
        c.put_reclaim(&reclaim(4))?;
        c.put_foreign(thin(5))
    });
    let thins = fixture.store.read(|r| r.recorded_thins()).unwrap();
    let expected = [
        (thin(1), Owner::Snapshot("layer".to_owned())),
        (thin(3), Owner::Template(key)),
        (thin(4), Owner::Reclaim(4)),
        (thin(5), Owner::Foreign),
    ];
    assert_eq!(thins.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(
        fixture.store.read(|r| r.foreign_thins()).unwrap(),
        [thin(5)]
    );
}

#[test]
fn device_numbers_count_up_and_never_come_back() {
    let fixture = Fixture::new();
    let first = commit(&fixture.store, |c| Ok([c.take_number()?, c.take_number()?]));
    assert_eq!(first, [1, 2]);
    let fixture = fixture.reopen();
    assert_eq!(commit(&fixture.store, |c| c.take_number()), 3);
}

#[test]
fn a_lease_beyond_24_bits_or_backwards_is_refused() {
    let fixture = Fixture::new();
    for (first, limit) in [(2, 1), (0, (1 << 24) + 1)] {
        let error = refused(&fixture.store, |c| c.put_lease(Lease { first, limit }));
        assert!(matches!(error, StoreError::BadLease { .. }), "{error}");
    }
    let lease = Lease {
        first: 10,
        limit: 1 << 24,
    };
    commit(&fixture.store, |c| c.put_lease(lease));
    assert!(lease.covers(thin(10)) && lease.covers(thin((1 << 24) - 1)));
    assert!(!lease.covers(thin(9)));
}

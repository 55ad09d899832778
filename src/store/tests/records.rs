//! A record that was written is read back the same, at once and after the file was opened again.

use super::fixture::*;
use crate::store::{
    ExternalPool, IdRange, Kind, Owner, PoolRecord, ReclaimKind, ReclaimRecord, StoreError,
};
use crate::units::Sectors;

/// The number after the largest thin id.
const ID_END: u32 = 1 << 24;

fn range(start: u32, end: u32) -> IdRange {
    IdRange { start, end }
}

#[test]
fn a_snapshot_reads_as_it_was_put() {
    let fixture = Fixture::new();
    let mut record = committed(7, None);
    record.mapped = Some(1 << 20);
    record.inodes = Some(12);
    commit(&fixture.store, |c| add(c, "layer", &record));
    let fixture = fixture.reopen();
    let read = fixture.store.read(|r| r.snapshot("layer")).unwrap();
    assert_eq!(read, record);
    assert_eq!(fixture.store.read(|r| r.find_snapshot("other")).unwrap(), None);
    let error = fixture.store.read(|r| r.snapshot("other")).unwrap_err();
    assert_eq!(error.to_string(), "snapshot \"other\" does not exist");
}

#[test]
fn keys_may_hold_slashes_spaces_nuls_and_four_kilobytes() {
    let fixture = Fixture::new();
    let long = "k/ \u{1F40B}".repeat(600);
    assert!(long.len() > 4096);
    let keys = ["a/b c", "ünïcode 牛", "with\0nul", "with", long.as_str()];
    for (key, number) in keys.iter().zip(1..) {
        commit(&fixture.store, |c| add(c, key, &committed(number, None)));
        let child = format!("child of {key}");
        commit(&fixture.store, |c| add(c, &child, &active(number + 10, Some(key))));
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
    let error = refused(&fixture.store, |c| add(c, "", &active(1, None)));
    assert!(matches!(error, StoreError::EmptyKey));
}

#[test]
fn pages_walk_through_all_snapshots_in_the_order_of_their_keys() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| {
        (1..=25).try_for_each(|n| add(c, &format!("key-{n:03}"), &committed(n, None)))
    });
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = fixture.store.read(|r| r.page(after.as_deref(), 10)).unwrap();
        let Some((last, _)) = page.last() else { break };
        assert!(page.len() <= 10);
        after = Some(last.clone());
        seen.extend(page);
    }
    let expected: Vec<_> = (1..=25).map(|n| (format!("key-{n:03}"), committed(n, None))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_inside_a_change_shows_what_the_change_did() {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| {
        add(c, "b", &committed(1, None))?;
        add(c, "d", &committed(2, None))
    });
    let keys = commit(&fixture.store, |c| {
        c.remove_snapshot("b")?;
        add(c, "a", &active(3, None))?;
        add(c, "c", &active(4, None))?;
        add(c, "e", &active(5, Some("d")))?;
        let all = c.page(None, 10)?;
        let some = c.page(Some("a"), 2)?;
        Ok([all, some].map(|page| page.into_iter().map(|(key, _)| key).collect::<Vec<_>>()))
    });
    assert_eq!(keys, [vec!["a", "c", "d", "e"], vec!["c", "d"]]);
}

#[test]
fn templates_reclaim_entries_pool_and_leases_read_as_they_were_put() {
    let fixture = Fixture::new();
    let pool = PoolRecord {
        name: "dms".to_owned(),
        uuid: "6f0c0d4e".to_owned(),
        external: None,
        block_size: Sectors(128),
        formatted: true,
        epoch: 3,
        epoch_next: Some(4),
    };
    let leases = [range(256, 512), range(0, 256)];
    let (ext4, xfs) = (template_key("ext4", 2048), template_key("xfs", 4096));
    let view = ReclaimRecord { kind: ReclaimKind::View { of: thin(1) }, ..reclaim(9) };
    commit(&fixture.store, |c| {
        c.put_pool(&pool)?;
        c.put_leases(&leases)?;
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
            assert_eq!(r.leases()?, leases);
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
fn a_pool_that_somebody_else_assembles_reads_as_it_was_put() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.store.read(|r| r.pool()).unwrap(), None);
    for uuid in [Some("LVM-x-tpool".to_owned()), None] {
        let pool = PoolRecord {
            name: "dms".to_owned(),
            uuid: "6f0c0d4e".to_owned(),
            external: Some(ExternalPool { name: "vg-thin-tpool".to_owned(), uuid }),
            block_size: Sectors(256),
            formatted: true,
            epoch: 0,
            epoch_next: None,
        };
        commit(&fixture.store, |c| c.put_pool(&pool));
        fixture = fixture.reopen();
        assert_eq!(fixture.store.read(|r| r.pool()).unwrap(), Some(pool));
    }
}

#[test]
fn every_recorded_thin_is_listed_with_its_owner() {
    let fixture = Fixture::new();
    let key = template_key("ext4", 2048);
    commit(&fixture.store, |c| {
        add(c, "layer", &committed(1, None))?;
        add(c, "view", &snapshot(2, Kind::View, Some("layer")))?;
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
    assert_eq!(fixture.store.read(|r| r.foreign_thins()).unwrap(), [thin(5)]);
}

#[test]
fn leases_are_replaced_as_a_whole_and_keep_their_order() {
    let fixture = Fixture::new();
    assert_eq!(fixture.store.read(|r| r.leases()).unwrap(), []);
    let (low, high) = (range(0, 256), range(ID_END - 256, ID_END));
    for leases in [vec![low], vec![high, low], vec![low, high], vec![]] {
        commit(&fixture.store, |c| c.put_leases(&leases));
        assert_eq!(fixture.store.read(|r| r.leases()).unwrap(), leases);
    }
    commit(&fixture.store, |c| c.put_leases(&[high, low]));
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.read(|r| r.leases()).unwrap(), [high, low]);
}

#[test]
fn a_lease_beyond_24_bits_or_backwards_is_refused() {
    let fixture = Fixture::new();
    let good = range(10, ID_END);
    commit(&fixture.store, |c| c.put_leases(&[good]));
    for bad in [range(2, 1), range(0, ID_END + 1), range(ID_END, u32::MAX)] {
        for leases in [&[bad][..], &[good, bad], &[bad, good]] {
            let error = refused(&fixture.store, |c| c.put_leases(leases));
            let IdRange { start, end } = bad;
            let expected = format!("a lease of thin ids {start} to {end} is no valid range");
            assert!(matches!(error, StoreError::BadLease { .. }), "{error}");
            assert_eq!(error.to_string(), expected);
        }
    }
    let empty = [range(0, 0), range(ID_END, ID_END)];
    assert_eq!(fixture.store.read(|r| r.leases()).unwrap(), [good]);
    commit(&fixture.store, |c| c.put_leases(&empty));
    assert_eq!(fixture.store.read(|r| r.leases()).unwrap(), empty);
}

#[test]
fn a_range_contains_its_start_and_not_its_end() {
    let some = range(10, 12);
    let contained = [9, 10, 11, 12].map(|id| some.contains(thin(id)));
    assert_eq!(contained, [false, true, true, false]);
    let all = range(0, ID_END);
    assert!(all.contains(thin(0)) && all.contains(thin(ID_END - 1)));
    let last = range(ID_END - 1, ID_END);
    assert!(last.contains(thin(ID_END - 1)) && !last.contains(thin(ID_END - 2)));
    for empty in [range(10, 10), range(11, 10), range(ID_END, ID_END)] {
        let contained = [9, 10, 11, ID_END - 1].map(|id| empty.contains(thin(id)));
        assert_eq!(contained, [false; 4], "{empty:?}");
    }
}

#[test]
fn the_ids_of_a_range_are_those_it_contains_upwards() {
    let ids = |start, end| range(start, end).ids().collect::<Vec<_>>();
    assert_eq!(ids(0, 3), [thin(0), thin(1), thin(2)]);
    assert_eq!(ids(ID_END - 2, ID_END), [thin(ID_END - 2), thin(ID_END - 1)]);
    assert_eq!(ids(ID_END - 1, ID_END + 3), [thin(ID_END - 1)]);
    for (start, end) in [(0, 0), (7, 7), (8, 7), (ID_END, ID_END), (ID_END, ID_END + 3)] {
        assert_eq!(ids(start, end), [], "{start} to {end}");
    }
    assert_eq!(range(0, ID_END).ids().count(), 1 << 24);
}

#[test]
fn the_first_id_is_taken_until_the_range_is_empty() {
    let mut low = range(0, 2);
    assert_eq!((low.take_first(), low), (Some(thin(0)), range(1, 2)));
    assert!(!low.contains(thin(0)));
    assert_eq!((low.take_first(), low), (Some(thin(1)), range(2, 2)));
    assert_eq!((low.take_first(), low), (None, range(2, 2)));
    let mut high = range(ID_END - 1, ID_END);
    let last = Some(thin(ID_END - 1));
    assert_eq!((high.take_first(), high), (last, range(ID_END, ID_END)));
    for mut none in [high, range(5, 4), range(ID_END, ID_END + 1)] {
        let before = none;
        assert_eq!((none.take_first(), none), (None, before));
    }
}

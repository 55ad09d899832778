//! Invariants that no caller can break: parents, children, owners. A refused operation or change
//! leaves no trace.

use super::fixture::*;
use crate::store::{
    IdRange, Kind, Owner, ParentRef, ReclaimRecord, SnapshotRecord, Store, StoreError,
};

/// All records, to compare before and after.
fn everything(store: &Store) -> String {
    store
        .read(|r| {
            assert_eq!(r.check_indexes()?, [""; 0]);
            Ok(format!(
                "{:?} {:?} {:?} {:?} {:?} {:?}",
                r.page(None, usize::MAX)?,
                r.templates()?,
                r.reclaims(None, usize::MAX)?,
                r.recorded_thins()?,
                r.pool()?,
                r.leases()?,
            ))
        })
        .unwrap()
}

fn family() -> Fixture {
    let fixture = Fixture::new();
    commit(&fixture.store, |c| {
        add(c, "base", &committed(1, None))?;
        add(c, "layer", &committed(2, Some("base")))?;
        add(c, "box", &active(3, Some("layer")))
    });
    fixture
}

#[test]
fn a_key_in_use_is_refused() {
    let fixture = family();
    let error = refused(&fixture.store, |c| add(c, "box", &active(9, None)));
    assert!(matches!(&error, StoreError::AlreadyExists { key } if key == "box"), "{error}");
}

#[test]
fn a_parent_must_exist_and_be_committed() {
    let fixture = family();
    let error = refused(&fixture.store, |c| add(c, "x", &active(9, Some("nobody"))));
    assert!(matches!(&error, StoreError::NoParent { key } if key == "nobody"), "{error}");
    let error = refused(&fixture.store, |c| add(c, "x", &active(9, Some("box"))));
    assert_eq!(error.to_string(), "parent snapshot \"box\" is active, not committed");
    let error = refused(&fixture.store, |c| add(c, "x", &active(9, Some("x"))));
    assert!(matches!(&error, StoreError::NoParent { key } if key == "x"), "{error}");
}

#[test]
fn a_snapshot_with_children_stays_and_stays_committed() {
    let fixture = family();
    let error = refused(&fixture.store, |c| c.remove_snapshot("layer"));
    assert_eq!(error.to_string(), "snapshot \"layer\" has children, for example \"box\"");
    let error = refused(&fixture.store, |c| c.replace_snapshot("layer", &active(2, Some("base"))));
    assert!(matches!(error, StoreError::HasChildren { .. }), "{error}");
    commit(&fixture.store, |c| {
        c.remove_snapshot("box")?;
        c.remove_snapshot("layer")
    });
    assert_eq!(fixture.store.read(|r| r.first_child("base")).unwrap(), None);
}

#[test]
fn a_view_is_a_child_too_and_shows_a_thin_that_is_not_its_own() {
    let fixture = family();
    let view = snapshot(9, Kind::View, Some("base"));
    commit(&fixture.store, |c| add(c, "view", &view));
    let children = fixture.store.read(|r| r.children_of("base")).unwrap();
    assert_eq!(children, ["layer", "view"]);
    let base = Some(Owner::Snapshot("base".to_owned()));
    let owner = || fixture.store.read(|r| r.thin_owner(view.thin)).unwrap();
    assert_eq!((view.owned_thin(), owner()), (None, base.clone()));
    let removed = commit(&fixture.store, |c| c.remove_snapshot("view"));
    assert_eq!((removed, owner()), (view.clone(), base));
    for kind in [Kind::Active, Kind::Committed] {
        let mut record = snapshot(10, kind, None);
        assert_eq!(record.owned_thin(), Some(thin(10)));
        record.thin = view.thin;
        let error = refused(&fixture.store, |c| add(c, "thief", &record));
        assert!(matches!(error, StoreError::ThinOwned { .. }), "{error}");
    }
}

#[test]
fn a_thin_is_owned_while_its_snapshot_is_no_view() {
    let fixture = family();
    let owner = || fixture.store.read(|r| r.thin_owner(thin(3))).unwrap();
    let mut record = active(3, Some("layer"));
    record.kind = Kind::View;
    commit(&fixture.store, |c| c.replace_snapshot("box", &record));
    assert_eq!(owner(), None);
    record.kind = Kind::Active;
    commit(&fixture.store, |c| c.replace_snapshot("box", &record));
    assert_eq!(owner(), Some(Owner::Snapshot("box".to_owned())));
}

#[test]
fn replacing_keeps_the_parent_and_needs_the_snapshot() {
    let fixture = family();
    let error = refused(&fixture.store, |c| c.replace_snapshot("box", &active(3, Some("base"))));
    assert!(matches!(error, StoreError::ParentFixed { .. }), "{error}");
    let error = refused(&fixture.store, |c| c.replace_snapshot("nobody", &active(9, None)));
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    let mut record = active(3, Some("layer"));
    record.labels.clear();
    commit(&fixture.store, |c| c.replace_snapshot("box", &record));
    assert_eq!(fixture.store.read(|r| r.snapshot("box")).unwrap(), record);
}

#[test]
fn a_thin_has_one_owner_and_the_refusal_names_both() {
    let fixture = family();
    let mut thief = active(9, None);
    thief.thin = thin(2);
    let error = refused(&fixture.store, |c| add(c, "thief", &thief));
    let expected = "thin 2 of snapshot \"thief\" belongs to snapshot \"layer\"";
    assert_eq!(error.to_string(), expected);
    let error = refused(&fixture.store, |c| c.put_template(&template_key("ext4", 1), &template(3)));
    assert!(matches!(error, StoreError::ThinOwned { thin: 3, .. }), "{error}");
    let error = refused(&fixture.store, |c| c.put_reclaim(&reclaim(3)));
    assert!(matches!(error, StoreError::ThinOwned { thin: 3, .. }), "{error}");
    let error = refused(&fixture.store, |c| c.put_foreign(thin(1)));
    assert!(matches!(error, StoreError::ThinOwned { thin: 1, .. }), "{error}");
    commit(&fixture.store, |c| c.put_foreign(thin(77)));
    let error = refused(&fixture.store, |c| add(c, "x", &active(77, None)));
    assert!(error.to_string().ends_with("belongs to a thin that is not this daemon's"), "{error}");
    assert!(commit(&fixture.store, |c| c.remove_foreign(thin(77))));
    assert!(!commit(&fixture.store, |c| c.remove_foreign(thin(1))), "thin 1 is not foreign");
    commit(&fixture.store, |c| add(c, "x", &active(77, None)));
}

#[test]
fn a_device_number_has_one_owner() {
    let fixture = family();
    let mut twin = active(9, None);
    twin.number = 2;
    let error = refused(&fixture.store, |c| add(c, "twin", &twin));
    let expected = "device number 2 of snapshot \"twin\" belongs to snapshot \"layer\"";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn thin_and_number_pass_from_a_removed_snapshot_to_reclaim_and_are_free_after_it() {
    let fixture = family();
    commit(&fixture.store, |c| {
        c.remove_snapshot("box")?;
        c.put_reclaim(&reclaim(3))
    });
    let owner = fixture.store.read(|r| r.thin_owner(thin(3))).unwrap();
    assert_eq!(owner, Some(Owner::Reclaim(3)));
    let ticked = commit(&fixture.store, |c| c.remove_reclaim(3));
    assert_eq!(ticked, Some(reclaim(3)));
    assert_eq!(commit(&fixture.store, |c| c.remove_reclaim(3)), None);
    assert_eq!(fixture.store.read(|r| r.thin_owner(thin(3))).unwrap(), None);
    commit(&fixture.store, |c| add(c, "box", &active(3, Some("layer"))));
}

#[test]
fn committing_moves_thin_and_number_from_key_to_name() {
    let fixture = family();
    commit(&fixture.store, |c| {
        let record = c.remove_snapshot("box")?;
        let record = crate::store::SnapshotRecord { kind: Kind::Committed, ..record };
        add(c, "image", &record)
    });
    fixture
        .store
        .read(|r| {
            assert_eq!(r.find_snapshot("box")?, None);
            assert_eq!(r.children_of("layer")?, ["image"]);
            assert_eq!(r.number_owner(3)?, Some(Owner::Snapshot("image".to_owned())));
            Ok(())
        })
        .unwrap();
}

#[test]
fn nothing_is_made_on_a_parent_that_was_exchanged_since_it_was_looked_up() {
    let fixture = family();
    let looked_up = ParentRef::new("image", &committed(8, Some("base")));
    for kind in [Kind::Active, Kind::View] {
        let record = SnapshotRecord {
            thin: thin(if kind == Kind::View { 8 } else { 20 }),
            ..snapshot(20, kind, Some("image"))
        };
        let error =
            refused(&fixture.store, |c| c.insert_snapshot("new", &record, Some(&looked_up)));
        assert!(matches!(&error, StoreError::NoParent { key } if key == "image"), "{error}");
        let error = refused(&fixture.store, |c| {
            // Removed and created again, even at the same moment.
            add(c, "image", &committed(9, Some("base")))?;
            c.insert_snapshot("new", &record, Some(&looked_up))
        });
        assert!(
            matches!(
                &error,
                StoreError::ParentChanged { key, parent } if key == "new" && parent == "image"
            ),
            "{error}"
        );
        let error = refused(&fixture.store, |c| c.insert_snapshot("new", &record, None));
        assert!(matches!(error, StoreError::ParentChanged { .. }), "{error}");
    }
}

#[test]
fn a_thin_that_a_view_on_record_shows_is_its_parents_and_stays_with_it() {
    let fixture = family();
    let other = SnapshotRecord { thin: thin(2), ..snapshot(9, Kind::View, Some("base")) };
    let error = refused(&fixture.store, |c| add(c, "view", &other));
    assert_eq!(error.to_string(), "view \"view\" shows thin 2, which is not its parent's");
    commit(&fixture.store, |c| add(c, "view", &snapshot(9, Kind::View, Some("base"))));
    let error = refused(&fixture.store, |c| c.replace_snapshot("base", &committed(44, None)));
    assert!(matches!(error, StoreError::HasChildren { .. }), "{error}");
    let of = |number: u32, key: &str| ReclaimRecord { key: key.to_owned(), ..reclaim(number) };
    let viewed = |entry: &ReclaimRecord| fixture.store.read(|r| r.is_viewed(entry)).unwrap();
    assert!(viewed(&of(1, "base")));
    assert!(!viewed(&of(77, "base")) && !viewed(&of(1, "layer")));
}

#[test]
fn a_template_that_is_put_again_gives_its_old_thin_back() {
    let fixture = Fixture::new();
    let key = template_key("ext4", 2048);
    commit(&fixture.store, |c| c.put_template(&key, &template(1)));
    commit(&fixture.store, |c| c.put_template(&key, &template(2)));
    assert_eq!(fixture.store.read(|r| r.thin_owner(thin(1))).unwrap(), None);
}

#[test]
fn a_change_that_is_refused_late_leaves_nothing_behind() {
    let fixture = family();
    let before = everything(&fixture.store);
    let commits = fixture.store.commits();
    let error = refused(&fixture.store, |c| {
        add(c, "new", &active(10, Some("layer")))?;
        c.put_template(&template_key("xfs", 1), &template(11))?;
        c.put_leases(&[IdRange { start: 0, end: 256 }])?;
        c.put_foreign(thin(20))?;
        c.remove_snapshot("box")?;
        c.put_reclaim(&reclaim(3))?;
        add(c, "layer", &active(12, None))
    });
    assert!(matches!(error, StoreError::AlreadyExists { .. }));
    assert_eq!(everything(&fixture.store), before);
    assert_eq!(fixture.store.commits(), commits, "a refused change makes no commit");
    assert_eq!(everything(&fixture.reopen().store), before);
}

#[test]
fn an_operation_that_is_refused_has_done_nothing_even_if_the_change_goes_on() {
    let fixture = family();
    let before = everything(&fixture.store);
    commit(&fixture.store, |c| {
        let mut thief = active(3, Some("layer"));
        thief.thin = thin(1);
        c.replace_snapshot("box", &thief).unwrap_err();
        thief.thin = thin(50);
        thief.number = 1;
        c.replace_snapshot("box", &thief).unwrap_err();
        add(c, "thief", &thief).unwrap_err();
        c.put_reclaim(&reclaim(1)).unwrap_err();
        let (good, bad) = (IdRange { start: 0, end: 1 }, IdRange { start: 2, end: 1 });
        c.put_leases(&[good, bad]).unwrap_err();
        let mut unwritable = active(60, Some("layer"));
        unwritable.created_at = std::time::UNIX_EPOCH - std::time::Duration::from_secs(1);
        let error = add(c, "unwritable", &unwritable).unwrap_err();
        assert!(matches!(error, StoreError::Encode { .. }), "{error}");
        Ok(())
    });
    assert_eq!(everything(&fixture.store), before);
}

//! Cases about devices as such: names, numbers, opening, suspending, events.

use std::time::Duration;

use devmapper_snapshotter::dm::{
    ActivateOptions, Change, Errno, Error, LoadOptions, Removal, Selector, StatusOptions,
    SuspendOptions, Target, Verb, MAX_MINOR,
};
use devmapper_snapshotter::names::{DmName, DmUuid};
use devmapper_snapshotter::units::Sectors;

use super::{activate, errno, open, pool, sectors, thin, thin_id, World, MIB};

pub fn a_new_device_has_a_number_and_no_table(world: &mut dyn World) {
    let name = world.name("new");
    let info = world.dm().create(&name, None).unwrap();
    assert_eq!(info.name, name);
    assert_eq!(Some(&info), world.dm().info(&name).unwrap().as_ref());
    assert!(!info.live_table && !info.inactive_table && !info.suspended && !info.read_only);
    assert_eq!((info.open_count, info.target_count, &info.uuid), (0, 0, &None));
    assert_eq!(world.dm().table(&name).unwrap(), []);
    assert_eq!(world.dm().inactive_table(&name).unwrap(), []);
    assert_eq!(world.dm().status(&name, StatusOptions::default()).unwrap(), []);
    assert_eq!(world.dm().deps(&name).unwrap(), []);
    let by_number = world.dm().info(info.device).unwrap();
    assert_eq!(by_number, Some(info));
}

pub fn a_name_and_a_uuid_are_taken_once(world: &mut dyn World) {
    let (first, second) = (world.name("first"), world.name("second"));
    let uuid = DmUuid::new(format!("uuid-of-{first}")).unwrap();
    world.dm().create(&first, Some(&uuid)).unwrap();
    for (name, uuid) in [(&first, None), (&second, Some(&uuid))] {
        let error = world.dm().create(name, uuid).unwrap_err();
        assert!(matches!(error, Error::NameOrUuidInUse { verb: Verb::Create, .. }), "{error}");
    }
    let found = world.dm().info(&uuid).unwrap().unwrap();
    assert_eq!((found.name, found.uuid), (first, Some(uuid)));
    assert_eq!(world.dm().info(&second).unwrap(), None);
}

pub fn a_minor_number_that_is_asked_for_is_given_once(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let table = [Target::linear(disk, Sectors::ZERO, Sectors(8))];
    let asking = |minor| ActivateOptions { minor: Some(minor), ..ActivateOptions::default() };
    for minor in [MAX_MINOR, 70_000] {
        let (first, second) =
            (world.name(&format!("first-{minor}")), world.name(&format!("second-{minor}")));
        let info = world.dm().activate(&first, None, &table, asking(minor)).unwrap();
        assert_eq!(info.device.minor, minor);
        let by_number = world.dm().info(info.device).unwrap();
        assert_eq!(by_number.map(|info| info.name), Some(first.clone()));
        assert!(open(world, &first).read(0, 4096).is_ok(), "it can be opened by its node");

        let error = world.dm().activate(&second, None, &table, asking(minor)).unwrap_err();
        assert!(
            matches!(error, Error::MinorInUse { .. }) && error.errno() == Some(Errno::ENXIO),
            "{error:?}"
        );
        assert!(error.to_string().contains(&minor.to_string()), "{error}");
        assert_eq!(world.dm().info(&second).unwrap(), None);
        // Without asking, the lowest free one is given.
        assert!(
            world.dm().activate(&second, None, &table, Default::default()).unwrap().device.minor
                < 70_000
        );

        world.dm().remove(&first).unwrap();
        world.dm().remove(&second).unwrap();
        let again = world.dm().activate(&second, None, &table, asking(minor)).unwrap();
        assert_eq!(again.device.minor, minor);
    }
    // The kernel would take the low 20 bits.
    let beyond = world
        .dm()
        .activate(&world.name("beyond"), None, &table, asking(MAX_MINOR + 1))
        .unwrap_err();
    assert!(matches!(beyond, Error::Codec { .. }), "{beyond}");
}

pub fn every_verb_says_that_a_device_is_absent(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let absent = world.name("absent");
    let dm = world.dm();
    let table = [Target::linear(disk, Sectors::ZERO, Sectors(8))];
    let answers = [
        dm.load(&absent, &table, LoadOptions::default()).map(drop),
        dm.suspend(&absent, SuspendOptions::default()).map(drop),
        dm.resume(&absent).map(drop),
        dm.clear(&absent).map(drop),
        dm.rename(&absent, &world.name("other")),
        dm.set_uuid(&absent, &DmUuid::new("some-unused-uuid").unwrap()),
        dm.remove(&absent),
        dm.remove_deferred(&absent).map(drop),
        dm.cancel_deferred_remove(&absent),
        dm.table(&absent).map(drop),
        dm.status(&absent, StatusOptions::default()).map(drop),
        dm.deps(&absent).map(drop),
        dm.message(&absent, Sectors::ZERO, "hello").map(drop),
        dm.reload(&absent, &table).map(drop),
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(error.is_no_such_device(), "{error:?}");
        assert!(error.to_string().contains(absent.as_str()), "{error}");
        assert_eq!(error.errno(), Some(Errno::ENXIO));
    }
    assert_eq!(dm.info(&absent).unwrap(), None);
}

pub fn names_and_uuids_go_up_to_their_limits(world: &mut dyn World) {
    let base = world.name("");
    let long = |limit: usize| {
        let mut text = base.as_str().to_owned();
        text.push('é');
        text.push_str(&"x".repeat(limit - text.len()));
        text
    };
    let name = DmName::new(long(127)).unwrap();
    let uuid = DmUuid::new(long(128)).unwrap();
    world.dm().create(&name, Some(&uuid)).unwrap();
    let info = world.dm().info(&name).unwrap().unwrap();
    assert_eq!((&info.name, &info.uuid), (&name, &Some(uuid.clone())));
    let listed = world.dm().list().unwrap().into_iter().find(|d| d.name == name).unwrap();
    assert_eq!((listed.device, listed.uuid), (info.device, Some(uuid)));
    let spaced = world.name("with space and größe");
    world.dm().create(&spaced, None).unwrap();
    world.dm().rename(&name, &world.name("short")).unwrap();
    world.dm().remove(&spaced).unwrap();
}

pub fn a_device_can_be_renamed(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let (old, new) = (world.name("old"), world.name("new"));
    let info = activate(world, "old", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let held = open(world, &old);
    world.dm().rename(&old, &new).unwrap();
    assert_eq!(world.dm().info(&old).unwrap(), None);
    assert_eq!(world.dm().info(&new).unwrap().unwrap().device, info.device);
    held.read(0, 4096).unwrap();
    world.dm().create(&old, None).unwrap();
    let error = world.dm().rename(&old, &new).unwrap_err();
    assert!(matches!(error, Error::NameOrUuidInUse { verb: Verb::Rename, .. }), "{error}");
    assert!(error.to_string().contains(new.as_str()), "{error}");
}

pub fn a_uuid_is_given_once(world: &mut dyn World) {
    let (one, two) = (world.name("one"), world.name("two"));
    let uuid = DmUuid::new(format!("uuid-of-{one}")).unwrap();
    world.dm().create(&one, None).unwrap();
    world.dm().create(&two, None).unwrap();
    world.dm().set_uuid(&one, &uuid).unwrap();
    assert_eq!(world.dm().info(&one).unwrap().unwrap().uuid, Some(uuid.clone()));
    let again = world.dm().set_uuid(&one, &DmUuid::new("another").unwrap()).unwrap_err();
    assert!(matches!(again, Error::UuidAlreadySet { .. }), "{again:?}");
    let taken = world.dm().set_uuid(&two, &uuid).unwrap_err();
    assert!(matches!(taken, Error::NameOrUuidInUse { verb: Verb::Rename, .. }), "{taken:?}");
}

pub fn the_list_has_every_device(world: &mut dyn World) {
    let mut made = Vec::new();
    for number in 0..200 {
        let name = world.name(&format!("a-device-with-a-rather-long-name-of-its-own-{number:03}"));
        made.push((name.clone(), world.dm().create(&name, None).unwrap().device));
    }
    let list = world.dm().list().unwrap();
    for (name, device) in &made {
        let found = list.iter().find(|listed| listed.name == *name).expect("in the list");
        assert_eq!((found.device, found.event_nr), (*device, 0));
    }
    assert!(list.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted by name");
    for (name, _) in &made {
        world.dm().remove(name).unwrap();
    }
    let list = world.dm().list().unwrap();
    assert!(!list.iter().any(|listed| made.iter().any(|(name, _)| *name == listed.name)));
}

pub fn an_open_device_is_not_removed(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("open");
    activate(world, "open", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let first = open(world, &name);
    let second = open(world, &name);
    assert_eq!(world.dm().info(&name).unwrap().unwrap().open_count, 2);
    let error = world.dm().remove(&name).unwrap_err();
    assert!(
        matches!(&error, Error::Busy { verb: Verb::Remove, device } if device == name.as_str())
    );
    drop(first);
    assert!(world.dm().remove(&name).unwrap_err().is_busy());
    drop(second);
    world.dm().remove(&name).unwrap();
}

pub fn a_deferred_removal_waits_for_the_last_close(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("open");
    activate(world, "open", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let first = open(world, &name);
    assert_eq!(world.dm().remove_deferred(&name).unwrap(), Removal::Deferred);
    assert!(world.dm().info(&name).unwrap().unwrap().deferred_remove);
    // It can still be opened, and that puts it off further.
    let second = open(world, &name);
    drop(first);
    assert!(world.dm().info(&name).unwrap().is_some());
    world.dm().cancel_deferred_remove(&name).unwrap();
    assert!(!world.dm().info(&name).unwrap().unwrap().deferred_remove);
    drop(second);
    assert!(world.dm().info(&name).unwrap().is_some(), "taken back");
    assert_eq!(world.dm().remove_deferred(&name).unwrap(), Removal::Done);
    assert_eq!(world.dm().info(&name).unwrap(), None);

    activate(world, "open", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let held = open(world, &name);
    assert_eq!(world.dm().remove_deferred(&name).unwrap(), Removal::Deferred);
    drop(held);
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        world.dm().info(&name).unwrap().is_none()
    });
    assert!(gone, "it goes with the last close");
}

pub fn a_deferred_removal_can_be_waited_for(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let pool = pool(world, 16 * MIB);
    let limit = Duration::from_secs(10);
    // The name goes first, and for some milliseconds the thin is still in use.
    for _ in 0..10 {
        let name = thin(world, &pool, 1, MIB);
        let dm = world.dm();
        let info = dm.info(&name).unwrap().unwrap();
        let held = open(world, &name);
        assert_eq!(dm.remove_deferred(&name).unwrap(), Removal::Deferred);
        let waited = dm.wait_removed(&info, Duration::from_millis(20)).unwrap();
        assert_eq!(waited, Removal::Deferred, "it is open");
        drop(held);
        assert_eq!(dm.wait_removed(&info, limit).unwrap(), Removal::Done);
        assert_eq!(dm.info(&name).unwrap(), None);
        assert!(!dm.node(&name).exists());
        dm.delete_thin(pool.device, thin_id(1)).unwrap();
    }
    // The same for a device below.
    let below = activate(world, "below", Target::linear(disk, Sectors::ZERO, Sectors(64)));
    let above = activate(world, "above", Target::linear(below.device, Sectors(8), Sectors(8)));
    let held = open(world, &above.name);
    let dm = world.dm();
    assert_eq!(dm.remove_deferred(above.device).unwrap(), Removal::Deferred);
    drop(held);
    assert_eq!(dm.wait_removed(&above, limit).unwrap(), Removal::Done);
    dm.remove(&below.name).unwrap();
    // Nothing is left to wait for.
    assert_eq!(dm.wait_removed(&below, Duration::ZERO).unwrap(), Removal::Done);
}

pub fn a_device_is_found_by_name_uuid_or_number(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("device");
    let uuid = DmUuid::new(format!("uuid-of-{name}")).unwrap();
    let table = |offset| [Target::linear(disk, Sectors(offset), Sectors(8))];
    let dm = world.dm();
    for by in ["name", "uuid", "number"] {
        let info = dm.activate(&name, Some(&uuid), &table(0), ActivateOptions::default()).unwrap();
        let device = match by {
            "name" => Selector::from(&name),
            "uuid" => Selector::from(&uuid),
            _ => Selector::from(info.device),
        };
        assert_eq!(dm.info(&device).unwrap().as_ref(), Some(&info), "by {by}");
        let held = open(world, &name);
        assert_eq!(dm.remove_deferred(&device).unwrap(), Removal::Deferred);
        dm.cancel_deferred_remove(&device).unwrap();
        drop(held);
        assert!(dm.suspend(&device, SuspendOptions::default()).unwrap().suspended);
        dm.load(&device, &table(8), LoadOptions::default()).unwrap();
        dm.clear(&device).unwrap();
        dm.load(&device, &table(8), LoadOptions { read_only: true }).unwrap();
        assert_eq!(dm.inactive_table(&device).unwrap(), table(8));
        assert!(dm.resume(&device).unwrap().read_only);
        assert_eq!(dm.table(&device).unwrap(), table(8));
        assert!(dm.reload(&device, &table(16)).unwrap().read_only, "it stays read-only");
        assert_eq!(dm.status(&device, StatusOptions::default()).unwrap().len(), 1);
        assert_eq!(dm.deps(&device).unwrap(), [disk]);
        dm.remove(&device).unwrap();
        assert!(!dm.node(&name).exists(), "by {by}: the node goes too");
        assert!(dm.remove(&device).unwrap_err().is_no_such_device());
        assert_eq!(dm.info(&device).unwrap(), None);
    }
}

pub fn a_device_below_another_is_in_use(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let below = activate(world, "below", Target::linear(disk, Sectors::ZERO, Sectors(64)));
    let above = activate(world, "above", Target::linear(below.device, Sectors(8), Sectors(8)));
    assert_eq!(world.dm().deps(&above.name).unwrap(), [below.device]);
    assert_eq!(world.dm().info(&below.name).unwrap().unwrap().open_count, 1);
    assert!(world.dm().remove(&below.name).unwrap_err().is_busy());
    world.dm().remove(&above.name).unwrap();
    world.dm().remove(&below.name).unwrap();
}

pub fn suspend_and_resume_are_idempotent(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let info = activate(world, "device", Target::linear(disk, Sectors::ZERO, sectors(MIB)));
    let dm = world.dm();
    assert!(!dm.resume(&info.name).unwrap().suspended, "resume of a running one changes nothing");
    let options = SuspendOptions { no_flush: true, skip_lockfs: true };
    assert!(dm.suspend(&info.name, options).unwrap().suspended);
    assert!(dm.suspend(&info.name, SuspendOptions::default()).unwrap().suspended);
    assert!(dm.info(&info.name).unwrap().unwrap().suspended);
    assert!(!dm.resume(&info.name).unwrap().suspended);
    dm.suspend(&info.name, SuspendOptions::default()).unwrap();
    dm.remove(&info.name).unwrap();
}

pub fn a_device_without_a_table_cannot_be_resumed(world: &mut dyn World) {
    let name = world.name("bare");
    world.dm().create(&name, None).unwrap();
    // It is not suspended, so there is nothing to resume and nothing to refuse.
    assert!(!world.dm().resume(&name).unwrap().suspended);
    assert!(world.dm().suspend(&name, SuspendOptions::default()).unwrap().suspended);
    assert_eq!(errno(world.dm().resume(&name)), Errno::EINVAL as i32);
    world.dm().remove(&name).unwrap();
}

pub fn what_is_an_event(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let (name, renamed) = (world.name("device"), world.name("renamed"));
    let uuid = DmUuid::new(format!("uuid-of-{name}")).unwrap();
    let table = |offset| [Target::linear(disk, Sectors(offset), Sectors(8))];
    let dm = world.dm();
    let mut events = dm.kernel().event_source().unwrap();
    // What a listener hears, and the device's own number afterwards.
    let mut step = |act: &dyn Fn()| {
        events.arm().unwrap();
        act();
        let heard = events.wait(Duration::ZERO).unwrap();
        let info = dm.info(&name).unwrap().or(dm.info(&renamed).unwrap());
        (heard, info.map(|info| info.event_nr))
    };
    let number = Some;
    assert_eq!(step(&|| drop(dm.create(&name, None).unwrap())), (true, number(0)));
    assert_eq!(
        step(&|| drop(dm.load(&name, &table(0), LoadOptions::default()).unwrap())),
        (false, number(0))
    );
    assert_eq!(step(&|| drop(dm.resume(&name).unwrap())), (true, number(0)));
    let options = SuspendOptions::default();
    assert_eq!(step(&|| drop(dm.suspend(&name, options).unwrap())), (false, number(0)));
    assert_eq!(step(&|| drop(dm.resume(&name).unwrap())), (false, number(0)));
    assert_eq!(
        step(&|| drop(dm.load(&name, &table(8), LoadOptions::default()).unwrap())),
        (false, number(0))
    );
    assert_eq!(step(&|| drop(dm.clear(&name).unwrap())), (false, number(0)));
    assert_eq!(
        step(&|| drop(dm.load(&name, &table(8), LoadOptions::default()).unwrap())),
        (false, number(0))
    );
    assert_eq!(step(&|| drop(dm.resume(&name).unwrap())), (true, number(0)), "a new table");
    assert_eq!(step(&|| dm.rename(&name, &renamed).unwrap()), (true, number(1)));
    assert_eq!(step(&|| dm.set_uuid(&renamed, &uuid).unwrap()), (true, number(2)));
    let listed = dm.list().unwrap().into_iter().find(|d| d.name == renamed).unwrap();
    assert_eq!(listed.event_nr, 2);
    assert_eq!(step(&|| dm.remove(&renamed).unwrap()), (true, None));
    assert_eq!(step(&|| drop(dm.create(&name, None).unwrap())), (true, number(0)));
    assert_eq!(step(&|| dm.remove(&name).unwrap()), (true, None), "one without a table");
}

pub fn an_armed_listener_hears_of_events(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let name = world.name("device");
    let mut events = world.dm().kernel().event_source().unwrap();
    activate(world, "device", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    events.arm().unwrap();
    // Nothing of ours happens; what others do may be heard.
    let _ = events.wait(Duration::from_millis(1)).unwrap();
    events.arm().unwrap();
    world
        .dm()
        .load(&name, &[Target::linear(disk, Sectors(8), Sectors(8))], LoadOptions::default())
        .unwrap();
    world.dm().resume(&name).unwrap();
    assert!(events.wait(Duration::from_secs(10)).unwrap(), "it came before the wait");
    assert!(events.wait(Duration::from_secs(10)).unwrap(), "and is heard until armed again");
    std::thread::scope(|scope| {
        events.arm().unwrap();
        let waiting = scope.spawn(|| events.wait(Duration::from_secs(30)).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        world
            .dm()
            .load(&name, &[Target::linear(disk, Sectors(16), Sectors(8))], LoadOptions::default())
            .unwrap();
        world.dm().resume(&name).unwrap();
        assert!(waiting.join().unwrap(), "it came during the wait");
    });
}

pub fn a_watch_tells_what_changed(world: &mut dyn World) {
    let disk = world.disk(MIB);
    let base = world.name("");
    activate(world, "there", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let dm = world.dm();
    let mut watch = dm.watch(base.as_str()).unwrap();
    let mut next = || watch.next(Duration::from_secs(10)).unwrap();
    let info = activate(world, "new", Target::linear(disk, Sectors::ZERO, Sectors(8)));
    let [Change::Appeared(listed)] = &next()[..] else { panic!("one device came") };
    assert_eq!((&listed.name, listed.device), (&info.name, info.device));
    // An event that the watch does not see happen is seen by its number.
    let renamed = world.name("renamed");
    dm.rename(&info.name, &renamed).unwrap();
    dm.rename(&renamed, &info.name).unwrap();
    let [Change::Event(listed)] = &next()[..] else { panic!("it has had events") };
    assert_eq!((&listed.name, listed.event_nr), (&info.name, 2));
    dm.remove(&info.name).unwrap();
    let [Change::Disappeared(listed)] = &next()[..] else { panic!("one device went") };
    assert_eq!(listed.name, info.name);
    assert_eq!(watch.next(Duration::from_millis(5)).unwrap(), [], "nothing more");
}

//! The library reports the same as `dmsetup` for the same devices: tables, status, info,
//! dependencies, lists, targets, versions.

use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::lab::{thin_id, Bench, MIB};
use devmapper_snapshotter::dm::{
    ActivateOptions, DeviceInfo, LinearTable, LoadOptions, StatusOptions, SuspendOptions, Target,
    TargetStatus, ThinTable,
};
use devmapper_snapshotter::names::{DmName, DmUuid};
use devmapper_snapshotter::units::Sectors;

/// Runs dmsetup; returns what it printed, by lines.
fn dmsetup(args: &[&str]) -> Vec<String> {
    kit::dmsetup(args).lines().map(|line| line.trim_end().to_owned()).collect()
}

/// A zoo of devices: every kind of target, every state that a device can be seen in.
struct Zoo {
    bench: Bench,
    names: Vec<DmName>,
    /// Keeps a device open whose removal is deferred.
    _open: std::fs::File,
}

impl Zoo {
    fn new(test: &str) -> Zoo {
        let mut bench = Bench::new(test);
        let disk = bench.disk(4 * MIB);
        let (pool, pool_device) = bench.pool(64 * MIB);
        for id in [1, 7, 16_777_215] {
            bench.dm.create_thin(&pool, thin_id(id)).unwrap();
        }
        let thin = bench.thin(pool_device, 1, 16 * MIB);
        bench.write(&thin, 0, 3 * 65536, 1).unwrap();
        bench.write(&thin, 8 * MIB, 65536, 1).unwrap();
        bench.dm.create_snap_of_device(&pool, thin_id(2), &thin, thin_id(1)).unwrap();
        bench.dm.set_transaction_id(&pool, 0, 12_345_678_901).unwrap();
        bench.dm.reserve_metadata_snap(&pool).unwrap();

        let activate = |short: &str, uuid: Option<&str>, table: &[Target], read_only: bool| {
            let name = bench.name(short);
            let uuid = uuid.map(|uuid| DmUuid::new(uuid).unwrap());
            bench
                .dm
                .activate(
                    &name,
                    uuid.as_ref(),
                    table,
                    ActivateOptions { read_only, ..Default::default() },
                )
                .unwrap();
            name
        };
        let view = Target::thin(pool_device, thin_id(2), Sectors(32768));
        let external = Target::Thin(ThinTable {
            start: Sectors::ZERO,
            length: Sectors(32768),
            pool: pool_device.into(),
            id: thin_id(16_777_215),
            external_origin: Some(disk.into()),
        });
        let piece = |start, length, offset| {
            let (start, length, offset) = (Sectors(start), Sectors(length), Sectors(offset));
            Target::Linear(LinearTable { start, length, device: disk.into(), offset })
        };
        let striped = Target::Other {
            kind: "striped".to_owned(),
            start: Sectors(24),
            length: Sectors(256),
            params: format!("2 128 {disk} 0 {disk} 2048"),
        };
        let mixed = [
            piece(0, 8, 0),
            piece(8, 8, 64),
            Target::Error { start: Sectors(16), length: Sectors(8) },
            striped,
        ];
        let mut names = vec![
            pool.clone(),
            thin,
            activate("view", Some("SNAP-0123-view"), &[view], true),
            activate("external", None, &[external], false),
            activate("mixed", Some("CRYPT-PLAIN-uuid=x"), &mixed, false),
            activate("suspended", None, &[piece(0, 2048, 0)], false),
            activate("reloaded", None, &[piece(0, 2048, 0)], false),
            activate("leaving", None, &[piece(0, 8, 8)], false),
        ];
        let bare = bench.name("bare");
        bench.dm.create(&bare, None).unwrap();
        names.push(bare);
        bench.dm.suspend(&bench.name("suspended"), SuspendOptions::default()).unwrap();
        bench
            .dm
            .load(&bench.name("reloaded"), &[piece(0, 4096, 0)], LoadOptions::default())
            .unwrap();
        let renamed = bench.name("renamed");
        bench.dm.rename(&bench.name("mixed"), &renamed).unwrap();
        names[4] = renamed;
        let open = std::fs::File::open(bench.dm.node(&bench.name("leaving"))).unwrap();
        bench.dm.remove_deferred(&bench.name("leaving")).unwrap();
        Zoo { bench, names, _open: open }
    }
}

#[test]
fn tables_and_status_are_what_dmsetup_prints() {
    let zoo = Zoo::new("agree-table");
    let lines = |printed: Vec<String>| {
        printed.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let trimmed = |text: String| text.trim_end().to_owned();
    for name in &zoo.names {
        let dm = &zoo.bench.dm;
        let ours: Vec<_> =
            dm.table(name).unwrap().iter().map(Target::to_string).map(trimmed).collect();
        assert_eq!(ours, lines(dmsetup(&["table", name.as_str()])), "table of {name}");
        let ours: Vec<_> =
            dm.inactive_table(name).unwrap().iter().map(Target::to_string).map(trimmed).collect();
        assert_eq!(
            ours,
            lines(dmsetup(&["table", "--inactive", name.as_str()])),
            "inactive table of {name}"
        );
        let status = dm.status(name, StatusOptions { no_flush: true }).unwrap();
        let ours: Vec<_> = status.iter().map(TargetStatus::to_string).map(trimmed).collect();
        assert_eq!(
            ours,
            lines(dmsetup(&["status", "--noflush", name.as_str()])),
            "status of {name}"
        );
    }
}

#[test]
fn info_is_what_dmsetup_prints() {
    let zoo = Zoo::new("agree-info");
    let fields = "name,uuid,major,minor,attr,open,segments,events,suspended,readonly,tables_loaded";
    for name in &zoo.names {
        let args = ["info", "-c", "--noheadings", "--separator", "|", "-o", fields, name.as_str()];
        let info = zoo.bench.dm.info(name).unwrap().unwrap();
        assert_eq!(dmsetup(&args), [info_as_dmsetup(&info)]);
        // The only report that tells of a deferred removal.
        let state = format!("State:             {}", state_as_dmsetup(&info));
        assert!(dmsetup(&["info", name.as_str()]).contains(&state), "{name}: {state}");
    }
}

fn info_as_dmsetup(info: &DeviceInfo) -> String {
    let word =
        |condition: bool, yes: &'static str, no: &'static str| if condition { yes } else { no };
    let attributes = [
        word(info.live_table, "L", "-"),
        word(info.inactive_table, "I", "-"),
        word(info.suspended, "s", "-"),
        word(info.read_only, "r", "w"),
    ];
    let tables = match (info.live_table, info.inactive_table) {
        (true, true) => "Both",
        (true, false) => "Live",
        (false, true) => "Inactive",
        (false, false) => "None",
    };
    [
        info.name.to_string(),
        info.uuid.as_ref().map(ToString::to_string).unwrap_or_default(),
        info.device.major.to_string(),
        info.device.minor.to_string(),
        attributes.concat(),
        info.open_count.to_string(),
        info.target_count.to_string(),
        info.event_nr.to_string(),
        word(info.suspended, "Suspended", "Active").to_owned(),
        word(info.read_only, "Read-only", "Writeable").to_owned(),
        tables.to_owned(),
    ]
    .join("|")
}

fn state_as_dmsetup(info: &DeviceInfo) -> String {
    let mut state = if info.suspended { "SUSPENDED" } else { "ACTIVE" }.to_owned();
    if info.read_only {
        state.push_str(" (READ-ONLY)");
    }
    if info.deferred_remove {
        state.push_str(" (DEFERRED REMOVE)");
    }
    state
}

#[test]
fn dependencies_are_what_dmsetup_prints() {
    let zoo = Zoo::new("agree-deps");
    for name in &zoo.names {
        let deps = zoo.bench.dm.deps(name).unwrap();
        let devices: Vec<_> = deps.iter().map(|d| format!("({}, {})", d.major, d.minor)).collect();
        let ours = format!("{} dependencies\t: {}", deps.len(), devices.join(" "));
        assert_eq!([ours.trim_end()], dmsetup(&["deps", "-o", "devno", name.as_str()])[..]);
    }
}

#[test]
fn lists_and_versions_are_what_dmsetup_prints() {
    let zoo = Zoo::new("agree-list");
    let dm = &zoo.bench.dm;
    let listed = dm.list().unwrap();
    let mut ours: Vec<_> = listed
        .iter()
        .map(|d| format!("{}\t({}:{})", d.name, d.device.major, d.device.minor))
        .collect();
    let mut theirs = dmsetup(&["ls"]);
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
    for name in &zoo.names {
        let listed = listed.iter().find(|device| device.name == *name).expect("in the list");
        let info = dm.info(name).unwrap().unwrap();
        assert_eq!(
            (listed.device, listed.event_nr, &listed.uuid),
            (info.device, info.event_nr, &info.uuid)
        );
    }

    let mut ours: Vec<_> = dm
        .target_versions()
        .unwrap()
        .iter()
        .map(|t| format!("{:<16} v{}", t.name, t.version))
        .collect();
    let mut theirs = dmsetup(&["targets"]);
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
    let driver = format!("Driver version:    {}", dm.driver_version().unwrap());
    assert!(dmsetup(&["version"]).contains(&driver), "{driver}");
}

#[test]
fn names_that_dmsetup_makes_are_read_as_they_are() {
    let bench = Bench::new("agree-names");
    // dmsetup writes what is not plain as \xNN, into the kernel's name itself.
    let spaced = bench.name("a b");
    dmsetup(&["create", spaced.as_str(), "--notable"]);
    let mangled = bench.name("a\\x20b");
    assert!(bench.dm.info(&mangled).unwrap().is_some());
    assert!(!spaced.is_plain());

    // A name that is no text is left out of lists, which is all that can be done about it.
    let mut latin = bench.name("latin-").as_str().as_bytes().to_vec();
    latin.push(0xe9);
    let create = |verb: &str| {
        let mut command = Command::new("dmsetup");
        command.arg(verb).arg(std::ffi::OsStr::from_bytes(&latin)).args(["--manglename", "none"]);
        if verb == "create" {
            command.arg("--notable");
        }
        assert!(command.env("DM_DISABLE_UDEV", "1").status().unwrap().success());
    };
    create("create");
    let listed = bench.dm.list().unwrap();
    assert!(listed.iter().any(|device| device.name == mangled));
    assert!(!listed.iter().any(|device| device.name.as_str().contains("latin")));
    create("remove");
}

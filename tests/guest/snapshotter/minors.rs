//! Minor numbers are not reused soon: a program that goes by `/dev/dm-N` must not see another
//! tenant's disk when its own is gone.
// guest: --mem 2G

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::lab::Daemon;
use containerd_snapshots::api::types::Mount;
use devmapper_snapshotter::units::{DeviceNumber, Sectors};
use kit::dmsetup;

/// The number of the one device that is to be mounted.
fn number(mounts: &[Mount]) -> DeviceNumber {
    DeviceNumber::from_u64(std::fs::metadata(&mounts[0].source).unwrap().rdev())
}

#[test]
fn a_minor_number_does_not_come_back_for_another_tenant_across_restarts_kills_and_reboots() {
    let mut d = Daemon::start("minors");
    d.committed("base", "");
    let mut seen = BTreeSet::new();
    let mut round = |d: &mut Daemon, name: &str| {
        let prepared = number(&d.prepare(name, "base").unwrap());
        let viewed = number(&d.view(&format!("{name}-view"), "base").unwrap());
        for key in [name.to_owned(), format!("{name}-view")] {
            d.remove(&key).unwrap();
        }
        d.cleanup();
        for number in [prepared, viewed] {
            assert!(seen.insert(number), "{name}: {number} was another tenant's");
            let node = format!("/dev/dm-{}", number.minor);
            assert!(std::fs::File::open(&node).is_err(), "{node} still leads to a device");
        }
    };
    for n in 0..100 {
        round(&mut d, &format!("first-{n}"));
    }
    for signal in ["TERM", "KILL"] {
        d.restart(signal);
        for n in 0..100 {
            round(&mut d, &format!("{signal}-{n}"));
        }
    }
    d.stop("TERM");
    d.remove_devices();
    d.begin();
    for n in 0..100 {
        round(&mut d, &format!("reboot-{n}"));
    }
}

#[test]
fn a_snapshot_keeps_its_number_and_its_path_leads_to_it() {
    let mut d = Daemon::start("keeps");
    d.committed("base", "");
    let before = number(&d.prepare("a", "base").unwrap());
    assert!(before.minor > 65_535, "{before}");
    let node = format!("/dev/dm-{}", before.minor);
    assert_eq!(
        std::fs::metadata(&node).map(|node| DeviceNumber::from_u64(node.rdev())).unwrap(),
        before
    );
    let uevent = std::fs::read_to_string(format!("/sys/dev/block/{before}/uevent")).unwrap();
    assert!(uevent.contains(&format!("DEVNAME=dm-{}\n", before.minor)), "{uevent}");
    let listed = Command::new("lsblk").args(["-n", "-o", "MAJ:MIN", &node]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), before.to_string());
    d.stop("KILL");
    d.remove_devices();
    d.begin();
    assert_eq!(number(&d.mounts("a").unwrap()), before);
}

#[test]
fn a_number_that_somebody_elses_device_has_is_left_to_it() {
    let mut d = Daemon::start("taken");
    d.committed("base", "");
    let last = number(&d.prepare("a", "base").unwrap());
    let strangers: Vec<u32> = (1..=20).map(|n| last.minor + n).collect();
    let major = last.major.to_string();
    for minor in &strangers {
        let name = format!("stranger-{minor}");
        let minor = minor.to_string();
        dmsetup(&[
            "create",
            &name,
            "--noudevsync",
            "-j",
            &major,
            "-m",
            &minor,
            "--table",
            "0 8 zero",
        ]);
    }
    let mut numbers = BTreeMap::new();
    for n in 0..30 {
        let key = format!("b-{n}");
        let number = number(&d.prepare(&key, "base").unwrap());
        assert!(!strangers.contains(&number.minor));
        assert!(number.minor > 65_535, "{number}");
        assert_eq!(numbers.insert(number, key), None);
    }
    for minor in &strangers {
        dmsetup(&["remove", "--noudevsync", &format!("stranger-{minor}")]);
    }
}

/// What a large number costs the kernel; printed, since only a table that grows with the number
/// would show as a failure.
#[test]
fn large_numbers_cost_about_what_small_ones_cost() {
    use devmapper_snapshotter::dm::{
        ActivateOptions, Dm, NodePolicy, RealKernel, Settings, Target,
    };
    use devmapper_snapshotter::names::DmName;
    use std::sync::Arc;
    use std::time::Instant;

    let settings = Settings { nodes: NodePolicy::Leave, ..Settings::default() };
    let dm = Dm::new(Arc::new(RealKernel::open().unwrap()), settings);
    let name = |n: u32| DmName::new(format!("many-{n}")).unwrap();
    let create = |n: u32, minor| {
        dm.activate(
            &name(n),
            None,
            &[Target::Error { start: Sectors::ZERO, length: Sectors(8) }],
            options(minor),
        )
        .unwrap()
    };
    fn options(minor: Option<u32>) -> ActivateOptions {
        ActivateOptions { minor, ..ActivateOptions::default() }
    }
    let mut took = Vec::new();
    for (kind, large) in [("the kernel's choice", false), ("large", true)] {
        let began = Instant::now();
        for n in 0..1000 {
            create(n, large.then_some(1_000_000 + n));
        }
        took.push(began.elapsed());
        println!("1000 devices, {kind}: {:?}", began.elapsed());
        for n in 0..1000 {
            dm.remove(&name(n)).unwrap();
        }
    }
    assert!(took[1] < took[0] * 5, "{took:?}");
}

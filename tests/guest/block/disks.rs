//! Block devices: exclusive opens, sealing, discards, flushes, and recognising what a device
//! holds.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{sectors, text, thin_id, Bench, OnLoop, MIB};
use devmapper_snapshotter::block::{
    discard_all, find_content, with_private_mount, Access, BlockError, Disks, PrivateMount,
    RealDisks,
};
use devmapper_snapshotter::dm::{ActivateOptions, Target, ThinStatus};
use devmapper_snapshotter::units::Sectors;
use kit::run;

#[test]
fn a_mounted_or_claimed_device_is_busy_for_those_who_want_it_alone() {
    let disk = OnLoop::ext4(16 * MIB);
    let place = disk.mount();
    for access in [Access::ReadExclusive, Access::WriteExclusive] {
        let error = RealDisks.open(disk.path(), access).unwrap_err();
        assert!(matches!(error, BlockError::Busy { .. }), "{access:?} while mounted: {error}");
        assert!(error.to_string().contains(text(disk.path())), "{error}");
    }
    RealDisks.open(disk.path(), Access::Read).unwrap();
    run("umount", &[text(&place)]);

    let claimed = RealDisks.open(disk.path(), Access::ReadExclusive).unwrap();
    let error = RealDisks.open(disk.path(), Access::WriteExclusive).unwrap_err();
    assert!(matches!(error, BlockError::Busy { .. }), "{error}");
    RealDisks.open(disk.path(), Access::Write).unwrap();
    let mount = PrivateMount { device: disk.path(), fs_type: "ext4", read_only: true, options: "" };
    let error = with_private_mount(&mount, |_| Ok::<_, BlockError>(())).unwrap_err();
    assert!(matches!(error, BlockError::Mount { .. }), "{error}");
    assert_eq!(error.errno(), Some(nix::libc::EBUSY), "{error}");
    drop(claimed);
    RealDisks.open(disk.path(), Access::WriteExclusive).unwrap();
}

#[test]
fn a_sealed_device_takes_no_write_from_whoever_opens_it_until_it_is_unsealed() {
    let mut bench = Bench::new("seal");
    let (pool, number) = bench.pool(64 * MIB);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let path = bench.dm.node(&bench.thin(number, 1, 16 * MIB));
    let sealer = RealDisks.open(&path, Access::Read).unwrap();
    assert!(!sealer.is_read_only().unwrap());
    sealer.set_read_only(true).unwrap();
    drop(sealer);

    let refused = |path: &Path| {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened
            .and_then(|file| file.write_all_at(&[1; 4096], 0).and_then(|()| file.sync_all()))
            .is_err()
    };
    let again = RealDisks.open(&path, Access::Read).unwrap();
    assert!(again.is_read_only().unwrap(), "the seal went with its maker");
    assert!(refused(&path), "a new opener could write");
    let mut content = [7; 4096];
    again.read_at(&mut content, 0).unwrap();
    assert_eq!(content, [0; 4096], "the refused write is there");
    let mounted = Command::new("mke2fs").args(["-q", "-F"]).arg(&path).status().unwrap();
    assert!(!mounted.success(), "mke2fs wrote to it");

    again.set_read_only(false).unwrap();
    assert!(!refused(&path), "still sealed");
}

#[test]
fn a_discard_gives_the_blocks_of_a_thin_back() {
    let mut bench = Bench::new("discard");
    let (pool, number) = bench.pool(3 << 30);
    bench.dm.create_thin(&pool, thin_id(1)).unwrap();
    let name = bench.thin(number, 1, (2 << 30) + MIB);
    let disk = RealDisks.open(&bench.dm.node(&name), Access::Write).unwrap();
    assert_eq!(disk.size().unwrap(), sectors((2 << 30) + MIB));
    let mapped = || match bench.dm.thin_status(&name).unwrap() {
        ThinStatus::Working { mapped, .. } => mapped.0 / 128,
        other => panic!("{other:?}"),
    };
    // One block in each step of a discard, and in the rest behind the last.
    let places = [0, (1 << 30) - 65536, 1 << 30, 2 << 30];
    for place in places {
        disk.write_at(&[9; 65536], place).unwrap();
    }
    disk.flush().unwrap();
    assert_eq!(mapped(), 4);
    disk.discard(sectors(1 << 30), Sectors(128)).unwrap();
    assert_eq!(mapped(), 3);
    let mut content = vec![1; 65536];
    disk.read_at(&mut content, 1 << 30).unwrap();
    assert!(content.iter().all(|byte| *byte == 0), "the discarded block still reads as before");

    let mut asked = 0;
    let done = discard_all(disk.as_ref(), Sectors(128), || {
        asked += 1;
        asked < 9
    })
    .unwrap();
    assert_eq!((done, mapped()), (false, 1), "stopped before the ninth step of 256 MiB");
    assert!(discard_all(disk.as_ref(), Sectors(128), || true).unwrap());
    assert_eq!(mapped(), 0);
    let beyond = disk.discard(sectors(2 << 30), sectors(64 * MIB)).unwrap_err();
    assert!(matches!(beyond, BlockError::Discard { .. }), "{beyond}");
    let beyond = disk.read_at(&mut content, (2 << 30) + MIB).unwrap_err();
    assert!(matches!(beyond, BlockError::Transfer { .. }), "{beyond}");
}

#[test]
fn a_flush_that_loses_data_says_so() {
    let bench = Bench::new("flush");
    let name = bench.name("error");
    bench
        .dm
        .activate(
            &name,
            None,
            &[Target::Error { start: Sectors::ZERO, length: Sectors(2048) }],
            ActivateOptions::default(),
        )
        .unwrap();
    let disk = RealDisks.open(&bench.dm.node(&name), Access::Write).unwrap();
    disk.write_at(&[1; 4096], 0).unwrap();
    let error = disk.flush().unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::EIO), "{error}");
    let error = discard_all(disk.as_ref(), Sectors(128), || true).unwrap_err();
    assert!(
        matches!(error, BlockError::DiscardUnsupported { .. } | BlockError::Discard { .. }),
        "{error}"
    );
}

#[test]
fn what_is_on_a_device_is_recognised() {
    let make: [(&str, &[&str], &str); 3] = [
        ("mke2fs", &["-q", "-t", "ext4"], "an ext2, ext3 or ext4 file system"),
        ("mkfs.xfs", &["-q"], "an xfs file system"),
        ("mkswap", &["-q"], "swap space"),
    ];
    for (program, arguments, kind) in make {
        let disk = OnLoop::new(320 * MIB);
        let look =
            || find_content(RealDisks.open(disk.path(), Access::Read).unwrap().as_ref()).unwrap();
        assert_eq!(look(), None);
        run(program, &[arguments, &[text(disk.path())]].concat());
        assert_eq!(look().and_then(|found| found.kind), Some(kind));
        run("wipefs", &["-q", "-a", text(disk.path())]);
        let left = look().map(|found| found.kind);
        assert!(matches!(left, None | Some(None)), "{program}: {left:?} after wipefs");
    }
    let mut bench = Bench::new("content");
    let metadata = bench.disk(4 * MIB);
    let mut table = bench.pool_table(64 * MIB);
    table.metadata = metadata.into();
    let pool = bench.name("pool");
    bench.dm.activate(&pool, None, &[Target::ThinPool(table)], ActivateOptions::default()).unwrap();
    bench.dm.remove(&pool).unwrap();
    let node = PathBuf::from(format!("/dev/block/{metadata}"));
    let node =
        if node.exists() { node } else { PathBuf::from(format!("/dev/loop{}", metadata.minor)) };
    let found = find_content(RealDisks.open(&node, Access::Read).unwrap().as_ref()).unwrap();
    assert_eq!(found.unwrap().kind, Some("the metadata of a device-mapper thin pool"));
}

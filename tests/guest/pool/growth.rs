//! The embedded pool on its host's file system: it starts on any of them, has space set aside
//! for all its blocks, grows while containers write, and promises no more than it has.
// guest: --mem 2G

use crate::lab::{Daemon, SmallHost};
use kit::{run, with_mounted};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MIB: usize = 1 << 20;

/// All of a file has its blocks.
#[track_caller]
fn is_allocated(file: &Path) {
    let metadata = std::fs::metadata(file).unwrap();
    let allocated = metadata.blocks() * 512;
    assert!(
        allocated >= metadata.len(),
        "{} of {} bytes of {} are there",
        allocated,
        metadata.len(),
        file.display()
    );
}

fn write_layer(d: &mut Daemon, name: &str, size: usize) {
    let mount = d.prepare(&format!("{name}-active"), "").unwrap().remove(0);
    with_mounted(&mount, |root| std::fs::write(root.join("file"), vec![0xa5; size]).unwrap());
    d.commit(name, &format!("{name}-active")).unwrap();
}

#[track_caller]
fn is_whole(d: &mut Daemon, name: &str, size: usize) {
    let view = d.view("view", name).unwrap().remove(0);
    with_mounted(&view, |root| {
        assert!(std::fs::read(root.join("file")).unwrap() == vec![0xa5; size])
    });
    d.remove("view").unwrap();
    d.cleanup();
}

#[test]
fn a_start_without_configuration_works_on_file_systems_that_hold_no_file_of_their_own_size() {
    let hosts: [&[&str]; 4] = [
        &["mkfs.ext3", "-q", "-F", "-b", "1024"],
        &["mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "^extents,^64bit"],
        &["mkfs.ext4", "-q", "-F"],
        &["mkfs.xfs", "-q", "-f"],
    ];
    // Files of ext3 end at 16 GiB with blocks of 1 KiB.
    for (number, mkfs) in hosts.into_iter().enumerate() {
        let _host = SmallHost::made_by("20G", mkfs);
        let mut d = Daemon::start_with(&format!("anywhere{number}"), "# data_size is not set");
        write_layer(&mut d, "layer", 20 * MIB);
        for file in ["data.img", "metadata.img"] {
            is_allocated(&d.state().join(file));
        }
        is_whole(&mut d, "layer", 20 * MIB);
    }
}

#[test]
fn a_writer_that_meets_the_end_goes_on_and_the_layer_is_whole() {
    let mut d = Daemon::start_with("growing", "data_size = \"600MiB\"");
    let file = d.state().join("data.img");
    let before = std::fs::metadata(&file).unwrap().len();
    write_layer(&mut d, "layer", 400 * MIB);
    let after = std::fs::metadata(&file).unwrap().len();
    assert!(before < 70 << 20 && after > 400 << 20, "from {before} to {after}");
    is_allocated(&file);
    is_whole(&mut d, "layer", 400 * MIB);
    // As large after a restart and after a reboot.
    d.restart("KILL");
    is_whole(&mut d, "layer", 400 * MIB);
    d.stop("TERM");
    d.remove_devices();
    d.begin();
    is_whole(&mut d, "layer", 400 * MIB);
    write_layer(&mut d, "more", 100 * MIB);
    is_whole(&mut d, "more", 100 * MIB);
}

#[test]
fn snapshots_are_made_and_mounted_while_the_pool_gets_its_larger_tables() {
    let mut d = Daemon::start_with("meanwhile", "data_size = \"600MiB\"");
    write_layer(&mut d, "layer", MIB);
    let file = d.state().join("data.img");
    let before = std::fs::metadata(&file).unwrap().len();
    let mount = d.prepare("writer", "layer").unwrap().remove(0);
    with_mounted(&mount, |root| {
        std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| std::fs::write(root.join("large"), vec![0xa5; 400 * MIB]).unwrap());
            let mut made = 0;
            while !writer.is_finished() || made == 0 {
                d.prepare("other", "layer").unwrap();
                d.view("view", "layer").unwrap();
                d.remove("view").unwrap();
                d.remove("other").unwrap();
                made += 1;
            }
            println!("{made} snapshots and views made meanwhile");
        });
    });
    assert!(std::fs::metadata(&file).unwrap().len() > before + (256 << 20));
}

#[test]
fn a_file_that_was_put_back_without_its_blocks_gets_them_again() {
    let mut d = Daemon::start("putback");
    write_layer(&mut d, "layer", 10 * MIB);
    d.stop("TERM");
    d.remove_devices();
    let file = d.state().join("data.img");
    let copy = d.state().join("copy");
    run("cp", &["--sparse=always", file.to_str().unwrap(), copy.to_str().unwrap()]);
    std::fs::rename(&copy, &file).unwrap();
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 < 40 << 20);
    d.begin();
    is_allocated(&file);
    is_whole(&mut d, "layer", 10 * MIB);
}

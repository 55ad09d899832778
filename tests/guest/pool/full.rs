//! Pools that fill up: which calls are refused, with which message, and that an incomplete
//! layer is never committed.
// guest: --mem 2G

use std::time::{Duration, Instant};

use crate::lab::{refused, Daemon, SmallHost};
use containerd_snapshots::api::types::Mount;
use containerd_snapshots::tonic::{Code, Status};
use kit::with_mounted;

const MIB: usize = 1 << 20;

/// Makes a snapshot with a file, written as an unpacker does: into the page cache, and never asking
/// what became of it.
fn unpack(d: &mut Daemon, key: &str, size: usize) -> Mount {
    let mount = d.prepare(key, "base").unwrap().remove(0);
    with_mounted(&mount, |root| std::fs::write(root.join("file"), vec![0xa5; size]).unwrap());
    mount
}

/// What Prepare answers once the monitor, which looks every 2 s, has seen what there is.
fn once_refused(d: &mut Daemon, key: &str) -> Result<Vec<Mount>, Status> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = d.prepare(key, "base");
        if answer.is_err() || Instant::now() > end {
            return answer;
        }
        d.remove(key).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn room_for_more(d: &mut Daemon, key: &str) {
    d.remove(key).unwrap();
    d.cleanup();
}

#[test]
fn a_pool_short_of_room_refuses_new_snapshots_and_nothing_else() {
    let mut d = Daemon::start_with("short", "data_size = \"256MiB\"\nmin_free_percent = 50");
    d.committed("base", "");
    unpack(&mut d, "fill", 160 * MIB);
    d.commit("full", "fill").unwrap();
    refused(
        once_refused(&mut d, "more"),
        Code::ResourceExhausted,
        &["\"more\"", "short-pool", "data", "50 %", "remove images"],
    );
    refused(d.stat("more"), Code::NotFound, &[]);

    d.view("view", "full").unwrap();
    d.remove("view").unwrap();
    room_for_more(&mut d, "full");
    d.prepare("more", "base").unwrap();
}

#[test]
fn a_layer_whose_writes_a_full_pool_refused_is_not_committed() {
    let mut d = Daemon::start_with("full", "data_size = \"256MiB\"");
    d.committed("base", "");
    unpack(&mut d, "filler", 160 * MIB);
    let layer = unpack(&mut d, "layer", 160 * MIB);

    // There is space again, and the layer's file system was unmounted cleanly.
    room_for_more(&mut d, "filler");
    refused(
        d.commit("c", "layer"),
        Code::DataLoss,
        &["\"layer\"", "full-pool", "refused writes", "make it again"],
    );
    with_mounted(&layer, |_| refused(d.commit("c", "layer"), Code::DataLoss, &[]));
    d.restart("KILL");
    refused(d.commit("c", "layer"), Code::DataLoss, &[]);

    // Made again, it is whole.
    d.remove("layer").unwrap();
    d.cleanup();
    unpack(&mut d, "layer", 100 * MIB);
    d.commit("c", "layer").unwrap();
    let view = d.view("view", "c").unwrap();
    with_mounted(&view[0], |root| {
        assert_eq!(std::fs::read(root.join("file")).unwrap(), vec![0xa5; 100 * MIB])
    });
    d.remove("view").unwrap();
    d.remove("c").unwrap();
    d.cleanup();
    d.stop("TERM");
    let (sound, text) = d.command(&["check"]);
    assert!(sound && !text.contains("no thin maps"), "{text}");
}

#[test]
fn a_host_file_system_that_fills_below_the_pool_costs_the_layer_and_nothing_else() {
    let _host = SmallHost::new("ext4", "400M");
    let mut d = Daemon::start("host");
    d.committed("base", "");
    unpack(&mut d, "filler", 120 * MIB);
    unpack(&mut d, "layer", 240 * MIB);
    refused(
        once_refused(&mut d, "more"),
        Code::ResourceExhausted,
        &["host file system", "remove images"],
    );
    refused(d.commit("c", "layer"), Code::DataLoss, &["\"layer\"", "full file system"]);

    room_for_more(&mut d, "layer");
    unpack(&mut d, "layer", 60 * MIB);
    d.commit("c", "layer").unwrap();
    let view = d.view("view", "c").unwrap();
    with_mounted(&view[0], |root| {
        assert_eq!(std::fs::read(root.join("file")).unwrap(), vec![0xa5; 60 * MIB])
    });
    for key in ["view", "c", "filler", "base"] {
        d.remove(key).unwrap();
    }
    d.cleanup();
}

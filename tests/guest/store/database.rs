//! The database's file lost an acknowledged commit, or a bit in it has flipped. The daemon
//! notices, and deletes nothing.
// guest: --mem 2G

use crate::lab::{says, Daemon};

#[test]
fn a_database_that_has_lost_an_acknowledged_commit_deletes_nothing() {
    let mut d = Daemon::start("behind");
    d.committed("base", "");
    // redb's file is at rest between two calls.
    let (file, newest, old) = (
        d.state().join("metadata.redb"),
        d.state().join("newest"),
        std::fs::read(d.state().join("metadata.redb")).unwrap(),
    );
    d.prepare("last", "base").unwrap();
    d.stop("KILL");
    std::fs::rename(&file, &newest).unwrap();
    std::fs::write(&file, old).unwrap();
    d.remove_devices();
    for _ in 0..2 {
        says(
            &d.start_is_refused(),
            &[
                "commits to",
                "metadata.redb",
                "are lost",
                "metadata.redb.commits",
                "nothing deleted",
            ],
        );
    }
    let (well, said) = d.command(&["check"]);
    assert!(!well);
    says(&said, &["are lost"]);
    let (repaired, _) = d.command(&["check", "--repair"]);
    assert!(!repaired);
    std::fs::rename(&newest, &file).unwrap();
    d.begin();
    // Its thin is still there.
    d.mounts("last").unwrap();
    assert_eq!(d.list(&[]).unwrap(), ["base", "last"]);
}

#[test]
fn no_flipped_bit_of_a_stopped_daemons_database_takes_a_snapshot_back() {
    let mut d = Daemon::start("flipped");
    d.committed("base", "");
    (0..6).for_each(|n| drop(d.prepare(&format!("active-{n}"), "base").unwrap()));
    d.stop("TERM");
    d.remove_devices();
    let (file, all) = (
        d.state().join("metadata.redb"),
        ["active-0", "active-1", "active-2", "active-3", "active-4", "active-5", "base"],
    );
    let sound = std::fs::read(&file).unwrap();
    let tally = std::fs::read(d.state().join("metadata.redb.commits")).unwrap();
    let pool_metadata = std::fs::read(d.state().join("metadata.img")).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut started, mut refused) = (0, 0);
    for turn in 0..14 {
        let mut bytes = sound.clone();
        // The header's commit slots first, then anywhere.
        let at = if turn < 7 { 8 + turn * 37 } else { 4096 + (turn * 7919 * 13) % (used - 4096) };
        bytes[at] ^= 4;
        std::fs::write(&file, &bytes).unwrap();
        std::fs::write(d.state().join("metadata.redb.commits"), &tally).unwrap();
        std::fs::write(d.state().join("metadata.img"), &pool_metadata).unwrap();
        if d.starts() {
            started += 1;
            assert_eq!(d.list(&[]).unwrap(), all, "bit at {at}");
            d.mounts("active-5").unwrap();
            d.stop("TERM");
        } else {
            refused += 1;
        }
        d.remove_devices();
    }
    println!("{started} started with everything, {refused} refused");
    assert!(started > 0 && refused > 0);
}

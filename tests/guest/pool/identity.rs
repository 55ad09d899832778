//! A pool and a database that do not belong together are refused; the message names both.
//! Nothing is lost: the daemon starts when the right ones are put back.
// guest: --mem 2G

use crate::lab::{says, Daemon};
use kit::dmsetup;

/// A daemon that was stopped, with one committed snapshot, its devices gone as after a reboot.
fn stopped(name: &str) -> Daemon {
    let mut d = Daemon::start(name);
    d.committed("base", "");
    d.stop("TERM");
    d.remove_devices();
    d
}

#[track_caller]
fn starts_with_everything(d: &mut Daemon) {
    d.begin();
    assert_eq!(d.list(&[]).unwrap(), ["base"]);
    d.prepare("child", "base").unwrap();
}

#[test]
fn an_older_database_is_refused() {
    let mut d = Daemon::start("older");
    d.stop("TERM");
    let database = d.state().join("metadata.redb");
    let copy = d.state().join("copy");
    std::fs::copy(&database, &copy).unwrap();
    d.begin();
    d.committed("base", "");
    d.stop("TERM");
    let newer = d.state().join("newer");
    std::fs::rename(&database, &newer).unwrap();
    std::fs::copy(&copy, &database).unwrap();
    let said = d.start_is_refused();
    says(
        &said,
        &["older-pool", "transaction id is", "epoch is", "metadata.redb", "copy from another time"],
    );
    std::fs::rename(&newer, &database).unwrap();
    starts_with_everything(&mut d);
}

#[test]
fn an_older_pool_is_refused() {
    let mut d = Daemon::start("olderpool");
    d.stop("TERM");
    d.remove_devices();
    let metadata = d.state().join("metadata.img");
    let copy = d.state().join("copy");
    std::fs::copy(&metadata, &copy).unwrap();
    d.begin();
    d.committed("base", "");
    d.stop("TERM");
    d.remove_devices();
    let newer = d.state().join("newer");
    std::fs::rename(&metadata, &newer).unwrap();
    std::fs::copy(&copy, &metadata).unwrap();
    says(&d.start_is_refused(), &["olderpool-pool", "transaction id is", "epoch is"]);
    d.remove_devices();
    std::fs::rename(&newer, &metadata).unwrap();
    starts_with_everything(&mut d);
}

#[test]
fn a_lost_database_is_refused_and_the_pool_is_left_untouched() {
    let mut d = stopped("lostdb");
    let database = d.state().join("metadata.redb");
    let kept = d.state().join("kept");
    std::fs::rename(&database, &kept).unwrap();
    for _ in 0..2 {
        says(&d.start_is_refused(), &["data.img", "not empty", "put the database back"]);
    }
    d.remove_devices();
    std::fs::rename(&kept, &database).unwrap();
    starts_with_everything(&mut d);
}

#[test]
fn a_lost_pool_is_refused_and_nothing_is_formatted() {
    let mut d = stopped("lostpool");
    let metadata = d.state().join("metadata.img");
    let kept = d.state().join("kept");
    std::fs::rename(&metadata, &kept).unwrap();
    let said = d.start_is_refused();
    says(&said, &["metadata.img", "metadata area", "is not there", "Put it back"]);
    assert!(!metadata.exists(), "a file was made in its place");
    assert_eq!(d.devices(""), 0, "a start that was refused left devices");
    std::fs::rename(&kept, &metadata).unwrap();
    starts_with_everything(&mut d);
}

#[test]
fn a_pool_made_anew_is_refused() {
    let mut d = stopped("anew");
    let metadata = d.state().join("metadata.img");
    let kept = d.state().join("kept");
    std::fs::rename(&metadata, &kept).unwrap();
    // Another daemon's metadata in its place.
    let mut other = Daemon::start("another");
    other.stop("TERM");
    other.remove_devices();
    std::fs::copy(other.state().join("metadata.img"), &metadata).unwrap();
    says(
        &d.start_is_refused(),
        &["anew-pool", "metadata.img is not the disk", "its label is of pool"],
    );
    std::fs::rename(&kept, &metadata).unwrap();
    starts_with_everything(&mut d);
}

#[test]
fn another_block_size_is_refused() {
    let mut d = stopped("blocks");
    d.configure("blocks", "block_size = \"128KiB\"");
    says(&d.start_is_refused(), &["block_size", "64 KiB", "128 KiB"]);
    d.configure("blocks", "");
    starts_with_everything(&mut d);
}

#[test]
fn another_name_is_refused() {
    let mut d = stopped("before");
    d.configure("after", "");
    says(&d.start_is_refused(), &["before", "after"]);
    d.configure("before", "");
    starts_with_everything(&mut d);
}

#[test]
fn a_pool_of_our_name_that_is_not_ours_is_refused() {
    let mut d = stopped("foreign");
    dmsetup(&[
        "create",
        "--noudevsync",
        "foreign-pool",
        "--uuid",
        "SOMEBODY-ELSE",
        "--table",
        "0 2048 zero",
    ]);
    says(&d.start_is_refused(), &["foreign-pool", "SOMEBODY-ELSE", "DMSNAPSHOTTER-"]);
    dmsetup(&["remove", "--noudevsync", "foreign-pool"]);
    starts_with_everything(&mut d);
}

#[test]
fn a_device_of_our_name_that_is_not_ours_is_refused() {
    let mut d = stopped("squatter");
    dmsetup(&["create", "--noudevsync", "squatter-snap-77", "--table", "0 2048 zero"]);
    says(&d.start_is_refused(), &["squatter-snap-77", "dmsetup info"]);
    dmsetup(&["remove", "--noudevsync", "squatter-snap-77"]);
    starts_with_everything(&mut d);
}

#[test]
fn a_pool_that_somebody_else_assembles_is_used_as_it_is() {
    // The pool of another daemon takes the part of the owner's: assembled, with thins in it.
    let mut owner = Daemon::start("owner");
    owner.committed("theirs", "");
    owner.stop("TERM");
    let transaction =
        |pool: &str| dmsetup(&["status", pool]).split_whitespace().nth(3).unwrap().to_owned();
    let before = transaction("owner-pool");
    // The owner's pool grows, and queues writes that need a block.
    let on = |pool: &str| {
        format!("pool_name = \"{pool}\"\naccept_pool_features = [\"queue_if_no_space\"]\n")
    };
    let mut guest = Daemon::start_with("guest", &on("owner-pool"));
    guest.committed("base", "");
    guest.restart("KILL");
    guest.prepare("a", "base").unwrap();
    assert_eq!(guest.list(&[]).unwrap(), ["a", "base"]);
    assert_eq!(transaction("owner-pool"), before, "its transaction id is its owner's");
    guest.stop("TERM");
    guest.configure("guest", &on("nobodys-pool"));
    says(&guest.start_is_refused(), &["nobodys-pool", "is not there"]);
    let thin = std::fs::read_dir("/dev/mapper")
        .unwrap()
        .map(|node| node.unwrap().file_name().into_string().unwrap());
    let thin = thin.filter(|name| name.starts_with("guest-snap-")).min().unwrap();
    guest.configure("guest", &on(&thin));
    says(&guest.start_is_refused(), &[&thin, "not a thin-pool"]);
    guest.configure("guest", &on("owner-pool"));
    let table = dmsetup(&["table", "owner-pool"]);
    let (start, features) = table.trim().rsplit_once(" 1 ").expect("a table with one feature");
    let load = |table: &str| {
        dmsetup(&["load", "owner-pool", "--table", table]);
        dmsetup(&["resume", "owner-pool"]);
    };
    load(&format!("{start} 2 {features} read_only"));
    says(&guest.start_is_refused(), &["owner-pool", "is read-only", "its owner"]);
    load(table.trim());
    guest.remove_devices();
    owner.begin();
    assert_eq!(owner.list(&[]).unwrap(), ["theirs"]);
    owner.prepare("mine", "theirs").unwrap();
}

//! The example program `contrib/examples/thin-tour.rs`, run to its end.

#[path = "../../../contrib/examples/thin-tour.rs"]
mod thin_tour;

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::lab::Bench;

#[test]
fn the_tour_goes_to_its_end_and_leaves_nothing() {
    let bench = Bench::new("tour");
    let (devices, nodes_before) = (bench.dm.list().unwrap(), nodes());
    thin_tour::tour(bench.dir()).unwrap();
    assert_eq!(bench.dm.list().unwrap(), devices);
    assert_eq!(nodes(), nodes_before);
}

/// What is in /dev/mapper. Other tests may have left the node of a device that the kernel removed
/// at its last close.
fn nodes() -> BTreeSet<OsString> {
    let nodes = std::fs::read_dir("/dev/mapper").unwrap();
    nodes.map(|node| node.unwrap().file_name()).collect()
}

//! The example program `contrib/examples/thin-tour.rs`, run to its end.

#[path = "../../../contrib/examples/thin-tour.rs"]
mod thin_tour;

use crate::lab::Bench;

#[test]
fn the_tour_goes_to_its_end_and_leaves_nothing() {
    let bench = Bench::new("tour");
    let before = bench.dm.list().unwrap();
    thin_tour::tour(bench.dir()).unwrap();
    assert_eq!(bench.dm.list().unwrap(), before);
    let nodes = std::fs::read_dir("/dev/mapper").unwrap().filter_map(Result::ok);
    let left: Vec<_> =
        nodes.map(|node| node.file_name()).filter(|name| name != "control").collect();
    assert!(left.is_empty(), "{left:?}");
}

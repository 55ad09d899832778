//! Metrics over HTTP: calls, the pool, snapshots, and which processes hold a device that cannot
//! be removed.
// guest: --mem 2G

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::lab::{refused, Daemon};
use containerd_snapshots::tonic::Code;
use kit::with_mounted;

const ADDRESS: &str = "127.0.0.1:9653";

/// The answer's status line and its body.
fn get(path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The value of the one line that begins so.
#[track_caller]
fn value(text: &str, start: &str) -> f64 {
    let mut lines = text.lines().filter(|line| line.starts_with(start));
    let line = lines.next().unwrap_or_else(|| panic!("no line begins with {start:?} in:\n{text}"));
    assert_eq!(lines.next(), None, "two lines begin with {start:?}");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn calls_pool_snapshots_and_what_is_stuck_can_be_scraped() {
    let config = format!("data_size = \"512MiB\"\nmetrics_address = \"{ADDRESS}\"");
    let mut d = Daemon::start_with("metrics", &config);
    d.committed("base", "");
    d.view("view", "base").unwrap();
    let mounts = d.prepare("a", "base").unwrap();
    refused(d.prepare("b", "nobody"), Code::NotFound, &[]);

    let (status, text) = get("/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let calls = |verb: &str, code: &str| {
        value(
            &text,
            &format!("devmapper_snapshotter_call_seconds_count{{verb=\"{verb}\",code=\"{code}\"}}"),
        )
    };
    assert_eq!(
        (calls("Prepare", "Ok"), calls("Prepare", "NotFound"), calls("Commit", "Ok")),
        (2.0, 1.0, 1.0)
    );
    for kind in ["active", "view", "committed"] {
        assert_eq!(
            value(&text, &format!("devmapper_snapshotter_snapshots{{kind=\"{kind}\"}}")),
            1.0
        );
    }
    let pool = |name: &str| value(&text, &format!("devmapper_snapshotter_pool_{name}"));
    assert_eq!((pool("state{state=\"read-write\"}"), pool("state{state=\"failed\"}")), (1.0, 0.0));
    // It has a first step so far; what it can still grow by counts.
    assert_eq!(pool("size_bytes{area=\"data\"}"), (512u64 << 20) as f64);
    for area in ["data", "metadata", "host"] {
        let (used, size) = (
            pool(&format!("used_bytes{{area=\"{area}\"}}")),
            pool(&format!("size_bytes{{area=\"{area}\"}}")),
        );
        assert!(0.0 < used && used < size, "{area}: {used} of {size}");
    }
    assert_eq!(pool("lapses_total"), 0.0);
    assert!(!text.contains("stuck_seconds{"), "{text}");

    with_mounted(&mounts[0], |root| {
        d.remove("a").unwrap();
        d.cleanup();
        let (_, text) = get("/metrics");
        let device = mounts[0].source.strip_prefix("/dev/mapper/").unwrap();
        let stuck = format!("devmapper_snapshotter_reclaim_stuck_seconds{{device=\"{device}\",why=\"busy\",holders=\"");
        let line = text
            .lines()
            .find(|line| line.starts_with(&stuck))
            .unwrap_or_else(|| panic!("{stuck}: {text}"));
        assert!(line.contains(&format!("mounted on {} for pid", root.display())), "{line}");
        assert_eq!(value(&text, "devmapper_snapshotter_reclaiming"), 1.0);
    });
    d.cleanup();
    let (_, text) = get("/metrics");
    assert!(!text.contains("stuck_seconds{"), "{text}");
    assert_eq!(value(&text, "devmapper_snapshotter_reclaiming"), 0.0);

    assert_eq!(get("/").0, "HTTP/1.1 404 Not Found");

    let mut second = Daemon::start("other");
    second.stop("TERM");
    second.configure("other", &config);
    let said = second.start_is_refused();
    assert!(
        said.contains(ADDRESS) && said.contains("metrics_address") && said.contains("in use"),
        "{said}"
    );
}

//! What a call costs the kernel and the disk, counted on a real kernel: ioctls by verb, database commits, programs run.
// guest: --mem 2G

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use devmapper_snapshotter::block::RealDisks;
use devmapper_snapshotter::config::{Backing, Config};
use devmapper_snapshotter::dm::{CountingKernel, Dm, RealKernel, Verb};
use devmapper_snapshotter::fs::{Formatter, FsError, FsSpec, FsState, FsType, Mkfs};
use devmapper_snapshotter::pool::{HostBacker, Pool, PoolSettings};
use devmapper_snapshotter::snapshotter::{Settings, Snapshotter};
use devmapper_snapshotter::store::Store;
use devmapper_snapshotter::units::Sectors;

/// Counts how often a program may have been run.
#[derive(Debug)]
struct CountingFormatter(Mkfs, AtomicU32);

impl Formatter for CountingFormatter {
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.format(device, spec, size)
    }
    fn grow(&self, device: &Path, fs_type: FsType, size: Sectors) -> Result<(), FsError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.grow(device, fs_type, size)
    }
    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError> {
        self.0.inspect(device, fs_type)
    }
    fn replay(&self, device: &Path, fs_type: FsType) -> Result<(), FsError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.replay(device, fs_type)
    }
}

struct Bench {
    snapshotter: Snapshotter,
    kernel: Arc<CountingKernel>,
    store: Arc<Store>,
    formatter: Arc<CountingFormatter>,
    config: Config,
    _directory: tempfile::TempDir,
}

fn bench(name: &str) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        root: directory.path().into(),
        name: name.into(),
        backing: Backing::Embedded { data_size: Some(Sectors((1 << 30) / 512)) },
        ..Config::default()
    };
    let kernel = Arc::new(CountingKernel::new(Arc::new(RealKernel::open().unwrap())));
    let store = Arc::new(Store::open(&directory.path().join("metadata.redb")).unwrap());
    let disks = Arc::new(RealDisks);
    let settings =
        PoolSettings { name: name.into(), external: None, block_size: config.block_size, min_free_percent: 5 };
    let backer = Arc::new(HostBacker::new(&config, disks.clone()));
    let dm = Dm::new(kernel.clone(), Default::default());
    let pool = Pool::open(&settings, dm, store.clone(), backer).unwrap();
    let formatter = Arc::new(CountingFormatter(Mkfs::new(), AtomicU32::new(0)));
    let settings = Settings { fs: FsSpec::plain(FsType::Ext4), base_image_size: config.base_image_size, discard: true };
    let snapshotter = Snapshotter::start(settings, pool, store.clone(), disks, formatter.clone()).unwrap();
    Bench { snapshotter, kernel, store, formatter, config, _directory: directory }
}

impl Bench {
    /// What a call makes: requests by verb, database commits, programs.
    fn cost<T>(&self, call: impl FnOnce(&Snapshotter) -> T) -> (Vec<(Verb, u64)>, u64, u32, T) {
        // The reclaimer works beside the calls; wait until it has nothing to do.
        self.snapshotter.cleanup().unwrap();
        self.kernel.reset();
        let commits = self.store.commits();
        let programs = self.formatter.1.load(Ordering::SeqCst);
        let value = call(&self.snapshotter);
        let verbs = self.kernel.counts().into_iter().collect();
        (verbs, self.store.commits() - commits, self.formatter.1.load(Ordering::SeqCst) - programs, value)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let names: Vec<String> = self.snapshotter.page(None, 1000).unwrap().into_iter().map(|info| info.key).collect();
        for _ in 0..names.len() {
            for name in &names {
                let _ = self.snapshotter.remove(name);
            }
        }
        let _ = self.snapshotter.cleanup();
        let dm = Dm::new(self.kernel.clone(), Default::default());
        let _ = dm.remove(self.snapshotter.pool().device_name());
        assert!(self.config.name.len() < 20);
    }
}

#[test]
fn a_prepare_on_a_parent_is_one_message_one_commit_and_three_activation_ioctls() {
    let b = bench("cost");
    b.snapshotter.prepare("p", "", Default::default()).unwrap();
    b.snapshotter.commit("parent", "p", Default::default()).unwrap();
    let expected = vec![(Verb::Create, 1), (Verb::Resume, 1), (Verb::Load, 1), (Verb::Message, 1)];
    for round in 0..20 {
        let (verbs, commits, programs, _) =
            b.cost(|s| s.prepare(&format!("child-{round}"), "parent", Default::default()).unwrap());
        assert_eq!((verbs, commits, programs), (expected.clone(), 1, 0), "round {round}");
    }
    // A base layer is a snapshot of the template, and costs the same.
    let (verbs, commits, programs, _) = b.cost(|s| s.prepare("base", "", Default::default()).unwrap());
    assert_eq!((verbs, commits, programs), (expected, 1, 0));
}

#[test]
fn a_view_sends_no_message_to_the_pool() {
    let b = bench("costview");
    b.snapshotter.prepare("p", "", Default::default()).unwrap();
    b.snapshotter.commit("parent", "p", Default::default()).unwrap();
    let (verbs, commits, programs, _) = b.cost(|s| s.view("v", "parent", Default::default()).unwrap());
    assert_eq!((verbs, commits, programs), (vec![(Verb::Create, 1), (Verb::Resume, 1), (Verb::Load, 1)], 1, 0));
}

#[test]
fn stat_list_and_remove_ask_the_kernel_nothing() {
    let b = bench("coststat");
    b.snapshotter.prepare("a", "", Default::default()).unwrap();
    let (verbs, commits, _, _) = b.cost(|s| s.stat("a").unwrap());
    assert_eq!((verbs, commits), (vec![], 0));
    let (verbs, commits, _, _) = b.cost(|s| s.page(None, 10).unwrap());
    assert_eq!((verbs, commits), (vec![], 0));
    let before = b.store.commits();
    b.snapshotter.remove("a").unwrap();
    assert!(b.store.commits() > before);
}

#[test]
fn mkfs_runs_once_for_all_base_layers_and_restarts() {
    let b = bench("costmkfs");
    for round in 0..5 {
        b.snapshotter.prepare(&format!("base-{round}"), "", Default::default()).unwrap();
    }
    assert_eq!(b.formatter.1.load(Ordering::SeqCst), 1);
}

#[test]
fn mounts_of_an_active_snapshot_are_one_look_at_its_device() {
    let b = bench("costmounts");
    b.snapshotter.prepare("a", "", Default::default()).unwrap();
    let (verbs, commits, _, _) = b.cost(|s| s.mounts("a").unwrap());
    assert_eq!((verbs, commits), (vec![(Verb::Info, 1)], 0));
}

//! What each call costs: ioctls by verb, database commits, programs run.
// guest: --mem 2G

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmapper_snapshotter::block::{Loops, RealDisks};
use devmapper_snapshotter::config::{Backing, Config};
use devmapper_snapshotter::dm::{CountingKernel, Dm, RealKernel, Verb};
use devmapper_snapshotter::fs::{Formatter, FsError, FsSpec, FsState, FsType, Mkfs, Writer};
use devmapper_snapshotter::names::DevicePrefix;
use devmapper_snapshotter::pool::{Backer, Pool, PoolSettings};
use devmapper_snapshotter::snapshotter::{Error, Settings, Snapshotter};
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
    fn grow(
        &self,
        device: &Path,
        fs_type: FsType,
        size: Sectors,
        writer: Writer,
    ) -> Result<(), FsError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.grow(device, fs_type, size, writer)
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
    formatter: Arc<CountingFormatter>,
    place: Place,
}

/// What a daemon stands on, and its next one after it.
struct Place {
    kernel: Arc<CountingKernel>,
    store: Arc<Store>,
    config: Config,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new(name: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            root: directory.path().into(),
            name: DevicePrefix::new(name).unwrap(),
            backing: Backing::Embedded { data_size: Some(Sectors((1 << 30) / 512)) },
            ..Config::default()
        };
        let kernel = Arc::new(CountingKernel::new(Arc::new(RealKernel::open().unwrap())));
        let store = Arc::new(Store::open(&directory.path().join("metadata.redb")).unwrap());
        Place { kernel, store, config, _directory: directory }
    }

    fn dm(&self) -> Dm {
        Dm::new(self.kernel.clone(), Default::default())
    }

    fn start(&self, formatter: Arc<CountingFormatter>) -> Result<Snapshotter, Error> {
        let (config, disks) = (&self.config, Arc::new(RealDisks));
        let settings = PoolSettings {
            name: config.name.clone(),
            block_size: config.block_size,
            min_free_percent: 5,
        };
        let backer = Backer::new(config, disks.clone(), Loops::default());
        let pool = Pool::open(&settings, self.dm(), self.store.clone(), backer).unwrap();
        let fs = FsSpec::plain(FsType::Ext4);
        let (base_image_size, max_image_size) = (config.base_image_size, config.base_image_size);
        let settings = Settings { fs, base_image_size, max_image_size, discard: true };
        Snapshotter::start(settings, pool, self.store.clone(), disks, formatter)
    }
}

fn counting(mkfs: Mkfs) -> Arc<CountingFormatter> {
    Arc::new(CountingFormatter(mkfs, AtomicU32::new(0)))
}

fn bench(name: &str) -> Bench {
    let (place, formatter) = (Place::new(name), counting(Mkfs::new()));
    Bench { snapshotter: place.start(formatter.clone()).unwrap(), formatter, place }
}

impl Bench {
    /// What a call makes: requests by verb, database commits, programs.
    fn cost<T>(&self, call: impl FnOnce(&Snapshotter) -> T) -> (Vec<(Verb, u64)>, u64, u32, T) {
        // The reclaimer works beside the calls; wait until it has nothing to do.
        self.snapshotter.cleanup().unwrap();
        self.place.kernel.reset();
        let commits = self.place.store.commits();
        let programs = self.formatter.1.load(Ordering::SeqCst);
        let value = call(&self.snapshotter);
        let verbs = self.place.kernel.counts().into_iter().collect();
        (
            verbs,
            self.place.store.commits() - commits,
            self.formatter.1.load(Ordering::SeqCst) - programs,
            value,
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let names: Vec<String> =
            self.snapshotter.page(None, 1000).unwrap().into_iter().map(|info| info.key).collect();
        for _ in 0..names.len() {
            for name in &names {
                let _ = self.snapshotter.remove(name);
            }
        }
        let _ = self.snapshotter.cleanup();
        let _ = self.place.dm().remove(self.snapshotter.pool().device_name());
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
    let (verbs, commits, programs, _) =
        b.cost(|s| s.prepare("base", "", Default::default()).unwrap());
    assert_eq!((verbs, commits, programs), (expected, 1, 0));
}

#[test]
fn a_view_sends_no_message_to_the_pool() {
    let b = bench("costview");
    b.snapshotter.prepare("p", "", Default::default()).unwrap();
    b.snapshotter.commit("parent", "p", Default::default()).unwrap();
    let (verbs, commits, programs, _) =
        b.cost(|s| s.view("v", "parent", Default::default()).unwrap());
    assert_eq!(
        (verbs, commits, programs),
        (vec![(Verb::Create, 1), (Verb::Resume, 1), (Verb::Load, 1)], 1, 0)
    );
}

#[test]
fn stat_list_and_remove_ask_the_kernel_nothing() {
    let b = bench("coststat");
    b.snapshotter.prepare("a", "", Default::default()).unwrap();
    let (verbs, commits, _, _) = b.cost(|s| s.stat("a").unwrap());
    assert_eq!((verbs, commits), (vec![], 0));
    let (verbs, commits, _, _) = b.cost(|s| s.page(None, 10).unwrap());
    assert_eq!((verbs, commits), (vec![], 0));
    let before = b.place.store.commits();
    b.snapshotter.remove("a").unwrap();
    assert!(b.place.store.commits() > before);
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

#[test]
fn an_mkfs_that_never_ends_is_ended_at_its_time_limit_and_the_next_start_is_none_the_worse() {
    let programs = tempfile::tempdir().unwrap();
    let hanging = programs.path().join("mke2fs");
    // It holds the device open, as an mkfs does.
    std::fs::write(
        &hanging,
        "#!/bin/bash\nfor last; do [[ -b $last ]] && exec 9<>\"$last\"; done\nexec sleep 1000\n",
    )
    .unwrap();
    std::fs::set_permissions(&hanging, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let place = Place::new("hanging");
    let limit = Duration::from_secs(2);
    let mkfs = Mkfs::new().with_directories(vec![programs.path().into()]).with_time_limit(limit);

    let began = Instant::now();
    let formatter = counting(mkfs);
    let snapshotter = place.start(formatter.clone()).unwrap();
    // Those who wait for one that fails are told of it, and try no more themselves.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let snapshotter = &snapshotter;
            scope.spawn(move || {
                let error = snapshotter
                    .prepare(&n.to_string(), "", Default::default())
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("mke2fs") && error.contains("2 s"), "{error}");
            });
        }
    });
    assert!(formatter.1.load(Ordering::SeqCst) <= 3, "mkfs was run for each of them");
    assert!(began.elapsed() < 10 * limit, "it took {:?}", began.elapsed());
    drop(snapshotter);

    let formatter = counting(Mkfs::new());
    let b = Bench { snapshotter: place.start(formatter.clone()).unwrap(), formatter, place };
    b.snapshotter.prepare("a", "", Default::default()).unwrap();
    let thins = b.snapshotter.pool().thins().unwrap();
    assert_eq!(thins.len(), 2, "the template and the snapshot: {thins:?}");
    assert_eq!(b.snapshotter.check(Some(&thins.into_keys().collect())).unwrap(), []);
}

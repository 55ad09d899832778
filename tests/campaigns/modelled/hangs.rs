//! A kernel that does not answer a removal, a pool that takes no changes, and a long list of
//! removals: what other calls then cost, in requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::fake::FakeKernel;
use devmapper_snapshotter::dm::{
    Dm, Errno, Error, EventSource, FaultPlan, Kernel, PoolLog, Reply, Request,
    Settings as DmSettings, Verb,
};
use devmapper_snapshotter::fs::{FsSpec, FsType};
use devmapper_snapshotter::names::DevicePrefix;
use devmapper_snapshotter::pool::{Pool, PoolSettings, Role};
use devmapper_snapshotter::snapshotter::{Reclaiming, Settings, Snapshotter};
use devmapper_snapshotter::store::Store;
use devmapper_snapshotter::units::{DeviceNumber, Sectors};

use super::machine::{Machine, BLOCK, BLOCKS};
use super::storage::Storage;
use super::world::POOL;

/// A modelled kernel that counts requests. It can be told to leave the removal of some devices
/// unanswered.
#[derive(Debug, Default)]
struct Holding {
    kernel: FakeKernel,
    counts: Mutex<BTreeMap<Verb, usize>>,
    /// The names of devices whose removal is not answered.
    held: Mutex<Vec<String>>,
    /// Requests of this verb fail with EIO.
    failing: Mutex<Option<Verb>>,
    released: Condvar,
}

impl Kernel for Holding {
    fn submit(&self, request: &Request) -> Result<Reply, Error> {
        *self.counts.lock().unwrap().entry(request.verb()).or_default() += 1;
        if request.verb() == Verb::Remove {
            let name = request.device_name().unwrap().to_string();
            let held = self.held.lock().unwrap();
            drop(self.released.wait_while(held, |held| held.contains(&name)).unwrap());
        }
        if *self.failing.lock().unwrap() == Some(request.verb()) {
            return Err(Error::from_errno(request, Errno::EIO));
        }
        self.kernel.submit(request)
    }
    fn device_size(&self, device: DeviceNumber) -> Option<Sectors> {
        self.kernel.device_size(device)
    }
    fn event_source(&self) -> Result<Box<dyn EventSource>, Error> {
        self.kernel.event_source()
    }
    fn pool_log(&self) -> Option<Box<dyn PoolLog>> {
        self.kernel.pool_log()
    }
    fn incarnation(&self, device: DeviceNumber) -> String {
        self.kernel.incarnation(device)
    }
}

struct Bench {
    snapshotter: Snapshotter,
    kernel: Arc<Holding>,
}

fn bench(reclaiming: Reclaiming) -> Bench {
    let machine = Arc::new(Machine::blank());
    let kernel = Arc::new(Holding { kernel: machine.kernel.clone(), ..Holding::default() });
    let plan = FaultPlan::counting();
    let store = Arc::new(Store::with_backend(Storage::holding(Vec::new(), &plan)).unwrap());
    let dm = Dm::new(kernel.clone(), DmSettings::without_nodes());
    let settings = PoolSettings {
        name: DevicePrefix::new(POOL).unwrap(),
        block_size: BLOCK,
        min_free_percent: 0,
    };
    let pool = Pool::open(&settings, dm, store.clone(), machine.backer()).unwrap();
    let base_image_size = Sectors(BLOCK.0 * BLOCKS);
    let settings = Settings {
        fs: FsSpec::plain(FsType::Ext4),
        base_image_size,
        max_image_size: base_image_size,
        discard: false,
    };
    let start = Snapshotter::start_reclaiming;
    let snapshotter = start(reclaiming, settings, pool, store, machine.clone(), machine).unwrap();
    Bench { snapshotter, kernel }
}

impl Bench {
    /// Prepares `count` snapshots and returns the names of their devices.
    fn prepare(&self, count: usize) -> Vec<String> {
        let device = |n: usize| {
            let mounts =
                self.snapshotter.prepare(&format!("a-{n}"), "", Default::default()).unwrap();
            mounts[0].source.rsplit('/').next().unwrap().to_owned()
        };
        (0..count).map(device).collect()
    }

    fn remove(&self, count: usize) {
        (0..count).for_each(|n| self.snapshotter.remove(&format!("a-{n}")).unwrap());
    }

    fn devices(&self) -> Vec<String> {
        let dm = Dm::new(Arc::new(self.kernel.kernel.clone()), DmSettings::without_nodes());
        let names = dm.list().unwrap().into_iter().map(|device| device.name.to_string());
        names.filter(|name| name.contains("-snap-")).collect()
    }

    /// Runs a cleanup. Returns how many requests of each kind the kernel got, and the result.
    fn cleanup(&self) -> (BTreeMap<Verb, usize>, devmapper_snapshotter::snapshotter::Swept) {
        self.kernel.counts.lock().unwrap().clear();
        let swept = self.snapshotter.cleanup().unwrap();
        (self.kernel.counts.lock().unwrap().clone(), swept)
    }
}

#[test]
fn a_removal_that_the_kernel_does_not_answer_holds_up_no_other_and_no_cleanup_and_no_stop() {
    let b = bench(Reclaiming::Behind);
    let devices = b.prepare(100);
    // More removals hang than there are workers.
    let held: Vec<String> = devices.iter().step_by(10).cloned().collect();
    *b.kernel.held.lock().unwrap() = held.clone();
    let began = Instant::now();
    b.remove(100);
    b.snapshotter.cleanup().unwrap();
    let mut left = b.devices();
    left.sort();
    let mut expected = held.clone();
    expected.sort();
    assert_eq!(left, expected);
    // A snapshot that is removed later is still reclaimed.
    b.snapshotter.prepare("later", "", Default::default()).unwrap();
    b.snapshotter.remove("later").unwrap();
    b.snapshotter.cleanup().unwrap();
    assert_eq!(b.devices().len(), held.len());
    let stuck = b.snapshotter.overview().unwrap().stuck;
    assert_eq!(stuck.iter().filter(|stuck| stuck.why == "hangs").count(), held.len(), "{stuck:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());

    b.kernel.held.lock().unwrap().clear();
    b.kernel.released.notify_all();
    let end = Instant::now() + Duration::from_secs(30);
    while !b.devices().is_empty() || b.snapshotter.overview().unwrap().reclaiming > 0 {
        assert!(Instant::now() < end, "{:?} is left", b.devices());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(b.snapshotter.overview().unwrap().stuck, []);

    let device = b.prepare(1);
    *b.kernel.held.lock().unwrap() = device;
    b.remove(1);
    std::thread::sleep(Duration::from_millis(100));
    let Bench { snapshotter, kernel } = b;
    let began = Instant::now();
    drop(snapshotter);
    assert!(began.elapsed() < Duration::from_secs(8), "the stop took {:?}", began.elapsed());
    kernel.held.lock().unwrap().clear();
    kernel.released.notify_all();
}

#[test]
fn a_pool_that_takes_no_changes_is_asked_once_and_not_by_every_removal() {
    let b = bench(Reclaiming::OnCall);
    b.prepare(300);
    b.remove(300);
    let plan = FaultPlan::at_nth(
        0,
        "pool commit",
        devmapper_snapshotter::dm::Fault::ErrorBefore(Errno::EIO),
    );
    b.kernel.kernel.set_plan(plan);
    let (asked, swept) = b.cleanup();
    assert_eq!((swept.reclaimed, swept.failed), (0, 300));
    // The kernel could not commit the first deletion.
    assert_eq!(asked.get(&Verb::Message), Some(&1), "{asked:?}");
    let (asked, swept) = b.cleanup();
    assert_eq!((swept.reclaimed, swept.failed), (0, 300));
    assert_eq!(asked, [(Verb::Status, 1)].into_iter().collect());
    assert_eq!(b.snapshotter.overview().unwrap().stuck.len(), 1);
}

#[test]
fn a_cleanup_asks_the_kernel_as_often_for_each_of_many_removals_as_for_a_few() {
    let mut costs = Vec::new();
    for count in [50, 500] {
        let b = bench(Reclaiming::OnCall);
        b.prepare(count);
        b.remove(count);
        let (asked, swept) = b.cleanup();
        assert_eq!(swept.reclaimed, count);
        let total: usize = asked.values().sum();
        costs.push(total as f64 / count as f64);
        assert_eq!(b.cleanup().0, BTreeMap::new());
    }
    assert!((costs[0] - costs[1]).abs() < 0.1, "requests for each removal: {costs:?}");
}

#[test]
fn a_device_that_cannot_be_resumed_is_tried_three_times_and_its_copy_is_deleted() {
    let b = bench(Reclaiming::OnCall);
    b.prepare(1);
    let pool = b.snapshotter.pool();
    let thins = || b.kernel.kernel.thin_ids(pool.device_name()).unwrap();
    let role = pool.devices().unwrap().into_iter().find(|role| matches!(role, Role::Snapshot(_)));
    let role = role.unwrap();
    let (thin, _) = pool.shown(role).unwrap().unwrap();
    let before = thins();
    b.kernel.counts.lock().unwrap().clear();
    *b.kernel.failing.lock().unwrap() = Some(Verb::Resume);
    let refused = pool.copy_frozen(role, thin).unwrap_err().to_string();
    assert!(refused.contains("cannot be resumed and stays suspended"), "{refused}");
    assert_eq!(b.kernel.counts.lock().unwrap().get(&Verb::Resume), Some(&3));
    assert_eq!(thins(), before);
    assert!(pool.info(role).unwrap().unwrap().suspended);
    // The next copy resumes it, also when no copy can be made.
    *b.kernel.failing.lock().unwrap() = Some(Verb::Message);
    let refused = pool.copy_frozen(role, thin).unwrap_err().to_string();
    assert!(refused.contains("cannot be made as a copy of device"), "{refused}");
    assert!(!pool.info(role).unwrap().unwrap().suspended);
    *b.kernel.failing.lock().unwrap() = None;
    let copy = pool.copy_frozen(role, thin).unwrap();
    assert!(thins().contains(&copy.get()));
    assert!(!pool.info(role).unwrap().unwrap().suspended);
}

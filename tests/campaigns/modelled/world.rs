//! A daemon on a modelled machine: started, used by a program, ended at some step; and what is
//! left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use devmapper_snapshotter::dm::fake::{FakeKernel, Unflushed};
use devmapper_snapshotter::dm::{Dm, FaultPlan, Settings as DmSettings};
use devmapper_snapshotter::fs::{FsSpec, FsType};
use devmapper_snapshotter::names::{DevicePrefix, DmName};
use devmapper_snapshotter::pool::{Pool, PoolSettings};
use devmapper_snapshotter::snapshotter::{
    Error, FieldUpdate, Labels, Reclaiming, Settings, Snapshotter,
};
use devmapper_snapshotter::store::{Kind, Store};
use devmapper_snapshotter::units::{Sectors, ThinId};

use super::files::Superblock;
use super::machine::{Attached, Machine, Steps, BLOCK, BLOCKS};
use super::model::Op;
use super::storage::{Beside, Storage, Survivors};

pub const POOL: &str = "p";

/// The settings of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub discard: bool,
    pub reclaiming: Reclaiming,
}

/// The machine, the database and the containers that a daemon starts with.
#[derive(Debug)]
pub struct Image {
    machine: Machine,
    pub bytes: Vec<u8>,
    tally: Vec<u8>,
    /// Containers that still run after their daemon has ended.
    users: Users,
}

/// The containers that have devices open.
#[derive(Debug, Default)]
pub struct Users {
    /// By key.
    pub attached: BTreeMap<String, Attached>,
    /// Containers whose snapshot has been committed or removed.
    pub orphans: Vec<Attached>,
}

/// Why a call has failed.
#[derive(Debug)]
pub enum Failure {
    Snapshotter(Error),
    /// The daemon did not start, or a container could not use its device.
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Snapshotter(error) => error.fmt(f),
            Failure::Other(what) => what.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Snapshotter(error)
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Failure {
        Failure::Other(what)
    }
}

pub struct World {
    pub machine: Machine,
    pub storage: Storage,
    tally: Beside,
    setup: Setup,
    daemon: Option<Daemon>,
    pub users: Users,
}

struct Daemon {
    snapshotter: Snapshotter,
    store: Arc<Store>,
}

impl Image {
    /// A blank machine and a database without records.
    pub fn blank() -> Image {
        let plan = FaultPlan::counting();
        let storage = Storage::holding(Vec::new(), &plan);
        drop(Store::with_backend(storage.clone()).unwrap());
        Image {
            machine: Machine::blank(),
            bytes: storage.cached(),
            tally: Vec::new(),
            users: Users::default(),
        }
    }
}

impl World {
    /// A machine that continues from an image. `plan` counts its steps from now on. No daemon runs
    /// yet.
    pub fn on(image: Image, setup: Setup, plan: &Arc<FaultPlan>, steps: Steps) -> World {
        World {
            machine: image.machine.again(Arc::clone(plan), steps),
            storage: Storage::holding(image.bytes, plan),
            tally: Beside::holding(image.tally),
            setup,
            daemon: None,
            users: image.users,
        }
    }

    /// Starts the daemon.
    pub fn start(&mut self) -> Result<(), String> {
        let machine = Arc::new(self.machine.clone());
        let storage = self.storage.clone();
        let store = Store::with_tally(move || Ok(storage.clone()), self.tally.clone())
            .map_err(|e| format!("the store: {e}"))?;
        let store = Arc::new(store);
        let dm = Dm::new(machine.clone(), DmSettings::without_nodes());
        let settings = PoolSettings {
            name: DevicePrefix::new(POOL).unwrap(),
            block_size: BLOCK,
            min_free_percent: 5,
        };
        let pool = Pool::open(&settings, dm, store.clone(), machine.backer())
            .map_err(|e| format!("the pool: {e}"))?;
        let settings = Settings {
            fs: FsSpec::plain(FsType::Ext4),
            base_image_size: Sectors(BLOCK.0 * BLOCKS),
            max_image_size: Sectors(BLOCK.0 * BLOCKS),
            discard: self.setup.discard,
        };
        let (disks, formatter) = (machine.clone(), machine);
        let reclaiming = self.setup.reclaiming;
        let snapshotter = Snapshotter::start_reclaiming(
            reclaiming,
            settings,
            pool,
            store.clone(),
            disks,
            formatter,
        )
        .map_err(|e| e.to_string())?;
        self.daemon = Some(Daemon { snapshotter, store });
        Ok(())
    }

    pub fn snapshotter(&self) -> &Snapshotter {
        &self.daemon.as_ref().expect("the daemon runs").snapshotter
    }

    pub fn store(&self) -> &Store {
        &self.daemon.as_ref().expect("the daemon runs").store
    }

    pub fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// The kernel's verbs. The plan does not count them.
    pub fn dm(&self) -> Dm {
        Dm::new(Arc::new(self.machine.kernel.clone()), DmSettings::without_nodes())
    }

    pub fn pool_name() -> DmName {
        DmName::new(format!("{POOL}-pool")).unwrap()
    }

    pub fn thins(&self) -> BTreeSet<ThinId> {
        self.machine.kernel.thin_ids(&World::pool_name()).unwrap_or_default().into_iter().collect()
    }

    /// The image for the next daemon after a kill.
    pub fn killed(mut self) -> Image {
        self.stop();
        let (bytes, tally) = (self.storage.cached(), self.tally.cached());
        Image { machine: self.machine, bytes, tally, users: self.users }
    }

    /// Ends everything that runs. [`World::power_cut`] gives what is left.
    pub fn switch_off(&mut self) {
        self.stop();
        self.users = Users::default();
    }

    /// The image after a power cut. It can be taken several times.
    pub fn power_cut(&self, unflushed: Unflushed, survivors: Survivors) -> Image {
        let kernel: FakeKernel = self.machine.kernel.power_cut(unflushed);
        let machine = Machine::of(kernel, FaultPlan::counting(), Steps::Durable);
        let (bytes, tally) =
            (self.storage.after_power_cut(survivors), self.tally.after_power_cut(survivors));
        Image { machine, bytes, tally, users: Users::default() }
    }

    /// Does one step of a program.
    pub fn run(&mut self, op: &Op) -> Result<(), Failure> {
        if *op == Op::Restart {
            self.stop();
            return Ok(self.start()?);
        }
        let mut users = std::mem::take(&mut self.users);
        let done = self.call(&mut users, op);
        self.users = users;
        done
    }

    /// The same for callers side by side. Each has its own users, and none can restart the daemon.
    pub fn call(&self, users: &mut Users, op: &Op) -> Result<(), Failure> {
        let snapshotter = self.snapshotter();
        match op {
            Op::Prepare { key, parent, size } => {
                let label = size.map(|size| {
                    ("containerd.io/snapshot/max-size".to_string(), bytes(size).to_string())
                });
                snapshotter.prepare(key, parent, label.into_iter().collect())?;
            }
            Op::View { key, parent } => drop(snapshotter.view(key, parent, Labels::new())?),
            Op::Commit { name, key } => {
                snapshotter.commit(name, key, Labels::new())?;
                users.orphan(key);
            }
            Op::Update { key, label } => {
                let update = FieldUpdate::Label("label".into(), label.to_string());
                snapshotter.update(key, vec![update])?;
            }
            Op::Remove { key } => {
                snapshotter.remove(key)?;
                users.orphan(key);
            }
            Op::Mounts { key } => drop(snapshotter.mounts(key)?),
            Op::Usage { key } => drop(snapshotter.usage(key)?),
            Op::Cleanup => drop(snapshotter.cleanup()?),
            Op::Restart => {}
            Op::Attach { key, mount } => self.attach(users, key, *mount)?,
            Op::Detach { key } => self.detach(users, key)?,
            Op::Write { key, block, tag, flush } => self.write(users, key, *block, *tag, *flush)?,
        }
        Ok(())
    }

    fn node(&self, key: &str) -> Result<PathBuf, Failure> {
        Ok(self.snapshotter().mounts(key)?.remove(0).source.into())
    }

    fn attach(&self, users: &mut Users, key: &str, mount: bool) -> Result<(), Failure> {
        let node = self.node(key)?;
        if users.attached.contains_key(key) {
            return Ok(());
        }
        let attached = self.machine.attach(&node, mount)?;
        if mount && attached.is_writable() {
            change_superblock(&attached, |superblock| superblock.clean = false)?;
        }
        users.attached.insert(key.into(), attached);
        Ok(())
    }

    fn detach(&self, users: &mut Users, key: &str) -> Result<(), Failure> {
        if self.machine.plan.halted() {
            return Err(Failure::Other("halted".into()));
        }
        users.orphans.clear();
        let Some(attached) = users.attached.remove(key) else { return Ok(()) };
        if attached.is_mounted() && attached.is_writable() {
            change_superblock(&attached, |superblock| {
                superblock.clean = true;
                superblock.inodes += 1;
            })?;
            attached.handle.flush().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn write(
        &self,
        users: &Users,
        key: &str,
        block: u64,
        tag: u64,
        flush: bool,
    ) -> Result<(), Failure> {
        let brief;
        let attached = match users.attached.get(key) {
            Some(attached) => attached,
            None => {
                if self.snapshotter().stat(key)?.kind != Kind::Active {
                    return Err(
                        Error::NotActive { key: key.into(), kind: "not active", what: "" }.into()
                    );
                }
                brief = self.machine.attach(&self.node(key)?, false)?;
                &brief
            }
        };
        let done = attached.handle.write_block(block, BLOCK, tag);
        let done = if flush { done.and_then(|()| attached.handle.flush()) } else { done };
        Ok(done.map_err(|e| format!("writing to {key}: {e}"))?)
    }
}

impl Users {
    /// The container's snapshot is gone, and the container goes on.
    pub fn orphan(&mut self, key: &str) {
        self.orphans.extend(self.attached.remove(key));
    }
}

/// Converts a size in blocks to bytes.
fn bytes(blocks: u64) -> u64 {
    blocks * BLOCK.0 * 512
}

fn change_superblock(attached: &Attached, change: impl Fn(&mut Superblock)) -> Result<(), String> {
    let superblock = Superblock::read(&attached.handle).map_err(|e| e.to_string())?;
    let mut superblock = superblock.ok_or("no file system")?;
    change(&mut superblock);
    superblock.write(&attached.handle).map_err(|e| e.to_string())
}

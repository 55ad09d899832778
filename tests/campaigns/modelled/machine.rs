//! The machine under a daemon: the modelled kernel, with disks and file systems on it. One plan
//! counts all its steps.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use devmapper_snapshotter::block::{Access, BlockError, Disk, Disks, Loops};
use devmapper_snapshotter::config::{Backing, Config};
use devmapper_snapshotter::dm::fake::{FakeHandle, FakeKernel, IoError};
use devmapper_snapshotter::dm::{
    Dm, Error, EventSource, FaultPlan, Kernel, PoolLog, Reply, Request, Verb, Verdict,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::pool::Backer;
use devmapper_snapshotter::units::{DeviceNumber, Sectors};

/// The pool's block size, and the unit of everything that tests write.
pub const BLOCK: Sectors = Sectors(128);
/// The size of a snapshot without a parent, in blocks.
pub const BLOCKS: u64 = 24;
const METADATA: DeviceNumber = DeviceNumber { major: 7, minor: 0 };
const DATA: DeviceNumber = DeviceNumber { major: 7, minor: 1 };
/// The start of a disk that only its label uses.
const LABEL: Sectors = Sectors(2048);
const METADATA_SIZE: Sectors = Sectors(LABEL.0 + 8 * 1024);
const DATA_SIZE: Sectors = Sectors(LABEL.0 + BLOCK.0 * 1024);

/// Which steps a plan counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Steps {
    /// Steps whose effect outlives a power cut: commits of the pool, flushes of disks, writes and
    /// syncs of the database.
    Durable,
    /// All steps that change something: requests to the kernel, calls on disks, writes and syncs of
    /// the database.
    Changes,
    /// All steps, also those that only look.
    Everything,
}

/// The machine. Clones are handles to the same machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub kernel: FakeKernel,
    pub plan: Arc<FaultPlan>,
    pub steps: Steps,
    /// Devices that are mounted, or opened exclusively.
    claims: Arc<Mutex<BTreeSet<DeviceNumber>>>,
    interlude: Interlude,
}

/// An action right before the next request to the kernel whose text contains a given part.
#[derive(Clone, Default)]
struct Interlude(Arc<Mutex<Option<(String, Act)>>>);

/// What another program does meanwhile.
type Act = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Interlude {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interlude")
    }
}

/// A step that fails, or whose success is reported as a failure.
enum Spoilt {
    Errno(devmapper_snapshotter::dm::Errno),
    Halted,
}

impl From<Spoilt> for io::Error {
    fn from(spoilt: Spoilt) -> io::Error {
        match spoilt {
            Spoilt::Errno(errno) => errno.into(),
            Spoilt::Halted => io::Error::other("halted"),
        }
    }
}

pub fn io_error(error: IoError) -> io::Error {
    match error {
        IoError::Errno(errno) => errno.into(),
        IoError::Halted => io::Error::other("halted"),
    }
}

impl Machine {
    /// A machine with two blank disks.
    pub fn blank() -> Machine {
        let kernel = FakeKernel::new();
        kernel.add_disk(METADATA, METADATA_SIZE);
        kernel.add_disk(DATA, DATA_SIZE);
        Machine::of(kernel, FaultPlan::counting(), Steps::Durable)
    }

    /// A machine with this kernel. `plan` counts its steps from now on.
    pub fn of(kernel: FakeKernel, plan: Arc<FaultPlan>, steps: Steps) -> Machine {
        if steps == Steps::Durable {
            kernel.set_plan(Arc::clone(&plan));
        }
        Machine { kernel, plan, steps, claims: Arc::default(), interlude: Interlude::default() }
    }

    /// A backer that finds the pool's disks on this machine.
    pub fn backer(&self) -> Backer {
        let backing = Backing::Devices { data: node(DATA), metadata: Some(node(METADATA)) };
        Backer::new(
            &Config { backing, block_size: BLOCK, ..Config::default() },
            Arc::new(self.clone()),
            Loops::default(),
        )
    }

    /// The same machine for the next daemon after a kill.
    pub fn again(&self, plan: Arc<FaultPlan>, steps: Steps) -> Machine {
        if steps == Steps::Durable {
            self.kernel.set_plan(Arc::clone(&plan));
        }
        let (claims, interlude) = (Arc::clone(&self.claims), self.interlude.clone());
        Machine { kernel: self.kernel.clone(), plan, steps, claims, interlude }
    }

    /// Runs `act` as a step of this kind, if the plan counts this kind.
    fn stepping<T, E>(
        &self,
        counted: bool,
        what: impl Fn() -> String,
        spoilt: impl Fn(Spoilt) -> E,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if !counted {
            return if self.plan.halted() { Err(spoilt(Spoilt::Halted)) } else { act() };
        }
        match self.plan.step(&what()) {
            Verdict::Go => act(),
            Verdict::Fail(errno) => Err(spoilt(Spoilt::Errno(errno))),
            Verdict::Halt => Err(spoilt(Spoilt::Halted)),
            Verdict::GoThenHalt => {
                // The caller has ended.
                let _ = act();
                Err(spoilt(Spoilt::Halted))
            }
        }
    }

    /// Runs an action on the caller's thread right before the next request to the kernel whose text
    /// contains `what`.
    pub fn before(&self, what: &str, action: impl FnOnce() + Send + 'static) {
        *self.interlude.0.lock().unwrap() = Some((what.into(), Box::new(action)));
    }

    fn have_interlude(&self, request: &Request) {
        let mut next = self.interlude.0.lock().unwrap();
        if next.as_ref().is_some_and(|(what, _)| request.to_string().contains(what)) {
            let action = next.take();
            drop(next);
            action.into_iter().for_each(|(_, action)| action());
        }
    }

    fn claim(&self, number: DeviceNumber) -> Option<Claim> {
        let claimed = self.claims.lock().unwrap().insert(number);
        claimed.then(|| Claim { claims: Arc::clone(&self.claims), number })
    }

    /// Opens a device as a container's mount or a virtual machine does. The daemon's plan does not
    /// count it, but it fails after the end of everything.
    pub fn attach(&self, node: &Path, mount: bool) -> Result<Attached, String> {
        if self.plan.halted() {
            return Err("halted".into());
        }
        let handle = self.kernel.open(&device_name(node)).map_err(|e| e.to_string())?;
        let claim = if mount {
            Some(self.claim(handle.number()).ok_or("it is mounted already")?)
        } else {
            None
        };
        let writable = !node.to_string_lossy().contains("-view-");
        Ok(Attached { handle, claim, writable })
    }
}

/// A device that another program has open, or mounted.
#[derive(Debug)]
pub struct Attached {
    pub handle: FakeHandle,
    claim: Option<Claim>,
    writable: bool,
}

impl Attached {
    /// Whether it is not a view.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// False for a device that is open and not mounted.
    pub fn is_mounted(&self) -> bool {
        self.claim.is_some()
    }
}

#[derive(Debug)]
struct Claim {
    claims: Arc<Mutex<BTreeSet<DeviceNumber>>>,
    number: DeviceNumber,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unwrap().remove(&self.number);
    }
}

/// The name of the device behind a node.
pub fn device_name(node: &Path) -> DmName {
    DmName::new(node.file_name().unwrap().to_str().unwrap()).unwrap()
}

/// How a disk is opened.
fn node(number: DeviceNumber) -> PathBuf {
    format!("/dev/block/{number}").into()
}

fn changes(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Create
            | Verb::Remove
            | Verb::Rename
            | Verb::Suspend
            | Verb::Resume
            | Verb::Load
            | Verb::Message
    )
}

impl Kernel for Machine {
    fn submit(&self, request: &Request) -> Result<Reply, Error> {
        self.have_interlude(request);
        let counted = match self.steps {
            Steps::Durable => false,
            Steps::Changes => changes(request.verb()),
            Steps::Everything => true,
        };
        let spoilt = |spoilt| match spoilt {
            Spoilt::Errno(errno) => Error::from_errno(request, errno),
            Spoilt::Halted => Error::Halted { request: request.to_string() },
        };
        self.stepping(counted, || request.to_string(), spoilt, || self.kernel.submit(request))
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

impl Disks for Machine {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Disk>, BlockError> {
        let fail = |source| BlockError::Open { path: path.into(), source };
        let exclusive = matches!(access, Access::ReadExclusive | Access::WriteExclusive);
        let counted = self.steps == Steps::Everything;
        self.stepping(
            counted,
            || format!("open {}", path.display()),
            |s| fail(s.into()),
            || {
                let handle = match [METADATA, DATA].into_iter().find(|disk| node(*disk) == path) {
                    Some(disk) => self.kernel.open_number(disk),
                    None => self.kernel.open(&device_name(path)),
                };
                let handle = handle.map_err(|e| fail(io_error(e)))?;
                let claim = match exclusive {
                    true => Some(
                        self.claim(handle.number())
                            .ok_or_else(|| BlockError::Busy { path: path.into() })?,
                    ),
                    false => None,
                };
                let disk =
                    OpenDisk { machine: self.clone(), path: path.into(), handle, _claim: claim };
                Ok(Box::new(disk) as Box<dyn Disk>)
            },
        )
    }
}

#[derive(Debug)]
struct OpenDisk {
    machine: Machine,
    path: PathBuf,
    handle: FakeHandle,
    _claim: Option<Claim>,
}

impl OpenDisk {
    fn call<T>(
        &self,
        step: &'static str,
        least: Steps,
        act: impl FnOnce() -> Result<T, IoError>,
    ) -> Result<T, BlockError> {
        let fail = |source| BlockError::Step { step, path: self.path.clone(), source };
        let counted = match self.machine.steps {
            Steps::Durable => false,
            Steps::Changes => least == Steps::Changes,
            Steps::Everything => true,
        };
        let what = || format!("{step} {}", self.path.display());
        self.machine.stepping(
            counted,
            what,
            |s| fail(s.into()),
            || act().map_err(|e| fail(io_error(e))),
        )
    }
}

impl Disk for OpenDisk {
    fn path(&self) -> &Path {
        &self.path
    }
    fn size(&self) -> Result<Sectors, BlockError> {
        self.call("read the size of", Steps::Everything, || Ok(self.handle.size()))
    }
    fn number(&self) -> Result<DeviceNumber, BlockError> {
        Ok(self.handle.number())
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.call("flush", Steps::Changes, || self.handle.flush())
    }
    fn discard(&self, offset: Sectors, length: Sectors) -> Result<(), BlockError> {
        self.call("discard", Steps::Changes, || self.handle.discard(offset.0 * 512, length.0 * 512))
    }
    fn set_read_only(&self, read_only: bool) -> Result<(), BlockError> {
        let name = device_name(&self.path);
        self.call("make read-only or writable", Steps::Changes, || {
            self.machine.kernel.set_read_only(&name, read_only)
        })
    }
    fn is_read_only(&self) -> Result<bool, BlockError> {
        let dm = Dm::new(
            Arc::new(self.machine.kernel.clone()),
            devmapper_snapshotter::dm::Settings::without_nodes(),
        );
        self.call("read the read-only state of", Steps::Everything, || {
            Ok(dm.info(&device_name(&self.path)).ok().flatten().is_some_and(|info| info.read_only))
        })
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.call("read", Steps::Everything, || self.handle.read_at(buffer, offset))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), BlockError> {
        self.call("write", Steps::Changes, || self.handle.write_at(data, offset))
    }
}

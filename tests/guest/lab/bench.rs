//! What the guest's device-mapper tests share: a workbench with loop devices, whose devices carry
//! the test's name and are swept before and after.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MIB;
use devmapper_snapshotter::dm::{
    ActivateOptions, CountingKernel, Dm, Error, NoSpacePolicy, PoolFeatures, RealKernel, Settings,
    Target, ThinPoolTable,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};
use kit::{run, try_run};

/// 64 KiB, the pools' block size in these tests.
pub const BLOCK: Sectors = Sectors(128);

/// O_DIRECT, so that a test reads what the device has and not what the page cache had.
const O_DIRECT: i32 = 0o40000;

pub struct Bench {
    pub dm: Dm,
    pub counter: Arc<CountingKernel>,
    prefix: String,
    dir: tempfile::TempDir,
    loops: Vec<Loop>,
}

struct Loop {
    number: DeviceNumber,
    node: PathBuf,
    file: PathBuf,
}

impl Bench {
    /// A bench whose devices are all named after `test`.
    pub fn new(test: &str) -> Bench {
        Bench::with_settings(test, Settings::default())
    }

    pub fn with_settings(test: &str, settings: Settings) -> Bench {
        assert!(std::env::var_os("GUEST").is_some(), "run this in a guest: tests/rig/guest");
        let kernel = RealKernel::open().expect("device-mapper");
        let counter = Arc::new(CountingKernel::new(Arc::new(kernel)));
        let bench = Bench {
            dm: Dm::new(counter.clone(), settings),
            counter,
            prefix: format!("t-{test}-"),
            dir: tempfile::tempdir().expect("a directory for disks"),
            loops: Vec::new(),
        };
        bench.sweep();
        bench
    }

    pub fn name(&self, short: &str) -> DmName {
        DmName::new(format!("{}{short}", self.prefix)).expect("a name")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A loop device on a sparse file.
    pub fn disk(&mut self, bytes: u64) -> DeviceNumber {
        let file = self.dir.path().join(format!("disk{}", self.loops.len()));
        File::create(&file).and_then(|f| f.set_len(bytes)).expect("a sparse file");
        let node = run("losetup", &["--find", "--show", &file.to_string_lossy()]);
        let node = PathBuf::from(node);
        let number =
            DeviceNumber::from_u64(std::fs::metadata(&node).expect("a loop device").rdev());
        self.loops.push(Loop { number, node, file });
        number
    }

    /// The node and the file of a loop device of this bench.
    pub fn loop_of(&self, disk: DeviceNumber) -> (&Path, &Path) {
        let found = self.loops.iter().find(|l| l.number == disk).expect("a disk of this bench");
        (&found.node, &found.file)
    }

    /// The table of a pool on two new loop devices.
    pub fn pool_table(&mut self, data_bytes: u64) -> ThinPoolTable {
        let metadata = self.disk(4 * MIB).into();
        let data = self.disk(data_bytes).into();
        let features = PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() };
        ThinPoolTable {
            start: Sectors::ZERO,
            length: Sectors(data_bytes / 512),
            metadata,
            data,
            block_size: BLOCK,
            low_water_blocks: 8,
            features,
        }
    }

    /// An active pool.
    pub fn pool(&mut self, data_bytes: u64) -> (DmName, DeviceNumber) {
        let table = Target::ThinPool(self.pool_table(data_bytes));
        let name = self.name("pool");
        let info =
            self.dm.activate(&name, None, &[table], ActivateOptions::default()).expect("a pool");
        (name, info.device)
    }

    /// An active thin.
    pub fn thin(&self, pool: DeviceNumber, id: u32, bytes: u64) -> DmName {
        let name = self.name(&format!("thin{id}"));
        let table = Target::thin(pool, thin_id(id), Sectors(bytes / 512));
        self.dm.activate(&name, None, &[table], ActivateOptions::default()).expect("a thin");
        name
    }

    /// Writes `len` bytes of `tag` at `offset`, past the page cache.
    pub fn write(&self, name: &DmName, offset: u64, len: usize, tag: u8) -> std::io::Result<()> {
        let file = DirectFile::open(&self.dm.node(name))?;
        file.write(offset, &vec![tag; len])?;
        file.flush()
    }

    /// Reads `len` bytes at `offset`, past the page cache.
    pub fn read(&self, name: &DmName, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        DirectFile::open(&self.dm.node(name))?.read(offset, len)
    }

    /// Removes all devices of this test, however they depend on each other.
    fn sweep(&self) {
        for _ in 0..100 {
            let Ok(devices) = self.dm.list() else { return };
            let mut left = 0;
            for device in devices.iter().filter(|d| d.name.as_str().starts_with(&self.prefix)) {
                let _ = self.dm.resume(&device.name);
                if matches!(self.dm.remove(&device.name), Err(Error::Busy { .. })) {
                    left += 1;
                }
            }
            if left == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sweep();
        for device in &self.loops {
            let _ = try_run("losetup", &["--detach", &device.node.to_string_lossy()]);
        }
    }
}

/// A device that is read and written past the page cache. Offsets and lengths are multiples of
/// 4096.
pub struct DirectFile(File);

impl DirectFile {
    pub fn open(node: &Path) -> std::io::Result<DirectFile> {
        File::options().read(true).write(true).custom_flags(O_DIRECT).open(node).map(DirectFile)
    }

    pub fn read(&self, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let (mut memory, range) = aligned(length);
        self.0.read_exact_at(&mut memory[range.clone()], offset)?;
        Ok(memory[range].to_vec())
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let (mut memory, range) = aligned(bytes.len());
        memory[range.clone()].copy_from_slice(bytes);
        self.0.write_all_at(&memory[range], offset)
    }

    pub fn flush(&self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

/// Memory in which O_DIRECT takes the given range.
fn aligned(length: usize) -> (Vec<u8>, std::ops::Range<usize>) {
    let memory = vec![0; length + 4096];
    let start = memory.as_ptr().align_offset(4096);
    (memory, start..start + length)
}

pub fn thin_id(id: u32) -> ThinId {
    ThinId::new(id).expect("a thin id")
}

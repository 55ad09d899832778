//! The cases of `tests/dm/contract` on the running kernel.

#[macro_use]
#[path = "../../dm/contract/mod.rs"]
mod dm_contract;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use self::dm_contract::{Opened, World};
use crate::lab::{Bench, DirectFile};
use devmapper_snapshotter::dm::Dm;
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::DeviceNumber;
use kit::run;

impl World for Bench {
    fn dm(&self) -> &Dm {
        &self.dm
    }

    fn disk(&mut self, bytes: u64) -> DeviceNumber {
        Bench::disk(self, bytes)
    }

    fn resize_disk(&mut self, disk: DeviceNumber, bytes: u64) {
        let (node, file) = self.loop_of(disk);
        File::options().write(true).open(file).and_then(|f| f.set_len(bytes)).unwrap();
        run("losetup", &["--set-capacity", &node.to_string_lossy()]);
    }

    fn fill_disk(&mut self, disk: DeviceNumber, offset: u64, bytes: &[u8]) {
        let (node, _) = self.loop_of(disk);
        let device = File::options().write(true).open(node).unwrap();
        device.write_all_at(bytes, offset).unwrap();
        device.sync_all().unwrap();
    }

    fn name(&self, short: &str) -> DmName {
        Bench::name(self, short)
    }

    fn open(&self, name: &DmName) -> Result<Box<dyn Opened>, i32> {
        let node = self.dm.node(name);
        let file = DirectFile::open(&node).map_err(errno)?;
        Ok(Box::new(OpenNode { file, node }))
    }
}

struct OpenNode {
    file: DirectFile,
    node: std::path::PathBuf,
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

impl Opened for OpenNode {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        self.file.read(offset, length).map_err(errno)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        self.file.write(offset, bytes).map_err(errno)
    }

    fn flush(&self) -> Result<(), i32> {
        self.file.flush().map_err(errno)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), i32> {
        blkdiscard(&self.node, offset, length)
    }
}

fn blkdiscard(node: &Path, offset: u64, length: u64) -> Result<(), i32> {
    let status = Command::new("blkdiscard")
        .args(["--offset", &offset.to_string(), "--length", &length.to_string()])
        .arg(node)
        .status()
        .unwrap();
    if status.success() {
        Ok(())
    } else {
        Err(-1)
    }
}

/// Some cases listen to the events of the whole machine.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

macro_rules! on_the_running_kernel {
    ($($case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                let _alone =
                    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut bench = Bench::new(&format!("{:x}", crc(stringify!($case))));
                dm_contract::$case(&mut bench);
            }
        )*
    };
}

/// A short name for a case: device names end at 127 bytes.
fn crc(text: &str) -> u32 {
    text.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

for_every_case!(on_the_running_kernel);

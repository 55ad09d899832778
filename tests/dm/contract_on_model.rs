//! The contract on the modelled kernel.

use std::sync::Arc;

use crate::contract::{self, Opened, World};
use devmapper_snapshotter::dm::fake::{FakeHandle, FakeKernel, IoError};
use devmapper_snapshotter::dm::{Dm, Settings};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors};

struct Model {
    kernel: FakeKernel,
    dm: Dm,
    disks: u32,
}

impl Model {
    fn new() -> Model {
        let kernel = FakeKernel::new();
        let dm = Dm::new(Arc::new(kernel.clone()), Settings::without_nodes());
        Model { kernel, dm, disks: 0 }
    }
}

impl World for Model {
    fn dm(&self) -> &Dm {
        &self.dm
    }

    fn disk(&mut self, bytes: u64) -> DeviceNumber {
        let number = DeviceNumber { major: 7, minor: self.disks };
        self.disks += 1;
        self.kernel.add_disk(number, Sectors::from_bytes_exact(bytes).unwrap());
        number
    }

    fn resize_disk(&mut self, disk: DeviceNumber, bytes: u64) {
        self.kernel.resize_disk(disk, Sectors::from_bytes_exact(bytes).unwrap());
    }

    fn fill_disk(&mut self, disk: DeviceNumber, offset: u64, bytes: &[u8]) {
        let disk = self.kernel.open_number(disk).unwrap();
        disk.write_at(bytes, offset).unwrap();
        disk.flush().unwrap();
    }

    fn name(&self, short: &str) -> DmName {
        DmName::new(format!("model-{short}")).unwrap()
    }

    fn open(&self, name: &DmName) -> Result<Box<dyn Opened>, i32> {
        self.kernel.open(name).map(|handle| Box::new(OpenModel(handle)) as _).map_err(errno)
    }
}

struct OpenModel(FakeHandle);

fn errno(error: IoError) -> i32 {
    match error {
        IoError::Errno(errno) => errno as i32,
        IoError::Halted => -1,
    }
}

impl Opened for OpenModel {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        let mut bytes = vec![0; length];
        self.0.read_at(&mut bytes, offset).map_err(errno)?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        self.0.write_at(bytes, offset).map_err(errno)
    }

    fn flush(&self) -> Result<(), i32> {
        self.0.flush().map_err(errno)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.0.discard(offset, length).map_err(errno)
    }
}

macro_rules! on_the_model {
    ($($case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                contract::$case(&mut Model::new());
            }
        )*
    };
}

for_every_case!(on_the_model);

//! A minimal file system: a superblock with a clean flag, two blocks that mkfs writes, and the
//! rest for tags.

use std::path::Path;

use devmapper_snapshotter::block::{Access, BlockError, Disk, Disks};
use devmapper_snapshotter::dm::fake::{FakeHandle, IoError};
use devmapper_snapshotter::dm::Verdict;
use devmapper_snapshotter::fs::{Formatter, FsError, FsSpec, FsState, FsType, Writer};
use devmapper_snapshotter::units::Sectors;

use super::machine::{Machine, Steps, BLOCK};

const MAGIC: u64 = 0x6d6f_6465_6c66_7321;
/// The first block for tags. The blocks before it belong to the file system.
pub const FIRST: u64 = 3;

/// The values that mkfs writes into the blocks after the superblock.
pub fn mark(block: u64) -> u64 {
    0xf500 + block
}

/// The superblock, in block 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub clean: bool,
    pub inodes: u64,
    pub size: Sectors,
}

impl Superblock {
    fn bytes(self) -> [u8; 512] {
        let mut bytes = [0; 512];
        for (place, value) in
            [MAGIC, u64::from(self.clean), self.inodes, self.size.0].into_iter().enumerate()
        {
            bytes[8 * place..8 * place + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn parse(bytes: &[u8; 512]) -> Option<Superblock> {
        let field =
            |place: usize| u64::from_le_bytes(bytes[8 * place..8 * place + 8].try_into().unwrap());
        (field(0) == MAGIC).then(|| Superblock {
            clean: field(1) == 1,
            inodes: field(2),
            size: Sectors(field(3)),
        })
    }

    pub fn read(handle: &FakeHandle) -> Result<Option<Superblock>, IoError> {
        let mut bytes = [0; 512];
        handle.read_at(&mut bytes, 0)?;
        Ok(Superblock::parse(&bytes))
    }

    pub fn write(self, handle: &FakeHandle) -> Result<(), IoError> {
        handle.write_at(&self.bytes(), 0)
    }
}

impl Machine {
    /// The formatter can fail as a whole, too.
    fn formatter_step(&self, what: &str, device: &Path) -> Result<(), FsError> {
        if self.steps != Steps::Everything {
            return Ok(());
        }
        match self.plan.step(&format!("{what} {}", device.display())) {
            Verdict::Fail(errno) => {
                let step = "work on the file system of";
                Err(BlockError::Step { step, path: device.into(), source: errno.into() }.into())
            }
            _ => Ok(()),
        }
    }

    fn superblock(disk: &dyn Disk, fs_type: FsType) -> Result<Superblock, FsError> {
        let mut bytes = [0; 512];
        disk.read_at(&mut bytes, 0)?;
        let wrong = || FsError::Superblock {
            device: disk.path().into(),
            fs_type,
            problem: "no magic".into(),
        };
        Superblock::parse(&bytes).ok_or_else(wrong)
    }

    fn change(
        &self,
        device: &Path,
        access: Access,
        change: impl Fn(&mut Superblock),
    ) -> Result<(), FsError> {
        let disk = self.open(device, access)?;
        let mut superblock = Machine::superblock(disk.as_ref(), FsType::Ext4)?;
        change(&mut superblock);
        disk.write_at(&superblock.bytes(), 0)?;
        Ok(disk.flush()?)
    }
}

impl Formatter for Machine {
    fn format(&self, device: &Path, spec: &FsSpec, size: Sectors) -> Result<(), FsError> {
        self.formatter_step("format", device)?;
        let disk = self.open(device, Access::WriteExclusive)?;
        if Machine::superblock(disk.as_ref(), spec.fs_type).is_ok() {
            let problem = "there is a file system already".into();
            return Err(FsError::Superblock {
                device: device.into(),
                fs_type: spec.fs_type,
                problem,
            });
        }
        disk.write_at(&Superblock { clean: true, inodes: 10, size }.bytes(), 0)?;
        for block in 1..FIRST {
            disk.write_at(&mark(block).to_le_bytes(), block * BLOCK.0 * 512)?;
        }
        Ok(disk.flush()?)
    }

    fn grow(&self, device: &Path, _: FsType, size: Sectors, _: Writer) -> Result<(), FsError> {
        self.formatter_step("grow", device)?;
        self.change(device, Access::Write, |superblock| superblock.size = superblock.size.max(size))
    }

    fn inspect(&self, device: &Path, fs_type: FsType) -> Result<FsState, FsError> {
        self.formatter_step("inspect", device)?;
        let superblock = Machine::superblock(self.open(device, Access::Read)?.as_ref(), fs_type)?;
        let Superblock { clean, inodes, size } = superblock;
        Ok(FsState {
            fs_type,
            size,
            block_size: 4096,
            used_inodes: inodes,
            clean,
            uuid: uuid::Uuid::nil(),
            errors: None,
        })
    }

    fn replay(&self, device: &Path, _: FsType) -> Result<(), FsError> {
        self.formatter_step("replay", device)?;
        self.change(device, Access::WriteExclusive, |superblock| superblock.clean = true)
    }
}

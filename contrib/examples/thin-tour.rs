//! A tour of thin provisioning with this library: pool, thin, file system, snapshot of a mounted
//! thin, external origin, deferred removal, status, events.
//!
//! Run it as root on a kernel with dm-thin: `cargo run --example thin-tour`. It works on sparse
//! files in a temporary directory and removes all that it made. The one program it runs is
//! `mkfs.ext4`.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use devmapper_snapshotter::prelude::*;

type Done<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MIB: u64 = 1 << 20;

/// How long a removal may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The size that the thins claim to have: more than the pool has.
const THIN_SIZE: Sectors = Sectors(1024 * MIB / 512);

// A test includes this file and calls `tour` itself.
#[allow(dead_code)]
fn main() -> Done<()> {
    let dir = std::env::temp_dir().join(format!("thin-tour-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = tour(&dir);
    fs::remove_dir_all(&dir)?;
    result
}

/// The whole tour, on files in `dir`.
pub fn tour(dir: &Path) -> Done<()> {
    let dm = Dm::open()?;
    println!("device-mapper {}, thin-pool {}", dm.driver_version()?, dm.require_thin()?.version);
    let disks = [disk(&dir.join("metadata"), 4 * MIB)?, disk(&dir.join("data"), 256 * MIB)?];
    let tour = Tour { dm, prefix: format!("thin-tour-{}", std::process::id()) };
    let result = tour.walk(&disks[0], &disks[1]);
    let cleaned = tour.clean_up();
    disks.into_iter().try_for_each(LoopDevice::detach)?;
    result.and(cleaned)
}

fn disk(file: &Path, bytes: u64) -> Done<LoopDevice> {
    create_sparse(file, bytes)?;
    Ok(Loops::default().attach(file, LoopOptions::default())?)
}

struct Tour {
    dm: Dm,
    prefix: String,
}

impl Tour {
    fn name(&self, short: &str) -> Done<DmName> {
        Ok(DmName::new(format!("{}-{short}", self.prefix))?)
    }

    fn activate(&self, short: &str, target: Target, options: ActivateOptions) -> Done<DeviceInfo> {
        let name = self.name(short)?;
        let uuid = DmUuid::new(format!("TOUR-{name}"))?;
        let info = self.dm.activate(&name, Some(&uuid), &[target], options)?;
        println!("{short}: {} at {}", info.device, self.dm.node(&name).display());
        Ok(info)
    }

    fn walk(&self, metadata: &LoopDevice, data: &LoopDevice) -> Done<()> {
        let (dm, writable) = (&self.dm, ActivateOptions::default());
        let mut watch = dm.watch(&self.prefix)?;

        // A pool with blocks of 64 KiB. When it is full, writes fail at once and do not wait.
        let pool =
            self.activate("pool", Target::ThinPool(pool_table(metadata, data)?), writable)?;
        println!("the watch saw {} change", watch.next(Duration::from_secs(1))?.len());

        // A thin with a file system: it claims 1 GiB of a pool of 256 MiB.
        let (origin, snapshot, copy) = (ThinId::new(1)?, ThinId::new(2)?, ThinId::new(3)?);
        dm.create_thin(&pool.name, origin)?;
        let thin =
            self.activate("origin", Target::thin(pool.device, origin, THIN_SIZE), writable)?;
        mkfs(&dm.node(&thin.name))?;
        self.mounted("origin", false, |root| Ok(fs::write(root.join("greeting"), "hello")?))?;
        self.print_status(&pool.name, &[&thin.name])?;

        // A snapshot while the origin is mounted. The origin is frozen for a moment, and then takes
        // writes again.
        self.mounted("origin", false, |root| {
            fs::write(root.join("before"), "1")?;
            dm.create_snap_of_device(&pool.name, snapshot, &thin.name, origin)?;
            Ok(fs::write(root.join("after"), "2")?)
        })?;
        let target = Target::thin(pool.device, snapshot, THIN_SIZE);
        let view = self.activate(
            "view",
            target,
            ActivateOptions { read_only: true, ..Default::default() },
        )?;
        self.mounted("view", true, |root| {
            let has = |file: &str| root.join(file).exists();
            println!("the snapshot has `before`: {}, `after`: {}", has("before"), has("after"));
            expect(has("before") && !has("after"), "a snapshot of the moment it was taken")
        })?;

        // The read-only view is the external origin of an empty thin. The view's blocks are read
        // through the thin until they are overwritten.
        dm.create_thin(&pool.name, copy)?;
        let target = ThinTable {
            start: Sectors::ZERO,
            length: THIN_SIZE,
            pool: pool.device.into(),
            id: copy,
            external_origin: Some(view.device.into()),
        };
        let on_origin = self.activate("copy", Target::Thin(target), writable)?;
        self.mounted("copy", false, |root| {
            let greeting = fs::read_to_string(root.join("greeting"))?;
            println!("through the external origin: {greeting}");
            expect(greeting == "hello", "the origin's file")?;
            Ok(fs::write(root.join("greeting"), "changed in the copy alone")?)
        })?;
        for line in dm.table(&on_origin.name)? {
            println!("copy's table: {line}");
        }
        self.print_status(&pool.name, &[&thin.name, &view.name, &on_origin.name])?;

        // A device that is in use can be removed later, when it is closed.
        self.mounted("copy", false, |_| {
            expect(
                dm.remove(&on_origin.name).is_err_and(|error| error.is_busy()),
                "a mounted device to be busy",
            )?;
            expect(
                dm.remove_deferred(&on_origin.name)? == Removal::Deferred,
                "a removal that waits",
            )
        })?;
        let removal = dm.wait_removed(&on_origin, LIMIT)?;
        expect(removal == Removal::Done, "the copy to go with its last user")?;
        println!("copy: gone with its last user");
        // Only now can the origin be mounted again: a table claims the devices that it stands on.
        self.mounted("view", true, |root| {
            expect(
                fs::read_to_string(root.join("greeting"))? == "hello",
                "an origin that stays as it is",
            )
        })
    }

    fn mounted(
        &self,
        short: &str,
        read_only: bool,
        work: impl FnOnce(&Path) -> Done<()> + Send,
    ) -> Done<()> {
        let node = self.dm.node(&self.name(short)?);
        with_private_mount(
            &PrivateMount { device: &node, fs_type: "ext4", read_only, options: "" },
            work,
        )
    }

    fn print_status(&self, pool: &DmName, thins: &[&DmName]) -> Done<()> {
        println!("pool: {}", self.dm.pool_status(pool, StatusOptions::default())?);
        for &thin in thins {
            println!("{thin}: {}", self.dm.thin_status(thin)?);
        }
        Ok(())
    }

    /// Removes all devices, those that stand on others first, and their nodes.
    fn clean_up(&self) -> Done<()> {
        for short in ["copy", "view", "origin", "pool"] {
            if let Some(device) = self.dm.info(&self.name(short)?)? {
                self.dm.remove_deferred(&device.name)?;
                let removal = self.dm.wait_removed(&device, LIMIT)?;
                expect(removal == Removal::Done, "a device that nothing uses to go")?;
            }
        }
        Ok(())
    }
}

fn pool_table(metadata: &LoopDevice, data: &LoopDevice) -> Done<ThinPoolTable> {
    Ok(ThinPoolTable {
        start: Sectors::ZERO,
        length: data.size()?,
        metadata: metadata.number().into(),
        data: data.number().into(),
        block_size: Sectors(128),
        low_water_blocks: 64,
        features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
    })
}

fn mkfs(node: &Path) -> Done<()> {
    let status = Command::new("mkfs.ext4").args(["-q", "-E", "nodiscard"]).arg(node).status()?;
    expect(status.success(), "mkfs.ext4 to succeed")
}

fn expect(condition: bool, what: &str) -> Done<()> {
    if condition {
        Ok(())
    } else {
        Err(format!("expected {what}").into())
    }
}

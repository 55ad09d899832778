//! What device-mapper does, as cases that every kernel must pass: the running one in a guest,
//! and the modelled one. A case that only one of them passes is a bug of the model.
//!
//! Errnos and flags are those of kernel 6.1; sources: dm-ioctl.c, dm.c and dm-thin.c in
//! drivers/md.
#![allow(dead_code)]

mod devices;
mod io;
mod pools;
mod tables;

use devmapper_snapshotter::dm::{
    ActivateOptions, DeviceInfo, Dm, NoSpacePolicy, PoolFeatures, StatusOptions, Target,
    ThinPoolStatus, ThinPoolTable, WorkingPool,
};
use devmapper_snapshotter::names::DmName;
use devmapper_snapshotter::units::{DeviceNumber, Sectors, ThinId};

pub use devices::*;
pub use io::*;
pub use pools::*;
pub use tables::*;

pub const MIB: u64 = 1 << 20;

/// 64 KiB: the pools' block.
pub const BLOCK: u64 = 65_536;

/// Where a case runs: one kernel, with disks to build on.
pub trait World {
    fn dm(&self) -> &Dm;

    /// A new disk of zeros.
    fn disk(&mut self, bytes: u64) -> DeviceNumber;

    /// Makes a disk longer or shorter.
    fn resize_disk(&mut self, disk: DeviceNumber, bytes: u64);

    /// Writes on a disk, past any device.
    fn fill_disk(&mut self, disk: DeviceNumber, offset: u64, bytes: &[u8]);

    /// A name of this world's own.
    fn name(&self, short: &str) -> DmName;

    /// Opens a device. Errors are errnos, here and in [`Opened`].
    fn open(&self, name: &DmName) -> Result<Box<dyn Opened>, i32>;
}

/// An open device. Offsets and lengths are multiples of 4096.
pub trait Opened {
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, i32>;
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), i32>;
    fn flush(&self) -> Result<(), i32>;
    fn discard(&self, offset: u64, length: u64) -> Result<(), i32>;
}

/// Calls `callback!` with the names of all cases.
macro_rules! for_every_case {
    ($callback:ident) => {
        $callback! {
            a_new_device_has_a_number_and_no_table,
            a_name_and_a_uuid_are_taken_once,
            a_minor_number_that_is_asked_for_is_given_once,
            every_verb_says_that_a_device_is_absent,
            names_and_uuids_go_up_to_their_limits,
            a_device_can_be_renamed,
            a_uuid_is_given_once,
            the_list_has_every_device,
            an_open_device_is_not_removed,
            a_deferred_removal_waits_for_the_last_close,
            a_deferred_removal_can_be_waited_for,
            a_device_is_found_by_name_uuid_or_number,
            a_device_below_another_is_in_use,
            suspend_and_resume_are_idempotent,
            a_device_without_a_table_cannot_be_resumed,
            a_loaded_table_takes_effect_at_resume,
            a_loaded_table_can_be_cleared,
            what_is_an_event,
            an_armed_listener_hears_of_events,
            a_watch_tells_what_changed,
            linear_shows_a_piece_of_a_disk,
            a_table_of_many_targets_is_read_whole,
            tables_that_make_no_sense_are_refused,
            a_table_past_the_end_is_told_apart,
            a_device_below_that_is_absent_is_told_apart,
            a_target_that_is_absent_is_told_apart,
            reload_keeps_the_device_running,
            reload_with_a_bad_table_keeps_the_old_one,
            thin_pools_take_only_their_block_sizes,
            a_new_pool_is_empty,
            a_pool_comes_back_with_what_it_had,
            a_pool_refuses_another_block_size,
            a_pool_refuses_metadata_that_is_not_its,
            metadata_belongs_to_one_pool,
            a_thin_id_is_taken_once,
            a_snapshot_needs_its_origin,
            an_absent_thin_is_neither_deleted_nor_activated,
            a_thin_with_a_device_is_not_deleted,
            a_pool_with_thins_is_in_use,
            a_thin_needs_a_pool,
            a_suspended_pool_takes_no_new_thin_devices,
            a_suspended_pool_takes_messages,
            messages_that_make_no_sense_are_refused,
            the_transaction_id_is_compared_and_swapped,
            a_metadata_snapshot_is_held_once,
            a_pool_grows_and_does_not_shrink,
            a_pool_whose_commit_fails_hides_it_and_has_failed,
            unwritten_blocks_read_as_zeros,
            a_snapshot_keeps_what_it_was_taken_of,
            a_write_to_a_shared_block_takes_a_block,
            deleting_frees_what_is_not_shared,
            discard_frees_whole_blocks,
            a_read_only_device_takes_no_writes,
            a_thin_can_be_active_twice,
            a_smaller_activation_hides_blocks,
            an_external_origin_shows_through,
            a_full_pool_refuses_new_blocks_alone,
            a_full_pool_goes_on_when_it_has_grown,
            low_water_is_an_event,
            each_event_of_a_pool_is_one_line_in_the_log,
            a_snapshot_of_a_device_leaves_it_running,
        }
    };
}

pub fn thin_id(id: u32) -> ThinId {
    ThinId::new(id).expect("a thin id")
}

pub fn sectors(bytes: u64) -> Sectors {
    Sectors::from_bytes_exact(bytes).expect("whole sectors")
}

/// The table of a pool on two new disks.
pub fn pool_table(world: &mut dyn World, data_bytes: u64) -> ThinPoolTable {
    let metadata = world.disk(4 * MIB);
    let data = world.disk(data_bytes);
    pool_table_on(metadata, data, data_bytes)
}

pub fn pool_table_on(metadata: DeviceNumber, data: DeviceNumber, bytes: u64) -> ThinPoolTable {
    ThinPoolTable {
        start: Sectors::ZERO,
        length: sectors(bytes),
        metadata: metadata.into(),
        data: data.into(),
        block_size: sectors(BLOCK),
        low_water_blocks: 2,
        features: PoolFeatures { no_space: NoSpacePolicy::Error, ..PoolFeatures::default() },
    }
}

/// An active pool on new disks.
pub fn pool(world: &mut dyn World, data_bytes: u64) -> DeviceInfo {
    let table = pool_table(world, data_bytes);
    activate(world, "pool", Target::ThinPool(table))
}

/// An active device of one target.
pub fn activate(world: &dyn World, short: &str, target: Target) -> DeviceInfo {
    let name = world.name(short);
    world
        .dm()
        .activate(&name, None, &[target], ActivateOptions::default())
        .unwrap_or_else(|error| panic!("{short}: {error}"))
}

/// An active device for the thin `id`, made first if need be.
pub fn thin(world: &dyn World, pool: &DeviceInfo, id: u32, bytes: u64) -> DmName {
    let _ = world.dm().create_thin(&pool.name, thin_id(id));
    let target = Target::thin(pool.device, thin_id(id), sectors(bytes));
    activate(world, &format!("thin{id}"), target).name
}

pub fn working(world: &dyn World, pool: &DeviceInfo) -> WorkingPool {
    match world.dm().pool_status(&pool.name, StatusOptions::default()).expect("a status") {
        ThinPoolStatus::Working(status) => status,
        other => panic!("the pool says {other}"),
    }
}

pub fn open(world: &dyn World, name: &DmName) -> Box<dyn Opened> {
    world.open(name).unwrap_or_else(|errno| panic!("open {name}: errno {errno}"))
}

pub fn errno<T: std::fmt::Debug>(result: devmapper_snapshotter::dm::Result<T>) -> i32 {
    result.expect_err("should have failed").errno().expect("an errno") as i32
}

//! A parent is removed and made anew while a snapshot is made on it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use devmapper_snapshotter::dm::FaultPlan;
use devmapper_snapshotter::snapshotter::{Error, Labels};

use super::explore::{run, Base};
use super::judge;
use super::machine::Steps;
use super::programs::by_hand::*;
use super::world::World;

/// A committed snapshot `p` without children.
fn with_parent() -> (Base, World) {
    let base = Base::new(true);
    let program = [prepare("a", ""), write("a", 4, 1, true), commit("p", "a")];
    let ran = run(&base, &program, &FaultPlan::counting(), Steps::Everything).unwrap();
    (base, ran.world)
}

/// Removes `p` and makes another `p` with other content. The thin of the old one is reclaimed at
/// once.
fn exchange(world: &World) -> Result<(), Error> {
    let snapshotter = world.snapshotter();
    snapshotter.remove("p")?;
    snapshotter.cleanup()?;
    snapshotter.prepare("a", "", Labels::new())?;
    snapshotter.commit("p", "a", Labels::new())
}

fn thin_of(world: &World, key: &str) -> u32 {
    world.store().read(|r| r.snapshot(key)).unwrap().thin.get()
}

#[test]
fn a_prepare_whose_parent_is_exchanged_after_its_look_up_stands_on_the_new_one() {
    let (_base, world) = with_parent();
    let old = thin_of(&world, "p");
    let ((reached, at), (go, wait)) = (channel(), channel());
    world.machine.before("create_snap", move || {
        reached.send(()).unwrap();
        wait.recv().unwrap();
    });
    let mounts = std::thread::scope(|scope| {
        let prepared = scope.spawn(|| world.snapshotter().prepare("b", "p", Labels::new()));
        at.recv().unwrap();
        // It is not reclaimed, so a snapshot of the old thin could still be made.
        world.snapshotter().remove("p").unwrap();
        world.snapshotter().prepare("a", "", Labels::new()).unwrap();
        world.snapshotter().commit("p", "a", Labels::new()).unwrap();
        go.send(()).unwrap();
        prepared.join().unwrap()
    });
    assert_ne!(thin_of(&world, "p"), old);
    assert_eq!(mounts.unwrap().len(), 1);
    // The first parent had a write in this block, the second had none.
    let attached = world
        .machine
        .attach(world.snapshotter().mounts("b").unwrap()[0].source.as_ref(), false)
        .unwrap();
    let mut block = [0; 8];
    attached.handle.read_at(&mut block, 4 * super::machine::BLOCK.0 * 512).unwrap();
    assert_eq!(block, [0; 8], "the snapshot has the content of the removed parent");
    drop(attached);
    world.snapshotter().cleanup().unwrap();
    judge::findings(&world, "afterwards", |_| false).unwrap();
}

#[test]
fn a_prepare_whose_parent_goes_after_its_look_up_is_told_so_and_leaves_nothing() {
    let (_base, world) = with_parent();
    let ((reached, at), (go, wait)) = (channel(), channel());
    world.machine.before("create_snap", move || {
        reached.send(()).unwrap();
        wait.recv().unwrap();
    });
    let error = std::thread::scope(|scope| {
        let prepared = scope.spawn(|| world.snapshotter().prepare("b", "p", Labels::new()));
        at.recv().unwrap();
        world.snapshotter().remove("p").unwrap();
        go.send(()).unwrap();
        prepared.join().unwrap().unwrap_err()
    });
    assert!(error.to_string().contains("\"p\" does not exist"), "{error}");
    world.snapshotter().cleanup().unwrap();
    judge::findings(&world, "afterwards", |_| false).unwrap();
    assert_eq!(world.thins().len(), 1, "the template alone should be left");
}

/// Ends the other thread when this one ends, also by a panic.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_view_shows_the_thin_of_the_parent_that_is_on_record_however_often_that_is_exchanged() {
    let (_base, world) = with_parent();
    let (stop, exchanges) = (AtomicBool::new(false), AtomicU32::new(0));
    let views = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match exchange(&world) {
                    Ok(()) => drop(exchanges.fetch_add(1, Ordering::Relaxed)),
                    Err(Error::HasChildren { .. }) => {}
                    Err(error) => panic!("exchanging: {error}"),
                }
                std::thread::yield_now();
            }
        });
        let _ends = StopOnDrop(&stop);
        let (mut views, end) = (0, Instant::now() + Duration::from_secs(20));
        while (views < 200 || exchanges.load(Ordering::Relaxed) < 200) && Instant::now() < end {
            match world.snapshotter().view("v", "p", Labels::new()) {
                Ok(_) => {
                    views += 1;
                    // The parent cannot be removed while the view exists.
                    assert_eq!(thin_of(&world, "v"), thin_of(&world, "p"));
                    world.snapshotter().remove("v").unwrap();
                }
                Err(Error::ParentNotFound { .. } | Error::ParentChanged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        views
    });
    let exchanges = exchanges.into_inner();
    println!("{views} views, {exchanges} exchanges");
    assert!(views > 0 && exchanges > 0, "{views} views, {exchanges} exchanges");
    world.snapshotter().cleanup().unwrap();
    judge::findings(&world, "afterwards", |_| false).unwrap();
}

//! The database's disk loses data: a bit flips, a sector is lost or goes back to its older
//! content. The daemon either refuses to start and changes nothing, or everything that was
//! acknowledged is there.

use devmapper_snapshotter::dm::fake::Unflushed;
use devmapper_snapshotter::dm::FaultPlan;

use super::explore::{explored, print_explored, run, Base, Ran};
use super::judge::{self, Loss};
use super::machine::Steps;
use super::programs::classics;
use super::storage::Survivors;
use super::world::{Image, World};

/// How many starts ended in each way.
#[derive(Default)]
struct Ends {
    started: u32,
    refused: u32,
    /// Refused because an acknowledged commit is missing.
    behind: u32,
}

type Damage = (String, Box<dyn Fn(&mut Vec<u8>)>);

/// Damages the used part of an image at many places, at other places for each `seed`. `before` is
/// an earlier image.
fn damages(bytes: &[u8], before: &[u8], seed: usize) -> Vec<Damage> {
    let used = (bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1).max(4096);
    let mut damages: Vec<Damage> = Vec::new();
    let header = (0..400).map(|at| (at * 3 + seed) % 400).step_by(29);
    let rest = (4096 + seed * 131..used).step_by(997);
    for at in header.chain(rest) {
        damages.push((format!("bit at {at}"), Box::new(move |bytes| bytes[at] ^= 1 << (at % 8))));
    }
    for at in (seed % 4 * 512..used).step_by(2048) {
        damages
            .push((format!("sector at {at}"), Box::new(move |bytes| bytes[at..at + 512].fill(0))));
    }
    for at in (0..used.min(before.len())).step_by(4096) {
        let old = before[at..(at + 4096).min(before.len())].to_vec();
        damages.push((
            format!("older page at {at}"),
            Box::new(move |bytes| bytes[at..at + old.len()].copy_from_slice(&old)),
        ));
    }
    damages
}

/// Damages an image of `image` many times, and starts a daemon on each.
fn explore(
    base: &Base,
    ran: &Ran,
    image: impl Fn() -> Image,
    before: &[u8],
    seed: usize,
    ends: &mut Ends,
) {
    for (what, damage) in damages(&image().bytes, before, seed) {
        explored("damage");
        let mut damaged = image();
        damage(&mut damaged.bytes);
        let mut world = World::on(damaged, base.setup(), &FaultPlan::counting(), Steps::Durable);
        let thins = ran.world.thins();
        match world.start() {
            Ok(()) => {
                ends.started += 1;
                judge::after_start(&mut world, std::slice::from_ref(&ran.model), Loss::Unflushed)
                    .unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
            }
            Err(error) => {
                let behind = error.contains("are lost") && error.contains("nothing deleted");
                assert!(
                    behind || error.contains("damaged") || error.contains("understood"),
                    "{what}: {error}"
                );
                ends.behind += u32::from(behind);
                ends.refused += 1;
                // A pool that was not assembled has no thins to list.
                let left = world.thins();
                assert!(
                    left.is_empty() || left == thins,
                    "{what}: the start is refused, but thins were deleted: {error}"
                );
            }
        }
    }
}

#[test]
fn a_damaged_database_is_refused_or_whole_and_no_thin_is_deleted_by_it() {
    let mut ends = Ends::default();
    for (seed, (story, program)) in classics().into_iter().enumerate() {
        let base = Base::new(true);
        let (last, calls) = program.split_last().unwrap();
        let before = run(&base, calls, &FaultPlan::counting(), Steps::Durable)
            .unwrap()
            .world
            .storage
            .cached();
        let mut ran = run(&base, &program, &FaultPlan::counting(), Steps::Durable).unwrap();
        println!("{story}, {last:?} last");
        if seed % 2 == 0 {
            ran.world.switch_off();
        }
        let image = || ran.world.power_cut(Unflushed::Kept, Survivors::Everything);
        explore(&base, &ran, image, &before, seed, &mut ends);
    }
    let Ends { started, refused, behind } = ends;
    print_explored("damage", &[]);
    println!("{started} started, {refused} refused, {behind} of them behind");
    assert!(
        started > 100 && refused > 50 && behind > 20,
        "{started} started, {refused} refused, {behind} behind"
    );
}

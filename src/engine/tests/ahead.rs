//! Working ahead changes when words are expanded, and nothing else.

use super::world::{World, device, rosters, small_program};
use crate::backend::cpu::Cpu;
use crate::engine::ahead::Stock;
use crate::engine::frame::Frame;
use crate::program::plan::AHEAD_WORDS;
use crate::program::random::{self, Choices};
use crate::program::{Builder, Comparisons, Planning, Program, Type};
use crate::roster::{Roster, Slot};
use crate::sharing::{Shamir, SlotKeys};

/// What every node says and holds, with and without work ahead at random moments.
#[test]
fn a_party_says_the_same_whenever_it_works_ahead() {
    let device = device();
    let packed = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    let plannings = rosters().into_iter().map(|roster| (roster, Planning::default()));
    for (roster, planning) in plannings.chain([(Roster::shamir(4, 1).unwrap(), packed)]) {
        for seed in 0..if device.can_be_lost() { 2 } else { 20 } {
            let program = random::program(seed, 12);
            let inputs = random::inputs(&program, seed ^ 0x5eed);
            let run = |ahead| {
                let mut world = World::planned(&device, &program, (roster, planning), &inputs, seed);
                world.ahead = ahead;
                world.run();
                let sent: Vec<_> = world.sent.iter().map(Frame::encode).collect();
                (world.outputs(), sent)
            };
            let plain = run(None);
            assert!(plain == run(Some(Choices(seed))), "{roster}, seed {seed}: it differs");
        }
    }
}

/// It may be called until there is nothing more to do, before and after.
#[test]
fn there_is_an_end_to_working_ahead() {
    for roster in rosters() {
        let mut world = World::small(roster, 3);
        assert!(world.parties[0].ahead());
        for _ in 0..3 {
            world.parties.iter_mut().for_each(|party| while party.ahead() {});
        }
        world.run();
        assert!(world.parties.iter_mut().all(|party| !party.ahead()));
        assert_eq!(world.outcomes.len(), world.slots().len());
        world.outputs();
    }
}

fn node(roster: Roster) -> Shamir<Cpu> {
    let (program, inputs) = small_program();
    let (job, ..) = super::world::job_of(&program, roster, &inputs, 1);
    match job.dealer().slot_keys(Slot(1)) {
        SlotKeys::Shamir(keys) => Shamir::new(roster, Slot(1), keys, Cpu).unwrap(),
        SlotKeys::Spdz(_) => unreachable!("the roster is Shamir's"),
    }
}

fn products(n: usize, of: usize) -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::int(-9..=9), [n]);
    (0..of).for_each(|i| b.output(&format!("y{i}"), "alice", &(&x * &(&x + i as f64))));
    b.finish().unwrap()
}

/// The stock ends at its bound, and every address is taken from it once.
#[test]
fn the_stock_is_bounded_and_gives_nothing_twice() {
    let roster = Roster::shamir(4, 1).unwrap();
    let (sharing, n) = (node(roster), AHEAD_WORDS as usize / 5);
    let plan = products(n, 4).plan(roster).unwrap();
    let mut stock = Stock::new();
    let drawing = crate::program::Drawing::new(&plan, 0);
    while stock.more(&sharing, &plan, 0, &drawing) {}
    // The input and a mask or zeros at a time, as long as they fit whole.
    assert_eq!(stock.held(), 5 * n as u64);
    let first = plan.rounds[0].local.iter().map(|i| &plan.prims[*i as usize]);
    let (address, _) = first.filter_map(|prim| crate::engine::ahead::drawn(prim, &drawing)).next().unwrap();
    assert!(stock.take(address, n as u64).is_some());
    assert!(stock.take(address, n as u64).is_none());
    // A round that is over is not expanded again.
    while stock.more(&sharing, &plan, plan.rounds.len(), &drawing) {}
    assert_eq!(stock.held(), 4 * n as u64);
    assert!(plan.live_words() >= 5 * n as u64);
}

//! The engine sends what the plan predicts, to the byte.

use super::world::{World, device, rosters, small_program};
use crate::engine::frame::Kind;
use crate::program::{Comparisons, Planning};
use crate::roster::Roster;

#[test]
fn the_wire_is_what_the_plan_predicts() {
    for roster in rosters() {
        let mut world = World::small(roster, 5);
        world.run();
        let cost = world.job.plan().cost();
        for slot in world.slots() {
            let own: Vec<_> = world.sent.iter().filter(|f| f.header.from == slot).collect();
            let sent: usize = own.iter().map(|f| f.encode().len()).sum();
            assert_eq!(sent as u64, cost.sent_bytes, "{roster}, {slot}");
            let exchanges = own.iter().filter(|f| f.header.kind != Kind::Segment).count() as u64;
            // That all are ready is not the engine's to say.
            assert_eq!(exchanges, (cost.exchanges - 1) * (u64::from(roster.nodes()) - 1), "{roster}, {slot}");
        }
    }
}

/// Layers of packed bits too.
#[test]
fn packed_bits_are_what_the_plan_predicts() {
    let packed = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    let (program, inputs) = small_program();
    let mut world = World::planned(&device(), &program, (Roster::shamir(4, 1).unwrap(), packed), &inputs, 5);
    world.run();
    let cost = world.job.plan().cost();
    for slot in world.slots() {
        let own: Vec<_> = world.sent.iter().filter(|f| f.header.from == slot).collect();
        assert!(own.iter().any(|f| f.header.kind == Kind::Packed));
        let sent: usize = own.iter().map(|f| f.encode().len()).sum();
        assert_eq!(sent as u64, cost.sent_bytes, "{slot}");
    }
}

/// A party on a GPU takes in what comes in messages and the constants of the program, gives
/// out what goes into messages, and nothing else crosses the bus.
#[cfg(feature = "gpu")]
#[test]
fn only_messages_cross_the_bus() {
    use crate::backend::Device;
    use crate::backend::gpu::{Gpu, Options};
    if crate::backend::gpu::test_device().is_none() {
        return;
    }
    for roster in [Roster::shamir(4, 1).unwrap(), Roster::shamir(3, 1).unwrap()] {
        // Nobody else's words are counted.
        let gpu = Gpu::open(Options { software: true, ..Options::default() }).unwrap();
        let before = gpu.traffic();
        let (program, inputs) = small_program();
        let mut world = World::on(&Device::Gpu(gpu.clone()), &program, roster, &inputs, 5);
        world.run();
        let plan = world.job.plan();
        let sum = |lens: &mut dyn Iterator<Item = usize>| lens.sum::<usize>() as u64;
        let openings = (0..plan.rounds.len()).map(|round| plan.openings(round).count() as u64).sum::<u64>();
        let opened = sum(&mut (0..plan.rounds.len()).flat_map(|round| plan.openings(round)).map(|(_, _, words)| words));
        let inputs = sum(&mut plan.inputs.iter().map(|input| input.words as usize));
        let outputs = sum(&mut plan.outputs.iter().map(|output| output.shape.len()));
        let constants = sum(&mut plan.constants.iter().map(Vec::len));
        let nodes = u64::from(roster.nodes());
        let (up, down) = (gpu.traffic().up - before.up, gpu.traffic().down - before.down);
        assert_eq!(up, nodes * (inputs + plan.stream_words + constants + (nodes - 1) * opened), "{roster}");
        // Own shares, opened words with one flag for each opening, shares of outputs.
        assert_eq!(down, nodes * (opened + opened + openings + outputs), "{roster}");
    }
}

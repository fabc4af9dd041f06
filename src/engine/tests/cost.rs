//! The engine sends what the plan predicts, to the byte.

use super::world::{World, rosters};
use crate::engine::frame::Kind;

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
            assert_eq!(exchanges, cost.exchanges * (u64::from(roster.nodes()) - 1), "{roster}, {slot}");
        }
    }
}

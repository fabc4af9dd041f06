//! Parties whose device is lost in the middle of a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::world::{World, planned_job, rosters, small_program};
use crate::backend::gpu::{Gpu, Options};
use crate::backend::{Device, gpu};
use crate::engine::frame::Frame;
use crate::engine::{Action, Checkpoint, EngineError, Event, Party};
use crate::entropy::Entropy;
use crate::job::replay::{Log, Survivor};
use crate::job::{Assigned, Limits};
use crate::program::{Openings, Planning};
use crate::roster::{Roster, Slot};

/// A log in memory that an adversary (a failing disk) may change.
struct Kept {
    entries: Arc<Mutex<Vec<Vec<u8>>>>,
    segments: Vec<Vec<u8>>,
    change: fn(u32, &mut Vec<u8>),
}

impl Log for Kept {
    fn append(&mut self, index: u32, entry: &[u8]) -> Result<(), String> {
        let mut entries = self.entries.lock().unwrap();
        assert_eq!(entries.len(), index as usize);
        entries.push(entry.to_vec());
        Ok(())
    }
    fn entry(&self, index: u32) -> Result<Vec<u8>, String> {
        let mut entry = self.entries.lock().unwrap()[index as usize].clone();
        (self.change)(index, &mut entry);
        Ok(entry)
    }
    fn segment(&self, index: u32) -> Result<Vec<u8>, String> {
        Ok(self.segments[index as usize].clone())
    }
}

/// Destroys its device before one of its events.
struct Doomed {
    survivor: Survivor,
    gpu: Gpu,
    events: usize,
    at: usize,
    lost: Arc<Mutex<bool>>,
}

impl Party for Doomed {
    fn step(&mut self, event: Event) -> Result<Vec<Action>, EngineError> {
        if self.events == self.at {
            self.gpu.destroy();
        }
        self.events += 1;
        let actions = self.survivor.step(event);
        // A party half made again must not go on: a deadline of some other
        // step, which says nothing, would be taken.
        if actions.is_err() {
            assert!(matches!(
                self.survivor.step(Event::Deadline { token: u32::MAX, last: true }),
                Err(EngineError::Unasked(_))
            ));
        }
        *self.lost.lock().unwrap() |= self.survivor.is_rebuilt();
        // What lies ready on a device that is lost is of no use to the next party.
        while self.events % 3 == 1 && self.ahead() {}
        actions
    }
    fn ahead(&mut self) -> bool {
        self.survivor.ahead()
    }
    fn checkpoint_before(&mut self, rounds: &[usize]) {
        self.survivor.checkpoint_before(rounds);
    }
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        self.survivor.restore(checkpoint)
    }
    fn blames(&self, peer: Slot) -> bool {
        self.survivor.blames(peer)
    }
    fn rest(&mut self) {
        self.survivor.rest();
    }
    fn progress(&self) -> (usize, usize) {
        self.survivor.progress()
    }
    fn largest_frame(&self) -> usize {
        self.survivor.largest_frame()
    }
}

/// A device that a test may destroy.
fn device() -> Gpu {
    Gpu::open(Options { software: true, ..Options::default() }).unwrap()
}

/// A world whose first party loses its device before event number `at`;
/// whether it noticed.
fn doomed(
    gpu: Gpu,
    planned: (Roster, Planning),
    at: usize,
    change: fn(u32, &mut Vec<u8>),
) -> (World<'static>, Arc<Mutex<bool>>) {
    let (program, inputs) = small_program();
    let mut world = World::planned(&super::world::device(), &program, planned, &inputs, 5);
    let (_, _, nodes) = planned_job(&program, planned, &inputs, 5);
    let assignment = world.job.assignment(Slot(1));
    let assigned = Assigned::check(assignment, &nodes[0].public(), 0, &Limits::unlimited()).unwrap();
    let segments = world.segments.iter().map(|(_, bytes)| bytes.clone()).collect();
    let log = Box::new(Kept { entries: Arc::default(), segments, change });
    let mut rng = Entropy::insecure_from_seed(5).generator(&[b"engine", &[1]]).unwrap();
    let device = Device::Gpu(gpu.clone());
    let survivor = Survivor::new(assigned, world.job.inputs().to_vec(), &device, &mut *rng, log).unwrap();
    let lost = Arc::default();
    world.parties[0] = Box::new(Doomed { survivor, gpu, events: 0, at, lost: Arc::clone(&lost) });
    (world, lost)
}

/// What the first node said to each other, in order.
fn said(world: &World<'_>) -> BTreeMap<u8, Vec<Vec<u8>>> {
    let mut said: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in world.sent.iter().filter(|frame| frame.header.from == Slot(1)) {
        said.entry(frame.header.to.0).or_default().push(Frame::encode(frame));
    }
    said
}

#[test]
fn a_lost_device_changes_no_byte_of_what_a_node_says() {
    let all = [rosters()[0], rosters()[2], Roster::spdz(3).unwrap()].map(|roster| (roster, Planning::default()));
    let king = Planning { openings: Openings::King, ..Planning::default() };
    let by_kings = [rosters()[0], rosters()[2]].map(|roster| (roster, king));
    for (roster, planning) in all.into_iter().chain(by_kings) {
        // Never lost: how many events there are, and what is said.
        let Some(gpu) = gpu::test_device() else { return };
        let (mut world, lost) = doomed(gpu, (roster, planning), usize::MAX, |_, _| {});
        world.run();
        let (outputs, undisturbed) = (world.outputs(), said(&world));
        assert!(!*lost.lock().unwrap());
        let mut losses = 0;
        for at in [2, 7, 12, 15, 18, 22, 26, 33, 40] {
            let (mut world, lost) = doomed(device(), (roster, planning), at, |_, _| {});
            world.run();
            assert_eq!(world.outputs(), outputs, "{roster}, lost before event {at}");
            assert!(said(&world) == undisturbed, "{roster}, lost before event {at}: something else was said");
            losses += usize::from(*lost.lock().unwrap());
        }
        assert!(losses >= 3, "{roster}: only {losses} losses were noticed");
    }
}

/// Were one share in the log changed, the new party would open another word,
/// and say things that depend on it.
#[test]
fn a_changed_log_ends_the_job_before_anything_new_is_said() {
    ends_before_anything_new(
        || gpu::test_device().map(|_| device()),
        "the log of the job is not what was written",
        |index, entry| {
            if index == 9 {
                entry.last_mut().map(|byte| *byte ^= 1).unwrap();
            }
        },
    );
}

/// A device that computed wrong words before it was lost: the CPU would now say
/// other words under the same masks.
#[test]
fn a_device_that_was_wrong_before_it_was_lost_ends_the_job() {
    ends_before_anything_new(gpu::wrong_device, "would have said something else", |_, _| {});
}

fn ends_before_anything_new(open: impl Fn() -> Option<Gpu>, why: &str, change: fn(u32, &mut Vec<u8>)) {
    let roster = (Roster::spdz(2).unwrap(), Planning::default());
    let mut ended = 0;
    for at in 14..22 {
        let Some(gpu) = open() else { return };
        let (mut world, _) = doomed(gpu.clone(), roster, usize::MAX, change);
        world.run();
        let undisturbed = said(&world);
        let (mut world, lost) = doomed(gpu, roster, at, change);
        world.run();
        if let EngineError::Replay(reason) = world.error(1) {
            assert!(!*lost.lock().unwrap());
            assert!(said(&world).iter().all(|(to, said)| undisturbed[to].starts_with(said)));
            // Or the others said it first: their transcripts differ from the replay.
            ended += usize::from(reason.contains(why));
        }
    }
    assert!(ended > 0);
}

/// It begins at the checkpoint again, on the CPU, after the headers that it had heard before.
#[test]
fn a_party_that_began_at_a_checkpoint_outlives_its_device() {
    use super::checkpoint::{goes_on, kept, replaying, went_on};
    let (program, inputs) = small_program();
    let roster = Roster::shamir(5, 1).unwrap();
    let world = kept(&Device::Cpu, &program, roster, &inputs, 5);
    let mut losses = 0;
    for (checkpoint, at) in world.checkpoints[&Slot(1)].iter().zip([3, 9, 14]) {
        let Some(_) = gpu::test_device() else { return };
        let (mut doomed, lost) = doomed(device(), (roster, replaying()), at, |_, _| {});
        let party = &mut doomed.parties[0];
        for (header, _) in &world.segments {
            party.step(Event::Header(Box::new(*header))).unwrap();
        }
        party.restore(checkpoint).unwrap();
        let round = checkpoint.round();
        assert!(goes_on(&world, &mut **party, round) == went_on(&world, round), "before round {round}");
        losses += usize::from(*lost.lock().unwrap());
    }
    assert!(losses > 0);
}

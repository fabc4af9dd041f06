//! Whole sessions in one thread, on virtual time and virtual links, while nodes
//! are killed and come back, links are cut, messages are late, doubled, dropped
//! or changed.
//!
//! Everything follows from a seed, which every failure names. More jobs than in the
//! normal run:
//!
//! ```text
//! BEAVERDAM_CHAOS_JOBS=10000 BEAVERDAM_CHAOS_SEED=1 cargo test --release --lib chaos -- --ignored --nocapture
//! ```

mod attempts;
mod case;
mod disk;
mod judge;
mod ledger;
mod misfortune;
mod network;
mod process;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use self::case::case;
use self::case::{cases, cases_with_attempts, cases_with_spares};
use self::judge::CAUSES;
use self::ledger::Ledger;
use self::misfortune::misfortune;
use super::Takes;
use super::session::{Event, Timer};
use super::setup::Keep;
use super::spare::Actor;
use crate::backend::Devices;
use crate::keys::SecretKey;
use crate::owner::Prepared;
use crate::program::plan::Plan;
use crate::program::random::Choices;
use crate::roster::{Roster, Slot};
use crate::store::{JobState, MemoryStore, Store};
use crate::transcript::SignedHeader;

const DEADLINE: u64 = 10_000;
const PATIENCE: u64 = 200_000;
const REPLACE_AFTER: u64 = 30_000;
/// Owners are waited for so long.
const EXPIRES: u64 = 3_600_000;
/// From the last segment until all are on disk.
const SYNCING: u64 = 100;
/// No job takes so long: it hangs.
const FOREVER: u64 = 4 * 3_600_000;
/// Whom tests of one killed node kill.
const VICTIM: Slot = Slot(2);

/// A prepared job, which many runs compute; whatever befalls them, honest nodes
/// say the same in all.
pub(super) struct Case {
    name: &'static str,
    pub(super) job: Prepared,
    owner: Arc<SecretKey>,
    /// of the nodes, then of the spares
    keys: Vec<Arc<SecretKey>>,
    segments: Vec<(SignedHeader, Vec<u8>)>,
    devices: Arc<Devices>,
    /// what is sealed to the owner at each node, and the transcript, when nothing happens
    pub(super) right: BTreeMap<Slot, (Vec<Vec<u8>>, [u8; 32])>,
    ledger: Ledger,
    /// the outputs in the clear, as computed without shares
    real: BTreeMap<String, Vec<f64>>,
}

/// What befalls a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Chaos {
    /// one message in so many is late by seconds; 0 for none
    pub(super) late: u64,
    pub(super) doubled: u64,
    pub(super) dropped: u64,
    /// links are cut at these times
    pub(super) cuts: Vec<(u64, Slot, Slot)>,
    /// these nodes are parted from all others, from when to when
    pub(super) parted: Vec<(u64, u64, Vec<Slot>)>,
    /// nodes are killed, and come back, if they do
    pub(super) kills: Vec<(u64, Slot, Option<u64>)>,
    pub(super) corrupt: Vec<Slot>,
    /// the owner deals one attempt more at these times, and a run may be cut short: after so many messages
    pub(super) resumes: Vec<(u64, usize)>,
    /// nodes keep their state before each so manieth round; 0 for never
    pub(super) every: usize,
}

pub(super) struct Node {
    session: Option<Actor>,
    /// the slot for which it computes; a spare has none before it is called
    pub(super) slot: Option<Slot>,
    pub(super) store: Arc<MemoryStore>,
    /// counts the processes, so that what concerned an earlier one is told apart
    life: u32,
    timers: BTreeMap<Timer, u64>,
    pub(super) ended: Option<Result<(), String>>,
    /// segments below this its party takes as they come
    takes: Takes,
    /// what its store held when readers were told: the job's state, and how many segments
    told: Option<(JobState, u64)>,
}

enum Happening {
    Owner(Slot, u32, Upload),
    Synced(Slot, u32),
    Arrive { from: Slot, to: Slot, epoch: u64, bytes: Vec<u8> },
    Timer { slot: Slot, life: u32, timer: Timer, number: u64 },
    Dial(Slot, Slot),
    Lost { slot: Slot, life: u32, peer: Slot, epoch: u64 },
    Cut(Slot, Slot),
    Part(Vec<Slot>, bool),
    Kill(Slot, Option<u64>),
    Restart(Slot),
    Resume(usize),
}

#[derive(Clone, Copy)]
enum Upload {
    Inputs,
    Segment(usize),
}

#[derive(Default)]
struct Link {
    /// the number of the link that there is now
    up: Option<u64>,
    /// when the last message arrives, each way
    busy: [u64; 2],
}

/// Time, sender, receiver, message.
pub(super) type Hook<'a> = Box<dyn FnMut(u64, Slot, Slot, &mut Vec<u8>) -> bool + 'a>;

pub(super) struct World<'a> {
    pub(super) case: &'a mut Case,
    chaos: Chaos,
    choices: Choices,
    pub(super) nodes: Vec<Node>,
    links: BTreeMap<(Slot, Slot), Link>,
    parted: BTreeSet<Slot>,
    queue: BTreeMap<(u64, u64), Happening>,
    now: u64,
    /// when the last session ended
    over: u64,
    count: u64,
    /// what the nodes say of their end, in the transcript's place
    finishing: BTreeSet<Slot>,
    /// a node was killed when it was done, and others may have needed its last word
    cut_short: bool,
    /// whose disk somebody has changed
    changed: Option<Slot>,
    tracing: bool,
    /// what a test does with messages on their way, given the time: whether they arrive
    pub(super) hook: Option<Hook<'a>>,
    ledger: Ledger,
    /// which process of a node has spoken in an attempt
    spoke: BTreeMap<(Slot, u32), u32>,
    pub(super) tally: Tally,
    /// what is done to the disk of a node before it is started again
    damage: Option<Damage>,
}

/// Changes what a node keeps of a job; says whether there was anything to change.
type Damage = fn(&Keep, &Plan) -> bool;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    jobs: u64,
    done: u64,
    failed: u64,
    kills: u64,
    returns: u64,
    restored: u64,
    /// the highest attempt in which anybody spoke
    attempts: u64,
    /// runs in which the owner dealt more, and jobs in which somebody spoke in an attempt of theirs
    resumes: u64,
    extended: u64,
    /// jobs that ended without a result, by [`CAUSES`]
    causes: [u64; CAUSES.len()],
    /// spares that have taken a slot
    pub(super) called: u64,
    links: u64,
    messages: u64,
    virtual_s: u64,
    damaged: u64,
}

fn chaos(mut cases: Vec<Case>, jobs: u64, first: u64) -> Tally {
    let mut sum = Tally::default();
    for seed in first..first + jobs {
        let index = (seed % cases.len() as u64) as usize;
        let case = &mut cases[index];
        let (chaos, must) = misfortune(case, seed);
        let text = format!("seed {seed}: {} must {must}, {chaos:?}", case.name);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(case, seed, chaos);
            world.run();
            world.judge(must);
            world.tally
        }));
        let Ok(tally) = run else {
            panic!("BEAVERDAM_CHAOS_SEED={seed} BEAVERDAM_CHAOS_JOBS=1 shows it again: {text}")
        };
        sum = sum + tally;
    }
    println!("{sum:?}");
    for (cause, count) in CAUSES.iter().zip(sum.causes).filter(|(_, count)| *count > 0) {
        println!("{count:>6} ended by {cause}");
    }
    sum
}

impl std::ops::Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            done: self.done + other.done,
            failed: self.failed + other.failed,
            kills: self.kills + other.kills,
            returns: self.returns + other.returns,
            restored: self.restored + other.restored,
            attempts: self.attempts + other.attempts,
            resumes: self.resumes + other.resumes,
            extended: self.extended + other.extended,
            causes: std::array::from_fn(|cause| self.causes[cause] + other.causes[cause]),
            called: self.called + other.called,
            links: self.links + other.links,
            messages: self.messages + other.messages,
            virtual_s: self.virtual_s + other.virtual_s,
            damaged: self.damaged + other.damaged,
        }
    }
}

fn much_chaos(cases: Vec<Case>) -> Tally {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let (jobs, seed) = (number("BEAVERDAM_CHAOS_JOBS"), number("BEAVERDAM_CHAOS_SEED"));
    chaos(cases, jobs.unwrap_or(10_000), seed.unwrap_or(1))
}

#[test]
fn chaos_never_changes_a_message_nor_a_result() {
    let sum = chaos(cases(), 500, 1);
    assert!(sum.done > 300 && sum.kills > 300 && sum.returns > 200 && sum.restored > 20, "{sum:?}");
}

#[test]
fn spdz_goes_on_in_other_attempts_in_chaos() {
    let sum = crate::program::eager(|| chaos(cases_with_attempts(), 300, 1));
    assert!(sum.done > 150 && sum.kills > 200 && sum.attempts > 100 && sum.restored > 50, "{sum:?}");
    assert!(sum.resumes > 20 && sum.extended > 3, "{sum:?}");
}

#[test]
#[ignore = "long: set BEAVERDAM_CHAOS_JOBS"]
fn spdz_goes_on_in_other_attempts_in_much_chaos() {
    crate::program::eager(|| much_chaos(cases_with_attempts()));
}

/// A job that no later process takes up leaves nothing on disk that only this one could use, and
/// its readers do not wait for the disk. One that is taken up gives its result once. What it has kept is not
/// removed while readers take the result, and then it is.
#[test]
fn readers_wait_for_the_disk_where_the_result_could_be_made_again() {
    for (mut case, replays) in [
        (case("SPDZ", Roster::spdz(3).unwrap(), 0, 0, 0), false),
        (case("(5, 1)", Roster::shamir(5, 1).unwrap(), 0, 0, 0), true),
    ] {
        assert_eq!(case.job.plan().replays(), replays);
        let (of, nonce) = (case.segments.len() as u64, case.nonce());
        assert!(of > 0);
        let told = if replays { (JobState::Finished, of) } else { (JobState::Running, 0) };
        let mut world = World::new(&mut case, 1, Chaos::default());
        world.run();
        for node in &world.nodes {
            assert_eq!((&node.ended, node.told.as_ref()), (&Some(Ok(())), Some(&told)));
            assert_eq!(node.store.segments(nonce).unwrap().count, 0);
        }
    }
}

#[test]
#[ignore = "long: set BEAVERDAM_CHAOS_JOBS"]
fn much_chaos_never_changes_a_message_nor_a_result() {
    much_chaos(cases());
}

#[test]
fn spares_take_over_in_chaos_and_say_the_same() {
    let sum = chaos(cases_with_spares(), 500, 1);
    assert!(sum.done > 300 && sum.kills > 300 && sum.called > 50, "{sum:?}");
}

/// Between the moment in which readers have it and the one in which the disk has it.
#[test]
fn a_result_that_was_told_is_stored_whatever_comes() {
    let mut case = case("SPDZ", Roster::spdz(3).unwrap(), 0, 0, 0);
    let lost = Event::Lost { peer: Slot(1), reason: "cut".to_owned() };
    let unreachable = Event::Unreachable { peer: Slot(1), reason: "gone".to_owned() };
    let events = [
        ("nothing", None),
        ("a link that ends", Some(lost)),
        ("a peer that fails", Some(unreachable)),
        ("a deadline", Some(Event::Timer(Timer::Patience))),
        ("a shutdown", Some(Event::Leave)),
        ("its owner, too late", Some(Event::Stop("cancelled".to_owned()))),
    ];
    for (what, event) in events {
        let nonce = case.nonce();
        let mut world = World::new(&mut case, 0, Chaos::default());
        while world.nodes[VICTIM.index()].told.is_none() {
            assert!(world.goes_on());
        }
        let store = Arc::clone(&world.nodes[VICTIM.index()].store);
        assert_eq!(store.state(nonce).unwrap(), Some(JobState::Running), "{what}: told first");
        if let Some(event) = event {
            world.step(VICTIM, event);
        }
        while world.nodes[VICTIM.index()].ended.is_none() {
            assert!(world.goes_on(), "{what}");
        }
        let ended = world.nodes[VICTIM.index()].ended.clone().unwrap();
        assert_eq!(ended, Ok(()), "{what}");
        assert!(store.record(nonce).unwrap().is_some(), "{what}");
        assert_eq!(store.state(nonce).unwrap(), Some(JobState::Finished), "{what}");
    }
}

#[test]
#[ignore = "long: set BEAVERDAM_CHAOS_JOBS"]
fn spares_take_over_in_much_chaos_and_say_the_same() {
    much_chaos(cases_with_spares());
}

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
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::extend::Taking;
use super::session::{Action, Event, Means, Timer};
use super::setup::Keep;
use super::spare::Actor;
use super::wire::{Peer, ToNode};
use super::{Again, Kept, Takes};
use crate::backend::{Choice, Devices};
use crate::engine::frame::{Frame, HEADER_BYTES, Kind};
use crate::entropy::Entropy;
use crate::field::Fp61;
use crate::field::slice::decode_words;
use crate::job::{Concluded, Duty, Limits};
use crate::keys::SecretKey;
use crate::owner::{Dealing, Prepared, Request, prepare};
use crate::program::plan::Plan;
use crate::program::random::Choices;
use crate::program::{Builder, Comparisons, Openings, Planning, Type};
use crate::roster::{Roster, Scheme, Slot};
use crate::seal::{SealInfo, Sealed, open};
use crate::store::{JobState, MemoryStore, Store};
use crate::transcript::{SignedHeader, Transcript};

const DEADLINE: u64 = 10_000;
const PATIENCE: u64 = 200_000;
const REPLACE_AFTER: u64 = 30_000;
/// Owners are waited for so long.
const EXPIRES: u64 = 3_600_000;
/// From the last segment until all are on disk.
const SYNCING: u64 = 100;
/// No job takes so long: it hangs.
const FOREVER: u64 = 4 * 3_600_000;

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

/// What honest nodes have ever said: the body of each message by what must not be
/// said in two ways. Digests of segments are among them.
#[derive(Default)]
struct Ledger(BTreeMap<(Slot, u32, u8, u32, Option<Slot>), blake3::Hash>, BTreeMap<u32, blake3::Hash>);

impl Ledger {
    fn hear(&mut self, from: Slot, bytes: &[u8], fresh: bool) {
        match Peer::decode(bytes) {
            Some(Peer::Frame(bytes)) => {
                let header = Frame::decode(bytes).unwrap().header;
                let to = (header.kind == Kind::Packed).then_some(header.to);
                let body = blake3::hash(&bytes[HEADER_BYTES..]);
                // Commitments are drawn anew in each run, but not in the course of one.
                if fresh
                    && matches!(header.kind, Kind::CoinCommit | Kind::CoinOpen | Kind::CoinAgree | Kind::SigmaCommit)
                {
                    return;
                }
                // Where a later attempt begins differs from run to run.
                if fresh && header.attempt > 0 {
                    return;
                }
                let key = (from, header.attempt, header.kind as u8, header.step, to);
                let held = *self.0.entry(key).or_insert(body);
                assert_eq!(held, body, "{from} said two things as {} of exchange {}", header.kind, header.step);
            }
            Some(Peer::Words { round, .. }) => {
                let held = *self.1.entry(round).or_insert(blake3::hash(bytes));
                assert_eq!(held, blake3::hash(bytes), "{from} says that something else was opened in round {round}");
            }
            _ => {}
        }
    }
}

impl Case {
    fn agents(&self) -> Vec<Slot> {
        (1..=self.keys.len() as u8).map(Slot).collect()
    }
}

/// `turns` is how much longer than three rounds it is.
pub(super) fn case(name: &'static str, roster: Roster, losses: u8, turns: usize, spares: u8) -> Case {
    case_of((name, roster), losses, turns, spares, 1)
}

fn case_of((name, roster): (&'static str, Roster), losses: u8, turns: usize, spares: u8, attempts: u32) -> Case {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-9.0..=9.0), [3]);
    let y = b.input("y", "alice", Type::fixed(-9.0..=9.0), [3]);
    let product = &x * &y;
    let mut last = &product * &x;
    for _ in 0..turns {
        last = &last.ge0() * &y;
    }
    b.output("product", "alice", &last);
    b.output("larger", "alice", &product.ge0());
    let program = b.finish().unwrap();
    let inputs = BTreeMap::from([("x".to_owned(), vec![1.5, -2.0, 3.25]), ("y".to_owned(), vec![4.0, 0.5, -6.0])]);
    let owner = Arc::new(SecretKey::insecure_from_seed(1, "owner"));
    let node = |slot: Slot| Arc::new(SecretKey::insecure_from_seed(1, &format!("node {}", slot.0)));
    let keys: Vec<_> = (1..=roster.nodes() + spares).map(|agent| node(Slot(agent))).collect();
    let public: Vec<_> = keys.iter().map(|key| key.public()).collect();
    let (nodes, spares) = public.split_at(roster.nodes().into());
    let (openings, comparisons) = match spares {
        [] => Default::default(),
        _ => (Openings::AllToAll, Comparisons::Digits),
    };
    let request = Request {
        program: &program,
        roster,
        planning: Planning { losses, openings, comparisons, ..Planning::default() },
        nodes,
        spares,
        inputs: &inputs,
        readers: &BTreeMap::new(),
        attempts,
        expires: u64::MAX,
        note: name,
    };
    let job = prepare(&owner, &request, Entropy::insecure_from_seed(1)).unwrap();
    let segments = job.stream().unwrap().collect();
    let devices = Arc::new(Devices::new(Choice::Cpu, None));
    let (right, ledger, real) = (BTreeMap::new(), Ledger::default(), program.dry_run(&inputs).unwrap().outputs);
    let mut case = Case { name, job, owner, keys, segments, devices, right, ledger, real };
    let mut world = World::new(&mut case, 0, Chaos::default());
    world.run();
    let right: BTreeMap<_, _> = roster.slots().map(|slot| (slot, world.result(slot).expect("undisturbed"))).collect();
    drop(world);
    case.right = right;
    case
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
    /// what its store held when readers were told before it: the job's state, and how many segments
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

impl<'a> World<'a> {
    pub(super) fn new(case: &'a mut Case, seed: u64, chaos: Chaos) -> Self {
        let slots = case.agents();
        let mut world = Self {
            choices: Choices(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1)),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            parted: BTreeSet::new(),
            queue: BTreeMap::new(),
            now: 0,
            over: 0,
            count: 0,
            finishing: BTreeSet::new(),
            cut_short: false,
            changed: None,
            tracing: std::env::var_os("BEAVERDAM_CHAOS_TRACE").is_some(),
            hook: None,
            ledger: Ledger::default(),
            spoke: BTreeMap::new(),
            tally: Tally { jobs: 1, ..Tally::default() },
            damage: None,
            chaos,
            case,
        };
        for slot in &slots {
            let node = world.first(*slot);
            world.nodes.push(node);
        }
        for slot in &slots {
            world.step(*slot, Event::Begin { again: false });
            let mut at = world.pick(500);
            world.at(at, Happening::Owner(*slot, 0, Upload::Inputs));
            for index in 0..world.case.segments.len() {
                at += 1 + world.pick(200);
                world.at(at, Happening::Owner(*slot, 0, Upload::Segment(index)));
            }
            for other in slots.iter().filter(|other| *other > slot) {
                let at = world.pick(300);
                world.at(at, Happening::Dial(*slot, *other));
            }
        }
        let chaos = world.chaos.clone();
        for (at, a, b) in chaos.cuts {
            world.at(at, Happening::Cut(a, b));
        }
        for (from, to, slots) in chaos.parted {
            world.at(from, Happening::Part(slots.clone(), true));
            world.at(to, Happening::Part(slots, false));
        }
        for (at, slot, back) in chaos.kills {
            world.at(at, Happening::Kill(slot, back));
        }
        for (at, messages) in chaos.resumes {
            world.at(at, Happening::Resume(messages));
        }
        world
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.choices.below(below as usize) as u64
    }

    fn one_in(&mut self, many: u64) -> bool {
        many > 0 && self.pick(many) == 0
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), happening);
    }

    fn actor(&self, duty: Duty, addresses: Vec<String>, slot: Slot, store: &Arc<MemoryStore>) -> Actor {
        let every = self.chaos.every;
        let means = Means {
            addresses,
            accepted: 0,
            key: Arc::clone(&self.case.keys[slot.index()]),
            store: Arc::clone(store) as Arc<dyn Store>,
            entropy: Entropy::insecure_from_seed(1),
            devices: Arc::clone(&self.case.devices),
            deadline: Duration::from_millis(DEADLINE),
            patience: Duration::from_millis(PATIENCE),
            recovery: true,
            checkpoints: (1..=self.case.job.plan().opening_rounds()).filter(|r| every > 0 && r % every == 0).collect(),
            replace_after: Duration::from_millis(REPLACE_AFTER),
            expires: Duration::from_millis(EXPIRES.saturating_sub(self.now)),
        };
        Actor::new(duty, means)
    }

    /// A node that has just accepted the job.
    fn first(&self, slot: Slot) -> Node {
        let store = Arc::new(MemoryStore::new());
        let key = &self.case.keys[slot.index()];
        let is_node = self.case.job.plan().roster.has(slot);
        let assignment = if is_node { self.case.job.assignment(slot) } else { self.case.job.spare_assignment() };
        let (bytes, manifest) = (assignment.to_bytes(), self.case.job.manifest());
        let addresses: Vec<_> = self.case.keys.iter().map(|_| "nowhere:1".to_owned()).collect();
        let duty = Duty::check(assignment, &key.public(), 0, &Limits::unlimited()).unwrap();
        let nonce = manifest.manifest().nonce;
        store.begin(nonce, manifest.digest()).unwrap();
        if duty.plan().replays() || manifest.has_attempts() {
            let keep = Keep::new(Arc::clone(&store) as Arc<dyn Store>, nonce);
            keep.put_setup(key, manifest, slot, (&bytes, &addresses), 0).unwrap();
        }
        let session = Some(self.actor(duty, addresses, slot, &store));
        Node {
            session,
            slot: is_node.then_some(slot),
            store,
            life: 0,
            timers: BTreeMap::new(),
            ended: None,
            takes: Takes::default(),
            told: None,
        }
    }

    pub(super) fn run(&mut self) {
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            assert!(at < FOREVER, "the job hangs: {:?}", self.state());
            self.now = at;
            self.happen(happening);
        }
        assert!(self.nodes.iter().all(|node| node.session.is_none()), "nothing moves: {:?}", self.state());
        self.tally.virtual_s = self.over / 1000;
    }

    fn state(&self) -> Vec<String> {
        let state = |node: &Node| format!("{:?} {}", node.ended, node.session.is_some());
        self.nodes.iter().map(state).collect()
    }

    /// For whoever looks for the cause of a failure: BEAVERDAM_CHAOS_TRACE=1 and --nocapture.
    fn trace(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>9} {}", self.now, what());
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Owner(slot, life, upload) => self.upload(slot, life, upload),
            Happening::Synced(slot, life) => {
                let node = &self.nodes[slot.index()];
                if node.life == life {
                    let store = Arc::clone(&node.store) as Arc<dyn Store>;
                    Keep::new(store, self.case.job.manifest().manifest().nonce).sync().unwrap();
                }
            }
            Happening::Arrive { from, to, epoch, bytes } => {
                if self.link(from, to).up == Some(epoch) {
                    self.step(to, Event::Message { from, bytes: bytes.into() });
                }
            }
            Happening::Timer { slot, life, timer, number } => {
                let node = &mut self.nodes[slot.index()];
                if node.life == life && node.timers.get(&timer) == Some(&number) {
                    node.timers.remove(&timer);
                    self.step(slot, Event::Timer(timer));
                }
            }
            Happening::Dial(a, b) => self.dial(a, b),
            Happening::Lost { slot, life, peer, epoch } => {
                if self.nodes[slot.index()].life == life && self.link(slot, peer).up.is_none_or(|up| up == epoch) {
                    self.step(slot, Event::Lost { peer, reason: "cut".to_owned() });
                }
            }
            Happening::Cut(a, b) => self.cut(a, b),
            Happening::Part(slots, apart) => self.part(&slots, apart),
            Happening::Kill(slot, back) => self.kill(slot, back),
            Happening::Restart(slot) => self.restart(slot),
            Happening::Resume(messages) => self.resume(messages),
        }
    }

    fn upload(&mut self, slot: Slot, life: u32, upload: Upload) {
        let node = &mut self.nodes[slot.index()];
        if node.life != life || node.session.is_none() {
            return;
        }
        let event = match upload {
            Upload::Inputs => Event::Inputs(self.case.job.inputs().to_vec()),
            Upload::Segment(index) => {
                let (header, bytes) = &self.case.segments[index];
                let nonce = self.case.job.manifest().manifest().nonce;
                let keep = Keep::new(Arc::clone(&node.store) as Arc<dyn Store>, nonce);
                // A job that is over takes nothing.
                let (manifest, taken) = (self.case.job.manifest(), (index as u32) < node.takes.below);
                let kept = self.case.job.plan().replays() || manifest.has_attempts();
                if !(taken && node.takes.alone) && keep.put_segment(index as u32, header, bytes, kept).is_err() {
                    return;
                }
                let checked = header.verify(&manifest.manifest().owner, &manifest.stream()).unwrap();
                let segment = taken.then(|| checked.segment(bytes).unwrap());
                let header = Box::new(*header);
                if kept && index + 1 == self.case.segments.len() {
                    self.at(SYNCING, Happening::Synced(slot, life));
                }
                Event::Header { header, segment }
            }
        };
        self.step(slot, event);
    }

    pub(super) fn step(&mut self, slot: Slot, event: Event) {
        self.trace(|| format!("{slot} hears {}", describe(&event)));
        let Some(session) = &mut self.nodes[slot.index()].session else { return };
        let mut actions = session.step(event);
        let node = &mut self.nodes[slot.index()];
        if actions.iter().any(|action| matches!(action, Action::Concluded(_))) {
            let nonce = self.case.job.manifest().manifest().nonce;
            let state = node.store.state(nonce).unwrap().unwrap();
            node.told = Some((state, node.store.segments(nonce).unwrap().count));
        }
        let Some(session) = &mut node.session else { return };
        while session.prepares() {
            actions.extend(session.work().into_iter().flatten());
        }
        if let Actor::Session(session) = session {
            self.tally.restored += u64::from(std::mem::take(&mut session.restored));
        }
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    let bytes = message.joined();
                    self.trace(|| format!("{slot} to {to}: {}", message_of(&bytes)));
                    self.send(slot, to, &bytes);
                }
                Action::Sync => self.nodes[slot.index()].store.sync().unwrap(),
                Action::Arm { timer, after } => {
                    let number = self.count;
                    let node = &mut self.nodes[slot.index()];
                    node.timers.insert(timer, number);
                    let life = node.life;
                    self.at(after.as_millis() as u64, Happening::Timer { slot, life, timer, number });
                }
                Action::Takes { below, alone } => self.nodes[slot.index()].takes = Takes { below, alone },
                Action::Called(taken) => {
                    self.tally.called += 1;
                    self.nodes[slot.index()].slot = Some(taken);
                }
                // A spare that was not needed says nothing of the end.
                Action::Ended(ended) if self.nodes[slot.index()].slot.is_none() => {
                    self.nodes[slot.index()].ended = Some(ended.map(drop));
                }
                Action::Ended(ended) => {
                    // Its own last word may have found no link.
                    self.finishing.extend(self.nodes[slot.index()].slot);
                    let enough = self.finishing.len() >= self.case.job.plan().needed();
                    let spdz = self.case.job.plan().roster.scheme() == Scheme::Spdz;
                    assert!(ended.is_err() || spdz || enough, "{slot} is done before others are at the end");
                    self.nodes[slot.index()].ended = Some(ended.map(drop));
                }
                Action::Closed => {
                    self.nodes[slot.index()].session = None;
                    self.over = self.now;
                }
                Action::Verified
                | Action::Ready
                | Action::Attempt { .. }
                | Action::Round { .. }
                | Action::Check { .. }
                | Action::Concluded(_) => {}
            }
        }
        if self.nodes[slot.index()].session.is_none() {
            for peer in self.case.agents().into_iter().filter(|peer| *peer != slot) {
                self.cut(slot, peer);
            }
        }
    }

    // --- links ------------------------------------------------------------------

    fn link(&mut self, a: Slot, b: Slot) -> &mut Link {
        self.links.entry((a.min(b), a.max(b))).or_default()
    }

    fn send(&mut self, from: Slot, to: Slot, bytes: &[u8]) {
        self.tally.messages += 1;
        if let Some(Peer::Frame(bytes)) = Peer::decode(bytes)
            && Frame::decode(bytes).unwrap().header.kind == Kind::Finish
        {
            self.finishing.extend(self.nodes[from.index()].slot);
        }
        let corrupt = self.chaos.corrupt.contains(&from);
        // From a changed disk wrong words may be told, which nobody takes from one node: it is
        // as if a corrupt one told them. What is computed must not depend on them.
        let damaged = self.damage.is_some() || self.changed == Some(from);
        let told = damaged && matches!(Peer::decode(bytes), Some(Peer::Words { .. }));
        // What a spare says, it says as its slot.
        let slot = self.nodes[from.index()].slot.filter(|_| !corrupt && !told);
        if let Some(slot) = slot {
            self.ledger.hear(slot, bytes, false);
            if let Some(Peer::Frame(frame)) = Peer::decode(bytes)
                && self.case.job.manifest().has_attempts()
            {
                let (attempt, life) = (Frame::decode(frame).unwrap().header.attempt, self.nodes[from.index()].life);
                let spoke = *self.spoke.entry((slot, attempt)).or_insert(life);
                assert_eq!(
                    spoke, life,
                    "a process of {slot} speaks in attempt {attempt}, in which another one has spoken"
                );
                self.tally.attempts = self.tally.attempts.max(u64::from(attempt));
                self.tally.extended |= u64::from(attempt >= self.case.job.manifest().manifest().attempts);
            }
            self.case.ledger.hear(slot, bytes, true);
        }
        let Some(epoch) = self.link(from, to).up else { return };
        if self.one_in(self.chaos.dropped) {
            return;
        }
        let mut delay = 1 + self.pick(60);
        if self.one_in(self.chaos.late) {
            delay += self.pick(2 * DEADLINE);
        }
        let mut bytes = bytes.to_vec();
        let now = self.now;
        if let Some(hook) = &mut self.hook
            && !hook(now, from, to, &mut bytes)
        {
            return;
        }
        if corrupt {
            self.corrupt(&mut bytes);
        }
        let (now, way) = (self.now, usize::from(from > to));
        let busy = &mut self.link(from, to).busy[way];
        // In order.
        *busy = (now + delay).max(*busy);
        let delay = *busy - now;
        if self.one_in(self.chaos.doubled) {
            let again = delay + self.pick(DEADLINE);
            self.at(again, Happening::Arrive { from, to, epoch, bytes: bytes.clone() });
        }
        self.at(delay, Happening::Arrive { from, to, epoch, bytes });
    }

    /// What a corrupt node may send in the place of what it should.
    fn corrupt(&mut self, bytes: &mut Vec<u8>) {
        match self.pick(12) {
            0 => {
                let at = self.pick(bytes.len() as u64) as usize;
                bytes[at] ^= 1 + self.pick(255) as u8;
            }
            1 if bytes.len() > 8 => {
                // A wrong share, or a wrong digest.
                let at = bytes.len() - 8;
                bytes[at] ^= 1;
            }
            2 => bytes.truncate(1 + self.pick(bytes.len() as u64) as usize),
            3 => *bytes = Peer::Behind { round: self.pick(20) as u32 }.encode(),
            4 => {
                let (round, words) = (self.pick(5) as u32, vec![0; 8 * self.pick(20) as usize]);
                *bytes = Peer::Words { round, transcript: [7; 32], words: &words }.encode();
            }
            _ => {}
        }
    }

    fn apart(&self, a: Slot, b: Slot) -> bool {
        self.parted.contains(&a) != self.parted.contains(&b)
    }

    /// The lower slot dials while its job lasts.
    fn dial(&mut self, a: Slot, b: Slot) {
        if self.nodes[a.index()].session.is_none() || self.link(a, b).up.is_some() {
            return;
        }
        let (count, now) = (self.count, self.now);
        if self.nodes[b.index()].session.is_some() && !self.apart(a, b) {
            *self.link(a, b) = Link { up: Some(count), busy: [now; 2] };
            self.tally.links += 1;
            self.step(a, Event::Linked(b));
            self.step(b, Event::Linked(a));
            return;
        }
        if self.nodes[b.index()].ended.is_some() && !self.apart(a, b) {
            self.step(a, Event::Linked(b));
            let over = Peer::Abort("this job is over here".to_owned()).encode();
            self.step(a, Event::Message { from: b, bytes: over.into() });
            self.step(a, Event::Lost { peer: b, reason: "closed".to_owned() });
        }
        let pause = 500 + self.pick(4500);
        self.at(pause, Happening::Dial(a, b));
    }

    fn cut(&mut self, a: Slot, b: Slot) {
        let Some(epoch) = self.link(a, b).up.take() else { return };
        for (slot, peer) in [(a, b), (b, a)] {
            let life = self.nodes[slot.index()].life;
            let noticed = if self.one_in(4) { self.pick(DEADLINE) } else { self.pick(50) };
            self.at(noticed, Happening::Lost { slot, life, peer, epoch });
        }
        let pause = 50 + self.pick(5000);
        self.at(pause, Happening::Dial(a.min(b), a.max(b)));
    }

    fn part(&mut self, slots: &[Slot], apart: bool) {
        for slot in slots {
            if apart {
                self.parted.insert(*slot)
            } else {
                self.parted.remove(slot)
            };
        }
        let all = self.case.agents();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b) {
            if self.apart(a, b) {
                self.cut(a, b);
            }
        }
    }

    // --- processes ----------------------------------------------------------------

    fn kill(&mut self, slot: Slot, back: Option<u64>) {
        if self.nodes[slot.index()].session.is_none() {
            return;
        }
        // Some are stopped in good order, and have all on disk.
        let leaves = self.one_in(4);
        if leaves {
            self.step(slot, Event::Leave);
        }
        self.nodes[slot.index()].session = None;
        self.tally.kills += 1;
        self.cut_short |= self.nodes[slot.index()].ended.is_some();
        let all = self.case.agents().into_iter().filter(|other| *other != slot);
        all.for_each(|other| self.cut(slot, other));
        let kept = if leaves { 1000 } else { self.choices.below(1000) };
        let node = &mut self.nodes[slot.index()];
        node.store = Arc::new(node.store.crashed(|writes| kept * (writes + 1) / 1000));
        node.life += 1;
        node.timers.clear();
        if let Some(after) = back {
            self.at(after, Happening::Restart(slot));
        }
    }

    /// What a node does with its store when it is started.
    fn restart(&mut self, slot: Slot) {
        let store = Arc::clone(&self.nodes[slot.index()].store);
        for job in store.interrupted().unwrap() {
            if let Some(damage) = self.damage {
                let keep = Keep::new(Arc::clone(&store) as Arc<dyn Store>, job.nonce);
                self.tally.damaged += u64::from(damage(&keep, self.case.job.plan()));
            }
            let (key, as_store) = (&self.case.keys[slot.index()], Arc::clone(&store) as Arc<dyn Store>);
            match Again::of(key, &as_store, &Limits::unlimited(), &job) {
                Ok(Again { duty, addresses, .. }) => {
                    self.tally.returns += 1;
                    self.nodes[slot.index()].slot = match &duty {
                        Duty::Node(assigned) => Some(assigned.slot()),
                        Duty::Spare(_) => None,
                    };
                    let session = self.actor(duty, addresses, slot, &store);
                    self.nodes[slot.index()].takes = Takes::default();
                    self.nodes[slot.index()].session = Some(session);
                    self.step(slot, Event::Begin { again: true });
                    for other in self.case.agents().into_iter().filter(|other| *other != slot) {
                        let pause = self.pick(5000);
                        self.at(pause, Happening::Dial(slot.min(other), slot.max(other)));
                    }
                }
                Err(why) => {
                    store.fail(job.nonce, &why).unwrap();
                    self.nodes[slot.index()].ended = Some(Err(why));
                }
            }
        }
    }

    /// What an owner does that deals one attempt more, until it is killed. It says nothing before it has links with all.
    fn resume(&mut self, mut messages: usize) {
        let (nonce, signed) = (self.case.job.manifest().manifest().nonce, self.case.job.manifest().manifest().attempts);
        let keep = |node: &Node| Keep::new(Arc::clone(&node.store) as Arc<dyn Store>, nonce);
        let held = |node: &Node| keep(node).held(self.case.job.manifest()).unwrap();
        let runs = |node: &Node| node.session.is_some() && node.ended.is_none();
        if !self.nodes.iter().all(|node| runs(node) && (node.life > 0 || held(node) >= signed)) {
            return;
        }
        let held = self.nodes.iter().map(held);
        let from = held.min().unwrap().max(signed);
        let again = Dealing::again(&self.case.owner, &self.case.job.ticket()).unwrap();
        let Ok(statement) = again.extension(from + 1) else { return };
        let frames = again.stream_of(from).unwrap();
        let frames =
            frames.map(|(header, bytes)| ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }.encode());
        let frames: Vec<_> = frames.collect();
        self.tally.resumes += 1;
        for slot in self.case.agents() {
            let store = Arc::clone(&self.nodes[slot.index()].store);
            let Some(left) = messages.checked_sub(1) else { return };
            messages = left;
            let (keep, manifest) = (keep(&self.nodes[slot.index()]), self.case.job.manifest().clone());
            let (at, limits) = ((store.attempt(nonce).unwrap(), from), Limits::unlimited());
            let mut taking = Taking::new(keep, manifest, at, (0, &limits), &statement.to_bytes()).unwrap();
            for frame in &frames {
                let Some(left) = messages.checked_sub(1) else { return };
                messages = left;
                if taking.segment(frame).is_err() {
                    assert!(self.nodes[slot.index()].ended.is_some(), "{:?}", self.state());
                    return;
                }
                self.step(slot, Event::Held { attempts: taking.held() });
            }
        }
    }

    // --- what must hold -------------------------------------------------------------

    /// What a node that is done has sealed to the owner, and its transcript.
    pub(super) fn result(&self, agent: Slot) -> Option<(Vec<Vec<u8>>, [u8; 32])> {
        let slot = self.nodes[agent.index()].slot?;
        let (node, manifest) = (&self.nodes[agent.index()], self.case.job.manifest());
        let nonce = manifest.manifest().nonce;
        if node.store.state(nonce).unwrap() != Some(JobState::Finished) {
            return None;
        }
        let Kept { concluded, .. } = postcard::from_bytes(&node.store.record(nonce).unwrap().unwrap()).unwrap();
        let concluded = Concluded::from_bytes(&concluded).unwrap();
        let open = |(output, sealed): (u32, &serde_bytes::ByteBuf)| {
            let sealed: Sealed = postcard::from_bytes(sealed).unwrap();
            let reader = self.case.owner.public();
            let info = SealInfo { manifest: manifest.digest(), output, sender: slot, reader };
            open(&self.case.owner, &info, &sealed).unwrap().to_vec()
        };
        Some(((0..).zip(&concluded.sealed).map(open).collect(), concluded.receipt.claimed().transcript))
    }

    /// Every result is the right one; if `must`, all honest nodes have it but those
    /// that did not come back.
    pub(super) fn judge(&mut self, must: bool) {
        if self.case.job.manifest().has_attempts() {
            return self.judge_attempts();
        }
        // A node that is done does not go back for those that have forgotten everything.
        let steady = |slot: &Slot| {
            !self.chaos.corrupt.contains(slot) && self.chaos.kills.iter().all(|(_, killed, _)| killed != slot)
        };
        let roster = self.case.job.plan().roster;
        let known = roster.slots().filter(steady).count() > usize::from(roster.threshold());
        let must = must && (known || self.nodes.iter().all(|node| node.ended != Some(Ok(()))));
        let held: Vec<(usize, Slot)> =
            self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, node.slot?))).collect();
        for agent in self.case.agents().into_iter().filter(|agent| !self.chaos.corrupt.contains(agent)) {
            let lost = self.chaos.kills.iter().any(|(_, killed, back)| *killed == agent && back.is_none());
            let slot = self.nodes[agent.index()].slot;
            // Whoever comes back too late is not listened to any more.
            let twice = held.iter().any(|(other, held)| Some(*held) == slot && *other != agent.index());
            match self.result(agent) {
                Some(result) => {
                    assert!(self.case.right.get(&slot.unwrap()) == Some(&result), "{agent} has another result")
                }
                None => {
                    let may = !must || lost || twice || slot.is_none() || self.cut_short;
                    assert!(may, "{agent} has no result: {:?}", self.state());
                }
            }
            if let Some(Err(reason)) = &self.nodes[agent.index()].ended {
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
            }
        }
        // A slot goes to one spare, a spare to one slot.
        let n = usize::from(self.case.job.plan().roster.nodes());
        let taken: Vec<Slot> = held.iter().filter(|(agent, _)| *agent >= n).map(|(_, slot)| *slot).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "{taken:?}");
        if self.nodes.iter().any(|node| node.slot.is_some() && node.ended == Some(Ok(()))) {
            self.tally.done += 1;
        } else {
            self.tally.failed += 1;
        }
    }
}

/// What ended jobs with several attempts: the first of these that applies.
const CAUSES: [&str; 6] = [
    "a kill in an open check",
    "a kill between the first and the last end",
    "no attempt left, and no owner in time",
    "a node that stays away",
    "a kill while the owner sent the job",
    "a kill of a node that was done",
];

impl World<'_> {
    /// Where a job has several attempts, results of two runs differ in what rounding is free to choose. A
    /// job that fails says why, and for one of the reasons for which it may.
    fn judge_attempts(&mut self) {
        let (plan, slots) = (Arc::clone(self.case.job.plan()), self.case.agents());
        let results: Vec<_> = slots.iter().filter_map(|slot| Some((*slot, self.result(*slot)?))).collect();
        assert!(results.windows(2).all(|pair| pair[0].1.1 == pair[1].1.1), "two transcripts of one result");
        let reasons: Vec<&String> = self.nodes.iter().filter_map(|node| node.ended.as_ref()?.as_ref().err()).collect();
        assert!(reasons.iter().all(|reason| !reason.is_empty() && !reason.contains('\n')), "{reasons:?}");
        if results.len() < slots.len() {
            let early = self.chaos.kills.iter().any(|(at, ..)| *at < 3000);
            let lost = self.chaos.kills.iter().any(|(.., back)| back.is_none());
            let told = |what: &str| reasons.iter().any(|reason| reason.contains(what));
            let may = [
                told("in the middle of a check"),
                told("has finished the job"),
                told("before the job expired"),
                lost,
                early,
                self.cut_short,
            ];
            let cause = may.iter().position(|may| *may);
            self.tally.causes[cause.unwrap_or_else(|| panic!("{:?}", self.state()))] += 1;
            self.tally.failed += 1;
            return;
        }
        self.tally.done += 1;
        for (i, output) in plan.outputs.iter().enumerate() {
            let share = |(slot, (sealed, _)): &(Slot, (Vec<Vec<u8>>, _))| (*slot, decode_words(&sealed[i]).unwrap());
            let shares: Vec<_> = results.iter().map(share).collect();
            let words = self.case.job.dealer().verify_output(output.shape.len(), &shares).unwrap().words.to_vec();
            for (word, real) in words.iter().zip(&self.case.real[&output.name]) {
                let found = word.to_i64() as f64 * output.ty.ulp();
                assert!((found - real).abs() <= output.error + 1e-9, "{}: {found}, expected {real}", output.name);
            }
        }
    }
}

fn message_of(bytes: &[u8]) -> String {
    match Peer::decode(bytes) {
        Some(Peer::Frame(frame)) => match Frame::decode(frame) {
            Ok(frame) => format!("{} {} of {}", frame.header.kind, frame.header.step, frame.header.attempt),
            Err(error) => error.to_string(),
        },
        Some(Peer::Words { round, .. }) => format!("words {round}"),
        other => format!("{other:?}"),
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Begin { again } => format!("begin {again}"),
        Event::Inputs(_) => "inputs".to_owned(),
        Event::Header { .. } => "header".to_owned(),
        Event::Held { attempts } => format!("{attempts} attempts"),
        Event::Linked(peer) => format!("link with {peer}"),
        Event::Lost { peer, reason } => format!("no link with {peer}: {reason}"),
        Event::Unreachable { peer, reason } => format!("no way to {peer}: {reason}"),
        Event::Message { from, bytes } => format!("{} from {from}", message_of(bytes)),
        Event::Timer(timer) => format!("{timer:?}"),
        Event::Stop(reason) => format!("stop: {reason}"),
        Event::Leave => "leave".to_owned(),
    }
}

/// A run's misfortunes, and whether the job must get over them.
fn misfortune(case: &Case, choices: &mut Choices) -> (Chaos, bool) {
    let plan = case.job.plan();
    let (n, t) = (usize::from(plan.roster.nodes()), usize::from(plan.roster.threshold()));
    let (all, spares) = (case.keys.len(), case.keys.len() - n);
    let mut chaos = Chaos::default();
    let slot = |choices: &mut Choices| Slot(1 + choices.below(all) as u8);
    let rarely = |choices: &mut Choices| if choices.below(3) == 0 { 20 + choices.below(100) as u64 } else { 0 };
    (chaos.late, chaos.doubled, chaos.dropped) = (rarely(choices), rarely(choices), rarely(choices));
    for _ in 0..choices.below(6) {
        let (a, b) = (slot(choices), slot(choices));
        if a != b {
            chaos.cuts.push((choices.below(4000) as u64, a, b));
        }
    }
    if choices.below(4) == 0 {
        let (from, parted) =
            (choices.below(4000) as u64, (0..1 + choices.below(n - 1)).map(|_| slot(choices)).collect());
        chaos.parted.push((from, from + 1 + choices.below(60_000) as u64, parted));
    }
    let (mut lost, mut early) = (BTreeSet::new(), false);
    for _ in 0..choices.below(5) {
        // In the course of it, seldom before the owner has sent everything; where there are
        // spares also while one of them takes over.
        let at = match choices.below(10) {
            0 => choices.below(1000),
            1..=4 if spares > 0 => 20_000 + choices.below(60_000),
            _ => 1000 + choices.below(6000),
        };
        let victim = slot(choices);
        let back = (choices.below(if spares > 0 { 3 } else { 6 }) > 0).then(|| 1 + choices.below(40_000) as u64);
        early |= at < 1000;
        if back.is_none() {
            lost.insert(victim);
        }
        chaos.kills.push((at as u64, victim, back));
    }
    if n > 4 * t && choices.below(3) == 0 {
        chaos.corrupt.push(slot(choices));
    }
    // A liar may have to be corrected, for which all others are needed.
    let spare = if chaos.corrupt.is_empty() { plan.spare() } else { 0 };
    let killed: BTreeSet<Slot> = chaos.kills.iter().map(|(_, slot, _)| *slot).collect();
    let parted: BTreeSet<Slot> = chaos.parted.iter().flat_map(|(_, _, slots)| slots.iter().copied()).collect();
    let node = |slot: &&Slot| plan.roster.has(**slot);
    // A node that is away for long may be replaced, and what it knew is lost.
    let away = &killed | &parted;
    let know = n - chaos.corrupt.iter().chain(&away).filter(node).collect::<BTreeSet<_>>().len();
    // Else, whatever they have forgotten: those who know more go back for them.
    let known = spares == 0 || know > t;
    // One node that is lost alone is replaced; votes on more may be split.
    let replaced = chaos.corrupt.is_empty() && spares > 0 && away.len() == 1 && away.iter().all(|slot| node(&slot));
    let must = plan.replays() && !early && (lost.len() <= spare || replaced) && known;
    // Drawn last, so that what befalls the jobs of a seed stays what it was.
    chaos.every = choices.below(4);
    (chaos, must)
}

fn cases() -> Vec<Case> {
    let shamir = |n, t| Roster::shamir(n, t).unwrap();
    vec![
        case("(5, 1)", shamir(5, 1), 0, 0, 0),
        case("(5, 1), long", shamir(5, 1), 0, 8, 0),
        case("(6, 1)", shamir(6, 1), 0, 0, 0),
        case("(4, 1) that bears a loss", shamir(4, 1), 1, 0, 0),
        case("(7, 2)", shamir(7, 2), 0, 0, 0),
        case("(3, 1)", shamir(3, 1), 0, 0, 0),
        case("(4, 1)", shamir(4, 1), 0, 0, 0),
        case("SPDZ", Roster::spdz(3).unwrap(), 0, 0, 0),
    ]
}

fn cases_with_attempts() -> Vec<Case> {
    let spdz = |n| Roster::spdz(n).unwrap();
    vec![
        case_of(("SPDZ, two nodes", spdz(2)), 0, 2, 0, 4),
        case_of(("SPDZ, three nodes", spdz(3)), 0, 4, 0, 4),
        case_of(("SPDZ, four nodes", spdz(4)), 0, 0, 0, 3),
        case_of(("SPDZ, two attempts", spdz(3)), 0, 4, 0, 2),
    ]
}

fn cases_with_spares() -> Vec<Case> {
    let shamir = |n, t| Roster::shamir(n, t).unwrap();
    vec![
        case("(4, 1) with a spare", shamir(4, 1), 0, 0, 1),
        case("(5, 1) with a spare", shamir(5, 1), 0, 0, 1),
        case("(4, 1) with two spares", shamir(4, 1), 0, 0, 2),
        case("(7, 2) with two spares", shamir(7, 2), 0, 0, 2),
        case("(4, 1) that bears a loss, with a spare", shamir(4, 1), 1, 0, 1),
    ]
}

fn chaos(mut cases: Vec<Case>, jobs: u64, first: u64) -> Tally {
    let mut sum = Tally::default();
    for seed in first..first + jobs {
        let index = (seed % cases.len() as u64) as usize;
        let case = &mut cases[index];
        let (mut chaos, must) = misfortune(case, &mut Choices(seed));
        if case.job.manifest().has_attempts() {
            // Each is written; the engine makes those that the plan has.
            chaos.every = 1;
            let choices = &mut Choices(seed ^ 0x7265_7375_6d65);
            for _ in 0..choices.below(6) {
                let whole = case.agents().len() * (case.segments.len() + 1);
                let messages = if choices.below(3) == 0 { choices.below(whole) } else { whole };
                chaos.resumes.push((2000 + choices.below(400_000) as u64, messages));
            }
            // Where few are dealt, more processes are killed, late ones too, and all come back.
            let few = case.job.manifest().manifest().attempts == 2;
            chaos.kills.iter_mut().filter(|_| few).for_each(|kill| kill.2 = kill.2.or(Some(20_000)));
            for _ in 0..if few { choices.below(5) } else { 0 } {
                let late = choices.below(2) == 0;
                let at = 3000 + choices.below(if late { 400_000 } else { 9_000 });
                let victim = Slot(1 + choices.below(case.agents().len()) as u8);
                chaos.kills.push((at as u64, victim, Some(1 + choices.below(40_000) as u64)));
            }
        }
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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
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
    let (jobs, seed) = (number("BEAVERDAM_CHAOS_JOBS"), number("BEAVERDAM_CHAOS_SEED"));
    crate::program::eager(|| chaos(cases_with_attempts(), jobs.unwrap_or(10_000), seed.unwrap_or(1)));
}

/// One word of the log, in the middle.
fn change_a_word(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let Some(round) = (end / 2).checked_sub(1) else { return false };
    let (transcript, mut words) = keep.words(round).unwrap().unwrap();
    words[0] ^= 1;
    keep.put_words(round, &transcript, &decode_words(&words).unwrap()).unwrap();
    true
}

/// A word that is none, or none at all.
fn spoil_a_word(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let Some(round) = (end / 2).checked_sub(1) else { return false };
    let (transcript, mut words) = keep.words(round).unwrap().unwrap();
    match end % 2 {
        0 => words[7] |= 0xe0,
        _ => words.clear(),
    }
    keep.put_spoilt(round, &transcript, &words);
    true
}

/// One word of the log, and all transcripts from there on, so that they fit.
fn forge(keep: &Keep, plan: &Plan) -> bool {
    let end = keep.log_end(plan.opening_rounds()).unwrap();
    let from = end.saturating_sub(4);
    if from == 0 {
        return false;
    }
    let mut transcript = Transcript::resumed(keep.words(from - 1).unwrap().unwrap().0);
    for round in from..end {
        let (before, words) = keep.words(round).unwrap().unwrap();
        let mut words = decode_words(&words).unwrap();
        let absorb = |mut transcript: Transcript, words: &[Fp61]| {
            let mut rest = words;
            let batch = plan.openings(round).map(|(prim, degree, len)| {
                let first = rest.split_off(..len).unwrap();
                (prim, 0, degree, first)
            });
            transcript.absorb_batch(round as u32, batch);
            transcript
        };
        if round == from {
            assert_eq!(absorb(transcript.clone(), &words).digest(), before, "this is how a log is made");
            words[0] += Fp61::ONE;
        }
        transcript = absorb(transcript, &words);
        keep.put_words(round, &transcript.digest(), &words).unwrap();
    }
    true
}

/// What a node says is in the ledgers, so that a share of other words would be noticed.
#[test]
fn a_log_that_was_changed_on_disk_is_not_spoken_from() {
    let mut case = case("(5, 1), long", Roster::shamir(5, 1).unwrap(), 0, 8, 0);
    for damage in [change_a_word as Damage, spoil_a_word, forge] {
        let mut sum = Tally::default();
        for seed in 1..40 {
            let kills = vec![(1000 + 50 * seed, Slot(1 + (seed % 5) as u8), Some(3000))];
            let mut world = World::new(&mut case, seed, Chaos { kills, ..Chaos::default() });
            world.damage = Some(damage);
            world.run();
            world.judge(true);
            sum = sum + world.tally;
        }
        assert!(sum.damaged > 10, "{sum:?}");
    }
}

/// A job that no later process takes up leaves nothing on disk that only this one could use, and
/// its readers do not wait for the disk. One that is taken up gives its result once.
#[test]
fn readers_wait_for_the_disk_where_the_result_could_be_made_again() {
    for (mut case, told) in [
        (case("SPDZ", Roster::spdz(3).unwrap(), 0, 0, 0), Some((JobState::Running, 0))),
        (case("(5, 1)", Roster::shamir(5, 1).unwrap(), 0, 0, 0), None),
    ] {
        assert_eq!(case.job.plan().replays(), told.is_none());
        assert!(!case.segments.is_empty());
        let mut world = World::new(&mut case, 1, Chaos::default());
        world.run();
        for node in &world.nodes {
            assert_eq!((&node.ended, &node.told), (&Some(Ok(())), &told));
        }
    }
}

#[test]
#[ignore = "long: set BEAVERDAM_CHAOS_JOBS"]
fn much_chaos_never_changes_a_message_nor_a_result() {
    let (jobs, seed) = (number("BEAVERDAM_CHAOS_JOBS"), number("BEAVERDAM_CHAOS_SEED"));
    chaos(cases(), jobs.unwrap_or(10_000), seed.unwrap_or(1));
}

#[test]
fn spares_take_over_in_chaos_and_say_the_same() {
    let sum = chaos(cases_with_spares(), 500, 1);
    assert!(sum.done > 300 && sum.kills > 300 && sum.called > 50, "{sum:?}");
}

#[test]
#[ignore = "long: set BEAVERDAM_CHAOS_JOBS"]
fn spares_take_over_in_much_chaos_and_say_the_same() {
    let (jobs, seed) = (number("BEAVERDAM_CHAOS_JOBS"), number("BEAVERDAM_CHAOS_SEED"));
    chaos(cases_with_spares(), jobs.unwrap_or(10_000), seed.unwrap_or(1));
}

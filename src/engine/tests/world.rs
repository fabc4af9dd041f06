//! All parties of a job in one thread, driven by hand, with an adversary on
//! the wires: it sees every frame and may change, hold or swallow it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::backend::Device;
use crate::backend::cpu::Cpu;
use crate::engine::frame::Frame;
use crate::engine::{Action, Checkpoint, Engine, EngineError, Event, Job, Outcome, Party, Record, Verify};
use crate::entropy::Entropy;
use crate::field::Fp61;
use crate::field::slice::decode_words;
use crate::job::{Assigned, Limits};
use crate::keys::SecretKey;
use crate::owner::{Prepared, Request, prepare};
use crate::program::random::Choices;
use crate::program::{Builder, Planning, Program, Type};
use crate::roster::{Roster, Slot};
use crate::sharing::{SlotKeys, Spdz};
use crate::transcript::SignedHeader;

/// What the adversary does with a frame.
pub enum Verdict {
    Deliver,
    Swallow,
}

/// A round, the transcript after it, and its opened words.
pub type Logged = (usize, [u8; 32], Vec<Fp61>);

type Adversary<'a> = Box<dyn FnMut(&mut Frame) -> Verdict + 'a>;

pub struct World<'a> {
    pub job: Prepared,
    pub owner: Arc<SecretKey>,
    pub parties: Vec<Box<dyn Party>>,
    pub segments: Vec<(SignedHeader, Vec<u8>)>,
    /// frames and other events on their way, by receiver
    pub queue: VecDeque<(Slot, Event)>,
    /// frames that were sent, as sent
    pub sent: Vec<Frame>,
    pub records: BTreeMap<Slot, Vec<Record>>,
    pub outcomes: BTreeMap<Slot, Result<Outcome, EngineError>>,
    /// segment bytes as one node gets them, if not as dealt
    #[allow(clippy::type_complexity)] // one callback
    pub segment_for: Box<dyn FnMut(Slot, u32, &mut Vec<u8>) + 'a>,
    /// the header under which a node's shell has accepted it already, if it has
    #[allow(clippy::type_complexity)] // one callback
    pub accepted_for: Box<dyn FnMut(Slot, u32) -> Option<SignedHeader> + 'a>,
    pub adversary: Adversary<'a>,
    /// what each node keeps of opened words: round, transcript, words
    pub logs: BTreeMap<Slot, Vec<Logged>>,
    /// what it was asked to keep of its state
    pub checkpoints: BTreeMap<Slot, Vec<Checkpoint>>,
    /// what a node waits for with a deadline
    pub armed: BTreeMap<Slot, u32>,
    /// nodes that asked for what they may have missed
    pub behind: BTreeSet<Slot>,
    /// nodes that are not there: nothing reaches them or comes from them
    pub down: BTreeSet<Slot>,
    order: Choices,
    /// parties expand some pieces ahead before events
    pub ahead: Option<Choices>,
}

pub fn job_of(
    program: &Program,
    roster: Roster,
    inputs: &BTreeMap<String, Vec<f64>>,
    seed: u64,
) -> (Prepared, Arc<SecretKey>, Vec<SecretKey>) {
    planned_job(program, (roster, Planning::default()), inputs, seed)
}

pub fn planned_job(
    program: &Program,
    (roster, planning): (Roster, Planning),
    inputs: &BTreeMap<String, Vec<f64>>,
    seed: u64,
) -> (Prepared, Arc<SecretKey>, Vec<SecretKey>) {
    job_of_attempts(program, (roster, planning), inputs, seed, 1)
}

pub fn job_of_attempts(
    program: &Program,
    (roster, planning): (Roster, Planning),
    inputs: &BTreeMap<String, Vec<f64>>,
    seed: u64,
    attempts: u32,
) -> (Prepared, Arc<SecretKey>, Vec<SecretKey>) {
    let owner = Arc::new(SecretKey::insecure_from_seed(seed, "owner"));
    let nodes: Vec<_> = roster.slots().map(|s| SecretKey::insecure_from_seed(seed, &format!("node {}", s.0))).collect();
    let public: Vec<_> = nodes.iter().map(SecretKey::public).collect();
    let readers = program.outputs().iter().map(|o| (o.reader.clone(), owner.public())).collect();
    let request = Request {
        program,
        roster,
        planning,
        nodes: &public,
        spares: &[],
        inputs,
        readers: &readers,
        attempts,
        expires: 0,
        note: "",
    };
    let job = prepare(&owner, &request, Entropy::insecure_from_seed(seed)).unwrap();
    (job, owner, nodes)
}

impl<'a> World<'a> {
    pub fn new(program: &Program, roster: Roster, inputs: &BTreeMap<String, Vec<f64>>, seed: u64) -> Self {
        Self::on(&device(), program, roster, inputs, seed)
    }

    pub fn on(
        device: &Device,
        program: &Program,
        roster: Roster,
        inputs: &BTreeMap<String, Vec<f64>>,
        seed: u64,
    ) -> Self {
        Self::planned(device, program, (roster, Planning::default()), inputs, seed)
    }

    /// A world whose job is planned as told.
    pub fn planned(
        device: &Device,
        program: &Program,
        (roster, planning): (Roster, Planning),
        inputs: &BTreeMap<String, Vec<f64>>,
        seed: u64,
    ) -> Self {
        Self::with(device, planned_job(program, (roster, planning), inputs, seed), seed)
    }

    /// A world of a job.
    pub fn with(device: &Device, (job, owner, nodes): (Prepared, Arc<SecretKey>, Vec<SecretKey>), seed: u64) -> Self {
        let slots = job.plan().roster.slots();
        let parties = slots.zip(&nodes).map(|(slot, node)| party(device, &job, slot, node, seed)).collect();
        let segments = job.stream_of(0).unwrap().collect();
        Self {
            job,
            owner,
            parties,
            segments,
            queue: VecDeque::new(),
            sent: Vec::new(),
            records: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            segment_for: Box::new(|_, _, _| {}),
            accepted_for: Box::new(|_, _| None),
            adversary: Box::new(|_| Verdict::Deliver),
            logs: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            armed: BTreeMap::new(),
            behind: BTreeSet::new(),
            down: BTreeSet::new(),
            order: Choices(seed),
            ahead: None,
        }
    }

    /// Every party is gone, and begins the next attempt: at a checkpoint, if there is one for it. What it was
    /// asked to keep stays. For SPDZ.
    pub fn begin_attempt(&mut self, attempt: u32, at: &BTreeMap<Slot, Checkpoint>) {
        self.queue.clear();
        self.outcomes.clear();
        self.sent.clear();
        self.segments = self.job.stream_of(attempt).unwrap().collect();
        let (roster, rounds) = (self.job.plan().roster, self.job.plan().checkpoints());
        for slot in roster.slots() {
            let SlotKeys::Spdz(key) = self.job.dealer().slot_keys(slot) else { panic!("for SPDZ") };
            let sharing = Spdz::new(roster, slot, key, Cpu).unwrap();
            let mut party = self.engine_in(attempt, sharing, self.job_inputs());
            party.checkpoint_before(&rounds);
            if let Some(checkpoint) = at.get(&slot) {
                party.restore(checkpoint).unwrap();
            }
            self.parties[slot.index()] = party;
        }
    }

    /// A product, a comparison and a truncated matrix product.
    pub fn small(roster: Roster, seed: u64) -> Self {
        let (program, inputs) = small_program();
        Self::new(&program, roster, &inputs, seed)
    }

    pub fn slots(&self) -> Vec<Slot> {
        self.job.plan().roster.slots().collect()
    }

    pub fn start(&mut self) {
        for slot in self.slots() {
            self.queue.push_back((slot, Event::Start));
            for (header, _) in &self.segments {
                self.queue.push_back((slot, Event::Header(Box::new(*header))));
            }
        }
    }

    /// Delivers until nothing moves any more, in a random order that keeps the
    /// order of each link.
    pub fn run(&mut self) {
        self.start();
        self.drain();
    }

    pub fn drain(&mut self) {
        while !self.queue.is_empty() {
            let at = self.order.below(self.queue.len());
            // The first event for the same receiver: links keep their order.
            let to = self.queue[at].0;
            let first = self.queue.iter().position(|(t, _)| *t == to).unwrap();
            let (to, event) = self.queue.remove(first).unwrap();
            self.step(to, event);
        }
    }

    pub fn step(&mut self, slot: Slot, event: Event) {
        if self.down.contains(&slot) || matches!(self.outcomes.get(&slot), Some(Err(_))) {
            return;
        }
        if self.outcomes.contains_key(&slot) && !matches!(event, Event::Resend { .. }) {
            return;
        }
        let party = &mut self.parties[slot.index()];
        let pieces = self.ahead.as_mut().map_or(0, |choices| choices.below(5));
        for _ in 0..pieces {
            party.ahead();
        }
        let actions = match party.step(event) {
            Ok(actions) => actions,
            Err(error) => {
                self.outcomes.insert(slot, Err(error));
                return;
            }
        };
        for action in actions {
            match action {
                Action::Send { to, frame } => {
                    // Through the wire form, as between processes.
                    let mut frame = Frame::decode(&frame.encode()).unwrap();
                    self.sent.push(frame.clone());
                    if let Verdict::Deliver = (self.adversary)(&mut frame) {
                        self.queue.push_back((to, Event::Frame { from: slot, frame }));
                    }
                }
                Action::Persist { token, record } => {
                    self.records.entry(slot).or_default().push(record);
                    self.queue.push_front((slot, Event::Persisted { token }));
                }
                Action::NeedSegment(index) => {
                    let mut bytes = self.segments[index as usize].1.clone();
                    (self.segment_for)(slot, index, &mut bytes);
                    // After the headers, which are queued already.
                    let event = match (self.accepted_for)(slot, index) {
                        None => Event::Segment { index, bytes },
                        Some(header) => {
                            let checked = header.verify(&self.owner.public(), &self.job.manifest().stream()).unwrap();
                            Event::Checked(checked.segment(&bytes).unwrap())
                        }
                    };
                    self.queue.push_back((slot, event));
                }
                Action::Done(outcome) => {
                    self.outcomes.insert(slot, Ok(*outcome));
                }
                Action::Log { round, transcript, words } => {
                    let log = self.logs.entry(slot).or_default();
                    match log.get(round) {
                        Some(held) => assert_eq!((held.1, &held.2), (transcript, &words), "{slot} opened another word"),
                        None => {
                            assert_eq!(log.len(), round);
                            log.push((round, transcript, words));
                        }
                    }
                }
                Action::Arm { token } => {
                    self.armed.insert(slot, token);
                }
                Action::Behind => {
                    self.behind.insert(slot);
                }
                Action::Checkpoint(checkpoint) => {
                    self.checkpoints.entry(slot).or_default().push(*checkpoint);
                }
                Action::DropSegments { .. } => {}
            }
        }
    }

    /// Every output in the clear, from the shares of nodes that finished.
    pub fn outputs(&self) -> Vec<Vec<Fp61>> {
        let plan = self.job.plan();
        let dealer = self.job.dealer();
        (0..plan.outputs.len())
            .map(|i| {
                let share = |(slot, o): (&Slot, &Result<Outcome, EngineError>)| {
                    (*slot, o.as_ref().unwrap_or_else(|e| panic!("{slot}: {e}")).outputs[i].words().to_vec())
                };
                let shares: Vec<_> = self.outcomes.iter().map(share).collect();
                dealer.verify_output(plan.outputs[i].shape.len(), &shares).unwrap().words.to_vec()
            })
            .collect()
    }

    /// The Δ of the inputs, as a cheater may change them after the roots were checked.
    pub fn job_inputs(&self) -> Vec<Vec<Fp61>> {
        self.job.inputs().iter().map(|bytes| decode_words(bytes).unwrap()).collect()
    }

    /// A party on a sharing and inputs of the adversary's choice.
    pub fn engine<S: Verify>(&self, sharing: S, inputs: Vec<Vec<Fp61>>) -> Box<dyn Party> {
        self.engine_of(1, sharing, inputs)
    }

    /// The same in an attempt of a job that has several.
    pub fn engine_in<S: Verify>(&self, attempt: u32, sharing: S, inputs: Vec<Vec<Fp61>>) -> Box<dyn Party> {
        let manifest = self.job.manifest();
        let job = Job {
            plan: Arc::clone(self.job.plan()),
            manifest: manifest.digest(),
            owner: self.owner.public(),
            attempts: manifest.manifest().attempts,
            attempt,
            inputs,
        };
        let label = [sharing.slot().0, attempt as u8];
        let rng = Entropy::insecure_from_seed(0).generator(&[b"attempt", &label]).unwrap();
        Box::new(Engine::new(job, sharing, rng).unwrap())
    }

    /// The same, in a job with several dealt copies of the material.
    pub fn engine_of<S: Verify>(&self, attempts: u32, sharing: S, inputs: Vec<Vec<Fp61>>) -> Box<dyn Party> {
        let manifest = self.job.manifest();
        let job = Job {
            plan: Arc::clone(self.job.plan()),
            manifest: manifest.digest(),
            owner: self.owner.public(),
            attempts,
            attempt: 0,
            inputs,
        };
        let rng = Entropy::insecure_from_seed(0).generator(&[b"cheater"]).unwrap();
        Box::new(Engine::new(job, sharing, rng).unwrap())
    }

    /// What a slot ended with.
    pub fn error(&self, slot: u8) -> &EngineError {
        match &self.outcomes[&Slot(slot)] {
            Ok(_) => panic!("node {slot} released its outputs"),
            Err(error) => error,
        }
    }

    /// No honest node released anything; `corrupt` may do as it likes.
    pub fn assert_nothing_released(&self, corrupt: &[u8]) {
        for (slot, outcome) in &self.outcomes {
            assert!(outcome.is_err() || corrupt.contains(&slot.0), "{slot} released its outputs");
        }
    }
}

/// Where the parties of these tests compute: with `BEAVERDAM_TEST_BACKEND=gpu`
/// on a GPU, which may be software.
pub fn device() -> Device {
    match std::env::var("BEAVERDAM_TEST_BACKEND").as_deref() {
        #[cfg(feature = "gpu")]
        Ok("gpu") => Device::Gpu(crate::backend::gpu::test_device().expect("BEAVERDAM_TEST_BACKEND asks for a GPU")),
        Ok(other) => panic!("BEAVERDAM_TEST_BACKEND is {other:?}, expected gpu or nothing"),
        Err(_) => Device::Cpu,
    }
}

pub fn party(device: &Device, job: &Prepared, slot: Slot, node: &SecretKey, seed: u64) -> Box<dyn Party> {
    let assigned = Assigned::check(job.assignment(slot), &node.public(), 0, &Limits::unlimited()).unwrap();
    let rng = Entropy::insecure_from_seed(seed).generator(&[b"engine", &[slot.0]]).unwrap();
    assigned.party(job.inputs(), device, rng).unwrap()
}

pub fn small_program() -> (Program, BTreeMap<String, Vec<f64>>) {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [2, 3]);
    let w = b.input("w", "alice", Type::fixed(-4.0..=4.0), [3, 1]);
    let k = b.input("k", "alice", Type::int(-9..=9), [2]);
    let z = x.matmul(&w);
    b.output("z", "alice", &z);
    b.output("k2", "alice", &(&k * &k));
    b.output("sign", "alice", &z.ge0());
    let inputs = [("x", vec![1.0, -2.0, 0.5, 3.0, 0.25, -1.0]), ("w", vec![1.5, 1.0, -2.0]), ("k", vec![7.0, -9.0])];
    (b.finish().unwrap(), inputs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
}

pub fn rosters() -> Vec<Roster> {
    let shamir = [(4, 1), (5, 1), (3, 1), (5, 2), (7, 2)].map(|(n, t)| Roster::shamir(n, t).unwrap());
    shamir.into_iter().chain([2, 3].map(|n| Roster::spdz(n).unwrap())).collect()
}

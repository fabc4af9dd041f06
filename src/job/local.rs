//! All nodes of a job in this process, for tests of programs: the same owner,
//! dealer, engines, sealing and receipts as over the network, with channels in
//! place of links. Nothing is faked and nothing leaves the process, so it
//! protects nothing either: whoever runs it holds all shares.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Assigned, Concluded, Conclusion, JobError, Limits};
use crate::backend::Device;
use crate::engine::{Action, Event, Party};
use crate::entropy::{Entropy, NoEntropy};
use crate::keys::SecretKey;
use crate::owner::{OwnerError, Prepared, Request, prepare, read};
use crate::program::{Planning, Program};
use crate::roster::{Roster, Slot};
use crate::transcript::SignedHeader;

/// What a local run gave.
pub struct Run {
    /// values by the outputs' names, row-major, in real units
    pub outputs: BTreeMap<String, Vec<f64>>,
    /// the transcript that all nodes signed
    pub transcript: [u8; 32],
    /// rounds of openings
    pub rounds: u32,
    /// from the first message, all nodes ready and inputs masked, to the last receipt
    pub online: Duration,
}

/// Why a local run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The owner's part failed.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A node refused or ended the job.
    #[error("{slot}: {source}")]
    Node {
        /// who
        slot: Slot,
        /// why
        source: JobError,
    },
    /// A node ended because another did.
    #[error("{slot} ended the job because another node did")]
    Abandoned {
        /// who
        slot: Slot,
    },
}

/// Runs a program among all nodes of a roster on the CPU. Inputs are given by
/// name, row-major, in real units. One owner gives all inputs and reads all
/// outputs, whatever names the program has for them.
pub fn run(program: &Program, roster: Roster, inputs: &[(&str, Vec<f64>)]) -> Result<Run, LocalError> {
    run_with(program, roster, Planning::default(), inputs, Entropy::system(), &Device::Cpu)
}

/// [`run`] planned as told, on a device ([`Devices`](crate::backend::Devices) opens one)
/// and with a source of randomness of the caller's choice.
pub fn run_with(
    program: &Program,
    roster: Roster,
    planning: Planning,
    inputs: &[(&str, Vec<f64>)],
    entropy: Entropy,
    device: &Device,
) -> Result<Run, LocalError> {
    let inputs = inputs.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
    let owner = Arc::new(key(entropy, b"owner")?);
    let nodes = roster.slots().map(|slot| key(entropy, &[b'n', slot.0])).collect::<Result<Vec<_>, _>>()?;
    let public: Vec<_> = nodes.iter().map(SecretKey::public).collect();
    let readers = program.outputs().iter().map(|o| (o.reader.clone(), owner.public())).collect();
    let request = Request {
        program,
        roster,
        planning,
        nodes: &public,
        spares: &[],
        inputs: &inputs,
        readers: &readers,
        attempts: 1,
        expires: u64::MAX,
        note: "a local run",
    };
    let job = prepare(&owner, &request, entropy)?;
    let (concluded, online) = compute(&job, &nodes, entropy, device)?;
    let results = read(&owner, &job.ticket(), &concluded)?;
    Ok(Run {
        outputs: results.outputs,
        transcript: results.agreed.transcript(),
        rounds: results.agreed.rounds(),
        online,
    })
}

fn key(entropy: Entropy, label: &[u8]) -> Result<SecretKey, NoEntropy> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    entropy.generator(&[b"local key", label])?.fill_bytes(&mut *seed);
    Ok(SecretKey::from_seed(*seed))
}

/// What reaches a node's thread.
enum Letter {
    Event(Event),
    Abandon,
}

/// Every node on its own thread, the dealer on another.
pub(crate) fn compute(
    job: &Prepared,
    nodes: &[SecretKey],
    entropy: Entropy,
    device: &Device,
) -> Result<(Vec<Concluded>, Duration), LocalError> {
    let roster = job.plan().roster;
    let (senders, receivers): (Vec<_>, Vec<_>) = roster.slots().map(|_| channel()).unzip();
    let segments = Segments::default();
    let mut ready = Vec::with_capacity(nodes.len());
    for (slot, node) in roster.slots().zip(nodes) {
        let fail = |source: JobError| LocalError::Node { slot, source };
        let assigned = Assigned::check(job.assignment(slot), &node.public(), 0, &Limits::unlimited()).map_err(fail)?;
        let rng = entropy.generator(&[b"engine", &[slot.0]])?;
        let party = assigned.party(job.inputs(), device, rng).map_err(fail)?;
        let conclusion = assigned.conclusion();
        ready.push((Node { slot, node, conclusion, senders: &senders, segments: &segments }, party));
    }
    let started = Instant::now();
    let outcomes = std::thread::scope(|scope| {
        scope.spawn(|| deal(job, &senders, &segments));
        let threads: Vec<_> = ready
            .into_iter()
            .zip(receivers)
            .map(|((node, party), inbox)| {
                scope.spawn(move || {
                    let done = node.run(party, inbox, entropy);
                    if done.is_err() {
                        // The others cannot go on without this one.
                        node.senders.iter().for_each(|s| drop(s.send(Letter::Abandon)));
                    }
                    node.segments.leave();
                    done
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a node's thread reports errors, it does not panic")).collect()
    });
    let online = started.elapsed();
    // The caller may keep the device and never use it again.
    device.settle();
    let outcomes: Vec<Result<Concluded, LocalError>> = outcomes;
    // The node that found the fault says more than those that followed it.
    let mut concluded = Vec::with_capacity(outcomes.len());
    let mut abandoned = None;
    for outcome in outcomes {
        match outcome {
            Ok(c) => concluded.push(c),
            Err(e @ LocalError::Abandoned { .. }) => abandoned = Some(e),
            Err(e) => return Err(e),
        }
    }
    abandoned.map_or(Ok((concluded, online)), Err)
}

/// The segments between the dealer and the slowest node.
#[derive(Default)]
struct Segments {
    state: Mutex<Shelf>,
    changed: Condvar,
}

#[derive(Default)]
struct Shelf {
    held: BTreeMap<u32, (Vec<u8>, u8)>,
    wanted: u32,
    left: u8,
}

/// Segments that the dealer makes ahead of what the nodes ask for.
const AHEAD: u32 = 16;

impl Segments {
    /// Waits until the segment is wanted soon; false if all nodes have left.
    fn make_room(&self, index: u32, nodes: u8) -> bool {
        let mut shelf = self.state.lock().expect("no thread panics with the lock held");
        while index >= shelf.wanted + AHEAD && shelf.left < nodes {
            shelf = self.changed.wait(shelf).expect("no thread panics with the lock held");
        }
        shelf.left < nodes
    }

    fn put(&self, index: u32, bytes: Vec<u8>) {
        let mut shelf = self.state.lock().expect("no thread panics with the lock held");
        shelf.held.insert(index, (bytes, 0));
        self.changed.notify_all();
    }

    /// Waits for a segment; the last of the nodes takes it away.
    fn take(&self, index: u32, nodes: u8) -> Vec<u8> {
        let mut shelf = self.state.lock().expect("no thread panics with the lock held");
        shelf.wanted = shelf.wanted.max(index + 1);
        self.changed.notify_all();
        loop {
            if let Some((bytes, taken)) = shelf.held.get_mut(&index) {
                *taken += 1;
                if *taken < nodes {
                    return bytes.clone();
                }
                return shelf.held.remove(&index).expect("just found").0;
            }
            shelf = self.changed.wait(shelf).expect("no thread panics with the lock held");
        }
    }

    fn leave(&self) {
        self.state.lock().expect("no thread panics with the lock held").left += 1;
        self.changed.notify_all();
    }
}

fn deal(job: &Prepared, nodes: &[Sender<Letter>], segments: &Segments) {
    let stream = job.stream().expect("the plan is the prepared job's own");
    for (index, (header, bytes)) in (0..).zip(stream) {
        if !segments.make_room(index, nodes.len() as u8) {
            return;
        }
        // Headers go first: a node asks for bytes whose header it has.
        segments.put(index, bytes);
        let header: SignedHeader = header;
        nodes.iter().for_each(|n| drop(n.send(Letter::Event(Event::Header(Box::new(header))))));
    }
}

struct Node<'a> {
    slot: Slot,
    node: &'a SecretKey,
    conclusion: Conclusion,
    senders: &'a [Sender<Letter>],
    segments: &'a Segments,
}

impl Node<'_> {
    fn run(
        &self,
        mut party: Box<dyn Party>,
        inbox: Receiver<Letter>,
        entropy: Entropy,
    ) -> Result<Concluded, LocalError> {
        let slot = self.slot;
        let fail = |source: JobError| LocalError::Node { slot, source };
        let mut events = std::collections::VecDeque::from([Event::Start]);
        // Segments that were asked for before their header came.
        let (mut headers, mut waiting) = (0u32, std::collections::BTreeSet::new());
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => match inbox.recv() {
                    Ok(Letter::Event(event)) => event,
                    _ => return Err(LocalError::Abandoned { slot }),
                },
            };
            headers += u32::from(matches!(event, Event::Header(_)));
            for action in party.step(event).map_err(|e| fail(e.into()))? {
                match action {
                    // A node that has finished needs no more frames.
                    Action::Send { to, frame } => {
                        drop(self.senders[to.index()].send(Letter::Event(Event::Frame { from: slot, frame })));
                    }
                    Action::Persist { token, .. } => events.push_back(Event::Persisted { token }),
                    Action::NeedSegment(index) => {
                        waiting.insert(index);
                    }
                    Action::Done(outcome) => {
                        let mut rng = entropy.generator(&[b"seal", &[slot.0]])?;
                        return self.conclusion.conclude(*outcome, self.node, (0, 0), &mut *rng).map_err(fail);
                    }
                    // Nobody asked for checkpoints.
                    Action::DropSegments { .. }
                    | Action::Arm { .. }
                    | Action::Log { .. }
                    | Action::Checkpoint(_)
                    | Action::Behind => {}
                }
            }
            while let Some(index) = waiting.first().copied().filter(|i| *i < headers) {
                waiting.remove(&index);
                let bytes = self.segments.take(index, self.senders.len() as u8);
                events.push_back(Event::Segment { index, bytes });
            }
        }
    }
}

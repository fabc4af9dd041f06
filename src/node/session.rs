//! One node's side of one job, from its acceptance to its end: a state machine
//! without sockets, clock or async runtime.
//!
//! It holds the party, what the job has in the store, and what is known of
//! the other nodes: who is linked, ready, done, or has given up. It is told what happens
//! ([`Event`]) and says what is to be done ([`Action`]). It computes and
//! waits for the disk, so `shell` runs it on a thread of the job's own; `chaos` runs
//! many in one thread, with a clock and links of its own making.
//!
//! **Links come and go.** What is sent to a node without a link is dropped. On each new
//! link both sides say in which round they are (`Behind`), and send again what the
//! other lacks (docs/protocols.md, 16).

mod attempts;
mod replacing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attempts::Attempts;
use super::catch_up::{CLAIM_BYTES, Claims, SERVE_BYTES, go_back_to};
use super::checkpoints::Checkpoints;
use super::replace::Replacement;
use super::resume::{Resume, Start};
use super::setup::{Keep, opened_words};
use super::wire::{Peer, one_line};
use super::{Kept, Parties};
use crate::backend::{Device, Devices, Opened as OpenedDevice};
use crate::engine::frame::{Frame, FrameError, Kind};
use crate::engine::{self, Checkpoint, EngineError, Outcome, Party, Record, first_segments};
use crate::entropy::Entropy;
use crate::job::replay::{self, Survivor};
use crate::job::{Assigned, CheckedManifest, Concluded, Conclusion, Duty, Limits};
use crate::keys::SecretKey;
use crate::net::Message;
use crate::program::plan::Plan;
use crate::roster::{Scheme, Slot};
use crate::sharing::SlotKeys;
use crate::store::{Nonce, Store};
use crate::transcript::{CheckedSegment, SignedHeader};

/// How long an ended job listens on, so that its last words are read.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How long what was opened may stay where the end of the process undoes it. What
/// it forgets, others tell it again; making it durable stops the computing for some milliseconds.
const DURABLE: Duration = Duration::from_millis(500);

/// What a session is made of.
pub(super) struct Setup {
    pub(super) assigned: Assigned,
    /// where the agents can be dialled, nodes first, to name them
    pub(super) addresses: Vec<String>,
    pub(super) key: Arc<SecretKey>,
    pub(super) store: Arc<dyn Store>,
    pub(super) entropy: Entropy,
    /// where the job is computed
    pub(super) devices: Arc<Devices>,
    /// how long a node may keep the others waiting
    pub(super) deadline: Duration,
    /// how long they wait for one that they cannot do without
    pub(super) patience: Duration,
    /// whether what the job can be taken up by is kept
    pub(super) recovery: bool,
    /// before which rounds the party's state is kept
    pub(super) checkpoints: Vec<usize>,
    /// how long a node may be away before a spare takes its slot over
    pub(super) replace_after: Duration,
    /// who stands where, as far as it is known
    pub(super) replacement: Replacement,
    /// how long its owner may take to deal more attempts
    pub(super) expires: Duration,
}

/// What happens to a session. Links, and what comes by them, are those of agents: nodes by
/// their slots, then spares.
pub(super) enum Event {
    /// The first: the job begins, or goes on with what an earlier process left in the store.
    Begin { again: bool },
    /// The Δ of all inputs, as they came.
    Inputs(Vec<Vec<u8>>),
    /// The header of a segment whose bytes are in the store, or that is here ([`Action::Takes`]).
    Header { header: Box<SignedHeader>, segment: Option<CheckedSegment> },
    /// The owner has dealt more attempts since: the streams of so many are whole and durable here.
    Held { attempts: u32 },
    /// There is a link with a peer, the first or another one.
    Linked(Slot),
    /// The link with a peer has ended.
    Lost { peer: Slot, reason: String },
    /// No link with a peer can be made, for a reason that does not pass by waiting.
    Unreachable { peer: Slot, reason: String },
    /// A message came by a peer's link.
    Message { from: Slot, bytes: Bytes },
    /// The time that was armed last under this name is over.
    Timer(Timer),
    /// The owner ends the job.
    Stop(String),
    /// The node is shut down. Its next process goes on, if it can.
    Leave,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// links with all nodes that are needed, and their inputs
    Start,
    /// the same, a second, longer time
    StartPatience,
    /// an exchange of the party
    Exchange,
    /// the same, a second, longer time
    Patience,
    /// answering those who have asked often
    Serve,
    /// those who are not done yet
    Linger,
    /// making the log durable
    Durable,
    /// nodes that are away
    Replace,
    /// an owner that deals more attempts
    Expiry,
}

/// What a session wants done, in this order.
pub(super) enum Action {
    /// Send it to this agent, or drop it if too much waits for it.
    Send { to: Slot, message: Message },
    /// Make durable what is in the store, and go on meanwhile.
    Sync,
    /// Report [`Event::Timer`] after this time, in place of what was armed under the name.
    Arm { timer: Timer, after: Duration },
    /// Segments below this one are taken as they come, beside being stored; `alone` means that
    /// nobody needs them a second time, and they need not be stored.
    Takes { below: u32, alone: bool },
    /// All inputs are verified.
    Verified,
    /// What the first rounds draw is expanded, as far as it may be ahead.
    Ready,
    /// A check of what was opened begins, or has passed.
    Check { passed: bool },
    /// So many rounds of openings are over.
    Round { round: u32, of: u32 },
    /// The job has stopped, and this attempt, counted from 1, is next, if it is one of those that are held; or the job
    /// goes on in it.
    Attempt { attempt: u32, of: u32, begun: bool },
    /// This spare has taken a slot over.
    Called(Slot),
    /// Readers may have the result now. It is not in the store yet.
    Concluded(Arc<Concluded>),
    /// The result is in the store, or why there is none; a spare that was not called has none
    /// either. Links are still of use.
    Ended(Result<Option<Arc<Concluded>>, String>),
    /// Nothing follows, and nothing more is taken.
    Closed,
}

/// What is known of another node.
#[derive(Default)]
struct Other {
    linked: bool,
    /// it had a link at some time
    was_linked: bool,
    ready: bool,
    /// it has sent frames of exchanges
    begun: bool,
    done: bool,
    /// why it will not come back
    over: Option<String>,
    /// why its last link ended
    lost: Option<String>,
    /// how far it was answered: from there on it has nothing yet
    served: Option<usize>,
    /// answers that it may still ask for without having gone on
    allowance: u8,
    /// from where it asked last while this node has been in its exchange, and after how many deadlines
    asks: Option<(usize, u32)>,
}

/// Answers to one peer that asks again from where it was, per link and per time
/// of [`Timer::Serve`].
const ALLOWANCE: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// the party is not there yet, or runs
    Running,
    /// the result is stored; others may still need what was opened
    Done,
    Failed,
    Closed,
}

/// What an earlier process has kept of the job.
enum Log {
    /// nothing is taken from it, nor said that depends on it, before others have confirmed it
    Unconfirmed(Resume),
    /// what was opened below this round is taken from it
    Until(usize),
}

impl Log {
    fn end(&self) -> usize {
        match self {
            Self::Unconfirmed(_) => 0,
            Self::Until(end) => *end,
        }
    }
}

/// Why a step ends the job.
struct Failed(String);

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

type Step<T = ()> = Result<T, Failed>;

/// One node's side of one job.
pub(super) struct Session {
    party: Option<Box<dyn Party>>,
    /// below the party: what is left on it of the job is wiped last
    device: Option<Settled>,
    /// until the party is made
    assigned: Option<Assigned>,
    conclusion: Conclusion,
    manifest: CheckedManifest,
    plan: Arc<Plan>,
    slot: Slot,
    nonce: Nonce,
    /// the number of this agent: its slot, if it is a node of the roster
    agent: Slot,
    replacement: Replacement,
    replace_after: Duration,
    /// the slot's keys, if a spare may need them
    keys: Option<SlotKeys>,
    addresses: Vec<String>,
    key: Arc<SecretKey>,
    store: Arc<dyn Store>,
    keep: Keep,
    /// what the party can be made again from, and what was opened, is kept
    keeps: bool,
    checkpoints: Checkpoints,
    /// of an SPDZ job that has several, and whose data is kept
    attempts: Attempts,
    /// the one in which this node speaks, or has spoken last
    attempt: u32,
    /// segments of the manifest's attempts that have come
    stored: u32,
    /// and the inputs
    keep_inputs_done: bool,
    /// the time for more attempts, and that it is over
    expires: Duration,
    expired: bool,
    /// before which rounds there is one
    checkpoint_before: Vec<usize>,
    /// one that is not on disk yet
    unwritten: Option<Box<Checkpoint>>,
    /// a result that readers have been told of before the disk
    unstored: Option<Arc<Concluded>>,
    /// the result is stored, and the segments are not dropped yet
    used_up: bool,
    /// this process has begun at one
    #[cfg(test)]
    pub(super) restored: bool,
    entropy: Entropy,
    devices: Arc<Devices>,
    deadline: Duration,
    patience: Duration,
    phase: Phase,
    /// why it has failed, as others are told
    failure: String,
    started: bool,
    /// expands what the first rounds draw, before it is ready
    expanding: bool,
    /// a check is under way
    checking: bool,
    others: BTreeMap<Slot, Other>,
    /// peers that sent what is no message
    liars: BTreeSet<Slot>,
    /// segments below this are stored and their headers known to the party
    headers: u32,
    /// segments that the party has asked for and that are not there yet
    wanted: BTreeSet<u32>,
    /// segments that came before the party asked for them, and that it will ask for next
    came: BTreeMap<u32, CheckedSegment>,
    /// how far it takes them as they come
    takes: u32,
    /// names what the party waits for
    token: u32,
    round: Option<usize>,
    claims: Claims,
    log: Log,
    /// an earlier process had begun the job
    again: bool,
    /// the round whose words the party has been given
    fed: Option<usize>,
    /// it is being given words, and will say where it is afterwards
    catching_up: bool,
    /// the round from which the others were asked last
    asked: Option<usize>,
    /// deadlines that have passed in this exchange
    overdue: u32,
    /// the end of the log is not durable yet
    loose: bool,
    /// what was opened below this round is told as far as it is on disk, though this node does not use it
    tells: usize,
    sent: u64,
    received: u64,
    out: Vec<Action>,
}

impl Session {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup {
            assigned, addresses, key, store, entropy, devices, deadline, patience, recovery, checkpoints, ..
        } = setup;
        let (replace_after, replacement) = (setup.replace_after, setup.replacement);
        let (manifest, plan, slot) = (assigned.manifest().clone(), Arc::clone(assigned.plan()), assigned.slot());
        let nonce = manifest.manifest().nonce;
        let keep = Keep::new(Arc::clone(&store), nonce);
        let others = plan.roster.slots().filter(|other| *other != slot).map(|other| (other, Other::default()));
        Self {
            party: None,
            device: None,
            conclusion: assigned.conclusion(),
            agent: assigned.agent(),
            keys: replacement.has_spares().then(|| assigned.keys().clone()),
            replacement,
            replace_after,
            assigned: Some(assigned),
            others: others.collect(),
            claims: Claims::new(plan.roster.threshold()),
            keeps: recovery && plan.replays(),
            attempts: Attempts::new(recovery && manifest.has_attempts()),
            attempt: 0,
            stored: 0,
            keep_inputs_done: false,
            expires: setup.expires,
            expired: false,
            plan,
            slot,
            nonce,
            addresses,
            checkpoints: Checkpoints::new(keep.clone(), &key, manifest.digest(), slot),
            checkpoint_before: checkpoints,
            unwritten: None,
            unstored: None,
            used_up: false,
            #[cfg(test)]
            restored: false,
            keep,
            key,
            manifest,
            store,
            entropy,
            devices,
            deadline,
            patience: patience.max(deadline),
            phase: Phase::Running,
            failure: String::new(),
            started: false,
            expanding: false,
            checking: false,
            log: Log::Until(0),
            again: false,
            fed: None,
            catching_up: false,
            liars: BTreeSet::new(),
            headers: 0,
            wanted: BTreeSet::new(),
            came: BTreeMap::new(),
            takes: 0,
            token: 0,
            round: None,
            asked: None,
            overdue: 0,
            loose: false,
            tells: 0,
            sent: 0,
            received: 0,
            out: Vec::new(),
        }
    }

    /// Takes one event. Whatever goes wrong ends the job and is told to all.
    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        if let Err(Failed(reason)) = self.take(event) {
            self.fail(&reason);
        }
        self.close_if_alone();
        std::mem::take(&mut self.out)
    }

    /// Whether [`Session::work`] comes before the next event.
    pub(super) fn prepares(&self) -> bool {
        self.expanding || self.used_up || self.unwritten.is_some() || self.unstored.is_some()
    }

    /// A piece of work that needs no event, while there is none: expands what later
    /// rounds draw. `None` if there is nothing to do.
    pub(super) fn work(&mut self) -> Option<Vec<Action>> {
        if let Some(concluded) = self.unstored.take() {
            if let Err(Failed(reason)) = self.store_result(concluded) {
                self.fail(&reason);
            }
            self.close_if_alone();
            return Some(std::mem::take(&mut self.out));
        }
        // Once the end has been told: removing them takes some milliseconds.
        if std::mem::take(&mut self.used_up) {
            // The result stands; a disk that keeps them is its operator's matter.
            if let Err(error) = self.store.drop_segments_below(self.nonce, u32::MAX) {
                tracing::warn!(%error, "the segments of a finished job could not be dropped");
            }
            return Some(Vec::new());
        }
        // Once what the party had to say has left.
        if let Some(checkpoint) = self.unwritten.take().filter(|_| self.phase == Phase::Running) {
            match self.checkpoints.put(&checkpoint) {
                Ok(()) => self.durable_soon(),
                Err(reason) => self.fail(&reason),
            }
            return Some(std::mem::take(&mut self.out));
        }
        let party = self.party.as_mut().filter(|_| self.phase == Phase::Running)?;
        if party.ahead() {
            return Some(Vec::new());
        }
        if !std::mem::take(&mut self.expanding) {
            return None;
        }
        self.get_ready();
        if let Err(Failed(reason)) = self.start_if_ready() {
            self.fail(&reason);
        }
        Some(std::mem::take(&mut self.out))
    }

    fn take(&mut self, event: Event) -> Step {
        match event {
            Event::Begin { again } => self.begin(again),
            Event::Inputs(inputs) if self.phase == Phase::Running => self.inputs(inputs),
            Event::Header { header, segment } => self.header(header, segment),
            Event::Held { attempts } => self.holds(attempts),
            Event::Linked(_) | Event::Lost { .. } | Event::Unreachable { .. } | Event::Message { .. } => {
                self.of_agent(event)
            }
            Event::Timer(timer) => self.timer(timer),
            Event::Stop(reason) if self.phase == Phase::Running => Err(Failed(reason)),
            Event::Leave if self.phase == Phase::Running => self.leave(),
            // What comes after the end is of no use.
            Event::Inputs(_) | Event::Stop(_) | Event::Leave => Ok(()),
        }
    }

    // --- beginning ------------------------------------------------------------

    fn begin(&mut self, again: bool) -> Step {
        self.arm(Timer::StartPatience, self.patience);
        self.begin_replacing()?;
        if self.has_attempts() {
            self.arm(Timer::Expiry, self.expires);
        }
        self.again = again;
        if !again {
            return Ok(());
        }
        let again = match self.has_attempts() {
            true => self.wait_again(),
            false => self.on_disk().and_then(|from| self.go_on(from)),
        };
        again.map_err(|Failed(reason)| {
            Failed(format!("the node was restarted in the middle of it and could not go on: {reason}"))
        })
    }

    /// What an earlier process has kept, if others can confirm any of it.
    fn on_disk(&mut self) -> Step<Option<Resume>> {
        if !self.keeps {
            return Err(Failed("what it said before cannot be said again alike".to_owned()));
        }
        let logged = self.keep.log_end(self.plan.opening_rounds()).map_err(Failed)?;
        Ok(Resume::new(logged, self.checkpoints.open(&self.plan).map_err(Failed)?))
    }

    /// Makes the party from what is on disk. A checkpoint and the log lead it to where it was
    /// once others have confirmed them.
    fn go_on(&mut self, from: Option<Resume>) -> Step {
        let inputs = self.keep.inputs(&self.manifest).map_err(Failed)?;
        self.store.resume(self.nonce)?;
        self.make_party(inputs)?;
        for index in 0..self.segments() {
            let header = self.keep.header(index).map_err(Failed)?;
            self.feed(engine::Event::Header(Box::new(header)))?;
        }
        self.log = from.map_or(Log::Until(0), Log::Unconfirmed);
        self.get_ready();
        self.start_if_ready()
    }

    /// Where this node must go back to, if it waits for nodes that it is too far ahead of:
    /// they have forgotten more than it still says, and too few of them know what was
    /// opened there.
    fn too_far_ahead(&self) -> Option<usize> {
        let asks = self.others.values().filter(|other| other.over.is_none()).filter_map(|other| other.asks);
        // Who asked earlier may have what it needs by now.
        let asks = asks.filter(|asked| asked.1 + 2 >= self.overdue).map(|asked| asked.0).collect();
        // While segments come it cannot be made again, and they are what it waits for.
        let waits = self.started && self.keeps && self.overdue >= 3 && self.headers >= self.segments();
        go_back_to(asks, self.plan.roster.threshold(), self.now()).filter(|_| waits)
    }

    /// Does what a node does that was killed, and says again all that it said from there on.
    fn go_back(&mut self, to: usize) -> Step {
        tracing::warn!(to, from = self.now(), "others have lost what was opened: this node goes back for them");
        let from = self.on_disk()?.and_then(|from| from.back_to(to));
        self.tells = self.plan.opening_rounds();
        self.make_again(from)
    }

    /// Makes the party a second time in this process: only where what it says again is what it
    /// has said.
    fn make_again(&mut self, from: Option<Resume>) -> Step {
        debug_assert!(self.keeps);
        self.party = None;
        self.arm(Timer::StartPatience, self.patience);
        let kept = self.keep.setup(&self.key, self.manifest.digest(), &Limits::unlimited()).map_err(Failed)?;
        let Duty::Node(assigned) = kept.0 else {
            return Err(Failed("its setup is that of a spare that has no slot".to_owned()));
        };
        self.assigned = Some(assigned);
        (self.again, self.started, self.expanding) = (true, false, false);
        (self.headers, self.round, self.fed, self.asked) = (0, None, None, None);
        self.wanted.clear();
        self.came.clear();
        self.unwritten = None;
        self.claims = Claims::new(self.plan.roster.threshold());
        self.forget_asks();
        self.go_on(from)
    }

    /// A new exchange: who is behind will ask again.
    fn forget_asks(&mut self) {
        self.overdue = 0;
        self.others.values_mut().for_each(|other| other.asks = None);
    }

    /// Compares what an earlier process has kept with what more than t others say.
    /// The disk is a cache and no witness: a share that is computed from one
    /// wrong word would give a secret away, so nothing is sent before.
    fn confirm_log(&mut self) -> Step {
        let Log::Unconfirmed(resume) = &self.log else { return Ok(()) };
        let Some(told) = self.claims.agreed(resume.check()) else { return Ok(()) };
        let same = resume.agrees(&self.keep, &told).map_err(Failed)?;
        let Log::Unconfirmed(resume) = std::mem::replace(&mut self.log, Log::Until(0)) else {
            unreachable!("matched above")
        };
        if same {
            let Start { until, checkpoint } = resume.confirmed(&self.keep).map_err(Failed)?;
            self.log = Log::Until(until);
            if let (Some(checkpoint), Some(party)) = (checkpoint, &mut self.party) {
                tracing::info!(round = checkpoint.round(), "the job goes on from a checkpoint");
                party.restore(&checkpoint)?;
                #[cfg(test)]
                (self.restored = true);
            }
        } else {
            tracing::warn!("what the disk holds of a job is not what was opened: the rest is asked for anew");
            self.tells = 0;
            if let Some(resume) = resume.without() {
                self.log = Log::Unconfirmed(resume);
                self.ask_again();
                return Ok(());
            }
        }
        self.start()?;
        self.ask_again();
        Ok(())
    }

    /// Nobody has confirmed what is on disk: others may have lost more of theirs.
    fn confirm_less(&mut self) -> Step {
        if let Log::Unconfirmed(_) = self.log
            && let Log::Unconfirmed(resume) = std::mem::replace(&mut self.log, Log::Until(0))
        {
            self.log = resume.less().map_or(Log::Until(0), Log::Unconfirmed);
            // Nobody has contradicted it either.
            self.tells = self.plan.opening_rounds();
            self.ask_again();
        }
        self.start_if_ready()
    }

    fn inputs(&mut self, inputs: Vec<Vec<u8>>) -> Step {
        if self.assigned.is_none() {
            return Err(Failed("the inputs came twice".to_owned()));
        }
        let keeps = self.keeps || self.has_attempts();
        if keeps {
            self.keep.put_inputs(&inputs).map_err(Failed)?;
        }
        if self.attempts.wait() {
            // A process was lost before this node had all of it.
            self.assigned = None;
        } else {
            self.make_party(inputs)?;
        }
        if keeps {
            // From here on others count on this node: it must be able to come back.
            self.store.sync()?;
        }
        self.out.push(Action::Verified);
        self.keep_inputs_done = true;
        if self.attempts.wait() {
            self.out.push(Action::Ready);
        } else {
            self.expanding = true;
        }
        if self.has_attempts() { self.holds_stored() } else { Ok(()) }
    }

    fn make_party(&mut self, inputs: Vec<Vec<u8>>) -> Step {
        let assigned = self.assigned.take().ok_or_else(|| Failed("the inputs came twice".to_owned()))?;
        let (digest, attempt) = (self.manifest.digest(), self.attempt.to_le_bytes());
        let label = [&b"engine"[..], &digest, &[self.slot.0], &attempt];
        let mut rng = self.entropy.generator(&label[..if self.attempt == 0 { 3 } else { 4 }])?;
        // It may have been lost since the last job.
        let OpenedDevice { device, fell_back } = self.devices.open()?;
        if let Some(why) = fell_back {
            tracing::debug!("this job has no GPU: {why}");
        }
        let first = self.first_segment();
        let device = &self.device.insert(Settled(device)).0;
        let log = Box::new(Events { store: Arc::clone(&self.store), nonce: self.nonce, first });
        let mut party = Survivor::new(assigned, inputs, device, &mut *rng, log)?;
        if self.keeps || self.has_attempts() {
            party.checkpoint_before(&self.checkpoint_before);
        }
        self.party = Some(Box::new(party));
        self.take_until(first_segments(&self.plan));
        Ok(())
    }

    /// The party has asked for segments below this one, or will when it begins. They are its own
    /// from the moment that they come, so that memory holds no more than it asks for.
    fn take_until(&mut self, below: u32) {
        // Another attempt may begin with others, and reads them from the store.
        if below > self.takes && !self.has_attempts() {
            self.takes = below;
            // A device that is lost, or this process, begins with the first segment again.
            let again = self.keeps || self.device.as_ref().is_none_or(|device| device.0.can_be_lost());
            self.out.push(Action::Takes { below, alone: !again });
        }
    }

    /// Says that the inputs are verified, and asks for what was missed so far.
    fn get_ready(&mut self) {
        self.out.push(Action::Ready);
        self.tell(&Peer::Ready);
        self.ask_again();
        self.arm(Timer::Start, self.deadline);
    }

    fn header(&mut self, header: Box<SignedHeader>, segment: Option<CheckedSegment>) -> Step {
        // One that comes while the job ends is of no use.
        if self.phase == Phase::Running && self.has_attempts() {
            return self.segment_of(header);
        }
        if self.phase != Phase::Running || self.party.is_none() {
            return Ok(());
        }
        self.came.extend(segment.map(|segment| (segment.index(), segment)));
        self.feed(engine::Event::Header(header))?;
        self.catch_up()
    }

    fn segments(&self) -> u32 {
        u32::try_from(self.manifest.stream().segments()).unwrap_or(u32::MAX)
    }

    /// Starts the party once all nodes are ready, or others have started, which
    /// more than t say. Without some nodes, after a while.
    fn start_if_ready(&mut self) -> Step {
        let all = self.others.values().all(|other| other.ready);
        let begun = self.others.values().filter(|other| other.begun).count();
        let may = self.party.is_some() && matches!(self.log, Log::Until(_));
        if may && (all || begun > usize::from(self.plan.roster.threshold())) {
            self.start()?;
        }
        Ok(())
    }

    /// Starts without those who are not there, if that can be.
    fn start_without(&mut self, late: bool) -> Step {
        if self.started || self.party.is_none() || matches!(self.log, Log::Unconfirmed(_)) {
            return Ok(());
        }
        let ready = 1 + self.others.values().filter(|other| other.ready).count();
        let left_out = |other: &Other| other.ready || !other.linked || other.over.is_some() || late;
        if ready >= self.plan.needed() && self.others.values().all(left_out) {
            return self.start();
        }
        Ok(())
    }

    fn start(&mut self) -> Step {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        self.feed(engine::Event::Start)?;
        let away = |other: &Other| !other.linked || other.over.is_some();
        let absent: Vec<Slot> = self.others.iter().filter(|(_, o)| away(o)).map(|(slot, _)| *slot).collect();
        for peer in absent {
            self.feed(engine::Event::Gone { peer })?;
        }
        self.catch_up()
    }

    // --- links ------------------------------------------------------------------

    fn linked(&mut self, peer: Slot) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        (other.linked, other.was_linked, other.lost) = (true, true, None);
        (other.allowance, other.served) = (ALLOWANCE, None);
        match self.phase {
            Phase::Failed => {
                let last = Peer::Abort(self.failure.clone());
                self.send(peer, &last);
            }
            Phase::Done => {
                self.send(peer, &Peer::Ready);
                self.send(peer, &Peer::Done);
            }
            Phase::Running if self.attempts.wait() => {
                let offer = self.attempts.own().clone();
                self.send(peer, &Peer::Offer { waits: true, offer });
            }
            Phase::Running if self.party.is_some() => {
                self.send(peer, &Peer::Ready);
                self.send(peer, &Peer::Behind { round: self.unknown() as u32 });
            }
            Phase::Running | Phase::Closed => {}
        }
        Ok(())
    }

    fn lost(&mut self, peer: Slot, reason: String) -> Step {
        self.attempts.forget(peer);
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        if !std::mem::take(&mut other.linked) || other.over.is_some() {
            return Ok(());
        }
        tracing::info!(%peer, reason, "a link has ended");
        other.lost = Some(reason);
        self.gone(peer)
    }

    fn unreachable(&mut self, peer: Slot, reason: String) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        tracing::warn!(%peer, reason, "no link");
        other.lost = Some(reason.clone());
        if self.phase == Phase::Running && !other.was_linked && self.plan.spare() == 0 && !self.may_be_replaced() {
            return Err(Failed(format!("no link with {peer}: {reason}")));
        }
        Ok(())
    }

    /// The party waits for it no more until it speaks again.
    fn gone(&mut self, peer: Slot) -> Step {
        if self.phase == Phase::Running && self.started {
            self.feed(engine::Event::Gone { peer })?;
        }
        Ok(())
    }

    /// A peer that will not come back. Fewer than are needed end the job.
    fn over(&mut self, peer: Slot, reason: String) -> Step {
        let Some(other) = self.others.get_mut(&peer) else { return Ok(()) };
        other.over.get_or_insert_with(|| reason.clone());
        self.claims.drop_of(peer);
        if self.phase != Phase::Running {
            return Ok(());
        }
        let left = 1 + self.others.values().filter(|other| other.over.is_none()).count();
        if left < self.plan.needed() && !self.may_be_replaced()
            || self.liars.len() > usize::from(self.plan.roster.threshold())
        {
            return Err(Failed(reason));
        }
        tracing::warn!(%peer, reason, "the job goes on without a node");
        self.gone(peer)
    }

    fn message(&mut self, from: Slot, bytes: &mut Bytes) -> Step {
        let Some(other) = self.others.get_mut(&from).filter(|other| other.over.is_none()) else { return Ok(()) };
        self.received += bytes.len() as u64 + 4;
        match Peer::decode(bytes) {
            // What comes too early is asked for when the party is there.
            Some(Peer::Frame(_)) if self.phase != Phase::Running || self.party.is_none() => Ok(()),
            Some(Peer::Frame(frame)) => {
                let frame = Frame::decode(frame);
                // Shares may be long, and what they lead to needs room.
                *bytes = Bytes::new();
                self.frame(from, frame)
            }
            Some(Peer::Ready) => {
                other.ready = true;
                self.start_if_ready()
            }
            Some(Peer::Done) => {
                (other.ready, other.begun, other.done) = (true, true, true);
                self.too_late(from)?;
                self.start_if_ready()
            }
            Some(Peer::Abort(reason)) if self.phase == Phase::Done => {
                tracing::warn!(%from, reason, "a node failed after the job was over here");
                self.over(from, reason)
            }
            Some(Peer::Abort(reason)) => self.over(from, format!("{from} says: {reason}")),
            Some(Peer::Behind { round }) => self.serve(from, round as usize),
            Some(Peer::Words { round, transcript, words }) => self.claim(from, round as usize, transcript, words),
            Some(Peer::Offer { waits, offer }) if self.plan.roster.scheme() == Scheme::Spdz => {
                self.offered(from, waits, offer)
            }
            Some(Peer::Offer { .. }) => {
                self.liar(from, format!("{from} offers another attempt, of which a job on Shamir has none"))
            }
            // What concerns agents is taken before.
            Some(Peer::Missing { .. } | Peer::Vote(_) | Peer::Replaced(_) | Peer::Keys { .. }) => Ok(()),
            None => {
                let what = "something that does not belong here: it runs another version or sends garbage";
                self.liar(from, format!("{from} sent {what}"))
            }
        }
    }

    /// A peer that sent what no honest node sends.
    fn liar(&mut self, peer: Slot, reason: String) -> Step {
        self.liars.insert(peer);
        self.over(peer, reason)
    }

    fn frame(&mut self, from: Slot, frame: Result<Frame, FrameError>) -> Step {
        let frame = match frame {
            Ok(frame) => frame,
            Err(source) => return self.liar(from, EngineError::Frame { from, source }.to_string()),
        };
        if !self.is_of_attempt(frame.header.attempt) {
            return Ok(());
        }
        if frame.header.kind != Kind::Segment
            && let Some(other) = self.others.get_mut(&from)
        {
            // It was ready then, whether or not that arrived.
            (other.ready, other.begun) = (true, true);
        }
        self.feed(engine::Event::Frame { from, frame })?;
        self.start_if_ready()?;
        self.catch_up()
    }

    // --- the party ----------------------------------------------------------------

    /// The round in which the party is; that after the last once it is done.
    fn now(&self) -> usize {
        match (&self.party, self.phase) {
            (_, Phase::Done) => self.plan.opening_rounds(),
            (Some(party), _) => party.progress().0,
            (None, _) => 0,
        }
    }

    /// Feeds the party until it waits for something from outside.
    fn feed(&mut self, event: engine::Event) -> Step {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(party) = &mut self.party else { return Ok(()) };
            self.headers += u32::from(matches!(event, engine::Event::Header(_)));
            let actions = match party.step(event) {
                Err(error @ EngineError::Told { .. }) if self.now() < self.log.end() => return self.drop_log(&error),
                stepped => stepped.map_err(|error| Failed(self.explain(&error)))?,
            };
            for action in actions {
                self.carry_out(action, &mut events)?;
            }
            if events.is_empty()
                && let Some(index) = self.wanted.first().copied().filter(|index| *index < self.headers)
            {
                self.wanted.remove(&index);
                events.push_back(match self.came.remove(&index) {
                    Some(segment) => engine::Event::Checked(segment),
                    None => engine::Event::Segment { index, bytes: self.stored(self.first_segment() + index)? },
                });
            }
        }
        if let Some(last) = self.wanted.last() {
            self.take_until(last + 1);
        }
        self.went_on();
        Ok(())
    }

    fn stored(&self, index: u32) -> Step<Vec<u8>> {
        let lost = || Failed(format!("segment {index} is not in this node's store any more: free its disk"));
        self.store.segment(self.nonce, index)?.ok_or_else(lost)
    }

    /// Why the party has failed, and what is known of those that are not there.
    fn explain(&self, error: &EngineError) -> String {
        let missing: Vec<Slot> = match error {
            EngineError::Silent { missing, .. } => missing.clone(),
            // The segment may be here, and the reports of others be missing.
            EngineError::OwnerSilent { .. } => self.others.keys().copied().collect(),
            _ => return error.to_string(),
        };
        let why = missing.iter().filter_map(|slot| Some((slot, self.others.get(slot)?.lost.as_ref()?)));
        why.fold(error.to_string(), |text, (slot, lost)| format!("{text}; the link with {slot} ended: {lost}"))
    }

    fn carry_out(&mut self, action: engine::Action, events: &mut VecDeque<engine::Event>) -> Step {
        match action {
            // Before the party is where the confirmed transcript is, nothing of a round leaves:
            // words before that are the disk's alone.
            engine::Action::Send { frame, .. }
                if self.now() < self.log.end() && !matches!(frame.header.kind, Kind::Segment | Kind::Agree) => {}
            engine::Action::Send { to, frame } => {
                if self.others.get(&to).is_some_and(|other| other.linked && other.over.is_none()) {
                    if frame.header.kind == Kind::Freeze && !std::mem::replace(&mut self.checking, true) {
                        self.out.push(Action::Check { passed: false });
                    }
                    self.send_message(to, Peer::encode_frame(&frame));
                }
            }
            engine::Action::Persist { token, record } => {
                match record {
                    Record::Cursor { round } => self.store.advance(self.nonce, round)?,
                    Record::CheckOpened { check } => self.store.check_opened(self.nonce, check)?,
                    Record::CheckPassed { check } => {
                        self.checking = false;
                        self.out.push(Action::Check { passed: true });
                        self.store.check_passed(self.nonce, check)?;
                        if self.has_attempts() {
                            // A check that is open on disk would end the job, whatever comes next.
                            self.store.sync()?;
                        }
                        self.put_behind_check()?;
                    }
                }
                events.push_back(engine::Event::Persisted { token });
            }
            engine::Action::NeedSegment(index) => drop(self.wanted.insert(index)),
            // A process that comes after this one begins with the first.
            engine::Action::DropSegments { .. } if self.keeps || self.has_attempts() => {}
            engine::Action::DropSegments { below } => self.store.drop_segments_below(self.nonce, below)?,
            engine::Action::Arm { token } => {
                self.token = token;
                self.forget_asks();
                self.arm(Timer::Exchange, self.deadline);
                self.arm(Timer::Patience, self.patience);
            }
            engine::Action::Log { round, transcript, words } => {
                if self.keeps && round >= self.log.end() {
                    self.keep.put_words(round, &transcript, &words).map_err(Failed)?;
                    self.durable_soon();
                }
            }
            // One that comes from the disk alone is not sealed.
            engine::Action::Checkpoint(checkpoint) => {
                if checkpoint.round() >= self.log.end() {
                    self.unwritten = Some(checkpoint);
                }
            }
            engine::Action::Behind => self.ask(),
            engine::Action::Done(outcome) => self.done(*outcome)?,
        }
        Ok(())
    }

    /// What was opened below this round is in the store, if the plan lets it be kept.
    fn held(&self) -> usize {
        // What the disk says of the rounds before may be told while it is unconfirmed:
        // words are public, and nobody takes them from one node.
        match self.log {
            Log::Unconfirmed(_) => self.plan.opening_rounds(),
            Log::Until(end) => self.now().max(end).max(self.tells),
        }
    }

    /// What was written is made durable with what else is until then.
    fn durable_soon(&mut self) {
        if !std::mem::replace(&mut self.loose, true) {
            self.arm(Timer::Durable, DURABLE);
        }
    }

    /// Notes a new round.
    fn went_on(&mut self) {
        let Some(party) = &self.party else { return };
        let (round, of) = party.progress();
        if self.round.replace(round) != Some(round) {
            self.out.push(Action::Round { round: round as u32, of: of as u32 });
            self.claims.drop_below(round);
            // Whoever is behind may have got no further than this by itself.
            self.others.values_mut().for_each(|other| other.allowance = other.allowance.max(1));
        }
    }

    // --- those who are behind ---------------------------------------------------------

    /// What was opened below this round this node knows; it is told of that round
    /// before it too.
    fn unknown(&self) -> usize {
        match self.log {
            Log::Unconfirmed(ref resume) => resume.check() + 1,
            Log::Until(end) => self.now().max(end),
        }
    }

    /// Asks all others for what was opened from here on, once.
    fn ask(&mut self) {
        let round = self.unknown();
        let speaks = self.party.is_some() && self.phase == Phase::Running && !self.catching_up;
        if speaks && self.asked.replace(round) != Some(round) {
            self.tell(&Peer::Behind { round: round as u32 });
        }
    }

    fn ask_again(&mut self) {
        self.asked = None;
        self.ask();
    }

    /// Answers a peer that is in this round: what was opened from there on, up to
    /// a limit; if that is all, the frames that the party has sent last.
    fn serve(&mut self, to: Slot, from: usize) -> Step {
        // Nobody is further than this without knowing all that is here.
        let from = from.min(self.held() + 1);
        let Some(other) = self.others.get_mut(&to) else { return Ok(()) };
        other.asks = Some((from, self.overdue));
        if self.party.is_none() || self.phase == Phase::Failed {
            return Ok(());
        }
        // One that goes on may ask as often as it has to: nothing is read for it twice.
        if other.served >= Some(from) {
            let Some(left) = other.allowance.checked_sub(1) else { return Ok(()) };
            other.allowance = left;
            self.arm(Timer::Serve, self.deadline / 4);
        }
        // The one before confirms where the peer is.
        let (mut round, mut bytes) = (from.saturating_sub(1), 0);
        while round < self.held()
            && let Some((transcript, words)) = self.keep.words(round).map_err(Failed)?
            // A changed disk does not make this node a liar.
            && opened_words(&self.plan, round, &words).is_ok()
        {
            let len = words.len() + CLAIM_BYTES;
            if bytes > 0 && bytes + len > SERVE_BYTES {
                // Without reports of segments it could not take even the first of these
                // rounds, and would ask for the same ones for ever.
                self.served(to, round - 1);
                return self.feed(engine::Event::Resend { to });
            }
            bytes += len;
            self.send(to, &Peer::Words { round: round as u32, transcript, words: &words });
            round += 1;
        }
        self.served(to, round.max(from));
        self.feed(engine::Event::Resend { to })
    }

    fn served(&mut self, to: Slot, round: usize) {
        if let Some(other) = self.others.get_mut(&to) {
            other.served = Some(round);
        }
    }

    /// What a peer says was opened in a round.
    fn claim(&mut self, from: Slot, round: usize, transcript: [u8; 32], words: &[u8]) -> Step {
        if self.phase != Phase::Running || self.party.is_none() || !self.plan.replays() || round < self.now() {
            return Ok(());
        }
        if let Err(what) = opened_words(&self.plan, round, words) {
            return self.liar(from, format!("{from} sent {what}"));
        }
        self.claims.add(from, round, transcript, words);
        self.start_if_ready()?;
        self.catch_up()
    }

    /// Goes on with what this node has logged, or more than t peers say alike.
    fn catch_up(&mut self) -> Step {
        self.confirm_log()?;
        let mut took = false;
        self.catching_up = true;
        while self.phase == Phase::Running && self.started && self.fed != Some(self.now()) {
            let round = self.now();
            let Some((transcript, bytes)) = self.known(round)? else {
                if round >= self.log.end() {
                    break;
                }
                took = true;
                self.drop_log(&format!("what was opened in round {round} is not there"))?;
                continue;
            };
            let words = match opened_words(&self.plan, round, &bytes) {
                Err(what) if round < self.log.end() => {
                    took = true;
                    self.drop_log(&what)?;
                    continue;
                }
                opened => opened.map_err(Failed)?,
            };
            self.fed = Some(round);
            let before = self.out.len();
            self.feed(engine::Event::Words { round, transcript, words })?;
            took = true;
            if self.now() > round && self.is_known(self.now()) {
                // Nobody waits for what it says of a round that is over for others.
                let mut index = 0;
                self.out.retain(|action| {
                    index += 1;
                    index <= before || !matches!(action, Action::Send { .. })
                });
            }
        }
        self.catching_up = false;
        if took {
            // There may be more, and the frames of the exchange that the others are in.
            self.ask_again();
        }
        Ok(())
    }

    /// What the disk holds leads elsewhere than to the transcript that others have
    /// confirmed. Nothing was said of it: everything comes from them.
    fn drop_log(&mut self, why: &dyn std::fmt::Display) -> Step {
        tracing::warn!(%why, "what the disk holds of a job was changed: the rest is asked for anew");
        self.tells = 0;
        let from = self.on_disk()?.and_then(Resume::without_log);
        self.make_again(from)
    }

    /// What was opened in a round, taken from where it is kept.
    fn known(&mut self, round: usize) -> Step<Option<([u8; 32], Vec<u8>)>> {
        if round >= self.log.end() {
            return Ok(self.claims.agreed(round));
        }
        self.keep.words(round).map_err(Failed)
    }

    fn is_known(&self, round: usize) -> bool {
        round < self.log.end() || self.claims.is_agreed(round)
    }

    // --- time -----------------------------------------------------------------------

    fn arm(&mut self, timer: Timer, after: Duration) {
        self.out.push(Action::Arm { timer, after });
    }

    fn timer(&mut self, timer: Timer) -> Step {
        match (timer, self.phase) {
            (Timer::Start, Phase::Running) => self.start_soon(),
            (Timer::StartPatience, Phase::Running) => self.start_late(),
            (Timer::Exchange, Phase::Running) => {
                self.overdue += 1;
                if let Some(round) = self.too_far_ahead() {
                    return self.go_back(round);
                }
                self.arm(Timer::Exchange, self.deadline);
                // Frames, or answers, may have been lost without a link having ended.
                self.ask_again();
                self.feed(engine::Event::Deadline { token: self.token, last: false })?;
                self.catch_up()
            }
            (Timer::Patience, Phase::Running) => self.feed(engine::Event::Deadline { token: self.token, last: true }),
            (Timer::Serve, _) => {
                self.others.values_mut().for_each(|other| other.allowance = other.allowance.max(1));
                Ok(())
            }
            (Timer::Durable, Phase::Running) => {
                self.loose = false;
                self.out.push(Action::Sync);
                Ok(())
            }
            (Timer::Replace, Phase::Running | Phase::Done) => self.tick(),
            (Timer::Expiry, Phase::Running) => self.expire(),
            (Timer::Linger, Phase::Done | Phase::Failed) => {
                self.close();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// One more deadline has passed before the party could start.
    fn start_soon(&mut self) -> Step {
        if self.attempts.wait() {
            return self.offer_again();
        }
        // Fewer could confirm nothing; that they are not there says nothing of what they know.
        let linked = self.others.values().filter(|other| other.linked && other.over.is_none()).count();
        if linked > usize::from(self.plan.roster.threshold()) {
            self.confirm_less()?;
        }
        // Others may have started before this node was killed.
        self.start_without(self.again)?;
        if !self.started && self.party.is_some() {
            self.tell(&Peer::Ready);
            self.ask_again();
            self.arm(Timer::Start, self.deadline);
        }
        Ok(())
    }

    /// The patience with nodes that do not even begin is over.
    fn start_late(&mut self) -> Step {
        if self.started || self.attempts.wait() {
            return Ok(());
        }
        let linked = 1 + self.others.values().filter(|other| other.linked && other.over.is_none()).count();
        if linked < self.plan.needed() {
            return Err(Failed(self.not_linked()));
        }
        self.start_without(true)?;
        // Inputs may take as long as their owner takes to send them.
        self.arm(Timer::StartPatience, self.patience);
        Ok(())
    }

    fn not_linked(&self) -> String {
        let missing = self.others.iter().filter(|(_, other)| !other.linked).map(|(slot, other)| {
            let why = other.lost.as_ref().map_or(String::new(), |lost| format!(" ({lost})"));
            format!("{slot} at {}{why}", self.address(*slot))
        });
        format!(
            "no link with {} within {} s: see whether they run, are reached there, and have got the job",
            missing.collect::<Vec<_>>().join(", "),
            self.patience.as_secs_f32()
        )
    }

    // --- sending ----------------------------------------------------------------------

    fn send_message(&mut self, to: Slot, message: Message) {
        self.sent += message.len() as u64 + 4;
        self.out.push(Action::Send { to: self.replacement.agent(to), message });
    }

    fn send(&mut self, to: Slot, message: &Peer<'_>) {
        if self.others.get(&to).is_some_and(|other| other.linked && other.over.is_none()) {
            self.send_message(to, message.encode().into());
        }
    }

    fn tell(&mut self, message: &Peer<'_>) {
        for to in self.others.keys().copied().collect::<Vec<_>>() {
            self.send(to, message);
        }
    }

    // --- the end ------------------------------------------------------------------------

    /// Seals and signs.
    ///
    /// A result that a later process could make again, with another seal, is stored before
    /// anybody has it: a node signs one receipt. Otherwise readers need not wait for the disk: a
    /// process that dies meanwhile leaves a job that failed here.
    fn done(&mut self, mut outcome: Outcome) -> Step {
        outcome.blamed.extend(&self.liars);
        let public = self.key.public();
        let mut rng = self.entropy.generator(&[b"seal", &self.manifest.digest(), public.identity()])?;
        let traffic = (self.sent, self.received);
        let concluded = Arc::new(self.conclusion.conclude(outcome, &self.key, traffic, &mut *rng)?);
        if self.keeps || self.has_attempts() {
            return self.store_result(concluded);
        }
        self.out.push(Action::Concluded(Arc::clone(&concluded)));
        self.unstored = Some(concluded);
        Ok(())
    }

    /// From here on readers can fetch, whatever becomes of this process.
    fn store_result(&mut self, concluded: Arc<Concluded>) -> Step {
        // It may wait long for others.
        if let Some(party) = &mut self.party {
            party.rest();
        }
        let record = Kept::parts(&Parties::of(&self.manifest), &concluded);
        self.store.finish(self.nonce, &record.iter().map(|part| &part[..]).collect::<Vec<_>>())?;
        drop(record);
        self.phase = Phase::Done;
        self.used_up = true;
        self.out.push(Action::Ended(Ok(Some(concluded))));
        self.tell(&Peer::Done);
        self.tell_waiting(&Peer::Done);
        self.arm(Timer::Linger, self.patience);
        Ok(())
    }

    /// Leaves the job to the node's next process. To the others this one is absent.
    fn leave(&mut self) -> Step {
        let left = match self.has_attempts() {
            true => self.is_loaded(),
            false => self.keeps && self.party.is_some() && self.headers >= self.segments(),
        };
        if !left {
            return Err(Failed("this node was shut down".to_owned()));
        }
        self.keep.sync().map_err(Failed)?;
        self.phase = Phase::Closed;
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Closed);
        Ok(())
    }

    fn fail(&mut self, reason: &str) {
        if self.phase != Phase::Running {
            // The result stands; whoever still needs this node will do without.
            tracing::warn!(reason, "after the end of a job");
            return self.close();
        }
        self.phase = Phase::Failed;
        if let Err(error) = self.store.fail(self.nonce, reason).and_then(|()| self.store.forget(self.nonce)) {
            tracing::error!(%error, "the failure of a job could not be noted in the store");
        }
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Ended(Err(reason.to_owned())));
        self.failure = one_line(reason);
        self.tell(&Peer::Abort(self.failure.clone()));
        self.tell_waiting(&Peer::Abort(self.failure.clone()));
        self.arm(Timer::Linger, LINGER);
    }

    /// Nobody is left that needs a word of this node.
    fn close_if_alone(&mut self) {
        let heard = |other: &Other| other.done || other.over.is_some();
        let alone = match self.phase {
            Phase::Done => self.others.values().all(heard),
            Phase::Failed => self.others.values().all(|other| heard(other) || !other.linked),
            Phase::Running | Phase::Closed => false,
        };
        if alone {
            self.close();
        }
    }

    fn close(&mut self) {
        // What others might have asked for; a job that failed left nothing.
        if self.phase == Phase::Done
            && let Err(error) = self.store.forget(self.nonce)
        {
            tracing::warn!(%error, "what is left of a job could not be dropped from the store");
        }
        self.phase = Phase::Closed;
        (self.party, self.came) = (None, BTreeMap::new());
        self.out.push(Action::Closed);
    }
}

/// A device on which nothing of the job is left when the session ends, however
/// it ends: it may have nothing else to do for a long time.
struct Settled(Device);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// The log of a party that may lose its device, in the node's store.
struct Events {
    store: Arc<dyn Store>,
    nonce: Nonce,
    /// the number of the first segment of the party's stream
    first: u32,
}

impl replay::Log for Events {
    fn append(&mut self, index: u32, entry: &[u8]) -> Result<(), String> {
        self.store.append_log(self.nonce, index, entry).map_err(|e| e.to_string())
    }
    fn entry(&self, index: u32) -> Result<Vec<u8>, String> {
        let entry = self.store.log_entry(self.nonce, index).map_err(|e| e.to_string())?;
        entry.ok_or_else(|| format!("event {index} is not in this node's store any more"))
    }
    fn segment(&self, index: u32) -> Result<Vec<u8>, String> {
        let segment = self.store.segment(self.nonce, self.first + index).map_err(|e| e.to_string())?;
        segment.ok_or_else(|| format!("segment {index} is not in this node's store any more"))
    }
}

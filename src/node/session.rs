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
//!
//! Here are the state, what happens to it and what it wants done. What follows from an event is with its
//! purpose: `start` before the party runs, `party` while it does, `links` with the others, `behind` where
//! they differ in how far they are, `log` for what is on disk, `end`; `attempts` and `replacing` where a
//! process, or a node, was lost.

mod attempts;
mod behind;
mod end;
mod links;
mod log;
mod party;
mod replacing;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::log::Log;
use self::party::Settled;
use super::attempts::Attempts;
use super::catch_up::Claims;
use super::checkpoints::Checkpoints;
use super::replace::Replacement;
use super::setup::Keep;
use crate::backend::Devices;
use crate::engine::{self, Checkpoint, Party};
use crate::entropy::Entropy;
use crate::job::{Assigned, CheckedManifest, Concluded, Conclusion};
use crate::keys::SecretKey;
use crate::net::Message;
use crate::program::plan::Plan;
use crate::roster::Slot;
use crate::sharing::SlotKeys;
use crate::store::{Nonce, Store};
use crate::transcript::{CheckedSegment, SignedHeader};

/// How long an ended job listens on, so that its last words are read.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// What an agent needs for any of its jobs.
pub(super) struct Means {
    /// where the agents can be dialled, nodes first, to name them
    pub(super) addresses: Vec<String>,
    /// when the job was accepted, in unix seconds
    pub(super) accepted: u64,
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
    /// how long from now its owner may deal more attempts
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
    /// what waits until readers had the time to take a result that they have been told
    Read,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// the party is not there yet, or runs, or is done and its result waits for the disk
    Running,
    /// the result is stored; others may still need what was opened
    Done,
    Failed,
    Closed,
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
    /// the party is done, and holds more than it needs for others
    tired: bool,
    /// readers have been told of the result just now
    fresh: bool,
    /// they had the time to take it, and the segments are not dropped yet
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
    /// `replacement` knows who stands where.
    pub(super) fn new(assigned: Assigned, means: Means, replacement: Replacement) -> Self {
        let Means {
            addresses,
            key,
            store,
            entropy,
            devices,
            deadline,
            patience,
            recovery,
            checkpoints,
            replace_after,
            expires,
            accepted: _,
        } = means;
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
            expires,
            expired: false,
            plan,
            slot,
            nonce,
            addresses,
            checkpoints: Checkpoints::new(keep.clone(), &key, manifest.digest(), slot),
            checkpoint_before: checkpoints,
            unwritten: None,
            unstored: None,
            tired: false,
            fresh: false,
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
        self.expanding || self.tired || self.used_up || self.unwritten.is_some()
    }

    /// A piece of work that needs no event, while there is none: expands what later
    /// rounds draw. `None` if there is nothing to do.
    pub(super) fn work(&mut self) -> Option<Vec<Action>> {
        // Once the result has been told.
        if std::mem::take(&mut self.tired) {
            self.rest();
            return Some(Vec::new());
        }
        // Removing them takes some milliseconds.
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

    fn arm(&mut self, timer: Timer, after: Duration) {
        self.out.push(Action::Arm { timer, after });
    }

    fn timer(&mut self, timer: Timer) -> Step {
        match (timer, self.phase) {
            (Timer::Read, _) => {
                (self.fresh, self.used_up) = (false, true);
                self.unstored.take().map_or(Ok(()), |concluded| self.store_result(concluded))
            }
            (Timer::Exchange | Timer::Patience, _) if self.unstored.is_some() => Ok(()),
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
}

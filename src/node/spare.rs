//! A spare in one job: it waits with all data and no keys until the nodes give it the
//! slot of one that has crashed; then it is a node like any that was killed and has lost
//! its log (docs/protocols.md, Replacement). Without sockets or clock, like `session`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::replace::{Note, Replacement};
use super::session::{Action, Event, LINGER, Means, Session, Timer};
use super::setup::Keep;
use super::wire::{Move, Peer, SubsetKeys, one_line};
use super::{Kept, Parties, upload};
use crate::job::{Duty, Reserve};
use crate::prg::PrgKey;
use crate::roster::{Slot, Subset};
use crate::sharing::{KeyHash, SlotKeys};

/// One agent's side of one job.
pub(super) enum Actor {
    /// it waits to be called
    Spare(Box<Spare>),
    /// it computes for a slot
    Session(Box<Session>),
    /// nothing is left of it
    Gone,
}

impl Actor {
    pub(super) fn new(duty: Duty, means: Means) -> Self {
        let replacement = Replacement::new(duty.manifest(), duty.agent());
        match duty {
            Duty::Node(assigned) => Self::Session(Box::new(Session::new(assigned, means, replacement))),
            Duty::Spare(reserve) => Self::Spare(Box::new(Spare::new(reserve, means, replacement))),
        }
    }

    /// Takes one event.
    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        let mut out = match self {
            Self::Spare(spare) => spare.step(event),
            Self::Session(session) => return session.step(event),
            Self::Gone => return Vec::new(),
        };
        if let Self::Spare(spare) = self
            && let Some(slot) = spare.called
            && let Self::Spare(spare) = std::mem::replace(self, Self::Gone)
        {
            match spare.into_session(slot) {
                Ok((mut session, links)) => {
                    out.push(Action::Called(slot));
                    out.extend(session.step(Event::Begin { again: true }));
                    links.into_iter().for_each(|agent| out.extend(session.step(Event::Linked(agent))));
                    *self = Self::Session(Box::new(session));
                }
                Err((mut spare, reason)) => {
                    spare.called = None;
                    spare.fail(&reason);
                    out.append(&mut spare.out);
                    *self = Self::Spare(spare);
                }
            }
        }
        out
    }

    /// [`Session::prepares`]
    pub(super) fn prepares(&self) -> bool {
        matches!(self, Self::Session(session) if session.prepares())
    }

    /// [`Session::work`]
    pub(super) fn work(&mut self) -> Option<Vec<Action>> {
        match self {
            Self::Session(session) => session.work(),
            Self::Spare(_) | Self::Gone => None,
        }
    }
}

/// A spare that waits.
pub(super) struct Spare {
    reserve: Reserve,
    means: Means,
    keep: Keep,
    replacement: Replacement,
    /// inputs and all segments are verified and on disk
    inputs: bool,
    headers: u64,
    /// keys that have their signed hash, by the slot for which they came
    keys: BTreeMap<Slot, BTreeMap<Subset, PrgKey>>,
    /// who sent them
    senders: BTreeMap<Slot, BTreeSet<Slot>>,
    /// nodes that are done, and that have given up
    done: BTreeSet<Slot>,
    over: BTreeSet<Slot>,
    /// the slot that it is about to take
    called: Option<Slot>,
    /// how the job has ended
    ended: bool,
    closed: bool,
    out: Vec<Action>,
}

impl Spare {
    fn new(reserve: Reserve, means: Means, replacement: Replacement) -> Self {
        let keep = Keep::new(Arc::clone(&means.store), reserve.manifest().manifest().nonce);
        Self {
            reserve,
            means,
            keep,
            replacement,
            inputs: false,
            headers: 0,
            keys: BTreeMap::new(),
            senders: BTreeMap::new(),
            done: BTreeSet::new(),
            over: BTreeSet::new(),
            called: None,
            ended: false,
            closed: false,
            out: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        if self.closed {
            return Vec::new();
        }
        if let Err(reason) = self.take(event) {
            self.fail(&reason);
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Timer(Timer::Linger) => {
                self.closed = true;
                self.out.push(Action::Closed);
            }
            Event::Linked(agent) => {
                self.replacement.link(agent);
                if self.ended {
                    self.post(agent, &Peer::Abort("this spare's part in the job is over".to_owned()));
                } else if self.is_loaded() {
                    self.post(agent, &Peer::Ready);
                }
            }
            Event::Lost { peer, .. } => self.replacement.unlink(peer),
            Event::Unreachable { peer, reason } => tracing::warn!(agent = peer.0, reason, "no link"),
            _ if self.ended => {}
            Event::Begin { again } => {
                self.arm_patience();
                self.arm_tick();
                if again {
                    if !self.means.recovery {
                        return Err("a node with --no-recovery cannot be a spare: start it without".to_owned());
                    }
                    self.inputs = true;
                    self.headers = self.reserve.manifest().stream().segments();
                    // What it has once heard of others is heard again; it counts what is written down.
                    self.replacement.notes = self.keep.notes()?.len() as u32;
                    // They are verified again before they are used.
                    self.keep.inputs(self.reserve.manifest())?;
                    self.out.extend([Action::Verified, Action::Ready]);
                }
            }
            Event::Inputs(inputs) => self.take_inputs(&inputs)?,
            Event::Header { .. } => {
                self.headers += 1;
                self.say_ready()?;
            }
            Event::Message { from, bytes } => {
                let taken = self.message(from, &bytes);
                if let Some(9) = bytes.first() {
                    upload::wipe(bytes);
                }
                taken?;
            }
            Event::Timer(Timer::Patience) => {
                let linked = self.replacement.linked().filter(|agent| self.replacement.is_node(*agent)).count();
                if linked <= usize::from(self.reserve.manifest().manifest().roster.threshold()) {
                    let seconds = self.means.patience.as_secs_f32();
                    return Err(format!(
                        "this spare has links with {linked} nodes of the job after {seconds} s, too few to take over"
                    ));
                }
                self.arm_patience();
            }
            // Again each time: it may have been dropped, and votes be split over several spares.
            Event::Timer(Timer::Replace) => {
                self.arm_tick();
                if self.is_loaded() {
                    self.replacement
                        .linked()
                        .collect::<Vec<_>>()
                        .into_iter()
                        .for_each(|to| self.post(to, &Peer::Ready));
                }
            }
            // Attempts are SPDZ's, which has no spares.
            Event::Timer(_) | Event::Held { .. } => {}
            Event::Stop(reason) => return Err(reason),
            Event::Leave => {
                if !self.is_loaded() {
                    return Err("this spare was shut down".to_owned());
                }
                self.keep.sync()?;
                self.closed = true;
                self.out.push(Action::Closed);
            }
        }
        Ok(())
    }

    fn arm_tick(&mut self) {
        let after = self.means.replace_after / u32::from(Replacement::TICKS);
        self.out.push(Action::Arm { timer: Timer::Replace, after });
    }

    fn arm_patience(&mut self) {
        self.out.push(Action::Arm { timer: Timer::Patience, after: self.means.patience });
    }

    fn is_loaded(&self) -> bool {
        self.inputs && self.headers == self.reserve.manifest().stream().segments()
    }

    fn take_inputs(&mut self, inputs: &[Vec<u8>]) -> Result<(), String> {
        let manifest = self.reserve.manifest();
        for (number, bytes) in (0..).zip(inputs) {
            let accepted = manifest.accept_input(number, bytes);
            accepted
                .ok_or_else(|| format!("the owner sent input {number}, which the job has not"))?
                .map_err(|e| e.to_string())?;
        }
        self.keep.put_inputs(inputs)?;
        self.inputs = true;
        self.out.extend([Action::Verified, Action::Ready]);
        self.say_ready()
    }

    fn say_ready(&mut self) -> Result<(), String> {
        if self.is_loaded() {
            // From here on others count on this spare.
            self.keep.sync()?;
            for agent in self.replacement.linked().collect::<Vec<_>>() {
                self.post(agent, &Peer::Ready);
            }
            self.call_if_complete();
        }
        Ok(())
    }

    fn post(&mut self, agent: Slot, message: &Peer<'_>) {
        self.out.push(Action::Send { to: agent, message: message.encode().into() });
    }

    fn message(&mut self, from: Slot, bytes: &[u8]) -> Result<(), String> {
        if !self.replacement.is_node(from) {
            return Ok(());
        }
        match Peer::decode(bytes) {
            Some(Peer::Done) => {
                self.done.insert(from);
                if self.done.len() > usize::from(self.reserve.manifest().manifest().roster.threshold()) {
                    self.not_needed()?;
                }
            }
            Some(Peer::Abort(reason)) => {
                self.over.insert(from);
                let roster = self.reserve.manifest().manifest().roster;
                if usize::from(roster.nodes()) - self.over.len() < roster.quorum() {
                    return Err(format!("{from} says: {reason}"));
                }
            }
            Some(Peer::Replaced(decided)) => self.replacement.say(from, decided),
            Some(Peer::Keys { slot, keys }) => self.take_keys(from, slot, keys),
            // The rest is for those who hold a slot.
            _ => {}
        }
        Ok(())
    }

    /// Takes the keys that have the hashes that the owner has signed. A node that sends another
    /// is corrupt, or its disk is; the next holder has the right one.
    fn take_keys(&mut self, from: Slot, slot: Slot, keys: SubsetKeys) {
        let signed = self.reserve.manifest().manifest();
        if !signed.roster.has(slot) || slot == from {
            return;
        }
        let subsets = signed.roster.subsets();
        let held = self.keys.entry(slot).or_default();
        for (subset, key) in &keys.0 {
            let hash = subsets.iter().zip(&signed.keys).find(|(s, _)| *s == subset).map(|(_, hash)| hash);
            if subset.contains(slot) && hash == Some(&KeyHash::of(key)) {
                held.insert(*subset, key.clone());
                self.senders.entry(slot).or_default().insert(from);
            } else {
                tracing::warn!(%from, %slot, subset = subset.0, "a key that is not the signed one is refused");
            }
        }
        self.call_if_complete();
    }

    fn call_if_complete(&mut self) {
        let roster = self.reserve.manifest().manifest().roster;
        let needed = |slot: Slot| roster.subsets().iter().filter(|subset| subset.contains(slot)).count();
        // A corrupt node's keys are known to all that are corrupt, who call nobody by themselves.
        let called =
            |slot: &Slot| self.senders.get(slot).is_some_and(|senders| senders.len() > usize::from(roster.threshold()));
        let complete = |(slot, keys): &(&Slot, &BTreeMap<_, _>)| called(slot) && keys.len() == needed(**slot);
        let complete = self.keys.iter().find(complete).map(|(slot, _)| *slot);
        if self.is_loaded() && self.called.is_none() {
            self.called = complete;
        }
    }

    /// The session that computes for the slot, once a process after this one would make it too; and
    /// the agents with which there are links.
    fn into_session(mut self: Box<Self>, slot: Slot) -> Result<(Session, Vec<Slot>), (Box<Self>, String)> {
        match self.take_over(slot) {
            Ok(assigned) => {
                let links = self.replacement.linked().collect();
                let Self { means, replacement, .. } = *self;
                Ok((Session::new(assigned, means, replacement), links))
            }
            Err(reason) => Err((self, reason)),
        }
    }

    fn take_over(&mut self, slot: Slot) -> Result<crate::job::Assigned, String> {
        let keys = SlotKeys::Shamir(self.keys.remove(&slot).unwrap_or_default());
        let (assigned, assignment) = self.reserve.call(slot, keys).map_err(|e| e.to_string())?;
        let spare = self.reserve.agent().0 - self.reserve.manifest().manifest().roster.nodes();
        let (bytes, Means { key, addresses, accepted, .. }) = (assignment.to_bytes(), &self.means);
        // In this order: with its setup alone, a process after this one would take the spare for another.
        self.keep.put_note(self.replacement.notes, Note::Decided(Move { slot, spare }))?;
        self.keep.put_setup(key, self.reserve.manifest(), slot, (&bytes, addresses), *accepted)?;
        Ok(assigned)
    }

    // --- the end --------------------------------------------------------------------

    /// Enough nodes are done; readers fetch from them.
    fn not_needed(&mut self) -> Result<(), String> {
        let kept = Kept { parties: Parties::of(self.reserve.manifest()), concluded: Vec::new() };
        let nonce = self.reserve.manifest().manifest().nonce;
        let store = &self.means.store;
        let record = postcard::to_stdvec(&kept).expect("plain data always encodes");
        store.finish(nonce, &[&record]).and_then(|()| store.forget(nonce)).map_err(|e| e.to_string())?;
        self.end(Ok(()));
        Ok(())
    }

    fn fail(&mut self, reason: &str) {
        if self.ended {
            return;
        }
        let nonce = self.reserve.manifest().manifest().nonce;
        let store = &self.means.store;
        if let Err(error) = store.fail(nonce, reason).and_then(|()| store.forget(nonce)) {
            tracing::error!(%error, "the failure of a job could not be noted in the store");
        }
        let last = Peer::Abort(one_line(reason));
        for agent in self.replacement.linked().collect::<Vec<_>>() {
            self.post(agent, &last);
        }
        self.end(Err(reason.to_owned()));
    }

    fn end(&mut self, ended: Result<(), String>) {
        self.ended = true;
        self.keys.clear();
        self.out.push(Action::Ended(ended.map(|()| None)));
        self.out.push(Action::Arm { timer: Timer::Linger, after: LINGER });
    }
}

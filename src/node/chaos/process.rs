//! Processes that begin, are killed and come back, and the owner that deals more attempts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{DEADLINE, EXPIRES, Happening, Node, PATIENCE, REPLACE_AFTER, World};
use crate::entropy::Entropy;
use crate::job::{Duty, Limits};
use crate::node::extend::Taking;
use crate::node::session::{Event, Means};
use crate::node::setup::Keep;
use crate::node::spare::Actor;
use crate::node::wire::ToNode;
use crate::node::{Again, Takes};
use crate::owner::Dealing;
use crate::roster::Slot;
use crate::store::{MemoryStore, Store};

impl World<'_> {
    /// What a node keeps of the job.
    pub(super) fn keep(&self, slot: Slot) -> Keep {
        Keep::new(Arc::clone(&self.nodes[slot.index()].store) as Arc<dyn Store>, self.case.nonce())
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
    pub(super) fn first(&self, slot: Slot) -> Node {
        let store = Arc::new(MemoryStore::new());
        let key = &self.case.keys[slot.index()];
        let is_node = self.case.job.plan().roster.has(slot);
        let assignment = if is_node { self.case.job.assignment(slot) } else { self.case.job.spare_assignment() };
        let (bytes, manifest) = (assignment.to_bytes(), self.case.job.manifest());
        let addresses: Vec<_> = self.case.keys.iter().map(|_| "nowhere:1".to_owned()).collect();
        let duty = Duty::check(assignment, &key.public(), 0, &Limits::unlimited()).unwrap();
        let nonce = self.case.nonce();
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

    pub(super) fn kill(&mut self, slot: Slot, back: Option<u64>) {
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
        // Of segments, and of parts.
        let mut kept = [0, 0].map(|_| if leaves { 1000 } else { self.choices.below(1000) }).into_iter();
        let node = &mut self.nodes[slot.index()];
        let some = |writes: usize| (kept.next().unwrap_or_default() * (writes + 1) / 1000).min(writes);
        node.store = Arc::new(node.store.crashed(some));
        node.life += 1;
        node.timers.clear();
        if let Some(after) = back {
            self.at(after, Happening::Restart(slot));
        }
    }

    /// What a node does with its store when it is started.
    pub(super) fn restart(&mut self, slot: Slot) {
        let store = Arc::clone(&self.nodes[slot.index()].store);
        for job in store.interrupted().unwrap() {
            if let Some(damage) = self.damage {
                self.tally.damaged += u64::from(damage(&self.keep(slot), self.case.job.plan()));
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
    pub(super) fn resume(&mut self, mut messages: usize) {
        let (agents, signed) = (self.case.agents(), self.case.job.manifest().manifest().attempts);
        let held = |slot: &Slot| self.keep(*slot).held(self.case.job.manifest()).unwrap();
        let runs = |node: &Node| node.session.is_some() && node.ended.is_none();
        let loaded = |(node, slot): (&Node, &Slot)| runs(node) && (node.life > 0 || held(slot) >= signed);
        if !self.nodes.iter().zip(&agents).all(loaded) {
            return;
        }
        let from = agents.iter().map(held).min().unwrap().max(signed);
        let again = Dealing::again(&self.case.owner, &self.case.job.ticket()).unwrap();
        let Ok(statement) = again.extension(from + 1) else { return };
        let frames = again.stream_of(from).unwrap();
        let frames =
            frames.map(|(header, bytes)| ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }.encode());
        let frames: Vec<_> = frames.collect();
        self.tally.resumes += 1;
        for slot in agents {
            let Some(left) = messages.checked_sub(1) else { return };
            messages = left;
            let (keep, manifest) = (self.keep(slot), self.case.job.manifest().clone());
            let attempt = self.nodes[slot.index()].store.attempt(self.case.nonce()).unwrap();
            let (at, limits) = ((attempt, from), Limits::unlimited());
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
}

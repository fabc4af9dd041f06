//! A run on virtual time: what happens next, what a session is told, and what becomes of its actions.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Ledger;
use super::{Case, Chaos, FOREVER, Happening, Node, SYNCING, Tally, Upload, World};
use crate::engine::frame::Frame;
use crate::node::Takes;
use crate::node::session::{Action, Event};
use crate::node::spare::Actor;
use crate::node::wire::Peer;
use crate::program::random::Choices;
use crate::roster::{Scheme, Slot};
use crate::store::Store;

impl<'a> World<'a> {
    pub(in crate::node) fn new(case: &'a mut Case, seed: u64, chaos: Chaos) -> Self {
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

    pub(super) fn pick(&mut self, below: u64) -> u64 {
        self.choices.below(below as usize) as u64
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        many > 0 && self.pick(many) == 0
    }

    pub(super) fn at(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), happening);
    }

    /// Lets the next thing happen, if anything follows.
    pub(super) fn goes_on(&mut self) -> bool {
        let Some(((at, _), happening)) = self.queue.pop_first() else { return false };
        assert!(at < FOREVER, "the job hangs: {:?}", self.state());
        self.now = at;
        self.happen(happening);
        true
    }

    pub(in crate::node) fn run(&mut self) {
        while self.goes_on() {}
        assert!(self.nodes.iter().all(|node| node.session.is_none()), "nothing moves: {:?}", self.state());
        self.tally.virtual_s = self.over / 1000;
    }

    pub(super) fn state(&self) -> Vec<String> {
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
                if self.nodes[slot.index()].life == life {
                    self.keep(slot).sync().unwrap();
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
        let node = &self.nodes[slot.index()];
        if node.life != life || node.session.is_none() {
            return;
        }
        let event = match upload {
            Upload::Inputs => Event::Inputs(self.case.job.inputs().to_vec()),
            Upload::Segment(index) => {
                let (header, bytes) = &self.case.segments[index];
                let keep = self.keep(slot);
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

    pub(in crate::node) fn step(&mut self, slot: Slot, event: Event) {
        self.trace(|| format!("{slot} hears {}", describe(&event)));
        let Some(session) = &mut self.nodes[slot.index()].session else { return };
        let mut actions = session.step(event);
        let node = &mut self.nodes[slot.index()];
        // Of a job that is stored first, and of one that is told first.
        let tells = |action: &Action| matches!(action, Action::Concluded(_) | Action::Ended(Ok(Some(_))));
        if node.told.is_none() && actions.iter().any(tells) {
            let nonce = self.case.nonce();
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
                Action::Sync => self.nodes[slot.index()].store.sync(self.case.nonce()).unwrap(),
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

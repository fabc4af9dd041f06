//! Before the party runs: what comes of the owner is taken and verified, and the party starts once
//! the others are ready, or without some of them, if that can be.

use super::{Action, Failed, Log, Other, Phase, Session, Step, Timer};
use crate::engine;
use crate::node::wire::Peer;
use crate::roster::Slot;
use crate::transcript::{CheckedSegment, SignedHeader};

impl Session {
    pub(super) fn begin(&mut self, again: bool) -> Step {
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

    pub(super) fn inputs(&mut self, inputs: Vec<Vec<u8>>) -> Step {
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
            self.store.sync(self.nonce)?;
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

    pub(super) fn header(&mut self, header: Box<SignedHeader>, segment: Option<CheckedSegment>) -> Step {
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

    pub(super) fn segments(&self) -> u32 {
        u32::try_from(self.manifest.stream().segments()).unwrap_or(u32::MAX)
    }

    /// Says that the inputs are verified, and asks for what was missed so far.
    pub(super) fn get_ready(&mut self) {
        self.out.push(Action::Ready);
        self.tell(&Peer::Ready);
        self.ask_again();
        self.arm(Timer::Start, self.deadline);
    }

    /// Starts the party once all nodes are ready, or others have started, which
    /// more than t say. Without some nodes, after a while.
    pub(super) fn start_if_ready(&mut self) -> Step {
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

    pub(super) fn start(&mut self) -> Step {
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

    /// One more deadline has passed before the party could start.
    pub(super) fn start_soon(&mut self) -> Step {
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
    pub(super) fn start_late(&mut self) -> Step {
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
}

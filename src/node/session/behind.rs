//! Those who are behind: a node asks the others for what was opened without it, tells what it knows to
//! those who ask, and goes back for those who have lost more than it tells
//! (docs/protocols.md, 16).

use super::{Action, Failed, Log, Phase, Session, Step, Timer};
use crate::engine;
use crate::node::catch_up::{CLAIM_BYTES, SERVE_BYTES, go_back_to};
use crate::node::setup::opened_words;
use crate::node::wire::Peer;
use crate::roster::Slot;

impl Session {
    /// What was opened below this round this node knows; it is told of that round
    /// before it too.
    pub(super) fn unknown(&self) -> usize {
        match self.log {
            Log::Unconfirmed(ref resume) => resume.check() + 1,
            Log::Until(end) => self.now().max(end),
        }
    }

    /// Asks all others for what was opened from here on, once.
    pub(super) fn ask(&mut self) {
        let round = self.unknown();
        let speaks = self.party.is_some() && self.phase == Phase::Running && !self.catching_up;
        if speaks && self.asked.replace(round) != Some(round) {
            self.tell(&Peer::Behind { round: round as u32 });
        }
    }

    pub(super) fn ask_again(&mut self) {
        self.asked = None;
        self.ask();
    }

    /// Answers a peer that is in this round: what was opened from there on, up to
    /// a limit; if that is all, the frames that the party has sent last.
    pub(super) fn serve(&mut self, to: Slot, from: usize) -> Step {
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
    pub(super) fn claim(&mut self, from: Slot, round: usize, transcript: [u8; 32], words: &[u8]) -> Step {
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
    pub(super) fn catch_up(&mut self) -> Step {
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

    /// Where this node must go back to, if it waits for nodes that it is too far ahead of:
    /// they have forgotten more than it still says, and too few of them know what was
    /// opened there.
    pub(super) fn too_far_ahead(&self) -> Option<usize> {
        let asks = self.others.values().filter(|other| other.over.is_none()).filter_map(|other| other.asks);
        // Who asked earlier may have what it needs by now.
        let asks = asks.filter(|asked| asked.1 + 2 >= self.overdue).map(|asked| asked.0).collect();
        // While segments come it cannot be made again, and they are what it waits for.
        let waits = self.started && self.keeps && self.overdue >= 3 && self.headers >= self.segments();
        go_back_to(asks, self.plan.roster.threshold(), self.now()).filter(|_| waits)
    }

    /// Does what a node does that was killed, and says again all that it said from there on.
    pub(super) fn go_back(&mut self, to: usize) -> Step {
        tracing::warn!(to, from = self.now(), "others have lost what was opened: this node goes back for them");
        let from = self.on_disk()?.and_then(|from| from.back_to(to));
        self.tells = self.plan.opening_rounds();
        self.make_again(from)
    }

    /// A new exchange: who is behind will ask again.
    pub(super) fn forget_asks(&mut self) {
        self.overdue = 0;
        self.others.values_mut().for_each(|other| other.asks = None);
    }
}

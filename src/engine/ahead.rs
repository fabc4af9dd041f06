//! Words that rounds to come will draw, expanded while nothing else can be done.
//!
//! Keys and addresses fix them; no peer and no Δ does. The stock holds at most
//! [`AHEAD_WORDS`], and what is in it is what would be expanded anyway: a party
//! says the same whether and whenever it works ahead.

use std::collections::HashMap;

use super::frame::Kind;
use super::{Engine, State, Verify};
use crate::material::{address, input_address, zero_address};
use crate::prg::Address;
use crate::program::Drawing;
use crate::program::plan::{AHEAD_WORDS, Plan, Prim};
use crate::sharing::{Raw, Sharing};

/// Raw words by address, in the order in which the plan draws them. Each is
/// taken at most once; what is left is wiped on drop.
pub(super) struct Stock<S: Sharing> {
    /// the first step that has not been looked at: its round, its place there
    at: (usize, usize),
    /// what the last pieces were of
    making: Option<Address>,
    raw: HashMap<Address, Raw<S::Backend>>,
    /// words of all that is here or being made
    held: u64,
}

impl<S: Sharing> Stock<S> {
    pub(super) fn new() -> Self {
        Self { at: (0, 0), making: None, raw: HashMap::new(), held: 0 }
    }

    /// Takes what lies ready for an address, finished or not.
    pub(super) fn take(&mut self, address: Address, words: u64) -> Option<Raw<S::Backend>> {
        let raw = self.raw.remove(&address)?;
        self.held -= words;
        Some(raw)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Expands a piece of what the rounds from `from` on draw; false if nothing
    /// is left or it would be too much.
    pub(super) fn more(&mut self, sharing: &S, plan: &Plan, from: usize, drawing: &Drawing) -> bool {
        if let Some(raw) = self.making.and_then(|address| self.raw.get_mut(&address))
            && raw.more(sharing.backend())
        {
            return true;
        }
        self.making = None;
        // What rounds before have drawn must not lie here again.
        if self.at.0 < from {
            self.at = (from, 0);
        }
        while let Some(round) = plan.rounds.get(self.at.0) {
            let Some(index) = round.local.iter().chain(&round.open).nth(self.at.1) else {
                self.at = (self.at.0 + 1, 0);
                continue;
            };
            let prim = &plan.prims[*index as usize];
            let words = plan.drawn_words(prim);
            if self.held + words > AHEAD_WORDS {
                return false;
            }
            self.at.1 += 1;
            let Some((address, zero)) = drawn(prim, drawing) else { continue };
            let n = (words / plan.words_per_share()) as usize;
            let mut raw = if zero { sharing.zeros(address, n) } else { sharing.raw(address, n) };
            let begun = raw.more(sharing.backend());
            self.raw.insert(address, raw);
            self.held += words;
            self.making = Some(address);
            if begun {
                return true;
            }
        }
        false
    }
}

/// Where a step draws, and whether zeros.
pub(super) fn drawn(prim: &Prim, drawing: &Drawing) -> Option<(Address, bool)> {
    Some(match prim {
        Prim::Input { input, .. } => (input_address(*input), false),
        Prim::Draw { material, part, .. } => (address(*material, *part, drawing.of(*material)), false),
        Prim::OpenProduct { zero, .. } => (zero_address(*zero, drawing.of(*zero)), true),
        _ => return None,
    })
}

impl<S: Verify> Engine<S> {
    /// See [`Party::ahead`](super::Party::ahead).
    pub(super) fn work_ahead(&mut self) -> bool {
        let from = match &self.state {
            State::Over => return false,
            _ if self.ending => return false,
            // The round under way has drawn all that it draws.
            State::Persisting(e) | State::Exchanging(e)
                if matches!(e.kind, Kind::Opening | Kind::Packed | Kind::Gather | Kind::Spread | Kind::Agreed) =>
            {
                self.round + 1
            }
            State::New | State::Segments | State::Persisting(_) | State::Exchanging(_) => self.round,
        };
        self.machine.ahead(&self.plan, from)
    }
}

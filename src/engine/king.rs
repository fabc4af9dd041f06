//! Openings by spread kings, and the check of what they opened.
//!
//! A round by kings has three exchanges in the place of one. `Gather`: every
//! node gives each king that gathers from it the shares of the king's slice.
//! `Spread`: each king sends its opened slice. `Agreed`: all compare the running
//! hash of the whole batch, and only then is a word of it used. Shares of
//! openings that do not go by kings travel whole with `Gather`.
//!
//! A king, or whoever gives it shares, can still move a word, by an error that
//! it chooses and the same for all nodes. So before anything is revealed, and
//! before too many words wait, all shares and opened words since the last check
//! are combined under one coin: the combination of the shares is opened all to
//! all, with the redundancy that single words lacked, and must be that of the
//! words (after Damgård and Nielsen, CRYPTO 2007; why the combination tells
//! nothing stands in `docs/protocols.md`, 5).

use std::sync::Arc;

use super::execute::cut;
use super::{Body, Engine, EngineError, Kind, Own, Record, Step, Verify, all_equal};
use crate::backend::{Backend, Host};
use crate::engine::Action;
use crate::field::{Fp61, Parts};
use crate::program::kings::Kings;
use crate::program::plan::Plan;
use crate::roster::{Degree, Slot};
use crate::sharing::{Words, combination};
use crate::transcript::Coin;

/// What kings opened since the last passed check: this node's shares, whoever
/// gathered them, and the words.
pub(super) struct Held<S: Verify> {
    shares: Vec<Words<S>>,
    opened: Vec<Words<S>>,
}

impl<S: Verify> Default for Held<S> {
    fn default() -> Self {
        Self { shares: Vec::new(), opened: Vec::new() }
    }
}

/// What this node keeps during one exchange.
pub(super) enum King<S: Verify> {
    /// Its shares go to the kings.
    Gathering {
        /// of each opening of the round
        shares: Vec<Words<S>>,
        /// what each peer is given
        given: Vec<(Slot, Body)>,
        /// of this node's own slice
        slice: Vec<Fp61>,
    },
    /// Kings send what they opened.
    Spreading {
        /// of each opening of the round
        shares: Vec<Words<S>>,
        /// what went all to all, decoded
        decoded: Vec<Words<S>>,
    },
    /// Nothing of the round is used yet.
    Agreeing {
        /// of each opening of the round
        shares: Vec<Words<S>>,
        /// the words of each
        opened: Vec<Words<S>>,
    },
    /// The combination that the shares must open to.
    Combining(Fp61),
}

impl<S: Verify> King<S> {
    /// The shares for one peer.
    pub(super) fn given(&self, to: Slot) -> Body {
        let King::Gathering { given, .. } = self else { unreachable!("asked for at the start of a round alone") };
        let (_, body) = given.iter().find(|(peer, _)| *peer == to).expect("every peer is given something");
        body.clone()
    }
}

/// The exact length of a peer's words, in an exchange of kings.
pub(super) fn expected(plan: &Plan, round: usize, kind: Kind, from: Slot, own: Slot) -> Option<usize> {
    match kind {
        Kind::Gather => Some(to_all(plan, round) + plan.kings(round)?.given(own, from).len()),
        Kind::Spread => Some(plan.kings(round)?.slice(from).len()),
        Kind::Combined => Some(1),
        _ => None,
    }
}

/// The words of a round that go all to all.
fn to_all(plan: &Plan, round: usize) -> usize {
    plan.openings(round).filter(|(_, degree, _)| !plan.by_king(round, *degree)).map(|o| o.2).sum()
}

fn kings(plan: &Plan, round: usize) -> Kings {
    plan.kings(round).expect("the plan has kings in this round")
}

impl<S: Verify> Engine<S> {
    /// Begins a round by kings with this node's shares of all its openings.
    pub(super) fn gather(&mut self, shares: Vec<Words<S>>, out: &mut Vec<Action>) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let (by_kings, mut ordered): (Vec<_>, Vec<_>) =
            plan.openings(self.round).zip(&shares).partition(|((_, degree, _), _)| plan.by_king(self.round, *degree));
        ordered.extend(by_kings);
        let backend = self.machine.sharing.backend();
        let ordered: Vec<_> = ordered.into_iter().map(|(_, share)| share.clone()).collect();
        let said = match &ordered[..] {
            // Most rounds: nothing is put together.
            [share] => backend.read(share)?,
            shares => Host::Copied(backend.read_all(shares)?.into()),
        };
        let (to_all, by_kings) = said.split_at(to_all(&plan, self.round));
        let (kings, own) = (kings(&plan, self.round), self.slot());
        let give = |to| (to, Body::Words(Arc::new([to_all, &by_kings[kings.given(to, own)]].concat())));
        let given = self.roster().slots().filter(|to| *to != own).map(give).collect();
        let slice = by_kings[kings.slice(own)].to_vec();
        drop(said);
        let own = Own::King(Box::new(King::Gathering { shares, given, slice }));
        let record = Record::Cursor { round: self.round as u32 };
        // Each peer is given shares of its own; there is no common body.
        self.exchange(Kind::Gather, Body::Words(Arc::default()), own, Some(record), out)
    }

    /// All have said what they say in an exchange of kings.
    pub(super) fn crowned(
        &mut self,
        (kind, own, body): (Kind, Own<S>, &Body),
        bodies: Vec<(Slot, Body)>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let Own::King(king) = own else { unreachable!("set with the kind") };
        match *king {
            King::Gathering { shares, slice, .. } => self.spread(shares, slice, bodies, out),
            King::Spreading { shares, decoded } => self.agree(shares, decoded, body, &bodies, out),
            King::Agreeing { shares, opened } => {
                all_equal(kind, body, &bodies)?;
                self.agreed(shares, opened, out)
            }
            King::Combining(opened) => self.combined(opened, body, &bodies, out),
        }
    }

    /// Decodes what came all to all, and opens this node's slice as its king.
    fn spread(
        &mut self,
        shares: Vec<Words<S>>,
        ours: Vec<Fp61>,
        bodies: Vec<(Slot, Body)>,
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let (to_all, kings) = (to_all(&plan, self.round), kings(&plan, self.round));
        let (mut whole, mut given) = (Vec::with_capacity(bodies.len()), Vec::new());
        let own = self.slot();
        for (from, body) in bodies {
            let mut words = owned(body);
            // Most rounds: all goes by kings, and nothing is copied.
            let slice = if to_all == 0 { std::mem::take(&mut words) } else { words.split_off(to_all) };
            whole.push((from, words));
            if kings.gathers(own, from) {
                given.push((from, slice));
            }
        }
        let common = |degree| !plan.by_king(self.round, degree);
        let openings: Vec<_> =
            plan.openings(self.round).zip(&shares).filter(|((_, degree, _), _)| common(*degree)).collect();
        let lens: Vec<_> = openings.iter().map(|((.., len), _)| *len).collect();
        let common: Vec<_> = openings.iter().map(|(_, share)| (*share).clone()).collect();
        let sharing = &self.machine.sharing;
        let mut decoded = Vec::with_capacity(openings.len());
        let all: Vec<_> = sharing.roster().slots().collect();
        for (((_, degree, _), _), shares) in openings.iter().zip(cut(sharing, &lens, &common, &mut whole)) {
            let opened = sharing.decode(*degree, &all, &shares)?;
            self.blamed.extend(opened.blamed);
            decoded.push(opened.words);
        }
        if self.blamed.len() > usize::from(sharing.roster().threshold()) {
            return Err(EngineError::TooManyLiars { blamed: self.blamed.iter().copied().collect() });
        }
        let mut slice = Vec::new();
        if !kings.slice(own).is_empty() {
            given.push((own, ours));
            given.sort_by_key(|(from, _)| *from);
            let given: Vec<_> = given.into_iter().map(|(from, words)| (from, sharing.backend().load(words))).collect();
            let opened = sharing.interpolate(kings.degree(), &given)?;
            slice = sharing.backend().take_all(vec![opened])?;
        }
        let own = Own::King(Box::new(King::Spreading { shares, decoded }));
        self.exchange(Kind::Spread, Body::Words(Arc::new(slice)), own, None, out)
    }

    /// Puts the slices together and compares the batch, before any of it is used.
    fn agree(
        &mut self,
        shares: Vec<Words<S>>,
        decoded: Vec<Words<S>>,
        own: &Body,
        bodies: &[(Slot, Body)],
        out: &mut Vec<Action>,
    ) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        let kings = kings(&plan, self.round);
        let mut slots: Vec<_> = self.roster().slots().collect();
        slots.sort_unstable_by_key(|slot| kings.slice(*slot).start);
        let batch: Parts<'_> = slots.iter().map(|slot| words(said_by(*slot, own, bodies))).collect();
        let backend = self.machine.sharing.backend();
        let openings: Vec<_> = plan.openings(self.round).collect();
        let by_king = |degree| plan.by_king(self.round, degree);
        let read: Vec<_> = decoded.iter().map(|words| backend.read(words)).collect::<Result<_, _>>()?;
        let (mut at, mut others) = (0, read.iter());
        // Hashed where they lie: what goes to a device would have to come back.
        let host: Vec<_> = openings
            .iter()
            .map(|(prim, degree, len)| {
                let words = match by_king(*degree) {
                    true => {
                        at += len;
                        batch.cut(at - len, *len)
                    }
                    false => Parts::from(&others.next().expect("every opening was opened")[..]),
                };
                (*prim, 0, *degree, words)
            })
            .collect();
        let by_kings = host.iter().filter(|(_, _, degree, _)| by_king(*degree));
        let by_kings: Vec<_> = by_kings.map(|(.., words)| backend.load_parts(words)).collect();
        self.transcript.absorb_batch(self.round as u32, host);
        drop(read);
        let (mut by_kings, mut others) = (by_kings.into_iter(), decoded.into_iter());
        let next =
            |(_, degree, _): &(u32, Degree, usize)| if by_king(*degree) { by_kings.next() } else { others.next() };
        let opened: Vec<_> = openings.iter().filter_map(next).collect();
        let body = Body::Digest(self.transcript.digest());
        self.exchange(Kind::Agreed, body, Own::King(Box::new(King::Agreeing { shares, opened })), None, out)
    }

    /// All hold the same words: they are there, and owed to the next check.
    fn agreed(&mut self, shares: Vec<Words<S>>, opened: Vec<Words<S>>, out: &mut Vec<Action>) -> Step<()> {
        let plan = Arc::clone(&self.plan);
        for (((prim, degree, _), share), words) in plan.openings(self.round).zip(shares).zip(opened) {
            if plan.by_king(self.round, degree) {
                self.held.shares.push(share);
                self.held.opened.push(words.clone());
            }
            self.owed.extend(self.machine.opened(&plan.prims[prim as usize], words));
        }
        self.next_round(out)
    }

    /// Opens the combination of what kings opened; all hold the coin by now.
    pub(super) fn combine(&mut self, coin: &Coin, out: &mut Vec<Action>) -> Step<()> {
        let Held { shares, opened } = std::mem::take(&mut self.held);
        let backend = self.machine.sharing.backend();
        let [share, right] = combination(backend, &coin.key(), [&shares, &opened])?;
        let record = Record::CheckOpened { check: self.checks };
        let own = Own::King(Box::new(King::Combining(right)));
        self.exchange(Kind::Combined, Body::Words(Arc::new(vec![share])), own, Some(record), out)
    }

    /// The shares of all nodes must lie on one polynomial, and open to the
    /// combination of the opened words.
    fn combined(&mut self, right: Fp61, own: &Body, bodies: &[(Slot, Body)], out: &mut Vec<Action>) -> Step<()> {
        let sharing = &self.machine.sharing;
        let degree = sharing.roster().king_degree().expect("the plan has kings");
        let load = |slot| sharing.backend().load(words(said_by(slot, own, bodies)).to_vec());
        let all: Vec<_> = sharing.roster().slots().collect();
        let shares: Vec<_> = all.iter().map(|slot| load(*slot)).collect();
        let opened = sharing.decode(degree, &all, &shares)?.words;
        // Both are public by now; nothing secret decides.
        if sharing.backend().read(&opened)?[..] != [right] {
            return Err(EngineError::CombinationFailed { check: self.checks });
        }
        self.check_passed(out)
    }
}

fn said_by<'a>(slot: Slot, own: &'a Body, bodies: &'a [(Slot, Body)]) -> &'a Body {
    bodies.iter().find(|(from, _)| *from == slot).map_or(own, |(_, body)| body)
}

fn words(body: &Body) -> &[Fp61] {
    let Body::Words(words) = body else { unreachable!("decoded by kind") };
    words
}

fn owned(body: Body) -> Vec<Fp61> {
    let Body::Words(words) = body else { unreachable!("decoded by kind") };
    Arc::try_unwrap(words).unwrap_or_else(|shared| shared.to_vec())
}

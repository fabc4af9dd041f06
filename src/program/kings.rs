//! Openings by spread kings: who opens which words of a round, from whose
//! shares (after Damgård and Nielsen, CRYPTO 2007, with the words of a batch spread
//! over all nodes).
//!
//! Every node is the king of one slice of the round's words. It gathers just
//! the shares that interpolation needs, its own included, and sends the opened
//! slice to all others: d + n − 1 words on the wire for each opened word, where
//! all-to-all takes n(n − 1). Everything here follows from roster and plan, so
//! that all nodes cut alike.

use std::ops::Range;

use crate::engine::frame::HEADER_BYTES;
use crate::roster::{Degree, Roster, Slot};

/// Bytes of the bodies that are no openings: a digest, an opened part of a coin (a
/// nonce and an empty payload), and a combination.
pub(super) const DIGEST: u64 = 32;
pub(super) const OPENED_COIN: u64 = 33;
const COMBINATION: u64 = 8;

/// The words that kings open in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kings {
    roster: Roster,
    degree: Degree,
    words: usize,
    /// the round, by which the slices turn: words that do not divide by n are no
    /// burden of always the same node
    turn: usize,
}

impl Kings {
    /// Exchanges that a round by kings takes more than all-to-all.
    pub const MORE_EXCHANGES: u64 = 2;
    /// Exchanges of the check of what kings opened: frozen transcript, coin
    /// committed, opened and compared, combination, result compared.
    pub const EXCHANGES_PER_CHECK: u64 = 6;

    pub(super) fn new(roster: Roster, degree: Degree, words: usize, turn: usize) -> Self {
        Self { roster, degree, words, turn }
    }

    /// The degree of all these words: [`Roster::king_degree`].
    pub fn degree(&self) -> Degree {
        self.degree
    }

    /// How many words.
    pub fn words(&self) -> usize {
        self.words
    }

    /// What a node opens as king, of all words of the round by kings one after the other.
    pub fn slice(&self, king: Slot) -> Range<usize> {
        let n = usize::from(self.roster.nodes());
        let at = (king.index() + self.turn) % n;
        let cut = |at: usize| (at as u128 * self.words as u128 / n as u128) as usize;
        cut(at)..cut(at + 1)
    }

    /// Whether a king opens its slice with this node's shares: those of degree + 1
    /// nodes from itself on, around the circle, so that all nodes give to equally many.
    pub fn gathers(&self, king: Slot, from: Slot) -> bool {
        let n = usize::from(self.roster.nodes());
        (from.index() + n - king.index()) % n <= self.roster.degree(self.degree)
    }

    /// What a node sends its king shares of; nothing if the king does not gather from it.
    pub fn given(&self, king: Slot, from: Slot) -> Range<usize> {
        if king != from && self.gathers(king, from) { self.slice(king) } else { 0..0 }
    }

    /// Words that a node sends, of shares and of its opened slice.
    pub fn sent_words(&self, from: Slot) -> u64 {
        let given: usize = self.roster.slots().map(|king| self.given(king, from).len()).sum();
        (given + self.slice(from).len() * (usize::from(self.roster.nodes()) - 1)) as u64
    }

    /// Bytes that the busiest node sends less than it would all to all.
    pub(super) fn saved_bytes(&self) -> u64 {
        let peers = u64::from(self.roster.nodes()) - 1;
        let most = self.roster.slots().map(|slot| self.sent_words(slot)).max().unwrap_or(0);
        let more = peers * (Self::MORE_EXCHANGES * HEADER_BYTES as u64 + DIGEST);
        (8 * peers * self.words as u64).saturating_sub(8 * most + more)
    }

    /// Exchanges and bytes that so many checks take more than the comparison of
    /// transcripts at the end of a job without kings.
    pub(super) fn checks(roster: Roster, checks: u64) -> (u64, u64) {
        let frame = HEADER_BYTES as u64;
        let each = Self::EXCHANGES_PER_CHECK * frame + Self::check_bodies();
        let bytes = (u64::from(roster.nodes()) - 1) * (checks * each - frame - DIGEST);
        (checks * Self::EXCHANGES_PER_CHECK - 1, bytes)
    }

    /// Bytes of the bodies that a check sends to one peer.
    pub(super) fn check_bodies() -> u64 {
        DIGEST * (Self::EXCHANGES_PER_CHECK - 2) + OPENED_COIN + COMBINATION
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::field::Fp61;
    use crate::program::plan::{Material, MaterialId, Part, Plan, Prim, Reg};
    use crate::program::{Builder, Comparisons, Openings, PlanError, Planning, Program, Type, random};

    fn rosters() -> impl Iterator<Item = Roster> {
        [(4, 1), (3, 1), (5, 2), (7, 2), (7, 3), (10, 3)].into_iter().map(|(n, t)| Roster::shamir(n, t).unwrap())
    }

    #[test]
    fn every_word_has_one_king_with_just_the_shares_he_needs() {
        for roster in rosters() {
            let degree = roster.king_degree().unwrap();
            for (words, turn) in [(0, 0), (1, 0), (1, 5), (6, 2), (1000, 3)] {
                let kings = Kings::new(roster, degree, words, turn);
                let mut opened = vec![0; words];
                for king in roster.slots() {
                    kings.slice(king).for_each(|word| opened[word] += 1);
                    let gathered = roster.slots().filter(|from| kings.gathers(king, *from)).count();
                    assert_eq!(gathered, roster.degree(degree) + 1);
                    assert!(kings.gathers(king, king) && kings.given(king, king).is_empty());
                }
                assert!(opened.iter().all(|kings| *kings == 1));
            }
        }
    }

    #[test]
    fn all_nodes_bear_the_same_load_of_less_than_two_words_a_peer() {
        for roster in rosters() {
            let (n, degree) = (u64::from(roster.nodes()), roster.king_degree().unwrap());
            let kings = Kings::new(roster, degree, 100 * usize::from(roster.nodes()), 1);
            let each = 100 * (roster.degree(degree) as u64 + n - 1);
            assert!(roster.slots().all(|slot| kings.sent_words(slot) == each));
            assert!(each * n <= 2 * (n - 1) * kings.words() as u64);
        }
        // 2 + 3 words for an opened word at (4, 1), where all-to-all takes 12.
        let roster = Roster::shamir(4, 1).unwrap();
        let kings = Kings::new(roster, Degree::TwoT, 4000, 0);
        assert_eq!(roster.slots().map(|slot| kings.sent_words(slot)).sum::<u64>(), 5 * 4000);
    }

    /// What does not divide goes around.
    #[test]
    fn single_words_turn_from_round_to_round() {
        let roster = Roster::shamir(4, 1).unwrap();
        let king = |turn| {
            let kings = Kings::new(roster, Degree::TwoT, 1, turn);
            roster.slots().find(|slot| !kings.slice(*slot).is_empty()).unwrap()
        };
        let kings: BTreeSet<_> = (0..4).map(king).collect();
        assert_eq!(kings.len(), 4);
    }

    /// What a register rests on: material by number, and opened registers.
    type Support = (BTreeSet<u32>, BTreeSet<u32>);

    /// The openings of a plan with what their operands rest on, and the uniform
    /// material that is added to each as it is.
    fn openings(plan: &Plan) -> Vec<(u32, Support, BTreeSet<u32>)> {
        let mut registers: HashMap<(u8, u32), Support> = HashMap::new();
        // Registers that are Σ ±1·draw of uniform words + anything, under index maps.
        let mut masks: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        let number = |reg| match reg {
            Reg::Sec(s) => (0, s.0),
            Reg::Pub(p) => (1, p.0),
            Reg::Bit(b) => (2, b.0),
        };
        let mut found = Vec::new();
        for prim in &plan.prims {
            let mut support = Support::default();
            prim.reads(|reg| {
                let (material, opened) = &registers[&number(reg)];
                support.0.extend(material);
                support.1.extend(opened);
            });
            let mut drawn = Vec::new();
            match prim {
                Prim::Draw { material, .. }
                | Prim::DrawBits { material, .. }
                | Prim::OpenProduct { zero: material, .. } => {
                    drawn.push(*material);
                }
                _ => {}
            }
            for material in drawn {
                support.0.insert(material.0);
                if let Material::Triple { a, b, .. } = &plan.material[material.0 as usize].material {
                    support.0.extend([a.mask.0, b.mask.0]);
                }
            }
            let uniform = |material: &MaterialId| {
                use Material::{Bits, Mask, Packed};
                matches!(plan.material[material.0 as usize].material, Mask { .. } | Bits { .. } | Packed { .. })
            };
            match prim {
                Prim::Draw { material, part: Part::Value, out } if uniform(material) => {
                    masks.insert(out.0, [material.0].into());
                }
                Prim::Linear { secret, out, .. } => {
                    let unit = |k: &Fp61| *k == Fp61::ONE || *k == -Fp61::ONE;
                    let added = secret.iter().filter(|(k, _)| unit(k)).filter_map(|(_, x)| masks.get(&x.0)).flatten();
                    let added = added.copied().collect();
                    masks.insert(out.0, added);
                }
                Prim::Open { x: mask, out }
                | Prim::OpenProduct { mask, out, .. }
                | Prim::OpenBeaver { mask, out, .. } => {
                    let masks = masks.get(&mask.0).cloned().unwrap_or_default();
                    found.push((out.0, support.clone(), masks));
                    support.1.insert(out.0);
                }
                Prim::OpenBits { out, .. } => drop(support.1.insert(out.0)),
                _ => {}
            }
            prim.writes(|reg| drop(registers.insert(number(reg), support.clone())));
        }
        found
    }

    /// Kings may open a word because nothing else says anything of its mask: each
    /// opening has uniform material added to it that no other opening rests on,
    /// except those that rest on its opened word (and have a mask of their own).
    /// So all opened words are uniform and independent of the inputs.
    #[test]
    fn every_opening_is_masked_by_uniform_words_used_once() {
        let (mut seen, mut programs) = (0, Vec::new());
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-2.0..=2.0), [4]);
        b.output("y", "alice", &(&x.sigmoid() * &x.relu()));
        b.output("e", "alice", &(&x * &x).exp());
        programs.push(b.finish().unwrap());
        programs.extend((0..60).map(|seed| random::program(seed, 12)));
        for roster in [(4, 1), (3, 1), (5, 2)].map(|(n, t)| Roster::shamir(n, t).unwrap()) {
            for comparisons in [Comparisons::Digits, Comparisons::Packed] {
                if comparisons == Comparisons::Packed && !roster.packs_bits() {
                    continue;
                }
                for program in &programs {
                    let planning = Planning { comparisons, openings: Openings::King, ..Planning::default() };
                    let plan = program.plan_with(roster, planning).unwrap();
                    let openings = openings(&plan);
                    for (i, (out, _, masks)) in openings.iter().enumerate() {
                        let others = || openings.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, o)| o);
                        let alone = |mask: &&u32| {
                            others().all(|(_, (material, opened), _)| !material.contains(mask) || opened.contains(out))
                        };
                        assert!(
                            masks.iter().any(|mask| alone(&mask)),
                            "{roster}: opening {out} has no mask of its own"
                        );
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 1000, "{seen} openings");
    }

    /// Products that wait for each other, of n words each.
    fn chain(products: usize, n: usize) -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-1..=1), [n]);
        let last = (0..products).fold(x.clone(), |product, _| &product * &x);
        b.output("y", "alice", &last);
        b.finish().unwrap()
    }

    #[test]
    fn kings_open_where_bytes_pay_for_exchanges() {
        let roster = Roster::shamir(4, 1).unwrap();
        let kings = |products, n, planning| {
            let cost = chain(products, n).plan_with(roster, planning).unwrap().cost();
            assert_eq!(cost.checks > 0, cost.king_rounds > 0);
            cost.king_rounds
        };
        let plain = Planning::default();
        // 14 bytes a word over each link: 7 exchanges of 10 ms are 625,000 words at 1 Gbit/s.
        assert_eq!(kings(1, 500_000, plain), 0);
        assert_eq!(kings(1, 700_000, plain), 1);
        assert_eq!(kings(1, 700_000, Planning { latency_us: 100_000, ..plain }), 0);
        assert_eq!(kings(1, 5_000, Planning { bandwidth_kbit: 1_000, ..plain }), 1);
        // Rounds that pay for their own exchanges pay for the check together.
        assert_eq!(kings(1, 300_000, plain), 0);
        assert_eq!(kings(6, 300_000, plain), 6);
        assert_eq!(kings(6, 100_000, plain), 0);
        // Forced, either way.
        assert_eq!(kings(2, 3, Planning { openings: Openings::King, ..plain }), 2);
        assert_eq!(kings(1, 1_000_000, Planning { openings: Openings::AllToAll, ..plain }), 0);
    }

    /// What is predicted to be faster is what is chosen.
    #[test]
    fn kings_are_chosen_where_the_predicted_wire_time_falls() {
        for (n, t) in [(4, 1), (3, 1), (7, 3)] {
            let roster = Roster::shamir(n, t).unwrap();
            for (products, words) in [(1, 1 << 10), (1, 1 << 16), (3, 1 << 18), (2, 1 << 20), (5, 1 << 19)] {
                let program = chain(products, words);
                let wire = |openings| {
                    let planning = Planning { openings, ..Planning::default() };
                    let plan = program.plan_with(roster, planning).unwrap();
                    let cost = plan.cost();
                    let seconds = cost.exchanges as f64 * planning.latency().as_secs_f64();
                    (seconds + cost.sent_bytes as f64 * 8.0 / planning.bandwidth(), cost.king_rounds)
                };
                let [auto, all, king] = [Openings::Auto, Openings::AllToAll, Openings::King].map(wire);
                assert!(
                    auto.0 <= all.0.min(king.0) + 1e-9,
                    "{roster}, {products} of {words}: {auto:?} {all:?} {king:?}"
                );
            }
        }
    }

    #[test]
    fn checks_bound_what_waits_for_them() {
        let roster = Roster::shamir(4, 1).unwrap();
        let planning = Planning { openings: Openings::King, ..Planning::default() };
        let plan = chain(5, 1_500_000).plan_with(roster, planning).unwrap();
        let checked: Vec<_> = plan.rounds.iter().map(|round| round.check).collect();
        assert_eq!(checked, [false, false, true, false, false, false]);
        assert_eq!(plan.cost().checks, 2);
        // Shares and opened words of up to three rounds.
        let all = Planning { openings: Openings::AllToAll, ..planning };
        let without = chain(5, 1_500_000).plan_with(roster, all).unwrap().live_words();
        let more = plan.live_words() - without;
        assert!((3_000_000..=9_000_000).contains(&more), "{more} words more");
    }

    #[test]
    fn kings_are_refused_where_the_roster_has_none() {
        let planning = Planning { openings: Openings::King, ..Planning::default() };
        for roster in [Roster::shamir(5, 1).unwrap(), Roster::spdz(3).unwrap()] {
            let refused = chain(1, 3).plan_with(roster, planning).unwrap_err();
            assert_eq!(refused, PlanError::King { roster });
            let auto = chain(1, 2_000_000).plan(roster).unwrap();
            assert!(!auto.has_kings());
        }
        // A program that opens nothing has nothing to check.
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-1..=1), [3]);
        b.output("y", "alice", &(&x + &x));
        let cost = b.finish().unwrap().plan_with(Roster::shamir(4, 1).unwrap(), planning).unwrap().cost();
        assert_eq!((cost.checks, cost.king_rounds, cost.exchanges), (0, 0, 3));
    }

    #[test]
    fn the_report_says_which_way() {
        let planning = Planning { openings: Openings::King, ..Planning::default() };
        let plan = chain(2, 8).plan_with(Roster::shamir(4, 1).unwrap(), planning).unwrap();
        let text = plan.report(planning.latency(), planning.bandwidth()).to_string();
        for line in
            ["2  of them by kings, 2 half-rounds more each", "1  checks of 6 half-rounds", "16  of them by kings"]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

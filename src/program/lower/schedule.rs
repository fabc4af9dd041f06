//! Rounds: which steps run when, which words are opened together, where each
//! material op lies in the dealer's stream, and when a register dies.

use super::Lowering;
use crate::program::kings::Kings;
use crate::program::plan::{Bit, Demand, MaskRef, Material, MaterialId, OutputPlan, Plan, Prim, Pub, Reg, Round, Sec};
use crate::program::planning::{Openings, Planning};
use crate::roster::{Roster, Scheme};

/// A check runs once this many words wait for it, to bound the memory that they
/// hold (16 bytes each).
const CHECK_WORDS: usize = 1 << 22;

pub(super) fn schedule(mut l: Lowering, outputs: Vec<OutputPlan>) -> Plan {
    let levels = levels(&l);
    let last = levels.iter().zip(&l.prims).map(|(level, p)| level + usize::from(p.interactive())).max().unwrap_or(0);
    let mut rounds = vec![Round::default(); last + 1];
    for (i, (prim, level)) in l.prims.iter().zip(&levels).enumerate() {
        let round = &mut rounds[*level];
        if prim.interactive() { &mut round.open } else { &mut round.local }.push(i as u32);
    }
    let (material, renumbered, stream_words) = order_material(&mut l, &levels, &mut rounds);
    let mut plan = Plan {
        roster: l.roster,
        prims: l.prims,
        rounds,
        sec_lens: l.sec_lens,
        pub_lens: l.pub_lens,
        bit_lens: l.bit_lens,
        constants: l.constants,
        material,
        inputs: l.inputs,
        outputs,
        stream_words,
        declarations: l.declarations,
    };
    renumber(&mut plan.prims, &renumbered);
    free_registers(&mut plan, &levels);
    if plan.roster.scheme() == Scheme::Spdz {
        let behind = plan.checks_for_checkpoints(l.planning);
        place_checks(&mut plan, &behind);
    } else {
        choose_kings(&mut plan, l.planning);
    }
    plan
}

/// One slot per register of each kind.
struct PerRegister<T> {
    secrets: Vec<T>,
    publics: Vec<T>,
    bits: Vec<T>,
}

impl<T: Clone> PerRegister<T> {
    fn new((secrets, publics, bits): (usize, usize, usize), item: T) -> Self {
        Self { secrets: vec![item.clone(); secrets], publics: vec![item.clone(); publics], bits: vec![item; bits] }
    }

    fn at(&mut self, reg: Reg) -> &mut T {
        match reg {
            Reg::Sec(s) => &mut self.secrets[s.0 as usize],
            Reg::Pub(p) => &mut self.publics[p.0 as usize],
            Reg::Bit(b) => &mut self.bits[b.0 as usize],
        }
    }
}

/// The material that a step draws.
fn drawn(prim: &mut Prim) -> Option<&mut MaterialId> {
    match prim {
        Prim::Draw { material, .. }
        | Prim::DrawBits { material, .. }
        | Prim::OpenProduct { zero: material, .. }
        | Prim::BitMerge { masks: material, .. } => Some(material),
        _ => None,
    }
}

/// The round of every primitive: as soon as its operands are there, except
/// that steps which depend on no opening (masks, inputs, constants and sums of
/// them) wait for their first consumer, so that material is not drawn early. In SPDZ so does what is added to
/// a mask, since a mask that waits for its opening is in the way of checkpoints ([`Plan::clean_cuts`]).
fn levels(l: &Lowering) -> Vec<usize> {
    let registers = (l.sec_lens.len(), l.pub_lens.len(), l.bit_lens.len());
    let mut ready = PerRegister::new(registers, (0, true));
    let mut levels = Vec::with_capacity(l.prims.len());
    let mut free = Vec::with_capacity(l.prims.len());
    let spdz = l.roster.scheme() == Scheme::Spdz;
    let mut is_drawn = vec![false; l.sec_lens.len()];
    for prim in &l.prims {
        let (mut level, mut no_opening) = (0, !prim.interactive());
        prim.reads(|reg| {
            let (ready, reg_free) = *ready.at(reg);
            level = level.max(ready);
            no_opening &= reg_free;
        });
        prim.writes(|reg| *ready.at(reg) = (level + usize::from(prim.interactive()), no_opening));
        levels.push(level);
        match prim {
            Prim::Draw { out, .. } => is_drawn[out.0 as usize] = true,
            Prim::Linear { secret, .. } if spdz => no_opening |= secret.iter().any(|(_, x)| is_drawn[x.0 as usize]),
            _ => {}
        }
        free.push(no_opening);
    }
    // Backwards: the first consumer of each register.
    let mut used = PerRegister::new(registers, usize::MAX);
    for (i, prim) in l.prims.iter().enumerate().rev() {
        if free[i] {
            let mut first = usize::MAX;
            prim.writes(|reg| first = first.min(*used.at(reg)));
            if first != usize::MAX {
                levels[i] = first;
            }
        }
        let level = levels[i];
        prim.reads(|reg| *used.at(reg) = level.min(*used.at(reg)));
    }
    levels
}

/// Numbers the material in the order of first use, so that the dealer's stream
/// is read from front to back.
fn order_material(l: &mut Lowering, levels: &[usize], rounds: &mut [Round]) -> (Vec<Demand>, Vec<u32>, u64) {
    let mut first = vec![usize::MAX; l.material.len()];
    let mut until = vec![0usize; l.material.len()];
    for (prim, level) in l.prims.iter_mut().zip(levels) {
        if let Some(material) = drawn(prim) {
            let id = material.0 as usize;
            first[id] = first[id].min(*level);
            until[id] = until[id].max(*level);
        }
    }
    let mut order: Vec<usize> = (0..l.material.len()).collect();
    order.sort_by_key(|id| first[*id]); // stable: by number within a round
    let mut renumbered = vec![0u32; order.len()];
    for (new, old) in order.iter().enumerate() {
        renumbered[*old] = new as u32;
    }
    let mut demands = Vec::with_capacity(order.len());
    let mut offset = 0u64;
    let mut needed_from = vec![u64::MAX; rounds.len() + 1];
    for &old in &order {
        let mut material = l.material[old].clone();
        if let Material::Triple { a, b, .. } = &mut material {
            let to_new = |m: &mut MaskRef| m.mask = MaterialId(renumbered[m.mask.0 as usize]);
            to_new(a);
            to_new(b);
        }
        let words = delta_words(l.roster, &material);
        rounds[first[old]].stream_until = offset + words;
        needed_from[until[old]] = needed_from[until[old]].min(offset);
        demands.push(Demand { material, offset, words });
        offset += words;
    }
    let (mut reached, mut needed) = (0, offset);
    for round in rounds.iter_mut() {
        reached = reached.max(round.stream_until);
        round.stream_until = reached;
    }
    for (i, round) in rounds.iter_mut().enumerate().rev() {
        needed = needed.min(needed_from[i + 1]);
        round.stream_from = needed;
    }
    (demands, renumbered, offset)
}

/// Δ words of a material op: one per dealt word, and in SPDZ one more for the
/// MAC of every word.
fn delta_words(roster: Roster, material: &Material) -> u64 {
    let spdz = roster.scheme() == Scheme::Spdz;
    material.parts().iter().map(|(_, n, dealt)| *n as u64 * (u64::from(*dealt) + u64::from(spdz))).sum()
}

fn renumber(prims: &mut [Prim], to: &[u32]) {
    for prim in prims {
        if let Some(material) = drawn(prim) {
            *material = MaterialId(to[material.0 as usize]);
        }
    }
}

/// A register dies with the round of its last reader; outputs live on.
fn free_registers(plan: &mut Plan, levels: &[usize]) {
    let mut last = PerRegister::new((plan.sec_lens.len(), plan.pub_lens.len(), plan.bit_lens.len()), 0);
    for (prim, level) in plan.prims.iter().zip(levels) {
        // An opened word is there only when its round is over.
        let written = level + usize::from(prim.interactive());
        prim.writes(|reg| *last.at(reg) = written.max(*last.at(reg)));
        prim.reads(|reg| *last.at(reg) = (*level).max(*last.at(reg)));
    }
    for output in &plan.outputs {
        *last.at(Reg::Sec(output.value)) = usize::MAX;
    }
    for s in (0..plan.sec_lens.len() as u32).map(Sec) {
        if let Some(round) = plan.rounds.get_mut(*last.at(Reg::Sec(s))) {
            round.free_sec.push(s);
        }
    }
    for p in (0..plan.pub_lens.len() as u32).map(Pub) {
        if let Some(round) = plan.rounds.get_mut(*last.at(Reg::Pub(p))) {
            round.free_pub.push(p);
        }
    }
    for b in (0..plan.bit_lens.len() as u32).map(Bit) {
        if let Some(round) = plan.rounds.get_mut(*last.at(Reg::Bit(b))) {
            round.free_bits.push(b);
        }
    }
}

/// Which rounds open by kings. Each that does has two more exchanges and sends
/// less; together they have the check, which is paid once for the job and once
/// more for every [`CHECK_WORDS`].
fn choose_kings(plan: &mut Plan, planning: Planning) {
    // What a king opened is not fixed by honest shares alone, so its job needs all nodes.
    if planning.openings == Openings::AllToAll || planning.losses > 0 || plan.roster.king_degree().is_none() {
        return;
    }
    let (mut exchanges, mut bytes) = (0, 0);
    for at in 0..plan.opening_rounds() {
        // The vouchers of packed bits go with an exchange of shares.
        if plan.layer(at).next().is_some() {
            continue;
        }
        plan.rounds[at].king = true;
        let Some(kings) = plan.kings(at).filter(|kings| kings.words() > 0) else {
            plan.rounds[at].king = false;
            continue;
        };
        let saved = kings.saved_bytes();
        if planning.openings == Openings::King || planning.pays(Kings::MORE_EXCHANGES, saved) {
            exchanges += Kings::MORE_EXCHANGES;
            bytes += saved;
        } else {
            plan.rounds[at].king = false;
        }
    }
    place_checks(plan, &[]);
    let checks = 1 + plan.rounds.iter().filter(|round| round.check).count() as u64;
    let (for_checks, their_bytes) = Kings::checks(plan.roster, checks);
    let pays = planning.pays(exchanges + for_checks, bytes.saturating_sub(their_bytes));
    if planning.openings == Openings::Auto && !pays {
        plan.rounds.iter_mut().for_each(|round| (round.king, round.check) = (false, false));
    }
}

/// Checks wherever too much waits, and before the given rounds, ascending.
fn place_checks(plan: &mut Plan, before: &[usize]) {
    let mut waiting = 0;
    for at in 0..plan.rounds.len() {
        let kings = plan.kings(at).map(|kings| kings.words());
        let owed = |i: &u32| match &plan.prims[*i as usize] {
            Prim::OpenBeaver { dims, .. } => {
                let (x, y, z) = dims.lens();
                2 * (x + y + z)
            }
            prim => prim.written_pub().map_or(0, |p| plan.pub_lens[p.0 as usize]),
        };
        waiting += match plan.roster.scheme() {
            Scheme::Spdz => plan.rounds[at].open.iter().map(owed).sum(),
            Scheme::Shamir => kings.unwrap_or(0),
        };
        let round = &mut plan.rounds[at];
        round.check = waiting > CHECK_WORDS || before.binary_search(&(at + 1)).is_ok();
        if round.check {
            waiting = 0;
        }
    }
}

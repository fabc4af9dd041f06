//! What another attempt of an SPDZ job may take over from the one before it
//! (docs/protocols.md, 16, attempts): which masks are the same in all attempts, and before
//! which rounds the state of a party is of use to one with other material.
//!
//! Two things must not lie on both sides of a checkpoint. A mask that was drawn before it would cover what is opened
//! under it behind it once in each attempt: the difference of two such words is one of secrets. And a product of masks is dealt
//! for one attempt: if one of its masks were drawn before the checkpoint and the product behind it, in another
//! attempt, the result would be wrong, and its MAC right: no check would notice.

use super::plan::{Material, MaterialId, Part, Plan, Prim, Pub, Round, Sec};
use crate::field::Fp61;
use crate::roster::Scheme;

/// In which attempt each material op of a job is drawn and dealt.
#[derive(Clone, Debug)]
pub struct Drawing {
    attempt: u32,
    /// [`Plan::fixed_masks`]; empty in attempt 0
    fixed: Vec<bool>,
}

impl Drawing {
    /// That of an attempt.
    pub fn new(plan: &Plan, attempt: u32) -> Self {
        Self { attempt, fixed: if attempt == 0 { Vec::new() } else { plan.fixed_masks() } }
    }

    /// The attempt in an op's address.
    pub fn of(&self, material: MaterialId) -> u32 {
        let fixed = self.fixed.get(material.0 as usize).copied().unwrap_or(false);
        if fixed { 0 } else { self.attempt }
    }
}

impl Plan {
    /// The masks that are the same in all attempts of an SPDZ job: each covers one operand of products,
    /// a linear function of inputs and constants, so that what is sent under it is always the same share.
    pub fn fixed_masks(&self) -> Vec<bool> {
        let mut fixed = vec![false; self.material.len()];
        if self.roster.scheme() != Scheme::Spdz {
            return fixed;
        }
        // Of inputs and constants alone; and the mask that a register holds, seen as it was drawn.
        let (mut stable, mut constant) = (vec![false; self.sec_lens.len()], vec![false; self.pub_lens.len()]);
        let mut mask_in: Vec<Option<MaterialId>> = vec![None; self.sec_lens.len()];
        let mut other_use = vec![false; self.material.len()];
        for prim in self.rounds.iter().flat_map(|round| self.steps(round)) {
            let is = |x: &Sec| stable[x.0 as usize];
            let known = |p: &Pub| constant[p.0 as usize];
            let mask = |x: &Sec| mask_in[x.0 as usize];
            match prim {
                Prim::Input { out, .. } => stable[out.0 as usize] = true,
                Prim::Constant { out, .. } => constant[out.0 as usize] = true,
                Prim::ViewPublic { inputs, out, .. } => constant[out.0 as usize] = inputs.iter().all(known),
                Prim::Draw { material, part: Part::Value, out }
                    if matches!(self.material[material.0 as usize].material, Material::Mask { .. }) =>
                {
                    mask_in[out.0 as usize] = Some(*material);
                }
                Prim::View { inputs, out, .. } if inputs.iter().all(|x| mask(x).is_none()) => {
                    stable[out.0 as usize] = inputs.iter().all(is);
                }
                // Seen in another way it is an operand of products, and nothing else is made of it.
                Prim::View { inputs, out, .. } if inputs.len() == 1 => mask_in[out.0 as usize] = mask(&inputs[0]),
                Prim::Scale { x, p, out, .. } if mask(x).is_none() => stable[out.0 as usize] = is(x) && known(p),
                Prim::Linear { secret, public, out, .. } => {
                    let masks: Vec<_> = secret.iter().filter_map(|(k, x)| Some((*k, mask(x)?))).collect();
                    let others = secret.iter().filter(|(_, x)| mask(x).is_none()).all(|(_, x)| is(x));
                    let others = others && public.iter().all(|(_, p)| known(p));
                    match masks[..] {
                        [] => stable[out.0 as usize] = others,
                        [(k, material)] if others && k == -Fp61::ONE && !fixed[material.0 as usize] => {
                            fixed[material.0 as usize] = true;
                        }
                        _ => masks.iter().for_each(|(_, material)| other_use[material.0 as usize] = true),
                    }
                }
                Prim::Beaver { a, b, .. } if mask(a).is_some() && mask(b).is_some() => {}
                Prim::OpenBeaver { a, b, mask: under, .. } if mask(a).is_some() && mask(b).is_some() => {
                    mask(under).into_iter().for_each(|material| other_use[material.0 as usize] = true);
                }
                prim => prim.reads(|reg| {
                    if let super::plan::Reg::Sec(x) = reg
                        && let Some(material) = mask(&x)
                    {
                        other_use[material.0 as usize] = true;
                    }
                }),
            }
        }
        fixed.iter().zip(other_use).map(|(fixed, other)| *fixed && !other).collect()
    }

    /// Before which rounds the state of an SPDZ party serves another attempt: nothing is opened from there on
    /// under a mask that was drawn before, and no product is drawn for one, unless the mask is the same in all attempts.
    pub fn clean_cuts(&self) -> Vec<bool> {
        let (first, fixed) = (self.first_drawn(), self.fixed_masks());
        let mut open = vec![0i32; self.rounds.len() + 1];
        // Neither before the mask is drawn nor behind the opening.
        for (mask, opened) in self.opened_under() {
            let drawn = first[mask.0 as usize];
            if !fixed[mask.0 as usize] && drawn < opened {
                open[drawn + 1] += 1;
                open[opened + 1] -= 1;
            }
        }
        for (demand, drawn) in self.material.iter().zip(&first) {
            let Material::Triple { a, b, .. } = &demand.material else { continue };
            for mask in [a, b].map(|mask| mask.mask.0 as usize).into_iter().filter(|mask| !fixed[*mask]) {
                // Neither before the mask is there nor behind the product.
                if first[mask] < *drawn {
                    open[first[mask] + 1] += 1;
                    open[drawn + 1] -= 1;
                }
            }
        }
        let mut crossing = 0;
        let mut clean = |change: i32| {
            crossing += change;
            crossing == 0
        };
        open[..self.rounds.len()].iter().map(|change| clean(*change)).collect()
    }

    /// Each mask with a round in which words are opened under it: those that are uniform, in sums and under views.
    fn opened_under(&self) -> Vec<(MaterialId, usize)> {
        let mut under: Vec<Vec<MaterialId>> = vec![Vec::new(); self.sec_lens.len()];
        let mut opened = Vec::new();
        for (at, round) in self.rounds.iter().enumerate() {
            for prim in self.steps(round) {
                let masks = |x: &Sec| under[x.0 as usize].iter().copied();
                let made: Vec<MaterialId> = match prim {
                    Prim::Draw { material, part: Part::Value, .. } => match self.material[material.0 as usize].material
                    {
                        // A product, and what is dealt as it is, masks nothing.
                        Material::Triple { .. } | Material::Bit { .. } => Vec::new(),
                        _ => vec![*material],
                    },
                    Prim::Linear { secret, .. } => secret.iter().flat_map(|(_, x)| masks(x)).collect(),
                    Prim::View { inputs, .. } => inputs.iter().flat_map(masks).collect(),
                    Prim::Scale { x, .. } => masks(x).collect(),
                    Prim::Open { x, .. } => {
                        opened.extend(masks(x).map(|mask| (mask, at)));
                        continue;
                    }
                    Prim::OpenBeaver { mask, .. } => {
                        opened.extend(masks(mask).map(|mask| (mask, at)));
                        continue;
                    }
                    // An operand that is a mask leaves a value, which needs one of its own.
                    _ => Vec::new(),
                };
                prim.written_sec().for_each(|x| under[x.0 as usize].clone_from(&made));
            }
        }
        opened
    }

    /// The steps from a round on that draw further parts of ops whose first part was drawn before it. What they draw
    /// belongs to the attempt of the first.
    pub fn begun(&self, round: usize) -> Vec<u32> {
        let first = self.first_drawn();
        let begun = |i: &u32| match &self.prims[*i as usize] {
            Prim::Draw { material, .. } => first[material.0 as usize] < round,
            _ => false,
        };
        self.rounds[round..].iter().flat_map(|round| &round.local).copied().filter(begun).collect()
    }

    /// Words of shares that [`Plan::begun`] draws, before each round.
    pub(super) fn begun_words(&self) -> Vec<u64> {
        let first = self.first_drawn();
        let mut change = vec![0i64; self.rounds.len() + 1];
        for (at, round) in self.rounds.iter().enumerate() {
            for prim in self.steps(round) {
                let Prim::Draw { material, out, .. } = prim else { continue };
                let words = (self.sec_lens[out.0 as usize] as u64 * self.words_per_share()) as i64;
                let from = first[material.0 as usize];
                if from < at {
                    change[from + 1] += words;
                    change[at + 1] -= words;
                }
            }
        }
        let mut held = 0;
        let mut sum = |change: i64| {
            held += change;
            held as u64
        };
        change[..self.rounds.len()].iter().map(|change| sum(*change)).collect()
    }

    /// The round in which the first part of each op is drawn.
    pub(crate) fn first_drawn(&self) -> Vec<usize> {
        let mut first = vec![usize::MAX; self.material.len()];
        let draws = |(at, round): (usize, &Round), first: &mut Vec<usize>| {
            for prim in self.steps(round) {
                if let Prim::Draw { material, .. } = prim {
                    let held = &mut first[material.0 as usize];
                    *held = at.min(*held);
                }
            }
        };
        self.rounds.iter().enumerate().for_each(|round| draws(round, &mut first));
        first
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::program::{Builder, Type, random};
    use crate::roster::Roster;

    /// Data that each iteration multiplies, and weights that each makes anew.
    fn training() -> Plan {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [4, 3]);
        let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [3, 1]);
        let (ends, _) = b.repeat(3, &[w], |_, state| {
            let error = x.matmul(&state[0]).declare("error", -1.0..=1.0);
            let step = x.t().matmul(&error).declare("step", -1.0..=1.0);
            (vec![(&state[0] - &(step * 0.5)).declare("w", -1.0..=1.0)], vec![])
        });
        b.output("w", "alice", &ends[0]);
        b.finish().unwrap().plan(Roster::spdz(3).unwrap()).unwrap()
    }

    #[test]
    fn masks_of_inputs_are_fixed_and_no_others() {
        let plan = training();
        let fixed = plan.fixed_masks();
        let masks = plan.material.iter().filter(|d| matches!(d.material, Material::Mask { .. })).count();
        let count = fixed.iter().filter(|fixed| **fixed).count();
        // The data, and the first weights; the errors and later weights are opened in between.
        assert_eq!((count, masks), (2, 7));
        let is_mask =
            |(demand, _): (&super::super::plan::Demand, &bool)| matches!(demand.material, Material::Mask { .. });
        assert!(plan.material.iter().zip(&fixed).filter(|(_, fixed)| **fixed).all(is_mask));
    }

    /// A mask that covers what was opened in an attempt would cover two values in two attempts.
    #[test]
    fn no_fixed_mask_covers_what_openings_have_made() {
        for seed in 0..60 {
            let plan = random::program(seed, 12).plan(Roster::spdz(3).unwrap()).unwrap();
            let fixed = plan.fixed_masks();
            let mut opened = vec![false; plan.sec_lens.len()];
            let mut known = vec![false; plan.pub_lens.len()];
            let mut mask = vec![None; plan.sec_lens.len()];
            for prim in plan.rounds.iter().flat_map(|round| plan.steps(round)) {
                let mut from_opening = false;
                prim.reads(|reg| match reg {
                    super::super::plan::Reg::Sec(x) => from_opening |= opened[x.0 as usize],
                    super::super::plan::Reg::Pub(p) => from_opening |= known[p.0 as usize],
                    super::super::plan::Reg::Bit(_) => {}
                });
                if let Prim::Linear { secret, .. } = prim {
                    let under = |x: &Sec| mask[x.0 as usize].filter(|id: &MaterialId| fixed[id.0 as usize]);
                    let covered = secret.iter().any(|(_, x)| under(x).is_some());
                    assert!(!covered || !from_opening, "seed {seed}: {prim:?}");
                }
                if let Prim::Draw { material, out, .. } = prim {
                    mask[out.0 as usize] = Some(*material);
                    // Other material may be another in each attempt.
                    opened[out.0 as usize] = !fixed[material.0 as usize];
                }
                prim.written_sec().for_each(|x| opened[x.0 as usize] |= from_opening);
                prim.written_pub().into_iter().for_each(|p| known[p.0 as usize] |= from_opening || prim.interactive());
            }
        }
    }

    #[test]
    fn a_cut_between_iterations_is_clean_and_one_between_mask_and_product_is_not() {
        let plan = training();
        let clean = plan.clean_cuts();
        assert_eq!(clean.len(), plan.rounds.len());
        let (first, fixed) = (plan.first_drawn(), plan.fixed_masks());
        for (round, clean) in clean.iter().enumerate() {
            let crossing = plan.material.iter().zip(&first).any(|(demand, drawn)| match &demand.material {
                Material::Triple { a, b, .. } => [a, b]
                    .iter()
                    .map(|mask| mask.mask.0 as usize)
                    .any(|mask| !fixed[mask] && first[mask] < round && *drawn >= round),
                _ => false,
            });
            assert!(!clean || !crossing, "before round {round}");
        }
        assert!(clean.iter().filter(|clean| **clean).count() > 3 && clean.contains(&false), "{clean:?}");
        // Something is always half drawn there: what was opened waits for the quotient of its mask.
        assert!((1..plan.opening_rounds()).filter(|round| clean[*round]).any(|round| !plan.begun(round).is_empty()));
        let begun = plan.begun_words();
        for (round, begun) in begun.iter().enumerate() {
            let steps = plan.begun(round);
            let words = steps.iter().flat_map(|i| plan.prims[*i as usize].written_sec());
            assert_eq!(words.map(|x| 2 * plan.sec_lens[x.0 as usize] as u64).sum::<u64>(), *begun);
        }
    }

    /// Weights and a bias that each iteration makes anew: the bias is there earlier, and joins the next product before
    /// it is opened.
    pub(crate) fn with_a_bias() -> crate::program::Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [4, 3]);
        let w = b.input("w", "alice", Type::fixed(-1.0..=1.0), [3, 1]);
        let bias = b.input("bias", "alice", Type::fixed(-1.0..=1.0), [1, 1]);
        let (ends, _) = b.repeat(3, &[w, bias], |_, state| {
            let error = (x.matmul(&state[0]) + &state[1]).declare("error", -1.0..=1.0);
            let step = x.t().matmul(&error).declare("step", -1.0..=1.0);
            let w = (&state[0] - &(step * 0.5)).declare("w", -1.0..=1.0);
            let bias = (&state[1] - &(error.sum_all().reshape([1, 1]) * 0.0625)).declare("bias", -1.0..=1.0);
            (vec![w, bias], vec![])
        });
        b.output("w", "alice", &ends[0]);
        b.output("bias", "alice", &ends[1]);
        b.finish().unwrap()
    }

    /// Each mask that is not fixed is drawn and used up on one side of every clean cut; here by asking for each register
    /// which words of the dealer's can be in it, whatever the step.
    #[test]
    fn no_mask_is_drawn_before_a_clean_cut_and_opened_under_behind_it() {
        let programs = (0..60).map(|seed| random::program(seed, 12)).chain([with_a_bias()]);
        for (seed, program) in programs.enumerate() {
            let plan = program.plan(Roster::spdz(3).unwrap()).unwrap();
            let (clean, fixed, first) = (plan.clean_cuts(), plan.fixed_masks(), plan.first_drawn());
            // Where each op's uniform words are opened under for the first time: the other reading of the plan.
            let mut holds: Vec<std::collections::BTreeSet<u32>> = vec![Default::default(); plan.sec_lens.len()];
            let mut used = std::collections::BTreeMap::new();
            for (at, round) in plan.rounds.iter().enumerate() {
                for prim in plan.steps(round) {
                    let mut all = std::collections::BTreeSet::new();
                    let linear = matches!(prim, Prim::Linear { .. } | Prim::View { .. } | Prim::Scale { .. });
                    let opens = matches!(prim, Prim::Open { .. });
                    if linear || opens {
                        prim.reads(|reg| {
                            if let super::super::plan::Reg::Sec(x) = reg {
                                all.extend(&holds[x.0 as usize]);
                            }
                        });
                    }
                    match prim {
                        Prim::Draw { material, part: Part::Value, .. } => drop(all.insert(material.0)),
                        Prim::OpenBeaver { mask, .. } => all.extend(&holds[mask.0 as usize]),
                        _ => {}
                    }
                    if prim.interactive() {
                        for op in &all {
                            let masks = !matches!(plan.material[*op as usize].material, Material::Triple { .. });
                            if masks && !fixed[*op as usize] {
                                used.insert(*op, at);
                            }
                        }
                    }
                    prim.written_sec().for_each(|x| holds[x.0 as usize].clone_from(&all));
                }
            }
            for (op, opened) in used {
                let between = first[op as usize] + 1..opened.max(first[op as usize]) + 1;
                assert!(!clean[between.clone()].contains(&true), "program {seed}: op {op}, before one of {between:?}");
            }
            if seed == 60 {
                assert!(clean.iter().filter(|clean| **clean).count() > 4, "{clean:?}");
            }
        }
    }

    /// A mask that is drawn a round too early: nothing else changes, but the cut before its opening is not clean any more.
    #[test]
    fn a_mask_that_waits_for_its_opening_makes_the_cut_unclean() {
        let plan = with_a_bias().plan(Roster::spdz(3).unwrap()).unwrap();
        let (clean, mut moved) = (plan.clean_cuts(), 0);
        for round in (1..plan.opening_rounds()).filter(|round| clean[*round]) {
            let draws = |i: &&u32| match &plan.prims[**i as usize] {
                Prim::Draw { material, part: Part::Value, .. } => {
                    !matches!(plan.material[material.0 as usize].material, Material::Triple { .. })
                }
                _ => false,
            };
            for draw in plan.rounds[round].local.iter().filter(draws) {
                let mut early = plan.clone();
                early.rounds[round].local.retain(|i| i != draw);
                early.rounds[round - 1].local.push(*draw);
                assert!(!early.clean_cuts()[round], "before round {round}: {:?}", plan.prims[*draw as usize]);
                moved += 1;
            }
        }
        assert!(moved > 3, "{moved}");
    }
}

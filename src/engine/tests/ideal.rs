//! The ideal functionality of a plan: the same steps on values in the clear,
//! given the same masks. An engine must equal it bit for bit.

use std::collections::BTreeMap;

use super::world::{World, device, rosters};
use crate::backend::cpu::{Cpu, Words};
use crate::backend::{Backend, Device};
use crate::field::Fp61;
use crate::program::plan::{Material, MaterialId, Part, Plan, Prim, Pub, Reg, Sec};
use crate::program::{Comparisons, Planning, Type, random};
use crate::roster::Roster;
use crate::sharing::{Dealer, packed};
use crate::tensor::{Dims, View};

/// A trusted third party that runs the plan.
struct Ideal<'a> {
    plan: &'a Plan,
    dealer: &'a dyn Dealer,
    /// of which attempt each material op is
    attempts: &'a [u32],
    secrets: BTreeMap<u32, Words>,
    publics: BTreeMap<u32, Words>,
    /// rows of bits, one after the other, n of c to a row and threshold
    bits: BTreeMap<u32, Vec<bool>>,
}

/// The outputs of a plan on inputs in the clear, and the random integers that
/// it drew, in its order.
fn ideal(plan: &Plan, dealer: &dyn Dealer, inputs: &[Vec<Fp61>]) -> (Vec<Vec<Fp61>>, Vec<Fp61>) {
    ideal_of(plan, dealer, inputs, &vec![0; plan.material.len()])
}

/// The same where each material op is of an attempt.
pub(super) fn ideal_of(
    plan: &Plan,
    dealer: &dyn Dealer,
    inputs: &[Vec<Fp61>],
    attempts: &[u32],
) -> (Vec<Vec<Fp61>>, Vec<Fp61>) {
    let mut ideal =
        Ideal { plan, dealer, attempts, secrets: BTreeMap::new(), publics: BTreeMap::new(), bits: BTreeMap::new() };
    plan.prims.iter().for_each(|prim| ideal.step(prim, inputs));
    let random = plan.prims.iter().filter_map(|prim| match prim {
        Prim::Draw { material, out, .. } => {
            let uniform = matches!(plan.material[material.0 as usize].material, Material::Uniform { .. });
            uniform.then(|| Cpu.read(ideal.sec(*out)).unwrap().to_vec())
        }
        _ => None,
    });
    let random = random.flatten().collect();
    (plan.outputs.iter().map(|o| Cpu.read(ideal.sec(o.value)).unwrap().to_vec()).collect(), random)
}

impl Ideal<'_> {
    fn sec(&self, s: Sec) -> &Words {
        &self.secrets[&s.0]
    }
    fn public(&self, p: Pub) -> &Words {
        &self.publics[&p.0]
    }

    fn step(&mut self, prim: &Prim, inputs: &[Vec<Fp61>]) {
        let one = Fp61::ONE;
        let value = match prim {
            Prim::Input { input, .. } => Cpu.load(inputs[*input as usize].clone()),
            Prim::Constant { constant, .. } => Cpu.load(self.plan.constants[*constant as usize].clone()),
            Prim::Linear { secret, public, constant, out } => {
                let terms: Vec<_> = secret.iter().map(|(k, x)| (*k, self.sec(*x))).collect();
                let public = public.iter().map(|(k, p)| (*k, self.public(*p)));
                let terms: Vec<_> = terms.into_iter().chain(public).collect();
                Cpu.linear(self.plan.sec_lens[out.0 as usize], &terms, *constant)
            }
            Prim::View { view, inputs, .. } => Cpu.view(view, &inputs.iter().map(|x| self.sec(*x)).collect::<Vec<_>>()),
            Prim::ViewPublic { view, inputs, .. } => {
                Cpu.view(view, &inputs.iter().map(|p| self.public(*p)).collect::<Vec<_>>())
            }
            Prim::Scale { dims, x, p, left: false, .. } => Cpu.product(*dims, self.sec(*x), self.public(*p), None),
            Prim::Scale { dims, x, p, left: true, .. } => Cpu.product(*dims, self.public(*p), self.sec(*x), None),
            Prim::Draw { material, part, .. } => Cpu.load(self.material(*material, *part)),
            Prim::Open { x, .. } => self.sec(*x).clone(),
            Prim::OpenProduct { dims, x, y, mask, .. } => {
                let product = Cpu.product(*dims, self.sec(*x), self.sec(*y), None);
                Cpu.linear(dims.lens().2, &[(one, &product), (one, self.sec(*mask))], Fp61::ZERO)
            }
            Prim::Beaver { dims, d, e, a, b, .. } => self.product(*dims, (*d, *a), (*e, *b)),
            Prim::OpenBeaver { dims, d, e, a, b, mask, .. } => {
                let product = self.product(*dims, (*d, *a), (*e, *b));
                Cpu.linear(dims.lens().2, &[(one, &product), (one, self.sec(*mask))], Fp61::ZERO)
            }
            Prim::Shift { c, thresholds, by, high, msb, constant, .. } => {
                let (c, high, msb) =
                    [self.public(*c), self.sec(*high), self.sec(*msb)].map(|w| Cpu.read(w).unwrap()).into();
                let word = |t: i64, i: usize| {
                    let shifted = (c[i].word() as i64 - t) >> by;
                    let wrapped = 1 - (c[i].word() >> 60);
                    Fp61::from_i64(shifted) - high[i] + Fp61::reduce(wrapped << (61 - by)) * msb[i] + *constant
                };
                Cpu.load(
                    thresholds
                        .iter()
                        .flat_map(|t| (0..c.len()).map(move |i| (*t, i)))
                        .map(|(t, i)| word(t, i))
                        .collect(),
                )
            }
            Prim::Leaf { c, thresholds, from, bits, one_hot, carry, g, p } => {
                let (left, right) = self.leaf(*c, thresholds, (*from, *bits), *one_hot, *carry);
                self.secrets.insert(g.0, left);
                self.secrets.insert(p.0, right);
                return;
            }
            Prim::OpenBits { x, out, .. } => {
                let words = self.bits[&x.0].iter().map(|b| Fp61::reduce(u64::from(*b))).collect();
                self.publics.insert(out.0, Cpu.load(words));
                return;
            }
            packed => return self.step_bits(packed),
        };
        prim.writes(|reg| match reg {
            Reg::Sec(s) => drop(self.secrets.insert(s.0, value.clone())),
            Reg::Pub(p) => drop(self.publics.insert(p.0, value.clone())),
            Reg::Bit(_) => unreachable!("these have returned"),
        });
    }

    /// Steps on bits, here in the clear and one by one.
    fn step_bits(&mut self, prim: &Prim) {
        match prim {
            Prim::DrawBits { material, out } => {
                let bits = match &self.plan.material[material.0 as usize].material {
                    Material::Packed { n, leaves, sign, .. } => {
                        let r = self.dealer.uniform(crate::material::address(*material, Part::Value, 0), *n);
                        let bit = |i: u8| r.iter().map(|r| r.word() >> i & 1 == 1).collect::<Vec<_>>();
                        let mut rows = Vec::new();
                        for (low, high) in leaves {
                            rows.extend(bit(*low));
                            if let Some(high) = high {
                                rows.extend(bit(*high));
                                rows.extend(bit(*low).iter().zip(bit(*high)).map(|(l, h)| *l && h));
                            }
                        }
                        rows.extend(bit(*sign));
                        rows
                    }
                    Material::Bit { rows, n } => {
                        let lane = packed::lane(*n);
                        let mut words = vec![0; rows * lane];
                        let address = crate::material::address(*material, Part::Rows, 0);
                        self.dealer.uniform_bits_range(address, 0, &mut words);
                        let bit = |row: usize, i: usize| words[row * lane + i / 64] >> (i % 64) & 1 == 1;
                        (0..*rows).flat_map(|row| (0..*n).map(move |i| (row, i))).map(|(row, i)| bit(row, i)).collect()
                    }
                    other => unreachable!("no packed rows in {other:?}"),
                };
                self.bits.insert(out.0, bits);
            }
            Prim::BitLeaves { c, thresholds, leaves, lowest, rows, row, g, p } => {
                let c = Cpu.read(self.public(*c)).unwrap();
                let (rows, n) = (&self.bits[&rows.0], c.len());
                let (mut row, mut greater, mut equal) = (*row as usize, Vec::new(), Vec::new());
                for (i, (low, high)) in leaves.iter().enumerate() {
                    for threshold in thresholds {
                        for j in 0..n {
                            let below = c[j].word() as i64 - threshold;
                            let of_c = |bit: u8| match bit {
                                60 => c[j].word() >> 60 & 1,
                                bit => (below >> bit & 1) as u64,
                            };
                            let of_r = |k: usize| u64::from(rows[(row + k) * n + j]);
                            let (mut of_c, mut r) = (of_c(*low), of_r(0));
                            if let Some(high) = high {
                                of_c += 2 * (below >> high & 1) as u64;
                                r += 2 * of_r(1);
                            }
                            greater.push(of_c < r);
                            equal.push(of_c == r);
                        }
                    }
                    if i == 0 && !lowest {
                        equal.clear();
                    }
                    row += if high.is_some() { 3 } else { 1 };
                }
                drop(c);
                self.bits.insert(g.0, greater);
                self.bits.insert(p.0, equal);
            }
            Prim::BitMerge { g, p, leaves, lowest, below, out_g, out_p, .. } => {
                let (g, p, leaves) = (&self.bits[&g.0], &self.bits[&p.0], *leaves as usize);
                let n = g.len() / leaves;
                let row = |bits: &[bool], i: usize| bits[i * n..(i + 1) * n].to_vec();
                // The lowest leaf may come without P.
                let p = |i: usize| if *lowest { row(p, i) } else { row(p, i - 1) };
                let and = |a: &[bool], b: &[bool]| a.iter().zip(b).map(|(a, b)| *a && *b).collect::<Vec<_>>();
                let (mut greater, mut equal) = (Vec::new(), Vec::new());
                let join = |high: usize, low: &[bool]| {
                    let passed = and(&p(high), low);
                    row(g, high).iter().zip(passed).map(|(a, b)| *a || b).collect::<Vec<_>>()
                };
                if let Some(below) = below {
                    let low = self.bits[&below.0].iter().copied().cycle().take(n).collect::<Vec<_>>();
                    greater.extend(join(0, &low));
                } else {
                    for i in 0..leaves.div_ceil(2) {
                        let (low, high) = (2 * i, 2 * i + 1);
                        if high < leaves {
                            greater.extend(join(high, &row(g, low)));
                        } else {
                            greater.extend(row(g, low));
                        }
                        if (i > 0 || *lowest) && high < leaves {
                            equal.extend(and(&p(high), &p(low)));
                        } else if i > 0 || *lowest {
                            equal.extend(p(low));
                        }
                    }
                }
                self.bits.insert(out_g.0, greater);
                self.bits.insert(out_p.0, equal);
            }
            Prim::BitSign { c, thresholds, at, flip, rows, row, borrow, mask, out } => {
                let c = Cpu.read(self.public(*c)).unwrap();
                let (n, row) = (c.len(), *row as usize);
                let of_r = &self.bits[&rows.0][row * n..(row + 1) * n];
                let (borrow, mask) = (&self.bits[&borrow.0], &self.bits[&mask.0]);
                let bits = thresholds.iter().enumerate().flat_map(|(t, threshold)| {
                    let c = &c;
                    (0..n).map(move |j| {
                        let of_c = (c[j].word() as i64 - threshold) >> at & 1 == 1;
                        of_c ^ of_r[j] ^ borrow[t * n + j] ^ mask[t * n + j] ^ flip
                    })
                });
                let bits = bits.collect();
                drop(c);
                self.bits.insert(out.0, bits);
            }
            other => unreachable!("no step on bits: {other:?}"),
        }
    }

    /// The product of what was masked: what Beaver's combination must give.
    fn product(&self, dims: Dims, x: (Pub, Sec), y: (Pub, Sec)) -> Words {
        let unmasked = |(opened, mask): (Pub, Sec)| {
            let (opened, mask) = (self.public(opened), self.sec(mask));
            Cpu.linear(Cpu.len(opened), &[(Fp61::ONE, opened), (Fp61::ONE, mask)], Fp61::ZERO)
        };
        Cpu.product(dims, &unmasked(x), &unmasked(y), None)
    }

    /// \[digit of r > digit of c\], with the carry, and \[digits equal\], by comparing.
    fn leaf(
        &self,
        c: Pub,
        thresholds: &[i64],
        (from, bits): (u8, u8),
        one_hot: Sec,
        carry: Option<Sec>,
    ) -> (Words, Words) {
        let c = Cpu.read(self.public(c)).unwrap();
        let rows = Cpu.read(self.sec(one_hot)).unwrap();
        let carry = carry.map(|x| Cpu.read(self.sec(x)).unwrap());
        let n = c.len();
        let (mut g, mut p) = (Vec::new(), Vec::new());
        for t in thresholds {
            for i in 0..n {
                let digit_r = (0..1 << bits).find(|v| rows[v * n + i] == Fp61::ONE).unwrap();
                let digit_c = ((c[i].word() as i64 - t) >> from & ((1 << bits) - 1)) as usize;
                let wrapped =
                    c[i].word() >> 60 == 0 && carry.as_ref().is_some_and(|carry| carry[digit_c * n + i] == Fp61::ONE);
                g.push(Fp61::reduce(u64::from(digit_r > digit_c || wrapped)));
                p.push(Fp61::reduce(u64::from(digit_r == digit_c)));
            }
        }
        (Cpu.load(g), Cpu.load(p))
    }

    fn material(&self, id: MaterialId, part: Part) -> Vec<Fp61> {
        let of = |id: MaterialId| self.attempts[id.0 as usize];
        let uniform = |id, n| self.dealer.uniform(crate::material::address(id, Part::Value, of(id)), n).to_vec();
        match &self.plan.material[id.0 as usize].material {
            Material::Mask { n } => uniform(id, *n),
            Material::Zero { .. } | Material::Layer { .. } => unreachable!("nobody draws these as a value"),
            Material::Packed { n, quotient, .. } => {
                let r = uniform(id, *n);
                let shifted = |by: u8| r.iter().map(|r| Fp61::reduce(r.word() >> by)).collect();
                match part {
                    Part::Value => r,
                    Part::High => shifted(quotient.unwrap()),
                    _ => shifted(60),
                }
            }
            Material::Bit { rows, n } => {
                let lane = packed::lane(*n);
                let mut words = vec![0; rows * lane];
                let address = crate::material::address(id, Part::Rows, 0);
                self.dealer.uniform_bits_range(address, 0, &mut words);
                let bit = |row: usize, i: usize| Fp61::reduce(words[row * lane + i / 64] >> (i % 64) & 1);
                (0..*rows).flat_map(|row| (0..*n).map(move |i| bit(row, i))).collect()
            }
            Material::Triple { dims, a, b } => {
                let mask = |m: &crate::program::plan::MaskRef| {
                    let Material::Mask { n } = self.plan.material[m.mask.0 as usize].material else { unreachable!() };
                    m.views.iter().fold(Cpu.load(uniform(m.mask, n)), |w, v: &View| Cpu.view(v, &[&w]))
                };
                Cpu.read(&Cpu.product(*dims, &mask(a), &mask(b), None)).unwrap().to_vec()
            }
            Material::Uniform { n, size } => {
                let p = u128::from(crate::field::P);
                let times = |x: &Fp61| u128::from(*size) * u128::from(x.word());
                let integer = |pair: &[Fp61]| (times(&pair[0]) + times(&pair[1]) / p) / p;
                uniform(id, 2 * n).chunks(2).map(|pair| Fp61::reduce(integer(pair) as u64)).collect()
            }
            Material::Bits { n, from, shift, digits } => {
                let r: Vec<u64> = uniform(id, *n).iter().map(|r| r.word()).collect();
                let digit = |r: u64, i: usize| {
                    let from = from + digits[..i].iter().sum::<u8>();
                    r >> from & ((1 << digits[i]) - 1)
                };
                let rows = |i: usize, f: &dyn Fn(u64, u64) -> u64| -> Vec<u64> {
                    (0..1u64 << digits[i]).flat_map(|v| r.iter().map(move |r| (*r, v))).map(|(r, v)| f(r, v)).collect()
                };
                let words = match part {
                    Part::Value => r.clone(),
                    Part::High => r.iter().map(|r| r >> shift).collect(),
                    Part::Msb => r.iter().map(|r| r >> 60).collect(),
                    Part::Digit(i) => rows(i.into(), &|r, v| u64::from(digit(r, i.into()) == v)),
                    Part::Carry => rows(0, &|r, v| u64::from(digit(r, 0) == v) & r >> 60),
                    Part::Rows => unreachable!("these bits are digits"),
                };
                words.into_iter().map(Fp61::reduce).collect()
            }
        }
    }
}

/// How many random programs each roster runs; together some hundreds.
const PROGRAMS: u64 = 60;

#[test]
fn random_programs_equal_the_ideal_and_lie_within_the_error_bound() {
    // A software GPU takes a minute for a tenth of them.
    let device = device();
    let few = device.can_be_lost();
    let rosters: Vec<_> = rosters().into_iter().map(|roster| (roster, Planning::default())).collect();
    equals_the_ideal(&device, &rosters, if few { PROGRAMS / 10 } else { PROGRAMS }, if few { 10 } else { 100 });
}

/// Every comparison on packed bits.
#[test]
fn random_programs_on_packed_bits_equal_the_ideal() {
    let device = device();
    let packed = Planning { comparisons: Comparisons::Packed, ..Planning::default() };
    let rosters = [(Roster::shamir(4, 1).unwrap(), packed)];
    let (programs, within) = if device.can_be_lost() { (PROGRAMS / 10, 1) } else { (3 * PROGRAMS, 40) };
    equals_the_ideal(&device, &rosters, programs, within);
}

/// On a device as on the CPU, so on both alike.
#[cfg(feature = "gpu")]
#[test]
fn random_programs_on_a_gpu_equal_the_ideal() {
    if let Some(gpu) = crate::backend::gpu::test_device() {
        let rosters: Vec<_> = rosters().into_iter().map(|roster| (roster, Planning::default())).collect();
        equals_the_ideal(&Device::Gpu(gpu), &rosters, PROGRAMS / 10, 10);
    }
}

pub(super) fn equals_the_ideal(device: &Device, rosters: &[(Roster, Planning)], programs: u64, at_least_within: usize) {
    let mut within = 0;
    for &(roster, planning) in rosters {
        for seed in 0..programs {
            let program = random::program(seed, 12);
            let inputs = random::inputs(&program, seed ^ 0x5eed);
            let mut world = World::planned(device, &program, (roster, planning), &inputs, seed);
            world.run();
            let outputs = world.outputs();
            let words: Vec<_> = program.encode_inputs(&inputs).unwrap().iter().map(|w| w.to_vec()).collect();
            let plan = world.job.plan();
            let (expected, random) = ideal(plan, world.job.dealer(), &words);
            assert!(outputs == expected, "{roster}, seed {seed}: the engine and the ideal differ");

            let mut random = random.into_iter();
            let mut draw = |ty: Type| ty.lo + random.next().unwrap().word() as i64;
            let real = program.dry_run_on(&inputs, &mut draw).unwrap();
            assert_eq!(random.len(), 0);
            if !real.holds() {
                continue;
            }
            within += 1;
            for (planned, words) in plan.outputs.iter().zip(&outputs) {
                let found = words.iter().map(|w| w.to_i64() as f64 * planned.ty.ulp());
                for (i, (found, real)) in found.zip(&real.outputs[&planned.name]).enumerate() {
                    let (off, bound) = ((found - real).abs(), planned.error + 1e-9 * real.abs());
                    let name = &planned.name;
                    assert!(
                        off <= bound,
                        "{roster}, seed {seed}, {name}[{i}]: {found} is {off} from {real}, bound {bound}"
                    );
                }
            }
        }
    }
    assert!(within > at_least_within || at_least_within == 0, "too few programs keep their declarations: {within}");
}

//! The ideal functionality of a plan: the same steps on values in the clear,
//! given the same masks. An engine must equal it bit for bit.

use std::collections::BTreeMap;

use super::world::{World, device, rosters};
use crate::backend::cpu::{Cpu, Words};
use crate::backend::{Backend, Device};
use crate::field::Fp61;
use crate::program::plan::{Material, MaterialId, Part, Plan, Prim, Pub, Reg, Sec};
use crate::program::random;
use crate::sharing::Dealer;
use crate::tensor::{Dims, View};

/// A trusted third party that runs the plan.
struct Ideal<'a> {
    plan: &'a Plan,
    dealer: &'a dyn Dealer,
    secrets: BTreeMap<u32, Words>,
    publics: BTreeMap<u32, Words>,
}

/// The outputs of a plan on inputs in the clear.
fn ideal(plan: &Plan, dealer: &dyn Dealer, inputs: &[Vec<Fp61>]) -> Vec<Vec<Fp61>> {
    let mut ideal = Ideal { plan, dealer, secrets: BTreeMap::new(), publics: BTreeMap::new() };
    plan.prims.iter().for_each(|prim| ideal.step(prim, inputs));
    plan.outputs.iter().map(|o| Cpu.read(ideal.sec(o.value)).unwrap().to_vec()).collect()
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
        };
        prim.writes(|reg| match reg {
            Reg::Sec(s) => drop(self.secrets.insert(s.0, value.clone())),
            Reg::Pub(p) => drop(self.publics.insert(p.0, value.clone())),
        });
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
        let uniform = |id, n| self.dealer.uniform(crate::material::address(id, Part::Value, 0), n).to_vec();
        match &self.plan.material[id.0 as usize].material {
            Material::Mask { n } => uniform(id, *n),
            Material::Zero { .. } => unreachable!("nobody draws a zero sharing as a value"),
            Material::Triple { dims, a, b } => {
                let mask = |m: &crate::program::plan::MaskRef| {
                    let Material::Mask { n } = self.plan.material[m.mask.0 as usize].material else { unreachable!() };
                    m.views.iter().fold(Cpu.load(uniform(m.mask, n)), |w, v: &View| Cpu.view(v, &[&w]))
                };
                Cpu.read(&Cpu.product(*dims, &mask(a), &mask(b), None)).unwrap().to_vec()
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
    equals_the_ideal(&device, if few { PROGRAMS / 10 } else { PROGRAMS }, if few { 10 } else { 100 });
}

/// On a device as on the CPU, so on both alike.
#[cfg(feature = "gpu")]
#[test]
fn random_programs_on_a_gpu_equal_the_ideal() {
    if let Some(gpu) = crate::backend::gpu::test_device() {
        equals_the_ideal(&Device::Gpu(gpu), PROGRAMS / 10, 10);
    }
}

fn equals_the_ideal(device: &Device, programs: u64, at_least_within: usize) {
    let mut within = 0;
    for roster in rosters() {
        for seed in 0..programs {
            let program = random::program(seed, 12);
            let inputs = random::inputs(&program, seed ^ 0x5eed);
            let mut world = World::on(device, &program, roster, &inputs, seed);
            world.run();
            let outputs = world.outputs();
            let words: Vec<_> = program.encode_inputs(&inputs).unwrap().iter().map(|w| w.to_vec()).collect();
            let plan = world.job.plan();
            let expected = ideal(plan, world.job.dealer(), &words);
            assert!(outputs == expected, "{roster}, seed {seed}: the engine and the ideal differ");

            let real = program.dry_run(&inputs).unwrap();
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
    assert!(within > at_least_within, "too few programs keep their declarations: {within}");
}

//! From the graph of a program to the primitives of a [`Plan`].
//!
//! The walk unrolls every `repeat`, so each primitive, each mask and each
//! opening exists once and is addressed by its number: a mask belongs to one
//! immutable value by construction. [`arith`] holds the products and
//! truncations, [`compare`] the comparisons; [`schedule`] puts the result into rounds.

mod arith;
mod border;
mod compare;
mod packed;
mod schedule;

use std::collections::HashMap;

use self::arith::Pending;
use self::border::Watch;
pub use self::border::{Departing, Departure};
use super::Program;
use super::evaluate::patches;
use super::graph::{Block, Node, Op, Signature, Type, ValueId};
use super::octaves::{ERROR_BITS, SLOPE_BITS};
use super::plan::{
    Bit, Declaration, InputPlan, MaskRef, Material, MaterialId, OutputPlan, Part, Plan, Prim, Pub, Reg, Sec,
};
use super::planning::{Comparisons, LASTING_COST, LONG_JOB, Openings, Planning};
use super::tail::Border;
use crate::field::Fp61;
use crate::roster::{Degree, Roster, Scheme};
use crate::tensor::{Dims, Shape, View};

/// The most primitives of a plan, and the most operations (operands, states
/// and collected values included) that a program may unroll to.
pub const MAX_PRIMS: usize = 1 << 20;
/// The most words of public constants in a plan (512 MiB).
pub const MAX_CONSTANT_WORDS: usize = 1 << 26;

/// Why a program cannot be planned for a roster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too many primitives after unrolling.
    #[error("the program unrolls to more than {MAX_PRIMS} steps: lower the counts of its repeats")]
    TooLong,
    /// Too many words of public constants.
    #[error("the program has more than {MAX_CONSTANT_WORDS} words of public constants: give them as an input")]
    Constants,
    /// A value has too many fractional bits for an operation.
    #[error("{op} works on at most {most} fractional bits, found {found}: rescale the value first")]
    FractionalBits {
        /// which operation
        op: &'static str,
        /// the most it takes
        most: u8,
        /// found
        found: u8,
    },
    /// The operand's range leaves no room for the offsets of an operation.
    #[error("{op} needs an operand whose range stays a little inside 2^59: declare a smaller range")]
    Range {
        /// which operation
        op: &'static str,
    },
    /// Kings were asked for where there are none.
    #[error(
        "openings by kings need a Shamir roster that detects wrong shares and cannot correct them, such as (4, 1) or (3, 1), found {roster}: use such a roster, or open all to all"
    )]
    King {
        /// the roster
        roster: Roster,
    },
    /// Packed bits were asked for where there are none.
    #[error(
        "comparisons on packed bits need a Shamir roster of 4 nodes with threshold 1, found {roster}: use that roster, or digits"
    )]
    Packed {
        /// the roster
        roster: Roster,
    },
    /// The plan cannot bear so many losses.
    #[error("{roster} cannot go on without {losses} of its nodes, at most without {most}{}: add nodes, or plan for fewer losses", if *.forced { ", and with none on packed bits or by kings" } else { "" })]
    Losses {
        /// the roster
        roster: Roster,
        /// losses asked for
        losses: u8,
        /// losses that it can bear
        most: u8,
        /// whether packed bits or kings were asked for too
        forced: bool,
    },
}

impl Program {
    /// Plans the program for a roster. Deterministic: every node and the owner
    /// compute the same plan from the same signed program. Costs time and
    /// memory proportional to the unrolled program, never to the data.
    pub fn plan(&self, roster: Roster) -> Result<Plan, PlanError> {
        self.plan_with(roster, Planning::default())
    }

    /// Plans for a network that is told, or with ways of computing that are
    /// forced. All parties must plan alike: what is given here stands in the manifest.
    pub fn plan_with(&self, roster: Roster, planning: Planning) -> Result<Plan, PlanError> {
        if planning.comparisons == Comparisons::Packed && !roster.packs_bits() {
            return Err(PlanError::Packed { roster });
        }
        let (losses, most) = (planning.losses, roster.nodes() - roster.needed(Degree::T) as u8);
        let forced = planning.comparisons == Comparisons::Packed || planning.openings == Openings::King;
        if losses > most || (forced && losses > 0) {
            return Err(PlanError::Losses { roster, losses, most, forced });
        }
        if planning.openings == Openings::King && roster.king_degree().is_none() {
            return Err(PlanError::King { roster });
        }
        Ok(lower(self, roster, planning, false)?.0)
    }
}

/// The plan, and what was watched of its borders, if that was asked for.
fn lower(
    program: &Program,
    roster: Roster,
    planning: Planning,
    watched: bool,
) -> Result<(Plan, Option<Watch>), PlanError> {
    let lower = |planning| lower_once(program, roster, planning, watched.then(Watch::default));
    let lowered = lower(planning)?;
    if roster.scheme() != Scheme::Shamir || lowered.0.replays() {
        return Ok(lowered);
    }
    let seconds = |plan: &Plan| {
        let (cost, bandwidth) = (plan.cost(), planning.bandwidth());
        let among = cost.seconds(planning.latency(), bandwidth);
        (among, among + cost.upload_seconds(roster.nodes(), bandwidth))
    };
    let (among, all) = seconds(&lowered.0);
    if among > LONG_JOB.as_secs_f64() {
        // Not where what is forced is enough to end the job, or where the plan grows too long by it.
        let lasting = lower(planning.lasting()).ok();
        if let Some(lasting) = lasting.filter(|(plan, _)| plan.replays() && seconds(plan).1 <= LASTING_COST * all) {
            return Ok(lasting);
        }
    }
    Ok(lowered)
}

fn lower_once(
    program: &Program,
    roster: Roster,
    planning: Planning,
    watch: Option<Watch>,
) -> Result<(Plan, Option<Watch>), PlanError> {
    // Before anything is unrolled: loops cost time even where they emit nothing.
    if unrolled(program.nodes()) > MAX_PRIMS as u64 {
        return Err(PlanError::TooLong);
    }
    let mut l = Lowering::new(program, roster, planning);
    l.watch = watch;
    l.nodes(program.nodes())?;
    let mut outputs = Vec::with_capacity(program.outputs().len());
    for o in program.outputs() {
        let known = l.force(o.value)?;
        let value = l.secret(&known.value);
        outputs.push(OutputPlan {
            name: o.name.clone(),
            reader: o.reader.clone(),
            ty: known.ty,
            shape: known.shape,
            value,
            error: known.error,
        });
    }
    let watch = l.watched();
    Ok((schedule::schedule(l, outputs), watch))
}

/// What a value has become.
#[derive(Clone)]
enum Value {
    /// A secret register.
    Secret(Sec),
    /// A public constant of the program.
    Public(Pub),
    /// One public word for every element.
    Splat(Fp61, usize),
    /// A fixed-point number that is not truncated yet, because its only use may
    /// share the truncation: a scaling, a sum, a comparison.
    Pending(Pending),
}

/// A lowered value with what is known of it.
#[derive(Clone)]
struct Known {
    value: Value,
    ty: Type,
    shape: Shape,
    /// Bound on the distance from real arithmetic, in real units.
    error: f64,
}

impl Known {
    /// The greatest magnitude, in real units.
    fn magnitude(&self) -> f64 {
        (self.ty.lo.unsigned_abs().max(self.ty.hi.unsigned_abs())) as f64 * ulp(self.ty.frac)
    }
}

/// The real value of one unit in the last place.
fn ulp(frac: u8) -> f64 {
    1.0 / (1u64 << frac) as f64
}

/// An operand's mask for Beaver products: opened once, used by every product.
#[derive(Clone)]
struct Masked {
    opened: Pub,
    mask: Sec,
    source: MaskRef,
}

struct Lowering {
    roster: Roster,
    planning: Planning,
    prims: Vec<Prim>,
    sec_lens: Vec<usize>,
    pub_lens: Vec<usize>,
    bit_lens: Vec<usize>,
    constants: Vec<Vec<Fp61>>,
    material: Vec<Material>,
    inputs: Vec<InputPlan>,
    declarations: Vec<Declaration>,
    known: HashMap<ValueId, Known>,
    /// How often each value of the program is used.
    uses: HashMap<ValueId, usize>,
    masked: HashMap<Sec, Masked>,
    /// Registers that show another one's words and share its mask: transposes, patches.
    bases: HashMap<Sec, (Sec, View)>,
    shown: HashMap<(Sec, View), Sec>,
    /// Constants of one repeated word.
    filled: HashMap<(Fp61, usize), Pub>,
    constant_words: usize,
    /// Openings before each register, secret, public and packed, for as many primitives.
    rounds: [Vec<usize>; 3],
    counted: usize,
    /// repeats around what is lowered
    depth: usize,
    watch: Option<Watch>,
}

impl Lowering {
    /// Whether products are local, also with as many nodes as may be left.
    fn local_products(&self) -> bool {
        let left = usize::from(self.roster.nodes() - self.planning.losses);
        self.roster.local_products() && left >= self.roster.needed(Degree::TwoT)
    }

    fn new(program: &Program, roster: Roster, planning: Planning) -> Self {
        let mut uses: HashMap<ValueId, usize> = HashMap::new();
        super::graph::uses(program.nodes(), &mut |id| *uses.entry(id).or_default() += 1);
        program.outputs().iter().for_each(|o| *uses.entry(o.value).or_default() += 1);
        Self {
            roster,
            planning,
            prims: Vec::new(),
            sec_lens: Vec::new(),
            pub_lens: Vec::new(),
            bit_lens: Vec::new(),
            constants: Vec::new(),
            material: Vec::new(),
            inputs: Vec::new(),
            declarations: Vec::new(),
            known: HashMap::new(),
            uses,
            masked: HashMap::new(),
            bases: HashMap::new(),
            shown: HashMap::new(),
            filled: HashMap::new(),
            constant_words: 0,
            rounds: [Vec::new(), Vec::new(), Vec::new()],
            counted: 0,
            depth: 0,
            watch: None,
        }
    }

    fn nodes(&mut self, nodes: &[Node]) -> Result<(), PlanError> {
        for node in nodes {
            if self.prims.len() > MAX_PRIMS {
                return Err(PlanError::TooLong);
            }
            self.node(node)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), PlanError> {
        if let Op::Repeat { count, init, body } = &node.op {
            return self.repeat(node, *count, init, body);
        }
        if matches!(node.op, Op::Constant { .. }) && self.known.contains_key(&node.first) {
            return Ok(()); // a constant inside a body: the same in each iteration
        }
        let sig = &node.defines[0];
        if let Op::Declare { name, .. } = &node.op {
            let declaration = Declaration { name: name.clone(), ty: sig.ty };
            // Once, however often a loop passes it.
            if !self.declarations.contains(&declaration) {
                self.declarations.push(declaration);
            }
        }
        let (value, error) = self.op(node, sig)?;
        self.known.insert(node.first, Known { value, ty: sig.ty, shape: sig.shape.clone(), error });
        Ok(())
    }

    /// One operation: its value and its error bound.
    fn op(&mut self, node: &Node, sig: &Signature) -> Result<(Value, f64), PlanError> {
        let len = sig.shape.len();
        Ok(match &node.op {
            Op::Input { name, owner } => (Value::Secret(self.input(name, owner, sig)), half_ulp(sig.ty)),
            Op::Constant { values } => {
                self.room_for_constant(values.len())?;
                (self.constant(values, len), half_ulp(sig.ty))
            }
            Op::Random => (Value::Secret(self.random(sig.ty, len)), 0.0),
            Op::Patches { x, window } => {
                let x = self.force(*x)?;
                (self.view(View::Patches(patches(&x.shape, *window)), &[x.value]), x.error)
            }
            Op::Add(a, b) => match self.sum_with_product(node.first, *a, *b, Fp61::ONE)? {
                None => match self.sum_with_product(node.first, *b, *a, Fp61::ONE)? {
                    None => self.sum_of(*a, *b, Fp61::ONE, len)?,
                    Some(sum) => sum,
                },
                Some(sum) => sum,
            },
            Op::Sub(a, b) => match self.sum_with_product(node.first, *a, *b, -Fp61::ONE)? {
                None => self.sum_of(*a, *b, -Fp61::ONE, len)?,
                Some(sum) => sum,
            },
            Op::Neg(x) => {
                let x = self.force(*x)?;
                (self.times(&x.value, -Fp61::ONE), x.error)
            }
            Op::Mul(a, b) => self.multiply(node.first, Dims::Elementwise(len), *a, *b)?,
            Op::MatMul(a, b) => {
                let (left, right) = (&self.known[a].shape, &self.known[b].shape);
                let dims = Dims::Matmul { m: left.dims()[0], k: left.dims()[1], n: right.dims()[1] };
                self.multiply(node.first, dims, *a, *b)?
            }
            Op::ScaleBy { x, mantissa, shift } => self.scale_by(node.first, *x, *mantissa, *shift, sig.ty)?,
            Op::Rescale { x, frac } => {
                let old = self.known[x].ty.frac;
                if *frac >= old {
                    let x = self.force(*x)?;
                    (self.times(&x.value, power(*frac - old)), x.error)
                } else {
                    self.scale_words(node.first, *x, (1, old - frac), 1.0, sig.ty)?
                }
            }
            Op::Transpose(x) => {
                let shape = &self.known[x].shape;
                let (rows, cols) = (sig.shape.dims()[sig.shape.dims().len() - 1], shape.dims()[shape.dims().len() - 1]);
                let view = View::Transpose { outer: len / (rows * cols), rows, cols };
                match self.waiting_view(node.first, *x, &view) {
                    Some(waiting) => waiting,
                    None => {
                        let x = self.force(*x)?;
                        let value = if view.moves_nothing() { x.value } else { self.view(view, &[x.value]) };
                        (value, x.error)
                    }
                }
            }
            Op::Reshape(x)
                if self.uses[x] == 1
                    && self.uses.get(&node.first) == Some(&1)
                    && matches!(self.known[x].value, Value::Pending(_)) =>
            {
                let x = self.known.remove(x).expect("checked by the guard");
                (x.value, x.error)
            }
            // Its uses may be a comparison, and others after it.
            Op::Declare { x, .. } if self.uses[x] == 1 && matches!(self.known[x].value, Value::Pending(_)) => {
                let x = self.known.remove(x).expect("checked by the guard");
                (x.value, x.error)
            }
            Op::Reshape(x) | Op::Declare { x, .. } => {
                let x = self.force(*x)?;
                (x.value, x.error)
            }
            Op::Claim { x, of, error, slope } => {
                let x = self.force(*x)?;
                let of = self.known[of].error;
                let [error, slope] =
                    [(error, ERROR_BITS), (slope, SLOPE_BITS)].map(|(v, bits)| *v as f64 / 2f64.powi(bits));
                // What made x may know a better bound of its own.
                (x.value, x.error.min(error + if of > 0.0 { of * slope } else { 0.0 }))
            }
            Op::Slice { x, axis, start, end } => {
                let x = self.force(*x)?;
                let (outer, axis_len, inner) = around(&x.shape, *axis);
                let view = View::Slice { outer, axis: axis_len, inner, start: *start, end: *end };
                let value = if end - start == axis_len { x.value } else { self.view(view, &[x.value]) };
                (value, x.error)
            }
            Op::Concat { parts, axis } => {
                let parts = parts.iter().map(|p| self.force(*p)).collect::<Result<Vec<_>, _>>()?;
                let (outer, _, inner) = around(&parts[0].shape, *axis);
                let axes = parts.iter().map(|p| p.shape.dims()[*axis]).collect();
                let values: Vec<_> = parts.iter().map(|p| p.value.clone()).collect();
                let error = parts.iter().map(|p| p.error).fold(0.0, f64::max);
                (self.view(View::Concat { outer, axes, inner }, &values), error)
            }
            Op::Broadcast(x) => {
                let x = self.force(*x)?;
                (self.broadcast(x.value.clone(), &x.shape, &sig.shape), x.error)
            }
            Op::Sum { x, axis } => {
                let x = self.force(*x)?;
                let (outer, axis, inner) = around(&x.shape, *axis);
                let value = if axis == 1 { x.value } else { self.view(View::Sum { outer, axis, inner }, &[x.value]) };
                (value, x.error * axis as f64)
            }
            Op::AtLeast { x, thresholds } => {
                let (id, x) = (x, self.known[x].clone());
                let certain = x.error == 0.0;
                let bits = self.compared(*id, &x, thresholds)?;
                (bits, if certain { 0.0 } else { 1.0 })
            }
            Op::Between { x, thresholds } => {
                let (id, x) = (x, self.known[x].clone());
                let certain = x.error == 0.0;
                let (n, rows) = (x.shape.len(), thresholds.len());
                let passed = self.compared(*id, &x, thresholds)?;
                let join = View::Concat { outer: 1, axes: vec![n, rows * n], inner: 1 };
                let lower = self.view(join, &[Value::Splat(Fp61::ONE, n), passed.clone()]);
                let join = View::Concat { outer: 1, axes: vec![rows * n, n], inner: 1 };
                let upper = self.view(join, &[passed, Value::Splat(Fp61::ZERO, n)]);
                let one_hot = self.linear(len, &[(Fp61::ONE, lower), (-Fp61::ONE, upper)], Fp61::ZERO);
                (Value::Secret(one_hot), if certain { 0.0 } else { 1.0 })
            }
            Op::Clamp { x, lo, hi } => {
                let x = self.take(*x)?;
                (Value::Secret(self.clamp(&x.value, x.ty, *lo, *hi)?), x.error)
            }
            Op::Select { c, a, b } => self.select(*c, *a, *b, len)?,
            Op::Approximate { x, table, .. } => {
                let x = self.take(*x)?;
                let value = self.approximate(&x.value, x.ty, table)?;
                // The function is as steep as its pieces, give or take their error.
                let carried = x.error * table.slope(x.ty) * 1.01;
                (Value::Secret(value), carried + table.claimed_error() + table.rounding(x.ty))
            }
            Op::Repeat { .. } => unreachable!("handled by the caller"),
        })
    }

    /// Unrolls a loop. Values of enclosing blocks are made whole first, so that
    /// no iteration computes them again.
    fn repeat(&mut self, node: &Node, count: u32, init: &[ValueId], body: &Block) -> Result<(), PlanError> {
        let pending: Vec<_> =
            self.known.iter().filter(|(_, k)| matches!(k.value, Value::Pending(_))).map(|(id, _)| *id).collect();
        let mut pending = pending;
        pending.sort(); // the order of a map must not reach the plan
        for id in pending {
            self.force(id)?;
        }
        let mut states = init.iter().map(|id| self.force(*id)).collect::<Result<Vec<_>, _>>()?;
        let mut collected: Vec<Vec<Value>> = vec![Vec::new(); body.collect.len()];
        let mut errors = vec![0f64; body.collect.len()];
        self.depth += 1;
        for done in 1..=count {
            for (i, (state, param)) in states.iter().zip(&body.params).enumerate() {
                let id = ValueId(body.first_param.0 + i as u32);
                self.known.insert(id, Known { ty: param.ty, ..state.clone() });
            }
            self.nodes(&body.nodes)?;
            states = body.results.iter().map(|id| self.force(*id)).collect::<Result<Vec<_>, _>>()?;
            for (i, id) in body.collect.iter().enumerate() {
                let k = self.force(*id)?;
                errors[i] = errors[i].max(k.error);
                collected[i].push(k.value);
            }
            self.passed(Border { repeat: node.first, done }, &states, &collected);
        }
        self.depth -= 1;
        let stacked = collected.into_iter().zip(errors).zip(&body.collect).map(|((values, error), id)| {
            let inner = self.known[id].shape.len();
            (self.view(View::Concat { outer: 1, axes: vec![1; values.len()], inner }, &values), error)
        });
        let stacked: Vec<_> = stacked.collect();
        let results = states.into_iter().map(|s| (s.value, s.error)).chain(stacked);
        for (i, ((value, error), sig)) in results.zip(&node.defines).enumerate() {
            let id = ValueId(node.first.0 + i as u32);
            self.known.insert(id, Known { value, ty: sig.ty, shape: sig.shape.clone(), error });
        }
        Ok(())
    }

    fn input(&mut self, name: &str, owner: &str, sig: &Signature) -> Sec {
        let input = self.inputs.len() as u32;
        let n = sig.shape.len() as u64;
        let words = if self.roster.scheme() == Scheme::Spdz { 2 * n } else { n };
        let (name, owner) = (name.to_owned(), owner.to_owned());
        self.inputs.push(InputPlan { name, owner, ty: sig.ty, shape: sig.shape.clone(), words });
        let out = self.sec(n as usize);
        self.prims.push(Prim::Input { input, out });
        out
    }

    /// Dealt uniform integers from 0 on, moved to where the range begins.
    fn random(&mut self, ty: Type, n: usize) -> Sec {
        let size = (ty.hi - ty.lo) as u64 + 1;
        let material = self.add_material(Material::Uniform { n, size });
        let drawn = self.draw(material, Part::High);
        self.linear(n, &[(Fp61::ONE, Value::Secret(drawn))], Fp61::from_i64(ty.lo))
    }

    fn constant(&mut self, values: &[i64], len: usize) -> Value {
        if let [one] = values {
            return Value::Splat(Fp61::from_i64(*one), len);
        }
        Value::Public(self.load_constant(values.iter().map(|v| Fp61::from_i64(*v)).collect()))
    }

    /// Accounts for a constant before it takes memory.
    fn room_for_constant(&mut self, words: usize) -> Result<(), PlanError> {
        self.constant_words += words;
        if self.constant_words > MAX_CONSTANT_WORDS { Err(PlanError::Constants) } else { Ok(()) }
    }

    fn load_constant(&mut self, words: Vec<Fp61>) -> Pub {
        let out = self.public(words.len());
        let constant = self.constants.len() as u32;
        self.constants.push(words);
        self.prims.push(Prim::Constant { constant, out });
        out
    }

    fn broadcast(&mut self, mut value: Value, from: &Shape, to: &Shape) -> Value {
        let mut dims = vec![1; to.dims().len() - from.dims().len()];
        dims.extend_from_slice(from.dims());
        // The rightmost axis first: what lies inside is already repeated.
        for axis in (0..dims.len()).rev() {
            let times = to.dims()[axis] / dims[axis];
            if times > 1 {
                let outer = dims[..axis].iter().product();
                let inner = to.dims()[axis + 1..].iter().product();
                value = self.view(View::Repeat { outer, times, inner }, &[value]);
                dims[axis] = times;
            }
        }
        value
    }

    /// a + sign·b on the way to a's truncation; whole at once if it has several uses.
    fn sum_with_product(
        &mut self,
        id: ValueId,
        a: ValueId,
        b: ValueId,
        sign: Fp61,
    ) -> Result<Option<(Value, f64)>, PlanError> {
        let Some((value, error)) = self.add_to_pending(a, b, sign)? else { return Ok(None) };
        let value = match value {
            Value::Pending(product) if self.uses.get(&id) != Some(&1) => Value::Secret(self.finish(product)),
            value => value,
        };
        Ok(Some((value, error)))
    }

    fn sum_of(&mut self, a: ValueId, b: ValueId, sign: Fp61, len: usize) -> Result<(Value, f64), PlanError> {
        let (a, b) = (self.force(a)?, self.force(b)?);
        let value = match (&a.value, &b.value) {
            (Value::Splat(x, _), Value::Splat(y, _)) => Value::Splat(*x + sign * *y, len),
            _ => {
                let terms = [(Fp61::ONE, a.value), (sign, b.value)];
                Value::Secret(self.linear(len, &terms, Fp61::ZERO))
            }
        };
        Ok((value, a.error + b.error))
    }

    fn select(&mut self, c: ValueId, a: ValueId, b: ValueId, len: usize) -> Result<(Value, f64), PlanError> {
        let (c, a, b) = (self.force(c)?, self.force(a)?, self.force(b)?);
        let spread = a.ty.hi.max(b.ty.hi) as f64 - a.ty.lo.min(b.ty.lo) as f64;
        let error = a.error.max(b.error) + c.error.min(1.0) * spread * ulp(a.ty.frac);
        let difference = self.linear(len, &[(Fp61::ONE, a.value), (-Fp61::ONE, b.value.clone())], Fp61::ZERO);
        let chosen = self.product_of(Dims::Elementwise(len), &c.value, &Value::Secret(difference))?;
        let terms = [(Fp61::ONE, Value::Secret(chosen)), (Fp61::ONE, b.value)];
        Ok((Value::Secret(self.linear(len, &terms, Fp61::ZERO)), error))
    }

    /// A value at its use by an operation that can truncate a pending product
    /// itself, and keeps it: if it has no other use.
    fn take(&mut self, id: ValueId) -> Result<Known, PlanError> {
        if self.uses.get(&id) != Some(&1) {
            return self.force(id);
        }
        let known = self.known[&id].clone();
        if matches!(known.value, Value::Pending(_)) {
            self.known.remove(&id);
        }
        Ok(known)
    }

    /// \[x ≥ T\] for each threshold. A pending product is truncated on the way, for
    /// the uses that follow.
    fn compared(&mut self, id: ValueId, x: &Known, thresholds: &[i64]) -> Result<Value, PlanError> {
        let (bits, whole) = self.compare(&x.value, x.ty, thresholds)?;
        if let (Value::Pending(_), Some(whole)) = (&x.value, whole) {
            self.known.insert(id, Known { value: Value::Secret(whole), ..x.clone() });
        }
        Ok(bits)
    }

    /// The value, with a pending product made whole.
    fn force(&mut self, id: ValueId) -> Result<Known, PlanError> {
        let known = self.known[&id].clone();
        let Value::Pending(p) = known.value else { return Ok(known) };
        let whole = Known { value: Value::Secret(self.finish(p)), ..known };
        self.known.insert(id, whole.clone());
        Ok(whole)
    }

    /// The number of openings that a register waits for one after another.
    fn ready(&mut self, reg: Reg) -> usize {
        let lens = [self.sec_lens.len(), self.pub_lens.len(), self.bit_lens.len()];
        self.rounds.iter_mut().zip(lens).for_each(|(levels, len)| levels.resize(len, 0));
        let at = |reg| match reg {
            Reg::Sec(s) => (0, s.0 as usize),
            Reg::Pub(p) => (1, p.0 as usize),
            Reg::Bit(b) => (2, b.0 as usize),
        };
        let rounds = &mut self.rounds;
        for prim in &self.prims[self.counted..] {
            let mut level = 0;
            prim.reads(|reg| {
                let (kind, number) = at(reg);
                level = level.max(rounds[kind][number]);
            });
            level += usize::from(prim.interactive());
            prim.writes(|reg| {
                let (kind, number) = at(reg);
                rounds[kind][number] = level;
            });
        }
        self.counted = self.prims.len();
        let (kind, number) = at(reg);
        self.rounds[kind][number]
    }

    // --- registers and local primitives -----------------------------------

    fn sec(&mut self, len: usize) -> Sec {
        self.sec_lens.push(len);
        Sec(self.sec_lens.len() as u32 - 1)
    }

    fn public(&mut self, len: usize) -> Pub {
        self.pub_lens.push(len);
        Pub(self.pub_lens.len() as u32 - 1)
    }

    fn bits(&mut self, words: usize) -> Bit {
        self.bit_lens.push(words);
        Bit(self.bit_lens.len() as u32 - 1)
    }

    fn len(&self, x: Sec) -> usize {
        self.sec_lens[x.0 as usize]
    }

    /// How many words a value has.
    fn words(&self, value: &Value) -> usize {
        match value {
            Value::Secret(x) => self.len(*x),
            Value::Public(p) => self.pub_lens[p.0 as usize],
            Value::Splat(_, len) => *len,
            Value::Pending(product) => product.words(),
        }
    }

    fn add_material(&mut self, material: Material) -> MaterialId {
        self.material.push(material);
        MaterialId(self.material.len() as u32 - 1)
    }

    fn draw(&mut self, material: MaterialId, part: Part) -> Sec {
        let (_, words, _) = *self.material[material.0 as usize]
            .parts()
            .iter()
            .find(|(p, ..)| *p == part)
            .expect("the lowering draws only parts that exist");
        let out = self.sec(words);
        self.prims.push(Prim::Draw { material, part, out });
        out
    }

    /// Σ k·x + constant as a secret, whatever the terms are.
    fn linear(&mut self, len: usize, terms: &[(Fp61, Value)], mut constant: Fp61) -> Sec {
        let (mut secret, mut public) = (Vec::new(), Vec::new());
        for (k, v) in terms {
            match v {
                Value::Secret(x) => secret.push((*k, *x)),
                Value::Public(p) => public.push((*k, *p)),
                Value::Splat(w, _) => constant += *k * *w,
                Value::Pending(_) => unreachable!("operands are forced before use"),
            }
        }
        if let ([(k, x)], [], Fp61::ZERO) = (&secret[..], &public[..], constant)
            && *k == Fp61::ONE
        {
            return *x;
        }
        let out = self.sec(len);
        self.prims.push(Prim::Linear { secret, public, constant, out });
        out
    }

    /// A value as a secret register; a public one becomes a sharing of itself.
    fn secret(&mut self, value: &Value) -> Sec {
        match value {
            Value::Secret(x) => *x,
            Value::Public(p) => {
                let len = self.pub_lens[p.0 as usize];
                self.linear(len, &[(Fp61::ONE, value.clone())], Fp61::ZERO)
            }
            Value::Splat(w, len) => self.linear(*len, &[], *w),
            Value::Pending(_) => unreachable!("operands are forced before use"),
        }
    }

    fn times(&mut self, value: &Value, k: Fp61) -> Value {
        match value {
            Value::Splat(w, len) => Value::Splat(k * *w, *len),
            Value::Secret(x) => Value::Secret(self.linear(self.len(*x), &[(k, value.clone())], Fp61::ZERO)),
            Value::Public(p) => {
                Value::Secret(self.linear(self.pub_lens[p.0 as usize], &[(k, value.clone())], Fp61::ZERO))
            }
            Value::Pending(_) => unreachable!("operands are forced before use"),
        }
    }

    fn view(&mut self, view: View, inputs: &[Value]) -> Value {
        // Zeros around an image are other words than its own.
        let filled = |w: &Fp61| *w == Fp61::ZERO || !matches!(&view, View::Patches(p) if p.window.padding != [0; 4]);
        if let ([Value::Splat(w, _)], len) = (inputs, view.output_len())
            && filled(w)
        {
            let times = if let View::Sum { axis, .. } = view { axis as u64 } else { 1 };
            return Value::Splat(*w * Fp61::reduce(times), len);
        }
        if inputs.iter().all(|v| matches!(v, Value::Public(_))) {
            let inputs: Vec<_> =
                inputs.iter().filter_map(|v| if let Value::Public(p) = v { Some(*p) } else { None }).collect();
            return Value::Public(self.view_public(view, inputs));
        }
        let inputs: Vec<_> = inputs.iter().map(|v| self.secret(v)).collect();
        Value::Secret(self.view_secret(view, inputs))
    }

    fn view_secret(&mut self, view: View, inputs: Vec<Sec>) -> Sec {
        // What windows show of an image is masked as the image is, if that has fewer words.
        let shares_mask = match view {
            View::Transpose { .. } => true,
            View::Patches(_) => view.output_len() >= self.len(inputs[0]),
            _ => false,
        };
        let shown = shares_mask.then(|| (inputs[0], view.clone()));
        if let Some(hit) = shown.as_ref().and_then(|shown| self.shown.get(shown)) {
            return *hit;
        }
        let out = self.sec(view.output_len());
        if let Some((base, view)) = shown {
            self.bases.insert(out, (base, view.clone()));
            self.shown.insert((base, view), out);
        }
        self.prims.push(Prim::View { view, inputs, out });
        out
    }

    fn view_public(&mut self, view: View, inputs: Vec<Pub>) -> Pub {
        let out = self.public(view.output_len());
        self.prims.push(Prim::ViewPublic { view, inputs, out });
        out
    }
}

fn half_ulp(ty: Type) -> f64 {
    if ty.fixed { ulp(ty.frac) / 2.0 } else { 0.0 }
}

/// 2^bits as a field element.
fn power(bits: u8) -> Fp61 {
    Fp61::reduce(1 << bits)
}

/// A shape seen around one axis: words before, the axis, words after.
fn around(shape: &Shape, axis: usize) -> (usize, usize, usize) {
    let dims = shape.dims();
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}

/// Operations, operands, states and collected values of the unrolled program.
fn unrolled(nodes: &[Node]) -> u64 {
    nodes.iter().fold(0u64, |sum, node| {
        let here = match &node.op {
            Op::Concat { parts, .. } => parts.len() as u64,
            Op::AtLeast { thresholds, .. } | Op::Between { thresholds, .. } => thresholds.len() as u64,
            Op::Approximate { table, .. } => table.pieces.len() as u64,
            Op::Repeat { count, init, body } => {
                let once = unrolled(&body.nodes) + (init.len() + body.collect.len()) as u64 + 1;
                once.saturating_mul(u64::from(*count))
            }
            _ => 1,
        };
        sum.saturating_add(here).saturating_add(1)
    })
}

//! The one place that decides what a well-formed program is.
//!
//! The [`Builder`](super::Builder) defines values here one by one;
//! [`Program::from_bytes`](super::Program::from_bytes) replays foreign nodes
//! through the same calls. Shapes and ranges are derived, never believed: a
//! claimed signature is used only where nothing can be derived (an input's
//! type, a constant's or a random value's type, a declared range, the target of a
//! reshape).

use std::collections::BTreeSet;
use std::rc::Rc;

use super::error::ProgramError;
use super::graph::{Block, Node, Op, Output, Signature, Type, ValueId};
use super::types::Interval;
use crate::tensor::Shape;

/// The most values a program may define, bodies counted once.
pub const MAX_VALUES: usize = 1 << 18;
/// The deepest nesting of `repeat`.
pub const MAX_DEPTH: usize = super::graph::MAX_DEPTH;
/// The most iterations of one `repeat`.
pub const MAX_REPEAT: u32 = 1 << 20;
/// The most bytes of a name.
pub const MAX_NAME: usize = 256;
/// The most bits that one truncation may drop.
pub const MAX_SHIFT: u8 = 58;
/// The most thresholds of one comparison.
pub const MAX_THRESHOLDS: usize = 1 << 10;

/// A program under construction: the values so far and the blocks that are open.
pub(super) struct Checker {
    values: Vec<(Rc<Signature>, usize)>,
    /// open blocks, outermost first; the program itself is the first
    blocks: Vec<Open>,
    next_scope: usize,
    inputs: BTreeSet<String>,
    outputs: Vec<Output>,
}

struct Open {
    scope: usize,
    first_param: ValueId,
    params: Vec<Signature>,
    nodes: Vec<Node>,
}

impl Checker {
    pub fn new() -> Self {
        let top = Open { scope: 0, first_param: ValueId(0), params: Vec::new(), nodes: Vec::new() };
        Self { values: Vec::new(), blocks: vec![top], next_scope: 1, inputs: BTreeSet::new(), outputs: Vec::new() }
    }

    /// The signature of a value that may be used now.
    pub fn signature(&self, id: ValueId, op: &'static str) -> Result<&Rc<Signature>, ProgramError> {
        let visible = |scope: &usize| self.blocks.iter().any(|block| block.scope == *scope);
        match self.values.get(id.0 as usize) {
            Some((signature, scope)) if visible(scope) => Ok(signature),
            _ => Err(ProgramError::Scope { op, value: id.0 }),
        }
    }

    /// Derives the signature of an operation (any but `Repeat`) and defines its value.
    pub fn define(&mut self, op: Op, claimed: &Signature) -> Result<ValueId, ProgramError> {
        let signature = self.derive(&op, claimed)?;
        if let Op::Input { name, .. } = &op
            && !self.inputs.insert(name.clone())
        {
            return Err(ProgramError::Name { what: "input", name: name.clone(), expected: "each input once" });
        }
        let first = self.push_values(vec![signature.clone()])?;
        self.block().nodes.push(Node { first, defines: vec![signature], op });
        Ok(first)
    }

    /// Opens the body of a `repeat` and defines its parameters; the first one's number.
    pub fn enter(&mut self, count: u32, init: &[ValueId]) -> Result<ValueId, ProgramError> {
        if count == 0 || count > MAX_REPEAT {
            return Err(ProgramError::Limit {
                what: "iterations of a repeat (at least 1)",
                found: count.into(),
                max: MAX_REPEAT.into(),
            });
        }
        if self.blocks.len() > MAX_DEPTH {
            return Err(ProgramError::Limit {
                what: "nested repeats",
                found: self.blocks.len() as u64,
                max: MAX_DEPTH as u64,
            });
        }
        let params = init
            .iter()
            .map(|id| Ok(Signature::clone(self.signature(*id, "repeat")?)))
            .collect::<Result<Vec<_>, ProgramError>>()?;
        let scope = self.next_scope;
        self.next_scope += 1;
        let first_param = ValueId(self.values.len() as u32);
        self.blocks.push(Open { scope, first_param, params: params.clone(), nodes: Vec::new() });
        if let Err(error) = self.push_values(params) {
            self.abandon();
            return Err(error);
        }
        Ok(first_param)
    }

    /// Closes the body opened last and defines the values of the `repeat`; the
    /// first one's number. On an error the body is gone.
    pub fn leave(
        &mut self,
        count: u32,
        init: Vec<ValueId>,
        results: Vec<ValueId>,
        collect: Vec<ValueId>,
    ) -> Result<ValueId, ProgramError> {
        let defines = self.repeat_signatures(count, &results, &collect);
        let Open { first_param, params, nodes, .. } = self.blocks.pop().expect("leave follows enter");
        let defines = defines?;
        let first = self.push_values(defines.clone())?;
        let body = Block { first_param, params, nodes, results, collect };
        self.block().nodes.push(Node { first, defines, op: Op::Repeat { count, init, body } });
        Ok(first)
    }

    /// Drops the body opened last.
    pub fn abandon(&mut self) {
        self.blocks.pop();
    }

    /// Names a value as an output.
    pub fn output(&mut self, name: String, reader: String, value: ValueId) -> Result<(), ProgramError> {
        check_name("output", &name)?;
        check_name("reader", &reader)?;
        if self.blocks.len() > 1 {
            return Err(ProgramError::Operands {
                op: "output",
                operands: format!("{name:?}"),
                expected: "outputs outside every repeat: collect the value".into(),
            });
        }
        self.signature(value, "output")?;
        if self.outputs.iter().any(|output| output.name == name) {
            return Err(ProgramError::Name { what: "output", name, expected: "each output once" });
        }
        self.outputs.push(Output { name, reader, value });
        Ok(())
    }

    /// The finished graph.
    pub fn finish(&mut self) -> Result<(Vec<Node>, Vec<Output>), ProgramError> {
        if self.blocks.len() > 1 {
            return refuse("finish", &[], "no repeat to be open: finish after its body has returned");
        }
        if self.outputs.is_empty() {
            return Err(ProgramError::NoOutputs);
        }
        Ok((std::mem::take(&mut self.block().nodes), std::mem::take(&mut self.outputs)))
    }

    fn block(&mut self) -> &mut Open {
        self.blocks.last_mut().expect("the program's own block stays open")
    }

    fn push_values(&mut self, signatures: Vec<Signature>) -> Result<ValueId, ProgramError> {
        let found = self.values.len() + signatures.len();
        if found > MAX_VALUES {
            return Err(ProgramError::Limit { what: "values", found: found as u64, max: MAX_VALUES as u64 });
        }
        let scope = self.block().scope;
        let first = ValueId(self.values.len() as u32);
        self.values.extend(signatures.into_iter().map(|signature| (Rc::new(signature), scope)));
        Ok(first)
    }

    fn repeat_signatures(
        &self,
        count: u32,
        results: &[ValueId],
        collect: &[ValueId],
    ) -> Result<Vec<Signature>, ProgramError> {
        let params = &self.blocks.last().expect("leave follows enter").params;
        if results.len() != params.len() {
            return Err(ProgramError::Operands {
                op: "repeat",
                operands: format!("a body with {} results", results.len()),
                expected: format!("{} results, one per state", params.len()),
            });
        }
        for (index, (result, parameter)) in results.iter().zip(params).enumerate() {
            let found = self.signature(*result, "repeat")?;
            if found.shape != parameter.shape || !found.ty.fits(parameter.ty) {
                return Err(ProgramError::State {
                    index,
                    parameter: parameter.clone(),
                    found: Signature::clone(found),
                });
            }
        }
        let mut defines = params.clone();
        for id in collect {
            let each = self.signature(*id, "collect")?;
            let mut dims = vec![count as usize];
            dims.extend_from_slice(each.shape.dims());
            defines.push(Signature { ty: each.ty, shape: stacked("collect", each, dims)? });
        }
        Ok(defines)
    }

    fn derive(&self, op: &Op, claimed: &Signature) -> Result<Signature, ProgramError> {
        let name = op.name();
        let get = |id: &ValueId| self.signature(*id, name).map(|signature| &**signature);
        match op {
            Op::Input { name: input, owner } => {
                check_name("input", input)?;
                check_name("owner", owner)?;
                if self.blocks.len() > 1 {
                    return refuse(name, &[], format!("input {input:?} outside every repeat"));
                }
                claimed.ty.check(name)?;
                Ok(claimed.clone())
            }
            Op::Constant { values } => {
                claimed.ty.check(name)?;
                if values.len() != 1 && values.len() != claimed.shape.len() {
                    return refuse(name, &[claimed], format!("1 value or one per element, found {}", values.len()));
                }
                if let Some(v) = values.iter().find(|v| !(claimed.ty.lo..=claimed.ty.hi).contains(v)) {
                    return refuse(name, &[claimed], format!("values within the type's range, found {v} (scaled)"));
                }
                Ok(claimed.clone())
            }
            Op::Random => {
                claimed.ty.check(name)?;
                Ok(claimed.clone())
            }
            Op::Patches { x, window } => {
                let x = get(x)?;
                let &[batch, channels, rows, columns] = x.shape.dims() else {
                    return refuse(name, &[x], "[batch, channels, rows, columns]");
                };
                if !window.fits(rows, columns) {
                    return refuse(name, &[x], format!("a window with words that moves and fits, found {window:?}"));
                }
                let [down, across] = window.places(rows, columns);
                let words =
                    [channels, window.size[0], window.size[1]].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
                let dims = vec![batch, down.saturating_mul(across), words.unwrap_or(usize::MAX)];
                let zero = if window.padding == [0; 4] { Interval::of(x.ty) } else { Interval::point(0) };
                let all = Interval::of(x.ty).hull(zero);
                ranged(name, &[x], &Signature { ty: x.ty, shape: stacked(name, x, dims)? }, all)
            }
            Op::Add(a, b) => alike(name, get(a)?, get(b)?, Interval::add),
            Op::Sub(a, b) => alike(name, get(a)?, get(b)?, Interval::sub),
            Op::Neg(a) => ranged(name, &[get(a)?], get(a)?, Interval::point(0).sub(Interval::of(get(a)?.ty))),
            Op::Mul(a, b) => {
                let (x, y) = (get(a)?, get(b)?);
                if x.shape != y.shape {
                    return refuse(name, &[x, y], "equal shapes");
                }
                let (ix, iy) = (Interval::of(x.ty), Interval::of(y.ty));
                product(name, x, y, if a == b { ix.square() } else { ix.mul(iy) }, x.shape.clone())
            }
            Op::MatMul(a, b) => {
                let (x, y) = (get(a)?, get(b)?);
                let (&[m, k], &[k2, n]) = (x.shape.dims(), y.shape.dims()) else {
                    return refuse(name, &[x, y], "two matrices");
                };
                if k != k2 {
                    return refuse(name, &[x, y], "[m, k] × [k, n]");
                }
                let sum = Interval::of(x.ty).mul(Interval::of(y.ty)).times(k);
                product(name, x, y, sum, stacked(name, x, vec![m, n])?)
            }
            Op::ScaleBy { x, mantissa, shift } => {
                let x = get(x)?;
                if *shift > MAX_SHIFT || (*shift > 0 && !x.ty.fixed) {
                    return refuse(name, &[x], "a shift of at most 58, 0 for integers: rescale to fixed point first");
                }
                let exact = Interval::of(x.ty).mul(Interval::point(*mantissa));
                bounded(name, &[x], exact)?;
                ranged(name, &[x], x, exact.truncated(*shift))
            }
            Op::Rescale { x, frac } => {
                let x = get(x)?;
                let target = Type { frac: *frac, fixed: true, ..x.ty };
                if *frac > super::types::MAX_FRAC {
                    return Err(ProgramError::Type {
                        op: name,
                        found: target.to_string(),
                        expected: "at most 40 fractional bits",
                    });
                }
                let interval = Interval::of(x.ty);
                let interval = match frac.checked_sub(x.ty.frac) {
                    Some(more) => interval.up(more),
                    None => interval.truncated(x.ty.frac - frac),
                };
                ranged(name, &[x], &Signature { ty: target, shape: x.shape.clone() }, interval)
            }
            Op::Transpose(x) => {
                let x = get(x)?;
                let mut dims = x.shape.dims().to_vec();
                let rank = dims.len();
                if rank < 2 {
                    return refuse(name, &[x], "at least two axes");
                }
                dims.swap(rank - 1, rank - 2);
                Ok(Signature { ty: x.ty, shape: stacked(name, x, dims)? })
            }
            Op::Reshape(x) => {
                let x = get(x)?;
                if x.shape.len() != claimed.shape.len() {
                    return refuse(name, &[x], format!("as many elements as {} has", claimed.shape));
                }
                Ok(Signature { ty: x.ty, shape: claimed.shape.clone() })
            }
            Op::Slice { x, axis, start, end } => {
                let x = get(x)?;
                let mut dims = x.shape.dims().to_vec();
                match dims.get_mut(*axis) {
                    Some(d) if start < end && end <= d => *d = end - start,
                    _ => return refuse(name, &[x], format!("indices {start}..{end} within axis {axis}, at least one")),
                }
                Ok(Signature { ty: x.ty, shape: stacked(name, x, dims)? })
            }
            Op::Concat { parts, axis } => {
                let parts = parts.iter().map(get).collect::<Result<Vec<_>, _>>()?;
                concat(name, &parts, *axis)
            }
            Op::Broadcast(x) => {
                let x = get(x)?;
                if broadcast(&x.shape, &claimed.shape).as_ref() != Some(&claimed.shape) {
                    return refuse(name, &[x], format!("axes of length 1 or equal to those of {}", claimed.shape));
                }
                Ok(Signature { ty: x.ty, shape: claimed.shape.clone() })
            }
            Op::Sum { x, axis } => {
                let x = get(x)?;
                let mut dims = x.shape.dims().to_vec();
                if *axis >= dims.len() {
                    return refuse(name, &[x], format!("more than {axis} axes"));
                }
                let k = dims.remove(*axis);
                let shape = stacked(name, x, dims)?;
                ranged(name, &[x], &Signature { ty: x.ty, shape }, Interval::of(x.ty).times(k))
            }
            Op::AtLeast { x, thresholds } | Op::Between { x, thresholds } => {
                let x = get(x)?;
                let inside = |t: &i64| (-super::types::BOUND..super::types::BOUND).contains(t);
                let ascending = thresholds.windows(2).all(|pair| pair[0] < pair[1]);
                if !(1..=MAX_THRESHOLDS).contains(&thresholds.len()) || !ascending || !thresholds.iter().all(inside) {
                    return refuse(name, &[x], "1 to 1024 ascending thresholds within −2^59..2^59");
                }
                let mut dims = x.shape.dims().to_vec();
                match op {
                    Op::Between { .. } => dims.insert(0, thresholds.len() + 1),
                    _ if thresholds.len() > 1 => dims.insert(0, thresholds.len()),
                    _ => {}
                }
                Ok(Signature { ty: Type::bit(), shape: stacked(name, x, dims)? })
            }
            Op::Clamp { x, lo, hi } => {
                let x = get(x)?;
                if lo > hi {
                    return refuse(name, &[x], format!("a range that is not empty, found {lo}..={hi} (scaled)"));
                }
                let within = |v: i64| i128::from(v.clamp(*lo, *hi));
                ranged(name, &[x], x, Interval { lo: within(x.ty.lo), hi: within(x.ty.hi) })
            }
            Op::Select { c, a, b } => {
                let (c, a, b) = (get(c)?, get(a)?, get(b)?);
                if !c.ty.fits(Type::bit()) || c.shape != a.shape {
                    return refuse(name, &[c, a, b], "integers 0 or 1 first, and equal shapes");
                }
                alike(name, a, b, Interval::hull)
            }
            Op::Approximate { x, table, .. } => {
                let x = get(x)?;
                if !x.ty.fixed {
                    return refuse(name, &[x], "fixed point: rescale first");
                }
                match table.check(x.ty) {
                    Ok(results) => ranged(name, &[x], x, results),
                    Err(expected) => refuse(name, &[x], format!("a table with {expected}")),
                }
            }
            Op::Declare { x, name: label } => {
                check_name("declaration", label)?;
                let x = get(x)?;
                let ty = Type { lo: claimed.ty.lo, hi: claimed.ty.hi, ..x.ty };
                ty.check(name)?;
                Ok(Signature { ty, shape: x.shape.clone() })
            }
            Op::Claim { x, of, .. } => {
                let (x, of) = (get(x)?, get(of)?);
                if x.shape != of.shape {
                    return refuse(name, &[x, of], "equal shapes");
                }
                Ok(x.clone())
            }
            Op::Repeat { .. } => unreachable!("repeats are entered and left"),
        }
    }
}

impl Op {
    /// What messages call the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Constant { .. } => "constant",
            Op::Add(..) => "add",
            Op::Sub(..) => "sub",
            Op::Neg(..) => "neg",
            Op::Mul(..) => "mul",
            Op::MatMul(..) => "matmul",
            Op::ScaleBy { .. } => "scale",
            Op::Rescale { .. } => "rescale",
            Op::Transpose(..) => "transpose",
            Op::Reshape(..) => "reshape",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Broadcast(..) => "broadcast",
            Op::Sum { .. } => "sum",
            Op::AtLeast { .. } => "compare",
            Op::Between { .. } => "between",
            Op::Clamp { .. } => "clamp",
            Op::Select { .. } => "select",
            Op::Approximate { function, .. } => function.name(),
            Op::Declare { .. } => "declare",
            Op::Repeat { .. } => "repeat",
            Op::Random => "random",
            Op::Patches { .. } => "patches",
            Op::Claim { .. } => "claim",
        }
    }
}

/// The shape that two shapes take together, as NumPy broadcasts.
pub(super) fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let (a, b) = (a.dims(), b.dims());
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    let dims = (0..rank).map(|i| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y == 1 => Some(x),
        (1, y) => Some(y),
        _ => None,
    });
    Shape::new(dims.collect::<Option<Vec<_>>>()?).ok()
}

/// A result with the operand's way of reading words and another interval.
fn ranged(
    op: &'static str,
    operands: &[&Signature],
    like: &Signature,
    interval: Interval,
) -> Result<Signature, ProgramError> {
    bounded(op, operands, interval)?;
    let ty = like.ty.with(interval).expect("bounded");
    Ok(Signature { ty, shape: like.shape.clone() })
}

fn bounded(op: &'static str, operands: &[&Signature], interval: Interval) -> Result<(), ProgramError> {
    match interval.bounded() {
        Some(_) => Ok(()),
        None => Err(ProgramError::Range { op, operands: listed(operands), lo: interval.lo, hi: interval.hi }),
    }
}

fn alike(
    op: &'static str,
    a: &Signature,
    b: &Signature,
    interval: fn(Interval, Interval) -> Interval,
) -> Result<Signature, ProgramError> {
    if a.shape != b.shape {
        return refuse(op, &[a, b], "equal shapes");
    }
    if !a.ty.reads_like(b.ty) {
        return refuse(op, &[a, b], "equal fractional bits: rescale one of them");
    }
    ranged(op, &[a, b], a, interval(Interval::of(a.ty), Interval::of(b.ty)))
}

/// fixed × fixed is truncated by the fractional bits of the right operand;
/// with an integer the product is exact.
fn product(
    op: &'static str,
    a: &Signature,
    b: &Signature,
    exact: Interval,
    shape: Shape,
) -> Result<Signature, ProgramError> {
    bounded(op, &[a, b], exact)?;
    let both = a.ty.fixed && b.ty.fixed;
    let frac = if both { a.ty.frac } else { a.ty.frac.max(b.ty.frac) };
    let ty = Type { frac, fixed: a.ty.fixed || b.ty.fixed, ..a.ty };
    let interval = if both { exact.truncated(b.ty.frac) } else { exact };
    ranged(op, &[a, b], &Signature { ty, shape }, interval)
}

fn concat(op: &'static str, parts: &[&Signature], axis: usize) -> Result<Signature, ProgramError> {
    let Some(first) = parts.first() else {
        return refuse(op, parts, "at least one tensor");
    };
    let mut dims = first.shape.dims().to_vec();
    if axis >= dims.len() {
        return refuse(op, parts, format!("more than {axis} axes"));
    }
    let mut interval = Interval::of(first.ty);
    for part in &parts[1..] {
        let other = part.shape.dims();
        let same = other.len() == dims.len() && (0..dims.len()).all(|i| i == axis || other[i] == dims[i]);
        if !same || !part.ty.reads_like(first.ty) {
            return refuse(op, parts, format!("shapes equal but for axis {axis}, and equal fractional bits"));
        }
        interval = interval.hull(Interval::of(part.ty));
        dims[axis] = dims[axis].saturating_add(other[axis]);
    }
    let shape = stacked(op, first, dims)?;
    ranged(op, parts, &Signature { ty: first.ty, shape }, interval)
}

fn stacked(op: &'static str, operand: &Signature, dims: Vec<usize>) -> Result<Shape, ProgramError> {
    Shape::new(dims).map_err(|error| ProgramError::Operands {
        op,
        operands: operand.to_string(),
        expected: format!("a usable result: {error}"),
    })
}

fn refuse<T>(op: &'static str, operands: &[&Signature], expected: impl Into<String>) -> Result<T, ProgramError> {
    Err(ProgramError::Operands { op, operands: listed(operands), expected: expected.into() })
}

/// The operands in words; of many only the first few.
fn listed(operands: &[&Signature]) -> String {
    let mut text = operands.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    if operands.len() > 4 {
        text.push_str(&format!(" and {} more", operands.len() - 4));
    }
    if text.is_empty() { "nothing".into() } else { text }
}

fn check_name(what: &'static str, name: &str) -> Result<(), ProgramError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let name = name.chars().take(40).collect();
        return Err(ProgramError::Name { what, name, expected: "1 to 256 bytes without control characters" });
    }
    Ok(())
}

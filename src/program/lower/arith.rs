//! Products and truncations as primitives.
//!
//! Sources: Beaver, CRYPTO '91; the local product under a mask with a zero
//! sharing as in Cramer–Damgård–Ishai, TCC 2005; exact truncation
//! modulo a Mersenne prime as derived in `docs/protocols.md`.

use super::{Known, Lowering, Masked, PlanError, Value, power, ulp};
use crate::field::Fp61;
use crate::program::graph::{Type, ValueId};
use crate::program::plan::{MaskRef, Material, MaterialId, Part, Prim, Pub, Reg, Sec};
use crate::tensor::{Dims, View};

/// Signed values x with |x| < 2^59 are opened as x + 2^59 + r, so that the
/// masked integer is never negative.
pub(super) const OFFSET_BITS: u8 = 59;

/// A fixed-point number before its truncation.
#[derive(Clone)]
pub(super) struct Pending {
    whole: Whole,
    pub(super) shift: u8,
    /// What is added before the truncation: a bias costs nothing there.
    add: Vec<(Fp61, Value)>,
    /// Bound on the magnitude of the untruncated integer.
    raw: i128,
}

/// What is to be truncated.
#[derive(Clone, Copy)]
enum Whole {
    /// The product of two secrets, multiplied in the opening.
    Product { dims: Dims, x: Sec, y: Sec },
    /// What public factors have made of a secret, without a round.
    Shared { x: Sec, n: usize },
}

impl Pending {
    /// How many words it has.
    pub(super) fn words(&self) -> usize {
        match self.whole {
            Whole::Product { dims, .. } => dims.lens().2,
            Whole::Shared { n, .. } => n,
        }
    }
}

impl Lowering {
    /// The product of two values with its error bound; fixed × fixed is
    /// truncated by the fractional bits of the second.
    pub(super) fn multiply(
        &mut self,
        id: ValueId,
        dims: Dims,
        a: ValueId,
        b: ValueId,
    ) -> Result<(Value, f64), PlanError> {
        let (a, b) = (self.force(a)?, self.force(b)?);
        let terms = if let Dims::Matmul { k, .. } = dims { k } else { 1 };
        let shift = if a.ty.fixed && b.ty.fixed { b.ty.frac } else { 0 };
        let frac = a.ty.frac + b.ty.frac - shift;
        let cross = times(a.magnitude(), b.error) + times(b.magnitude(), a.error) + times(a.error, b.error);
        let mut error = terms as f64 * cross;
        if shift == 0 {
            let exact = match (&a.value, &b.value, dims) {
                (Value::Splat(x, n), Value::Splat(y, _), Dims::Elementwise(_)) => Value::Splat(*x * *y, *n),
                _ => Value::Secret(self.product_of(dims, &a.value, &b.value)?),
            };
            return Ok((exact, error));
        }
        error += ulp(frac);
        let whole = match (&a.value, &b.value) {
            (Value::Secret(x), Value::Secret(y)) => Whole::Product { dims, x: *x, y: *y },
            _ => Whole::Shared { x: self.product_of(dims, &a.value, &b.value)?, n: dims.lens().2 },
        };
        let raw = terms as i128 * largest(a.ty) * largest(b.ty);
        Ok((self.waiting(id, Pending { whole, shift, add: Vec::new(), raw }), error))
    }

    /// Waits for its only use, which may share the truncation; of several uses
    /// none could.
    fn waiting(&mut self, id: ValueId, pending: Pending) -> Value {
        if self.uses.get(&id) == Some(&1) { Value::Pending(pending) } else { Value::Secret(self.finish(pending)) }
    }

    /// x·mantissa / 2^shift; a product that waits for its truncation takes the
    /// factor into one operand and truncates once by both shifts.
    pub(super) fn scale_by(
        &mut self,
        id: ValueId,
        x: ValueId,
        mantissa: i64,
        shift: u8,
        ty: Type,
    ) -> Result<(Value, f64), PlanError> {
        let factor = mantissa.unsigned_abs() as f64 / (1u64 << shift) as f64;
        self.scale_words(id, x, (mantissa, shift), factor, ty)
    }

    /// The same words by mantissa / 2^shift, which changes the number that they
    /// stand for by `factor`: another one where their fractional bits change.
    pub(super) fn scale_words(
        &mut self,
        id: ValueId,
        x: ValueId,
        (mantissa, shift): (i64, u8),
        factor: f64,
        ty: Type,
    ) -> Result<(Value, f64), PlanError> {
        let k = Fp61::from_i64(mantissa);
        let error = |known: &Known| times(known.error, factor) + if shift > 0 { ulp(ty.frac) } else { 0.0 };
        if mantissa == 0 {
            let len = self.known[&x].shape.len();
            return Ok((Value::Splat(Fp61::ZERO, len), 0.0));
        }
        // A negative integer factor applied before the truncation would round
        // the other way than the derived range allows for.
        let fusible = shift > 0 || mantissa > 0;
        if let Known { value: Value::Pending(p), .. } = &self.known[&x]
            && fusible
            && self.uses.get(&x) == Some(&1)
        {
            let by = p.shift + shift;
            if by < OFFSET_BITS && p.raw * i128::from(mantissa.unsigned_abs()) < 1 << OFFSET_BITS {
                let (p, bound) = (p.clone(), error(&self.known[&x]) + ulp(ty.frac));
                self.known.remove(&x);
                let scaled = |l: &mut Self, v: Sec| l.linear(l.len(v), &[(k, Value::Secret(v))], Fp61::ZERO);
                let whole = match p.whole {
                    Whole::Shared { x, n } => Whole::Shared { x: scaled(self, x), n },
                    // Keep an operand whose mask is open already as it is.
                    Whole::Product { dims, x, y } if self.masked.contains_key(&y) || self.bases.contains_key(&y) => {
                        Whole::Product { dims, x: scaled(self, x), y }
                    }
                    Whole::Product { dims, x, y } => Whole::Product { dims, x, y: scaled(self, y) },
                };
                let add = p.add.into_iter().map(|(factor, value)| (factor * k, value)).collect();
                let raw = p.raw * i128::from(mantissa.unsigned_abs());
                return Ok((self.waiting(id, Pending { whole, shift: by, add, raw }), bound));
            }
        }
        let known = self.force(x)?;
        let scaled = self.times(&known.value, k);
        if shift == 0 {
            return Ok((scaled, error(&known)));
        }
        let scaled = self.secret(&scaled);
        let raw = largest(known.ty) * i128::from(mantissa.unsigned_abs());
        let whole = Whole::Shared { x: scaled, n: self.len(scaled) };
        Ok((self.waiting(id, Pending { whole, shift, add: Vec::new(), raw }), error(&known)))
    }

    /// a + sign·b where a waits for its truncation: b joins it there, and if b
    /// waits too and needs no opening before, both have one. `None` if a does not
    /// wait, if the sum might be too large before it, or if a would wait longer
    /// than it does alone, which costs a round and saves none.
    pub(super) fn add_to_pending(
        &mut self,
        a: ValueId,
        b: ValueId,
        sign: Fp61,
    ) -> Result<Option<(Value, f64)>, PlanError> {
        let Known { value: Value::Pending(p), error, .. } = self.known[&a].clone() else { return Ok(None) };
        if a == b || self.uses.get(&a) != Some(&1) {
            return Ok(None);
        }
        match (p.whole, &self.known[&b].value) {
            (_, Value::Pending(Pending { whole: Whole::Shared { .. }, .. })) => return Ok(self.add_both(a, b, sign)),
            // The other way round, a joins b.
            (Whole::Shared { .. }, Value::Pending(_)) => return Ok(None),
            // With triples a product is there before it is opened.
            (_, Value::Pending(_)) if !self.local_products() => return Ok(self.add_both(a, b, sign)),
            _ => {}
        }
        let b = self.force(b)?;
        let mut sum = p;
        sum.raw += largest(b.ty) << sum.shift;
        let opened = self.opened_from(sum.whole);
        let later = matches!(b.value, Value::Secret(x) if self.ready(Reg::Sec(x)) > opened);
        if later || sum.raw >= 1 << OFFSET_BITS {
            return Ok(None);
        }
        sum.add.push((sign * power(sum.shift), b.value));
        self.known.remove(&a);
        Ok(Some((Value::Pending(sum), error + b.error)))
    }

    /// Two that wait under one opening: the second as words that are there without one.
    fn add_both(&mut self, a: ValueId, b: ValueId, sign: Fp61) -> Option<(Value, f64)> {
        let Known { value: Value::Pending(mut sum), error, .. } = self.known[&a].clone() else { return None };
        let Known { value: Value::Pending(other), error: other_error, .. } = self.known[&b].clone() else {
            return None;
        };
        // Both have the same fractional bits in the end.
        let up = sum.shift.checked_sub(other.shift).filter(|_| self.uses.get(&b) == Some(&1))?;
        sum.raw = sum.raw.saturating_add(other.raw.saturating_mul(1 << up));
        if sum.raw >= 1 << OFFSET_BITS {
            return None;
        }
        let words = match other.whole {
            Whole::Shared { x, .. } => x,
            Whole::Product { dims, x, y } => self.product(dims, x, y),
        };
        let k = sign * power(up);
        sum.add.push((k, Value::Secret(words)));
        sum.add.extend(other.add.into_iter().map(|(factor, value)| (factor * k, value)));
        self.known.remove(&a);
        self.known.remove(&b);
        Some((Value::Pending(sum), error + other_error))
    }

    /// The openings before the one that truncates.
    fn opened_from(&mut self, whole: Whole) -> usize {
        match whole {
            Whole::Shared { x, .. } => self.ready(Reg::Sec(x)),
            Whole::Product { x, y, .. } if self.local_products() => {
                self.ready(Reg::Sec(x)).max(self.ready(Reg::Sec(y)))
            }
            Whole::Product { x, y, .. } => {
                let mut masked = |x| match self.masked.get(&x) {
                    Some(hit) => self.ready(Reg::Pub(hit.opened)),
                    None => self.ready(Reg::Sec(x)) + 1,
                };
                masked(x).max(masked(y))
            }
        }
    }

    /// What waits and needs no product, seen through a view that moves its words.
    pub(super) fn waiting_view(&mut self, id: ValueId, x: ValueId, view: &View) -> Option<(Value, f64)> {
        let Known { value: Value::Pending(p), error, .. } = &self.known[&x] else { return None };
        let (p, error) = (p.clone(), *error);
        let Whole::Shared { x: words, n } = p.whole else { return None };
        if self.uses.get(&x) != Some(&1) || self.uses.get(&id) != Some(&1) {
            return None;
        }
        self.known.remove(&x);
        let mut seen = |value: Value| self.view(view.clone(), &[value]);
        let add = p.add.into_iter().map(|(k, value)| (k, seen(value))).collect();
        let words = seen(Value::Secret(words));
        let whole = Whole::Shared { x: self.secret(&words), n };
        Some((Value::Pending(Pending { whole, add, ..p }), error))
    }

    /// The untruncated product of two values, of which at least one ends up secret.
    pub(super) fn product_of(&mut self, dims: Dims, x: &Value, y: &Value) -> Result<Sec, PlanError> {
        Ok(match (x, y, dims) {
            (Value::Splat(k, _), other, Dims::Elementwise(_)) | (other, Value::Splat(k, _), Dims::Elementwise(_)) => {
                let scaled = self.times(other, *k);
                self.secret(&scaled)
            }
            (Value::Secret(x), Value::Secret(y), _) => self.product(dims, *x, *y),
            (Value::Secret(x), public, _) => {
                let p = self.materialise(public)?;
                self.scale(dims, *x, p, false)
            }
            (public, Value::Secret(y), _) => {
                let p = self.materialise(public)?;
                self.scale(dims, *y, p, true)
            }
            (left, right, _) => {
                let x = self.secret(left);
                let p = self.materialise(right)?;
                self.scale(dims, x, p, false)
            }
        })
    }

    fn materialise(&mut self, public: &Value) -> Result<Pub, PlanError> {
        Ok(match public {
            Value::Public(p) => *p,
            Value::Splat(w, n) => match self.filled.get(&(*w, *n)) {
                Some(hit) => *hit,
                None => {
                    self.room_for_constant(*n)?;
                    let made = self.load_constant(vec![*w; *n]);
                    self.filled.insert((*w, *n), made);
                    made
                }
            },
            Value::Secret(_) | Value::Pending(_) => unreachable!("only public values are materialised"),
        })
    }

    pub(super) fn scale(&mut self, dims: Dims, x: Sec, p: Pub, left: bool) -> Sec {
        let out = self.sec(dims.lens().2);
        self.prims.push(Prim::Scale { dims, x, p, left, out });
        out
    }

    /// x·y, not truncated. Local products take one round; Beaver products take
    /// the round of the masks, and none where both operands are masked already.
    pub(super) fn product(&mut self, dims: Dims, x: Sec, y: Sec) -> Sec {
        let n = dims.lens().2;
        if self.local_products() {
            let mask = self.add_material(Material::Mask { n });
            let r = self.draw(mask, Part::Value);
            let c = self.open_product(dims, x, y, r);
            return self.linear(n, &[(Fp61::ONE, Value::Public(c)), (-Fp61::ONE, Value::Secret(r))], Fp61::ZERO);
        }
        let (x, y) = (self.masked(x), self.masked(y));
        let c = self.triple(dims, &x, &y);
        let out = self.sec(n);
        self.prims.push(Prim::Beaver { dims, c, d: x.opened, e: y.opened, a: x.mask, b: y.mask, out });
        out
    }

    /// The opened word x·y + mask.
    pub(super) fn open_product(&mut self, dims: Dims, x: Sec, y: Sec, mask: Sec) -> Pub {
        let n = dims.lens().2;
        if self.local_products() {
            let zero = self.add_material(Material::Zero { n });
            let out = self.public(n);
            self.prims.push(Prim::OpenProduct { dims, x, y, mask, zero, out });
            return out;
        }
        let (x, y) = (self.masked(x), self.masked(y));
        let c = self.triple(dims, &x, &y);
        let out = self.public(n);
        self.prims.push(Prim::OpenBeaver { dims, c, d: x.opened, e: y.opened, a: x.mask, b: y.mask, mask, out });
        out
    }

    fn triple(&mut self, dims: Dims, x: &Masked, y: &Masked) -> Sec {
        let triple = self.add_material(Material::Triple { dims, a: x.source.clone(), b: y.source.clone() });
        self.draw(triple, Part::Value)
    }

    /// The mask of an operand, opened once for all its products. A value that
    /// shows the words of another, transposed or under windows, uses the other's
    /// mask seen in the same way: no word is opened twice.
    fn masked(&mut self, x: Sec) -> Masked {
        if let Some(hit) = self.masked.get(&x) {
            return hit.clone();
        }
        let made = if let Some((base, view)) = self.bases.get(&x).cloned() {
            let mut base = self.masked(base);
            base.source.views.push(view.clone());
            Masked {
                opened: self.view_public(view.clone(), vec![base.opened]),
                mask: self.view_secret(view, vec![base.mask]),
                source: base.source,
            }
        } else {
            let n = self.len(x);
            let material = self.add_material(Material::Mask { n });
            let mask = self.draw(material, Part::Value);
            let difference =
                self.linear(n, &[(Fp61::ONE, Value::Secret(x)), (-Fp61::ONE, Value::Secret(mask))], Fp61::ZERO);
            let opened = self.open(difference);
            Masked { opened, mask, source: MaskRef { mask: material, views: Vec::new() } }
        };
        self.masked.insert(x, made.clone());
        made
    }

    pub(super) fn open(&mut self, x: Sec) -> Pub {
        let out = self.public(self.len(x));
        self.prims.push(Prim::Open { x, out });
        out
    }

    /// A pending product, multiplied and truncated in one opening.
    pub(super) fn finish(&mut self, p: Pending) -> Sec {
        let n = p.words();
        let bits = self.add_material(Material::Bits { n, from: 0, shift: p.shift, digits: Vec::new() });
        let c = self.open_pending(p.clone(), bits);
        self.shifted(c, bits, p.shift)
    }

    /// The opened word of a product, what is added to it, the offset, and the
    /// mask of `bits`.
    pub(super) fn open_pending(&mut self, p: Pending, bits: MaterialId) -> Pub {
        let n = p.words();
        let mut mask = vec![(Fp61::ONE, Value::Secret(self.draw(bits, Part::Value)))];
        mask.extend(p.add);
        if let Whole::Shared { x, .. } = p.whole {
            mask.push((Fp61::ONE, Value::Secret(x)));
        }
        let mask = self.linear(n, &mask, power(OFFSET_BITS));
        match p.whole {
            Whole::Product { dims, x, y } => self.open_product(dims, x, y, mask),
            Whole::Shared { .. } => self.open(mask),
        }
    }

    pub(super) fn shifted(&mut self, c: Pub, bits: MaterialId, by: u8) -> Sec {
        let (high, msb) = (self.draw(bits, Part::High), self.draw(bits, Part::Msb));
        let out = self.sec(self.len(high));
        let constant = -power(OFFSET_BITS - by);
        self.prims.push(Prim::Shift { c, thresholds: vec![0], by, high, msb, constant, out });
        out
    }
}

/// The product of two bounds, where nothing times anything is nothing.
fn times(a: f64, b: f64) -> f64 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

fn largest(ty: Type) -> i128 {
    i128::from(ty.lo.unsigned_abs().max(ty.hi.unsigned_abs()))
}

//! Products, truncations and comparisons as primitives.
//!
//! Sources: Beaver, CRYPTO '91; the local product under a mask with a zero
//! sharing as in Cramer–Damgård–Ishai, TCC 2005; exact truncation and bounded
//! comparison modulo a Mersenne prime as derived in `docs/protocols.md`.

use super::{Known, Lowering, Masked, PlanError, Value, power, ulp};
use crate::field::Fp61;
use crate::program::graph::{Type, ValueId};
use crate::program::plan::{MaskRef, Material, MaterialId, Part, Prim, Pub, Sec};
use crate::tensor::{Dims, View};

/// Signed values x with |x| < 2^59 are opened as x + 2^59 + r, so that the
/// masked integer is never negative.
const OFFSET_BITS: u8 = 59;
/// Width of a comparison digit in bits.
const DIGIT: u8 = 4;

/// A fixed-point product before its truncation.
#[derive(Clone)]
pub(super) struct Pending {
    dims: Dims,
    x: Sec,
    y: Sec,
    shift: u8,
    /// Bound on the magnitude of the untruncated integer.
    raw: i128,
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
        let (Value::Secret(x), Value::Secret(y)) = (&a.value, &b.value) else {
            let raw = self.product_of(dims, &a.value, &b.value)?;
            return Ok((Value::Secret(self.truncate(raw, shift)), error));
        };
        let raw = terms as i128 * largest(a.ty) * largest(b.ty);
        let pending = Pending { dims, x: *x, y: *y, shift, raw };
        let value =
            if self.uses.get(&id) == Some(&1) { Value::Pending(pending) } else { Value::Secret(self.finish(pending)) };
        Ok((value, error))
    }

    /// x·mantissa / 2^shift; a product that waits for its truncation takes the
    /// factor into one operand and truncates once by both shifts.
    pub(super) fn scale_by(
        &mut self,
        x: ValueId,
        mantissa: i64,
        shift: u8,
        ty: Type,
    ) -> Result<(Value, f64), PlanError> {
        let k = Fp61::from_i64(mantissa);
        let factor = mantissa.unsigned_abs() as f64 / (1u64 << shift) as f64;
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
        {
            let by = p.shift + shift;
            if by < OFFSET_BITS && p.raw * i128::from(mantissa.unsigned_abs()) < 1 << OFFSET_BITS {
                let (p, bound) = (p.clone(), error(&self.known[&x]) + ulp(ty.frac));
                self.known.remove(&x);
                // Keep an operand whose mask is open already as it is.
                let scale_x = self.masked.contains_key(&p.y) || self.transposes.contains_key(&p.y);
                let scaled = |l: &mut Self, v: Sec| l.linear(l.len(v), &[(k, Value::Secret(v))], Fp61::ZERO);
                let (x, y) = if scale_x { (scaled(self, p.x), p.y) } else { (p.x, scaled(self, p.y)) };
                return Ok((Value::Secret(self.finish(Pending { x, y, shift: by, ..p })), bound));
            }
        }
        let known = self.force(x)?;
        let scaled = self.times(&known.value, k);
        if shift == 0 {
            return Ok((scaled, error(&known)));
        }
        let scaled = self.secret(&scaled);
        Ok((Value::Secret(self.truncate(scaled, shift)), error(&known)))
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

    fn scale(&mut self, dims: Dims, x: Sec, p: Pub, left: bool) -> Sec {
        let out = self.sec(dims.lens().2);
        self.prims.push(Prim::Scale { dims, x, p, left, out });
        out
    }

    /// x·y, not truncated. Local products take one round; Beaver products take
    /// the round of the masks, and none where both operands are masked already.
    fn product(&mut self, dims: Dims, x: Sec, y: Sec) -> Sec {
        let n = dims.lens().2;
        if self.roster.local_products() {
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
    fn open_product(&mut self, dims: Dims, x: Sec, y: Sec, mask: Sec) -> Pub {
        let n = dims.lens().2;
        if self.roster.local_products() {
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

    /// The mask of an operand, opened once for all its products. A transposed
    /// value uses the transposed mask of its base: both are the same words.
    fn masked(&mut self, x: Sec) -> Masked {
        if let Some(hit) = self.masked.get(&x) {
            return hit.clone();
        }
        let made = if let Some((base, view)) = self.transposes.get(&x).cloned() {
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

    fn open(&mut self, x: Sec) -> Pub {
        let out = self.public(self.len(x));
        self.prims.push(Prim::Open { x, out });
        out
    }

    /// A pending product, multiplied and truncated in one opening.
    pub(super) fn finish(&mut self, p: Pending) -> Sec {
        let n = p.dims.lens().2;
        let bits = self.add_material(Material::Bits { n, shift: p.shift, digits: Vec::new() });
        let r = self.draw(bits, Part::Value);
        let mask = self.linear(n, &[(Fp61::ONE, Value::Secret(r))], power(OFFSET_BITS));
        let c = self.open_product(p.dims, p.x, p.y, mask);
        self.shifted(c, bits, p.shift)
    }

    /// x / 2^by, rounded down or up with the right odds. |x| < 2^59.
    pub(super) fn truncate(&mut self, x: Sec, by: u8) -> Sec {
        let n = self.len(x);
        let bits = self.add_material(Material::Bits { n, shift: by, digits: Vec::new() });
        let r = self.draw(bits, Part::Value);
        let masked = [(Fp61::ONE, Value::Secret(x)), (Fp61::ONE, Value::Secret(r))];
        let masked = self.linear(n, &masked, power(OFFSET_BITS));
        let c = self.open(masked);
        self.shifted(c, bits, by)
    }

    fn shifted(&mut self, c: Pub, bits: MaterialId, by: u8) -> Sec {
        let (high, msb) = (self.draw(bits, Part::High), self.draw(bits, Part::Msb));
        let out = self.sec(self.len(high));
        let constant = -power(OFFSET_BITS - by);
        self.prims.push(Prim::Shift { c, thresholds: vec![0], by, high, msb, constant, out });
        out
    }

    /// \[x ≥ 0\] for every word of x.
    pub(super) fn non_negative(&mut self, x: Sec, ty: Type) -> Sec {
        let n = self.len(x);
        if ty.lo >= 0 || ty.hi < 0 {
            return self.linear(n, &[], if ty.lo >= 0 { Fp61::ONE } else { Fp61::ZERO });
        }
        self.at_least(x, magnitude_bits(ty.lo, ty.hi), &[0], 0)
    }

    /// \[x ≥ T\] for each threshold T (a multiple of 2^low), threshold-major;
    /// −2^m ≤ x − T < 2^m. All thresholds share one masked opening and the
    /// comparison of the low bits.
    fn at_least(&mut self, x: Sec, m: u8, thresholds: &[i64], low: u8) -> Sec {
        let n = self.len(x);
        let digits: Vec<u8> = digit_widths(low).chain(digit_widths(m - low)).collect();
        let bits = self.add_material(Material::Bits { n, shift: m, digits: digits.clone() });
        let r = self.draw(bits, Part::Value);
        let masked = [(Fp61::ONE, Value::Secret(x)), (Fp61::ONE, Value::Secret(r))];
        let masked = self.linear(n, &masked, power(m));
        let c = self.open(masked);

        let (mut low_leaves, mut high_leaves, mut from) = (Vec::new(), Vec::new(), 0);
        for (i, &width) in digits.iter().enumerate() {
            let (leaves, thresholds) =
                if from < low { (&mut low_leaves, &[0][..]) } else { (&mut high_leaves, thresholds) };
            let one_hot = self.draw(bits, Part::Digit(i as u8));
            let carry = (i == 0).then(|| self.draw(bits, Part::Carry));
            let (g, p) = (self.sec(n * thresholds.len()), self.sec(n * thresholds.len()));
            let thresholds = thresholds.to_vec();
            self.prims.push(Prim::Leaf { c, thresholds, from, bits: width, one_hot, carry, g, p });
            leaves.push((g, Some(p)));
            from += width;
        }
        let all = thresholds.len();
        let borrow = if low_leaves.is_empty() {
            self.compare_tree(high_leaves, false).0
        } else {
            let (below, _) = self.compare_tree(low_leaves, false);
            let repeat = View::Repeat { outer: 1, times: all, inner: n };
            let below = if all == 1 { below } else { self.view_secret(repeat, vec![below]) };
            if high_leaves.is_empty() {
                below
            } else {
                let high = self.compare_tree(high_leaves, true);
                self.merge(high, (below, None), false).0
            }
        };
        let (high, msb) = (self.draw(bits, Part::High), self.draw(bits, Part::Msb));
        let quotient = self.sec(n * all);
        let (thresholds, constant) = (thresholds.to_vec(), Fp61::ZERO);
        self.prims.push(Prim::Shift { c, thresholds, by: m, high, msb, constant, out: quotient });
        self.linear(n * all, &[(Fp61::ONE, Value::Secret(quotient)), (-Fp61::ONE, Value::Secret(borrow))], Fp61::ZERO)
    }

    /// Joins leaves, lowest digit first, into (G, P) of the whole; P of the
    /// lowest path is made only if `keep_p`.
    fn compare_tree(&mut self, mut leaves: Vec<(Sec, Option<Sec>)>, keep_p: bool) -> (Sec, Option<Sec>) {
        while leaves.len() > 1 {
            let mut next = Vec::with_capacity(leaves.len().div_ceil(2));
            for (i, pair) in leaves.chunks(2).enumerate() {
                next.push(if let [low, high] = pair { self.merge(*high, *low, keep_p || i > 0) } else { pair[0] });
            }
            leaves = next;
        }
        leaves[0]
    }

    /// G = G_h + P_h·G_l, P = P_h·P_l.
    fn merge(&mut self, high: (Sec, Option<Sec>), low: (Sec, Option<Sec>), with_p: bool) -> (Sec, Option<Sec>) {
        let n = self.len(high.0);
        let p_high = high.1.expect("only the lowest path goes without P");
        let passed = self.product(Dims::Elementwise(n), p_high, low.0);
        let g = self.linear(n, &[(Fp61::ONE, Value::Secret(high.0)), (Fp61::ONE, Value::Secret(passed))], Fp61::ZERO);
        let p = low.1.filter(|_| with_p).map(|p_low| self.product(Dims::Elementwise(n), p_high, p_low));
        (g, p)
    }

    /// The sigmoid by linear pieces: one masked opening for all interval tests,
    /// one product A·x + B with A and B linear in the test bits.
    pub(super) fn sigmoid(&mut self, x: Sec, ty: Type) -> Result<Sec, PlanError> {
        if ty.frac > SIGMOID_MAX_FRAC {
            return Err(PlanError::FractionalBits { op: "sigmoid", most: SIGMOID_MAX_FRAC, found: ty.frac });
        }
        let n = self.len(x);
        let breakpoint = |k: usize| (k as i64 - 8) << ty.frac;
        // Breakpoints at or below the range are always passed, those above never.
        let base = (0..=16).filter(|k| breakpoint(*k) <= ty.lo).count();
        let tested: Vec<usize> = (base..=16).take_while(|k| breakpoint(*k) <= ty.hi).collect();
        let (slope, intercept) = (|piece: usize| piece_slope(piece), |piece: usize| piece_intercept(piece, ty.frac));

        let (mut a, mut b) = (Vec::new(), Vec::new());
        if let (Some(first), Some(last)) = (tested.first(), tested.last()) {
            let thresholds: Vec<i64> = tested.iter().map(|k| breakpoint(*k)).collect();
            // m covers x itself too, so that the masked integer is not negative.
            let (lowest, highest) = (ty.lo.min(ty.lo - breakpoint(*last)), ty.hi.max(ty.hi - breakpoint(*first)));
            let m = magnitude_bits(lowest, highest).max(ty.frac);
            if m > OFFSET_BITS {
                return Err(PlanError::Range { op: "sigmoid" });
            }
            let bits = self.at_least(x, m, &thresholds, ty.frac);
            // Passing breakpoint k leads from piece k to piece k + 1.
            let step = |f: &dyn Fn(usize) -> i64| tested.iter().map(|k| Fp61::from_i64(f(k + 1) - f(*k))).collect();
            let (slopes, intercepts) = (self.load_constant(step(&slope)), self.load_constant(step(&intercept)));
            let dims = Dims::Matmul { m: 1, k: tested.len(), n };
            a.push((Fp61::ONE, Value::Secret(self.scale(dims, bits, slopes, true))));
            b.push((Fp61::ONE, Value::Secret(self.scale(dims, bits, intercepts, true))));
        }
        let constant = Fp61::from_i64(intercept(base));
        let by = SIGMOID_SLOPE_BITS;
        let material = self.add_material(Material::Bits { n, shift: by, digits: Vec::new() });
        b.push((Fp61::ONE, Value::Secret(self.draw(material, Part::Value))));
        let c = if a.is_empty() {
            b.push((Fp61::from_i64(slope(base)), Value::Secret(x)));
            let masked = self.linear(n, &b, constant + power(OFFSET_BITS));
            self.open(masked)
        } else {
            let factor = self.linear(n, &a, Fp61::from_i64(slope(base)));
            let mask = self.linear(n, &b, constant + power(OFFSET_BITS));
            self.open_product(Dims::Elementwise(n), factor, x, mask)
        };
        Ok(self.shifted(c, material, by))
    }
}

/// The most fractional bits that leave room for the slopes of the pieces.
const SIGMOID_MAX_FRAC: u8 = 37;
/// Fractional bits of the slopes.
const SIGMOID_SLOPE_BITS: u8 = 20;
/// Fractional bits of the intercepts in the table.
const SIGMOID_INTERCEPT_BITS: u8 = 40;
/// The greatest error of the pieces against the exact sigmoid on the whole
/// line; a test finds it again.
pub(super) const SIGMOID_ERROR: f64 = 5.83e-3;

/// Slopes of the best linear pieces on \[−8, −7\], …, \[7, 8\], times 2^20. The
/// tables are integers so that every node has the same plan whatever its libm.
const SLOPES: [i64; 16] =
    [604, 1637, 4425, 11842, 30870, 75264, 157012, 242282, 242282, 157012, 75264, 30870, 11842, 4425, 1637, 604];
/// Intercepts of the pieces, times 2^40.
const INTERCEPTS: [i64; 16] = [
    5396365893,
    12912163018,
    30274878093,
    68696784363,
    147378482942,
    284793325922,
    453939354839,
    545874089974,
    553637537802,
    645572272937,
    814718301854,
    952133144834,
    1030814843413,
    1069236749683,
    1086599464758,
    1094115261883,
];

/// Piece 0 lies below −8, pieces 1..=16 between the breakpoints, piece 17 above 8.
fn piece_slope(piece: usize) -> i64 {
    if (1..=16).contains(&piece) { SLOPES[piece - 1] } else { 0 }
}

/// The intercept with `frac` + 20 fractional bits.
fn piece_intercept(piece: usize, frac: u8) -> i64 {
    let wide = match piece {
        0 => 0,
        1..=16 => i128::from(INTERCEPTS[piece - 1]),
        _ => 1 << SIGMOID_INTERCEPT_BITS,
    };
    // Round to the nearest.
    let up = wide << (frac + SIGMOID_SLOPE_BITS);
    ((up + (1 << (SIGMOID_INTERCEPT_BITS - 1))) >> SIGMOID_INTERCEPT_BITS) as i64
}

/// The widths of the digits of a number of bits, lowest first.
fn digit_widths(bits: u8) -> impl Iterator<Item = u8> {
    (0..bits.div_ceil(DIGIT)).map(move |i| DIGIT.min(bits - i * DIGIT))
}

/// The least m ≥ 1 with −2^m ≤ lo and hi < 2^m.
fn magnitude_bits(lo: i64, hi: i64) -> u8 {
    (1..=60).find(|m| lo >= -(1 << m) && hi < 1 << m).expect("ranges lie within 60 bits")
}

/// The product of two bounds, where nothing times anything is nothing.
fn times(a: f64, b: f64) -> f64 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

fn largest(ty: Type) -> i128 {
    i128::from(ty.lo.unsigned_abs().max(ty.hi.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_err_as_documented() {
        let worst = (-1_200_000..=1_200_000)
            .map(|i| {
                let x = f64::from(i) / 100_000.0;
                let piece = (0..=16).filter(|k| x >= f64::from(*k) - 8.0).count();
                let slope = piece_slope(piece) as f64 / f64::from(1 << SIGMOID_SLOPE_BITS);
                let intercept = piece_intercept(piece, 16) as f64 / (1u64 << 36) as f64;
                (slope * x + intercept - 1.0 / (1.0 + (-x).exp())).abs()
            })
            .fold(0.0, f64::max);
        assert!((5.8e-3..SIGMOID_ERROR).contains(&worst), "worst error {worst}");
    }

    #[test]
    fn digits_cover_the_bits() {
        assert_eq!(digit_widths(31).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 4, 3]);
        assert_eq!(digit_widths(16).collect::<Vec<_>>(), [4; 4]);
        assert_eq!(digit_widths(0).count(), 0);
        assert_eq!(magnitude_bits(-8, 7), 3);
        assert_eq!(magnitude_bits(-9, 7), 4);
        assert_eq!(magnitude_bits(0, 8), 4);
    }
}

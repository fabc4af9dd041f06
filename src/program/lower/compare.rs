//! Comparisons, and what is made of them: clamping, and functions by tables.
//!
//! Source: bounded comparison modulo a Mersenne prime by digits of the mask, as
//! derived in `docs/protocols.md`, section 8.

use super::arith::{OFFSET_BITS, Pending};
use super::{Lowering, PlanError, Value, power};
use crate::field::Fp61;
use crate::program::graph::Type;
use crate::program::plan::{Material, Part, Prim, Pub, Sec};
use crate::program::table::Table;
use crate::tensor::{Dims, View};

/// Width of a comparison digit in bits.
const DIGIT: u8 = 4;

impl Lowering {
    /// \[x ≥ T\] for ascending thresholds, threshold-major; those that the range
    /// of x decides cost nothing.
    pub(super) fn compare(
        &mut self,
        x: &Value,
        ty: Type,
        thresholds: &[i64],
    ) -> Result<(Value, Option<Sec>), PlanError> {
        let n = self.words(x);
        let passed = thresholds.iter().filter(|t| **t <= ty.lo).count();
        let tested: Vec<i64> = thresholds[passed..].iter().copied().take_while(|t| *t <= ty.hi).collect();
        let beyond = thresholds.len() - passed - tested.len();
        let (mut parts, mut whole) = (Vec::new(), None);
        if passed > 0 {
            parts.push(Value::Splat(Fp61::ONE, passed * n));
        }
        if !tested.is_empty() {
            let (bits, x) = self.tests(x, ty, &tested, "a comparison")?;
            parts.push(Value::Secret(bits));
            whole = Some(x);
        }
        if beyond > 0 {
            parts.push(Value::Splat(Fp61::ZERO, beyond * n));
        }
        let bits = match &parts[..] {
            [one] => one.clone(),
            _ => {
                let axes = parts.iter().map(|part| self.words(part)).collect();
                self.view(View::Concat { outer: 1, axes, inner: 1 }, &parts)
            }
        };
        Ok((bits, whole))
    }

    /// The nearest value of lo..=hi: lo + \[x ≥ lo\](x − lo) − \[x ≥ hi\](x − hi),
    /// less what the range of x decides. One opening and one round of products.
    pub(super) fn clamp(&mut self, x: &Value, ty: Type, lo: i64, hi: i64) -> Result<Sec, PlanError> {
        let n = self.words(x);
        let (low, high) = (ty.lo < lo, ty.hi > hi);
        // Wholly outside, or wholly inside.
        if ty.hi <= lo || ty.lo >= hi {
            return Ok(self.linear(n, &[], Fp61::from_i64(if ty.hi <= lo { lo } else { hi })));
        }
        let thresholds: Vec<i64> = [(low, lo), (high, hi)].iter().filter(|t| t.0).map(|t| t.1).collect();
        if thresholds.is_empty() {
            return Ok(self.whole(x));
        }
        let (bits, x) = self.tests(x, ty, &thresholds, "clamp")?;
        let past: Vec<_> = thresholds
            .iter()
            .map(|t| Value::Secret(self.linear(n, &[(Fp61::ONE, Value::Secret(x))], -Fp61::from_i64(*t))))
            .collect();
        let count = past.len();
        let past = if let [one] = &past[..] {
            one.clone()
        } else {
            self.view(View::Concat { outer: 1, axes: vec![n; count], inner: 1 }, &past)
        };
        let past = self.secret(&past);
        let product = Value::Secret(self.product(Dims::Elementwise(count * n), bits, past));
        let part = |l: &mut Self, i: usize| match count {
            1 => product.clone(),
            _ => l.view(
                View::Slice { outer: 1, axis: count, inner: n, start: i, end: i + 1 },
                std::slice::from_ref(&product),
            ),
        };
        let mut terms = Vec::new();
        if low {
            terms.push((Fp61::ONE, part(self, 0)));
        } else {
            terms.push((Fp61::ONE, Value::Secret(x)));
        }
        if high {
            terms.push((-Fp61::ONE, part(self, count - 1)));
        }
        Ok(self.linear(n, &terms, if low { Fp61::from_i64(lo) } else { Fp61::ZERO }))
    }

    /// A value as a secret; a product that waits for its truncation gets it.
    fn whole(&mut self, x: &Value) -> Sec {
        match x {
            Value::Pending(product) => self.finish(product.clone()),
            other => self.secret(other),
        }
    }

    /// \[x ≥ T\] for thresholds that lie inside the range of x, threshold-major,
    /// and x. Both come from one opening, also where x is a product that waits
    /// for its truncation.
    fn tests(&mut self, x: &Value, ty: Type, thresholds: &[i64], op: &'static str) -> Result<(Sec, Sec), PlanError> {
        let (first, last) = (thresholds[0], thresholds[thresholds.len() - 1]);
        // m covers x itself too, so that the masked integer is not negative.
        let lowest = i128::from(ty.lo).min(i128::from(ty.lo) - i128::from(last));
        let highest = i128::from(ty.hi).max(i128::from(ty.hi) - i128::from(first));
        let within = |v: i128| i64::try_from(v).ok().filter(|v| (-(1 << OFFSET_BITS)..1 << OFFSET_BITS).contains(v));
        let (Some(lowest), Some(highest)) = (within(lowest), within(highest)) else {
            return Err(PlanError::Range { op });
        };
        let m = magnitude_bits(lowest, highest);
        // The bits below the lowest that any threshold has are compared once for all.
        let low = thresholds.iter().map(|t| t.trailing_zeros()).min().unwrap_or(0).min(m.into()) as u8;
        if let Value::Pending(product) = x
            && product.shift + m <= OFFSET_BITS
        {
            return Ok(self.truncate_and_test(product.clone(), m, thresholds, low));
        }
        let x = self.whole(x);
        Ok((self.at_least(x, m, thresholds, low), x))
    }

    /// \[x ≥ T\] for each threshold T (a multiple of 2^low), threshold-major;
    /// −2^m ≤ x − T < 2^m. All thresholds share one masked opening and the
    /// comparison of the low bits.
    fn at_least(&mut self, x: Sec, m: u8, thresholds: &[i64], low: u8) -> Sec {
        let n = self.len(x);
        let open = |l: &mut Self, material| {
            let r = l.draw(material, Part::Value);
            let masked = [(Fp61::ONE, Value::Secret(x)), (Fp61::ONE, Value::Secret(r))];
            let masked = l.linear(n, &masked, power(m));
            l.open(masked)
        };
        if self.packs(n, thresholds.len(), m, low) {
            let mask = self.packed_mask(n, 0, m, common(thresholds, m, low), false);
            let c = open(self, mask.material);
            return self.packed_sign(c, thresholds, mask, false);
        }
        let digits: Vec<u8> = digit_widths(low).chain(digit_widths(m - low)).collect();
        let bits = self.add_material(Material::Bits { n, from: 0, shift: m, digits: digits.clone() });
        let c = open(self, bits);
        let rows: Vec<Sec> = (0..digits.len()).map(|i| self.draw(bits, Part::Digit(i as u8))).collect();
        let carry = digits.first().map(|_| self.draw(bits, Part::Carry));
        let borrow = self.borrow(c, thresholds, low, 0, &digits, &rows, carry);
        let (high, msb) = (self.draw(bits, Part::High), self.draw(bits, Part::Msb));
        self.sign(c, thresholds, m, high, msb, Fp61::ZERO, borrow)
    }

    /// A product truncated by f bits, and \[y ≥ T\] for the truncated y, both
    /// from the one opening c of the product (docs/protocols.md, section 8):
    /// with C = c >> f and R = r >> f the wrap takes no part in the comparison
    /// of the low bits, and R is a combination of its digits.
    fn truncate_and_test(&mut self, p: Pending, m: u8, thresholds: &[i64], low: u8) -> (Sec, Sec) {
        let (n, f) = (p.words(), p.shift);
        if self.packs(n, thresholds.len(), m, low) {
            let mask = self.packed_mask(n, f, m, common(thresholds, m, low), true);
            let material = mask.material;
            let c = self.open_pending(p, material);
            let y = self.shifted(c, material, f);
            let thresholds: Vec<i64> = thresholds.iter().map(|t| t << f).collect();
            // 2^(59−f) − 2^m modulo 2^(m+1): bit m, unless both are the same.
            let bits = self.packed_sign(c, &thresholds, mask, f + m < OFFSET_BITS);
            return (bits, y);
        }
        let digits: Vec<u8> = digit_widths(low).chain(digit_widths(m - low)).collect();
        let bits = self.add_material(Material::Bits { n, from: f, shift: f + m, digits: digits.clone() });
        let c = self.open_pending(p, bits);
        let rows: Vec<Sec> = (0..digits.len()).map(|i| self.draw(bits, Part::Digit(i as u8))).collect();
        let (high, msb) = (self.draw(bits, Part::High), self.draw(bits, Part::Msb));

        // R = 2^m·(r >> (f + m)) + Σ 2^from·(digit), a digit being Σ v·(row v).
        let (mut terms, mut from) = (vec![(power(m), Value::Secret(high))], 0);
        for (&width, &rows) in digits.iter().zip(&rows) {
            let values = self.load_constant((0..1u64 << width).map(Fp61::reduce).collect());
            let digit = self.scale(Dims::Matmul { m: 1, k: 1 << width, n }, rows, values, true);
            terms.push((power(from), Value::Secret(digit)));
            from += width;
        }
        let quotient = self.linear(n, &terms, Fp61::ZERO);
        let y = self.sec(n);
        let constant = -power(OFFSET_BITS - f);
        self.prims.push(Prim::Shift { c, thresholds: vec![0], by: f, high: quotient, msb, constant, out: y });

        let thresholds: Vec<i64> = thresholds.iter().map(|t| t << f).collect();
        let borrow = self.borrow(c, &thresholds, low, f, &digits, &rows, None);
        let constant = Fp61::ONE - power(OFFSET_BITS - f - m);
        (self.sign(c, &thresholds, f + m, high, msb, constant, borrow), y)
    }

    /// \[u_T < r₀ (+ w)\] for the bits of c − T and of r from `base` on, by the
    /// digits of r; thresholds are multiples of 2^(base + low).
    #[allow(clippy::too_many_arguments)] // an opening and its digits
    fn borrow(
        &mut self,
        c: Pub,
        thresholds: &[i64],
        low: u8,
        base: u8,
        digits: &[u8],
        rows: &[Sec],
        mut carry: Option<Sec>,
    ) -> Sec {
        let n = self.pub_lens[c.0 as usize];
        let all = thresholds.len();
        let (mut low_leaves, mut high_leaves, mut from) = (Vec::new(), Vec::new(), 0);
        for (&width, &one_hot) in digits.iter().zip(rows) {
            let (leaves, thresholds) =
                if from < low { (&mut low_leaves, &[0][..]) } else { (&mut high_leaves, thresholds) };
            let (g, p) = (self.sec(n * thresholds.len()), self.sec(n * thresholds.len()));
            let (thresholds, carry) = (thresholds.to_vec(), carry.take());
            self.prims.push(Prim::Leaf { c, thresholds, from: base + from, bits: width, one_hot, carry, g, p });
            leaves.push((g, Some(p)));
            from += width;
        }
        if low_leaves.is_empty() {
            return self.compare_tree(high_leaves, false).0;
        }
        let (below, _) = self.compare_tree(low_leaves, false);
        let repeat = View::Repeat { outer: 1, times: all, inner: n };
        let below = if all == 1 { below } else { self.view_secret(repeat, vec![below]) };
        if high_leaves.is_empty() {
            return below;
        }
        let high = self.compare_tree(high_leaves, true);
        self.merge(high, (below, None), false).0
    }

    /// (c − T) >> by, less that of the mask, with the wrap, less the borrow.
    #[allow(clippy::too_many_arguments)] // the letters of one formula
    fn sign(&mut self, c: Pub, thresholds: &[i64], by: u8, high: Sec, msb: Sec, constant: Fp61, borrow: Sec) -> Sec {
        let words = self.len(borrow);
        let quotient = self.sec(words);
        self.prims.push(Prim::Shift { c, thresholds: thresholds.to_vec(), by, high, msb, constant, out: quotient });
        self.linear(words, &[(Fp61::ONE, Value::Secret(quotient)), (-Fp61::ONE, Value::Secret(borrow))], Fp61::ZERO)
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

    /// A function by polynomials on pieces: one masked opening for all interval
    /// tests, of which start and coefficients of the piece are linear; then one
    /// product and truncation for each degree.
    pub(super) fn approximate(&mut self, x: &Value, ty: Type, table: &Table) -> Result<Sec, PlanError> {
        let n = self.words(x);
        let (bits, x) = match &table.breakpoints[..] {
            [] => (None, self.whole(x)),
            breakpoints => {
                let (bits, x) = self.tests(x, ty, breakpoints, "a table")?;
                (Some((bits, breakpoints.len())), x)
            }
        };
        let starts: Vec<i64> = table.spans(ty).map(|(start, _)| start).collect();
        let minus_start = self.chosen(bits, n, &starts.iter().map(|s| -s).collect::<Vec<_>>());
        let mut terms = vec![(Fp61::ONE, Value::Secret(x))];
        terms.extend(minus_start.0);
        let u = self.linear(n, &terms, minus_start.1);
        let mut coefficients =
            (0..=table.degree()).rev().map(|j| table.pieces.iter().map(|p| p[j]).collect::<Vec<_>>());
        let leading = coefficients.next().expect("a table has a degree");
        let (terms, constant) = self.chosen(bits, n, &leading);
        let mut sum = (terms, constant);
        for (left, c) in (0..table.degree()).rev().zip(coefficients) {
            let (added, constant) = self.chosen(bits, n, &c);
            let last = left == 0;
            let by = if last { table.bits } else { ty.frac };
            let material = self.add_material(Material::Bits { n, from: 0, shift: by, digits: Vec::new() });
            let mut mask = vec![(Fp61::ONE, Value::Secret(self.draw(material, Part::Value)))];
            // The constant term has the bits of the product: it is added before the truncation.
            let mut offset = power(OFFSET_BITS);
            if last {
                mask.extend(added.clone());
                offset += constant;
            }
            let opened = if sum.0.is_empty() {
                mask.push((sum.1, Value::Secret(u)));
                let masked = self.linear(n, &mask, offset);
                self.open(masked)
            } else {
                let factor = self.linear(n, &sum.0, sum.1);
                let mask = self.linear(n, &mask, offset);
                self.open_product(Dims::Elementwise(n), factor, u, mask)
            };
            let shifted = self.shifted(opened, material, by);
            if last {
                return Ok(shifted);
            }
            sum = (vec![(Fp61::ONE, Value::Secret(shifted))], constant);
            sum.0.extend(added);
        }
        unreachable!("the last degree returns")
    }

    /// The entry of a piece, one for each word, from the tests which breakpoints
    /// are passed: terms and a constant.
    fn chosen(&mut self, bits: Option<(Sec, usize)>, n: usize, entries: &[i64]) -> (Vec<(Fp61, Value)>, Fp61) {
        let constant = Fp61::from_i64(entries[0]);
        let Some((bits, k)) = bits.filter(|_| entries.iter().any(|e| *e != entries[0])) else {
            return (Vec::new(), constant);
        };
        let steps = entries.windows(2).map(|pair| Fp61::from_i64(pair[1]) - Fp61::from_i64(pair[0])).collect();
        let steps = self.load_constant(steps);
        let step = self.scale(Dims::Matmul { m: 1, k, n }, bits, steps, true);
        (vec![(Fp61::ONE, Value::Secret(step))], constant)
    }
}

/// How many of the lowest bits, of `low` that all thresholds share, packed bits
/// compare apart: none for a single threshold, which would only gain a round.
fn common(thresholds: &[i64], m: u8, low: u8) -> u8 {
    if thresholds.len() == 1 || low == m { 0 } else { low }
}

/// The widths of the digits of a number of bits, lowest first.
pub(super) fn digit_widths(bits: u8) -> impl Iterator<Item = u8> {
    (0..bits.div_ceil(DIGIT)).map(move |i| DIGIT.min(bits - i * DIGIT))
}

/// The least m ≥ 1 with −2^m ≤ lo and hi < 2^m.
fn magnitude_bits(lo: i64, hi: i64) -> u8 {
    (1..=60).find(|m| lo >= -(1 << m) && hi < 1 << m).expect("ranges lie within 60 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formulas of docs/protocols.md, sections 7 and 8, over the integers: masks
    /// at both sides of every border of x + r, where the low parts are equal too.
    #[test]
    fn truncation_and_tests_on_its_opening_are_exact() {
        use crate::field::P;
        let (f, m) = (16u8, 20u8);
        let half = 1i128 << OFFSET_BITS;
        let field = |v: i128| v.rem_euclid(i128::from(P));
        let mut equal_parts = 0;
        let scaled = [0i128, 1, -1, 5, -5, (1 << m) - 1, -(1 << m), 12345, -54321];
        for (y, low) in scaled.into_iter().flat_map(|y| [0i128, 1, 40_000, 65_535].map(|low| (y, low))) {
            let big = (y << f) + low + half;
            let (wrap, p) = (i128::from(P) - big, i128::from(P));
            let near = |v: i128| (-3..=3).map(move |d| v + d);
            let masks = near(0).chain(near(p)).chain(near(wrap)).chain(near(1 << 60));
            let masks = masks.chain((0..40).flat_map(|i| near((i * 0x0123_4567_89ab_cdefi128) % p)));
            for r in masks.filter(|r| (0..p).contains(r)) {
                let c = (big + r) % p;
                let (top_c, top_r) = (c >> 60, r >> 60);
                let w = top_r * (1 - top_c);
                assert_eq!(big + r, c + w * p);
                let truncated =
                    field((c >> f) - (r >> f) + (1 - top_c) * top_r * (1 << (61 - f)) - (1 << (OFFSET_BITS - f)));
                let truncated = if truncated > p / 2 { truncated - p } else { truncated };
                assert!(truncated == y || truncated == y + 1, "{y}, {low}, {r}");
                if truncated >= 1 << m {
                    continue; // past the range that m covers
                }
                for t in [0i128, 1, -1, 5, 12346, -(1 << m) + 1] {
                    if !(-(1 << m)..1 << m).contains(&(truncated - t)) {
                        continue;
                    }
                    let shifted = c - (t << f);
                    let (own, mask) = ((shifted >> f).rem_euclid(1 << m), (r >> f) % (1 << m));
                    equal_parts += i32::from(own == mask);
                    let borrow = i128::from(own < mask);
                    let constant = 1 - (1i128 << (OFFSET_BITS - f - m));
                    let bit =
                        field((shifted >> (f + m)) - (r >> (f + m)) + w * (1 << (61 - f - m)) + constant - borrow);
                    assert_eq!(bit, i128::from(truncated >= t), "{truncated} ≥ {t}, {r}");
                }
            }
        }
        assert!(equal_parts > 100);
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

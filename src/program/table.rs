//! Functions of one variable as polynomials on pieces: the tables that programs
//! carry, and how the builder fits them.
//!
//! A table is integers, made once on the owner's machine and part of the
//! program's digest; so all nodes have one plan, whatever their libm.

use serde::{Deserialize, Serialize};

use super::graph::Type;
use super::types::{BOUND, Interval};

/// Most pieces of a table.
pub const MAX_PIECES: usize = 64;
/// Highest degree of a piece.
pub const MAX_DEGREE: usize = 3;
/// Fractional bits in which a table states its error.
const ERROR_BITS: i32 = 40;

/// What a table approximates; the dry run computes it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Function {
    /// 1 / (1 + e^−x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// x·Φ(x), Φ the distribution of the standard normal law
    Gelu,
    /// x / (1 + e^−x)
    Silu,
    /// e^x
    Exp,
    /// ln x, x > 0
    Log,
    /// 1/x, x > 0
    Reciprocal,
    /// √x, x ≥ 0
    Sqrt,
    /// 1/√x, x > 0
    Rsqrt,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Sigmoid,
        Self::Tanh,
        Self::Gelu,
        Self::Silu,
        Self::Exp,
        Self::Log,
        Self::Reciprocal,
        Self::Sqrt,
        Self::Rsqrt,
    ];

    /// The name of the builder's method.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Reciprocal => "reciprocal",
            Self::Sqrt => "sqrt",
            Self::Rsqrt => "rsqrt",
        }
    }

    /// Its value in double precision.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
            Self::Gelu => x * normal(x),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Reciprocal => 1.0 / x,
            Self::Sqrt => x.sqrt(),
            Self::Rsqrt => 1.0 / x.sqrt(),
        }
    }

    /// Whether a range, in scaled integers, lies where the function is defined.
    pub fn defined_on(self, lo: i64) -> bool {
        match self {
            Self::Log | Self::Reciprocal | Self::Rsqrt => lo > 0,
            Self::Sqrt => lo >= 0,
            _ => true,
        }
    }
}

/// Φ(x) by the continued fraction and series of Abramowitz and Stegun, 26.2.10
/// and 26.2.14, to about 1e-13.
fn normal(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() > 5.0 {
        let tail = density / (1..60).rev().fold(x.abs(), |fraction, k| x.abs() + f64::from(k) / fraction);
        return if x > 0.0 { 1.0 - tail } else { tail };
    }
    let (mut term, mut sum) = (x, x);
    for k in 1..80 {
        term *= x * x / f64::from(2 * k + 1);
        sum += term;
    }
    0.5 + density * sum
}

/// A function by polynomials on pieces of its operand's range.
///
/// Piece k covers the values from breakpoint k − 1 on, the first those from the
/// least value of the operand's type on; u is the distance from there. With f
/// fractional bits of the operand and g = `bits`, the result is Σ c_j·u^j by
/// Horner's rule: c_j has g fractional bits for j > 0 and g + f for j = 0, each
/// step but the last is truncated by f bits, the last by g.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// scaled like the operand, ascending, each above the least value of its type
    pub breakpoints: Vec<i64>,
    /// coefficients of each piece, the constant first; all of one degree from 1 to 3
    pub pieces: Vec<Vec<i64>>,
    /// fractional bits of the coefficients
    pub bits: u8,
    /// |table − function| ≤ error·2^−40 before rounding: a claim of the
    /// program's maker, used for error bounds alone
    pub error: u64,
}

impl Table {
    /// The degree of the pieces.
    pub fn degree(&self) -> usize {
        self.pieces[0].len() - 1
    }

    /// The claimed error in real units.
    pub fn claimed_error(&self) -> f64 {
        self.error as f64 * 2f64.powi(-ERROR_BITS)
    }

    /// Where each piece begins and how wide it is, for an operand's type.
    pub fn spans(&self, ty: Type) -> impl Iterator<Item = (i64, i64)> + '_ {
        let starts = std::iter::once(ty.lo).chain(self.breakpoints.iter().copied());
        let ends = self.breakpoints.iter().copied().chain([ty.hi]);
        starts.zip(ends).map(|(start, end)| (start, end.saturating_sub(start)))
    }

    /// All results for an operand's type, or why the table does not serve it.
    pub(super) fn check(&self, ty: Type) -> Result<Interval, &'static str> {
        let degree = self.pieces.first().map_or(0, |piece| piece.len().wrapping_sub(1));
        if self.pieces.len() > MAX_PIECES || self.pieces.len() != self.breakpoints.len() + 1 {
            return Err("one piece more than breakpoints, at most 64");
        }
        if !(1..=MAX_DEGREE).contains(&degree) || self.pieces.iter().any(|piece| piece.len() != degree + 1) {
            return Err("pieces of one degree from 1 to 3");
        }
        // Between degrees the sum is truncated by the operand's bits.
        if self.bits == 0 || self.bits > 40 || self.bits + ty.frac > 58 || (ty.frac == 0 && degree > 1) {
            return Err("1 to 40 fractional bits of coefficients, at most 58 with those of the operand");
        }
        let ascending = self.breakpoints.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = self.breakpoints.iter().all(|b| ty.lo < *b && *b <= ty.hi);
        if !ascending || !inside {
            return Err("ascending breakpoints within the operand's range");
        }
        let mut all: Option<Interval> = None;
        for (piece, (_, width)) in self.pieces.iter().zip(self.spans(ty)) {
            let range = range(piece, width.into(), ty.frac).ok_or("products that stay below 2^59")?;
            let range = range.truncated(self.bits);
            all = Some(all.map_or(range, |hull| hull.hull(range)));
        }
        // The function itself may pass the table by its error.
        let error = (i128::from(self.error) >> (ERROR_BITS - i32::from(ty.frac)).max(0)) + 1;
        all.map(|all| Interval { lo: all.lo - error, hi: all.hi + error }).ok_or("at least one piece")
    }

    /// A bound of the slope, in real units.
    pub(super) fn slope(&self, ty: Type) -> f64 {
        let unit = 1.0 / (1u64 << self.bits) as f64;
        let steep = |(piece, (_, width)): (&Vec<i64>, (i64, i64))| {
            let width = width as f64 * ty.ulp();
            (1..piece.len())
                .rev()
                .fold(0.0, |sum: f64, j| sum * width + j as f64 * piece[j].unsigned_abs() as f64 * unit)
        };
        self.pieces.iter().zip(self.spans(ty)).map(steep).fold(0.0, f64::max)
    }

    /// A bound of what the truncations add, in real units.
    pub(super) fn rounding(&self, ty: Type) -> f64 {
        let widest = self.spans(ty).map(|(_, width)| width).max().unwrap_or(0) as f64 * ty.ulp();
        let step = 1.0 / (1u64 << self.bits) as f64;
        let inner = (1..self.degree()).fold(0.0, |sum, _| (sum + step) * widest);
        inner + ty.ulp()
    }
}

/// All values of Σ c_j·u^j for 0 ≤ u ≤ width before the last truncation, if no
/// product on the way leaves ±2^59: the hull of the Bernstein coefficients,
/// widened by what the truncations may add.
fn range(piece: &[i64], width: i128, frac: u8) -> Option<Interval> {
    let fits = |v: i128| (v < i128::from(BOUND)).then_some(v);
    let constant = i128::from(piece[0]);
    // Horner by magnitudes: every word that is opened is smaller.
    let mut magnitude = 0i128;
    for (j, c) in piece.iter().enumerate().rev() {
        let product = fits(magnitude.checked_mul(width)?)?;
        let kept = if j == 0 { product } else { (product >> frac) + 1 };
        magnitude = fits(kept + i128::from(c.unsigned_abs()))?;
    }
    // c_j·width^j with the fractional bits of the constant term.
    let mut terms = Vec::with_capacity(piece.len() - 1);
    for (j, c) in piece.iter().enumerate().skip(1) {
        let mut term = i128::from(*c);
        for step in 0..j {
            term *= width;
            if step + 1 < j {
                term >>= frac;
            }
        }
        terms.push(term);
    }
    let at = |weights: &[(i128, i128)]| {
        constant + terms.iter().zip(weights).map(|(term, (over, under))| (term * over).div_euclid(*under)).sum::<i128>()
    };
    let corners = match terms.len() {
        1 => vec![constant, at(&[(1, 1)])],
        2 => vec![constant, at(&[(1, 2), (0, 1)]), at(&[(1, 1), (1, 1)])],
        _ => {
            vec![constant, at(&[(1, 3), (0, 1), (0, 1)]), at(&[(2, 3), (1, 3), (0, 1)]), at(&[(1, 1), (1, 1), (1, 1)])]
        }
    };
    // Divisions above and truncations of the protocol: each at most one unit
    // of its place, times the width that follows.
    let slack = 8 + 3 * width.max(1) * ((width >> frac) + 1);
    let slack = if terms.len() == 1 { 0 } else { slack };
    Some(Interval { lo: corners.iter().min()? - slack, hi: corners.iter().max()? + slack })
}

/// Why a function has no table for a type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NoTable {
    /// it is not defined on the whole range
    Undefined,
    /// the best table errs by this much
    Coarse(f64),
}

/// Pieces at most, and the error at which no more are made, in units of the
/// operand's last place.
const PIECES: usize = 32;
const ENOUGH: f64 = 2.0;

/// A cubic table of a function on a type's range. The worst piece is halved,
/// at the roundest point near its middle, until the error is two units in the
/// last place or there are 32 pieces. Narrow steep pieces leave the coefficients
/// of wide ones few bits, so the best number of pieces may be less.
pub(super) fn fit(function: Function, ty: Type) -> Result<Table, NoTable> {
    if !function.defined_on(ty.lo) || !ty.fixed || ty.frac == 0 {
        return Err(NoTable::Undefined);
    }
    let mut pieces = vec![Piece::fit(function, ty, ty.lo, ty.hi)];
    let mut best = Scaled::of(&pieces, ty);
    while pieces.len() < PIECES && best.error > ENOUGH * ty.ulp() {
        let errors = pieces.iter().map(|piece| piece.error).enumerate();
        let (worst, _) = errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
        let Piece { start, end, .. } = pieces[worst];
        if end - start < 2 {
            break;
        }
        let middle = roundest(start, end);
        let halves = [Piece::fit(function, ty, start, middle), Piece::fit(function, ty, middle, end)];
        pieces.splice(worst..=worst, halves);
        let scaled = Scaled::of(&pieces, ty);
        if scaled.error < best.error {
            best = scaled;
        }
    }
    let ends = [ty.lo, ty.hi].map(|end| function.of(end as f64 * ty.ulp()).abs());
    let table = best.table;
    if best.error > 1e-2 * ends[0].max(ends[1]).max(1.0) || table.check(ty).is_err() {
        return Err(NoTable::Coarse(best.error));
    }
    Ok(table)
}

/// A table with the error that it has in the end.
struct Scaled {
    table: Table,
    error: f64,
}

impl Scaled {
    /// The pieces with as many bits as the words that are opened leave room for.
    fn of(pieces: &[Piece], ty: Type) -> Self {
        let largest = |of: &dyn Fn(&Piece) -> f64| pieces.iter().map(of).fold(0.0, f64::max);
        let room = |magnitude: f64| 57 - (magnitude.max(2f64.powi(-8)).log2().ceil() as i32);
        let products = room(largest(&|piece| piece.magnitudes(ty).0)) - i32::from(ty.frac);
        let bits = products.min(room(largest(&|piece| piece.magnitudes(ty).1)));
        let bits = bits.clamp(1, 40).min(58 - i32::from(ty.frac)) as u8;
        let scale = |value: f64, bits: i32| (value * 2f64.powi(bits)).round() as i64;
        let coefficients = |piece: &Piece| {
            let mut scaled: Vec<i64> = piece.coefficients.iter().map(|c| scale(*c, bits.into())).collect();
            scaled[0] = scale(piece.coefficients[0], i32::from(bits) + i32::from(ty.frac));
            scaled
        };
        // What rounding the coefficients adds.
        let step = 2f64.powi(-i32::from(bits) - 1);
        let error = largest(&|piece| {
            let width = (piece.end - piece.start) as f64 * ty.ulp();
            piece.error * 1.02 + step * (width + width.powi(2) + width.powi(3))
        });
        let table = Table {
            breakpoints: pieces[1..].iter().map(|piece| piece.start).collect(),
            pieces: pieces.iter().map(coefficients).collect(),
            bits,
            error: (error * 2f64.powi(ERROR_BITS)).ceil() as u64,
        };
        Self { table, error }
    }
}

/// The multiple of the greatest power of two in the middle half of a range, the
/// nearest to its middle.
fn roundest(start: i64, end: i64) -> i64 {
    let (quarter, middle) = ((end - start) / 4, start + (end - start) / 2);
    let (low, high) = (start + quarter.max(1), end - quarter.max(1));
    (0..60)
        .rev()
        .find_map(|power| {
            let unit = 1i64 << power;
            let nearest = (middle + unit / 2).div_euclid(unit) * unit;
            [nearest, nearest - unit].into_iter().find(|v| (low..=high).contains(v))
        })
        .unwrap_or(middle)
}

struct Piece {
    start: i64,
    end: i64,
    coefficients: Vec<f64>,
    error: f64,
}

impl Piece {
    /// The cubic through the function at the Chebyshev points of a range, in
    /// the distance from its start.
    fn fit(function: Function, ty: Type, start: i64, end: i64) -> Self {
        let (from, width) = (start as f64 * ty.ulp(), (end - start).max(1) as f64 * ty.ulp());
        let points: Vec<f64> = (0..=MAX_DEGREE)
            .map(|i| 0.5 - 0.5 * ((2 * i + 1) as f64 * std::f64::consts::PI / (2 * MAX_DEGREE + 2) as f64).cos())
            .collect();
        // Newton's divided differences in t = u / width, then powers of t.
        let mut differences: Vec<f64> = points.iter().map(|t| function.of(from + t * width)).collect();
        for order in 1..points.len() {
            for i in (order..points.len()).rev() {
                differences[i] = (differences[i] - differences[i - 1]) / (points[i] - points[i - order]);
            }
        }
        let mut powers = vec![0.0; points.len()];
        for i in (0..points.len()).rev() {
            for j in (0..powers.len()).rev() {
                let lower = if j > 0 { powers[j - 1] } else { 0.0 };
                powers[j] = lower - points[i] * powers[j];
            }
            powers[0] += differences[i];
        }
        let mut coefficients = powers.clone();
        coefficients.iter_mut().enumerate().for_each(|(j, c)| *c /= width.powi(j as i32));
        let value = |t: f64| powers.iter().rev().fold(0.0, |sum, c| sum * t + c);
        let error = (0..=256)
            .map(|i| f64::from(i) / 256.0)
            .map(|t| (value(t) - function.of(from + t * width)).abs())
            .fold(0.0, f64::max);
        Self { start, end, coefficients, error }
    }

    /// The greatest product of Horner's rule, or result, and the greatest word
    /// that enters a product, in real units.
    fn magnitudes(&self, ty: Type) -> (f64, f64) {
        let width = (self.end - self.start) as f64 * ty.ulp();
        let (mut sum, mut products, mut words) = (0.0f64, 0.0f64, 0.0f64);
        for c in self.coefficients.iter().rev() {
            words = words.max(sum);
            products = products.max(sum * width);
            sum = sum * width + c.abs();
        }
        (products.max(sum), words)
    }
}

/// The sigmoid by the best linear pieces on \[−8, −7\], …, \[7, 8\], constant
/// outside: 5.83e-3 off, for one product a value. For operands of at most 37
/// fractional bits.
pub(super) fn linear_sigmoid(ty: Type) -> Table {
    let breakpoint = |k: usize| (k as i64 - 8) << ty.frac;
    let slope = |piece: usize| if (1..=16).contains(&piece) { SLOPES[piece - 1] } else { 0 };
    let intercept = |piece: usize| {
        let wide = match piece {
            0 => 0,
            1..=16 => i128::from(INTERCEPTS[piece - 1]),
            _ => 1 << SIGMOID_INTERCEPT_BITS,
        };
        // Round to the nearest.
        let up = wide << (ty.frac + SIGMOID_SLOPE_BITS);
        ((up + (1 << (SIGMOID_INTERCEPT_BITS - 1))) >> SIGMOID_INTERCEPT_BITS) as i64
    };
    // Breakpoints at or below the range are always passed, those above never.
    let base = (0..=16).filter(|k| breakpoint(*k) <= ty.lo).count();
    let breakpoints: Vec<i64> = (base..=16).map(breakpoint).take_while(|b| *b <= ty.hi).collect();
    let starts = std::iter::once(ty.lo).chain(breakpoints.iter().copied());
    // At its start a piece has the value intercept + slope·start.
    let pieces = (base..).zip(starts).map(|(k, start)| vec![intercept(k) + slope(k) * start, slope(k)]).collect();
    Table { breakpoints, pieces, bits: SIGMOID_SLOPE_BITS, error: (5.83e-3 * 2f64.powi(ERROR_BITS)) as u64 }
}

/// The most fractional bits that leave room for the slopes of the pieces.
pub(super) const SIGMOID_MAX_FRAC: u8 = 37;
/// Fractional bits of the slopes.
const SIGMOID_SLOPE_BITS: u8 = 20;
/// Fractional bits of the intercepts in the table.
const SIGMOID_INTERCEPT_BITS: u8 = 40;
/// Slopes of the pieces, times 2^20.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's value in exact arithmetic, for a scaled operand.
    fn value(table: &Table, ty: Type, x: i64) -> f64 {
        let k = table.breakpoints.iter().filter(|b| **b <= x).count();
        let (start, _) = table.spans(ty).nth(k).unwrap();
        let u = (x - start) as f64 * ty.ulp();
        let unit = 2f64.powi(-i32::from(table.bits));
        let higher = table.pieces[k][1..].iter().rev().fold(0.0, |sum, c| (sum + *c as f64 * unit) * u);
        higher + table.pieces[k][0] as f64 * unit * ty.ulp()
    }

    fn worst(table: &Table, ty: Type, function: Function) -> f64 {
        let steps = 200_000;
        (0..=steps)
            .map(|i| ty.lo + ((i128::from(ty.hi) - i128::from(ty.lo)) * i / steps) as i64)
            .map(|x| (value(table, ty, x) - function.of(x as f64 * ty.ulp())).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn tables_err_as_they_claim() {
        let cases = [
            (Function::Sigmoid, -12.0..=12.0, 1e-4),
            (Function::Tanh, -8.0..=8.0, 1e-4),
            (Function::Gelu, -10.0..=10.0, 1e-4),
            (Function::Silu, -16.0..=16.0, 1e-4),
            (Function::Exp, -16.0..=0.0, 1e-4),
            (Function::Exp, -4.0..=4.0, 1e-4),
            (Function::Log, 0.01..=100.0, 1e-3),
            (Function::Reciprocal, 0.125..=16.0, 1e-4),
            (Function::Sqrt, 0.0..=64.0, 2e-2),
            (Function::Rsqrt, 0.0625..=64.0, 1e-4),
        ];
        for (function, range, most) in cases {
            let ty = Type::fixed(range.clone());
            let table = fit(function, ty).unwrap();
            let found = worst(&table, ty, function);
            let (name, pieces, claimed) = (function.name(), table.pieces.len(), table.claimed_error());
            println!("{name} on {range:?}: {pieces} pieces, {found:.2e}, claimed {claimed:.2e}");
            assert!(found <= claimed, "{name} on {range:?}: {found} is more than the claimed {claimed}");
            assert!(claimed <= most, "{name} on {range:?}: {claimed}");
        }
    }

    #[test]
    fn functions_outside_of_their_domain_have_no_table() {
        for (function, range) in [
            (Function::Log, 0.0..=1.0),
            (Function::Reciprocal, -1.0..=1.0),
            (Function::Rsqrt, 0.0..=1.0),
            (Function::Sqrt, -0.1..=1.0),
        ] {
            assert_eq!(fit(function, Type::fixed(range)), Err(NoTable::Undefined), "{}", function.name());
        }
        assert!(matches!(fit(Function::Reciprocal, Type::fixed(1e-4..=1e4)), Err(NoTable::Coarse(_))));
    }

    #[test]
    fn the_linear_sigmoid_errs_as_documented() {
        for range in [-12.0..=12.0, -20.0..=3.5, -0.3..=9.0] {
            let ty = Type::fixed(range);
            let worst = worst(&linear_sigmoid(ty), ty, Function::Sigmoid);
            assert!(worst < 5.83e-3, "{worst}");
        }
        let ty = Type::fixed(-12.0..=12.0);
        assert!(worst(&linear_sigmoid(ty), ty, Function::Sigmoid) > 5.8e-3);
    }

    #[test]
    fn ranges_hold_every_value() {
        for (function, range) in
            [(Function::Gelu, -10.0..=10.0), (Function::Exp, -4.0..=4.0), (Function::Reciprocal, 0.125..=16.0)]
        {
            let ty = Type::fixed(range);
            let table = fit(function, ty).unwrap();
            let derived = table.check(ty).unwrap();
            let exact = |x: f64| function.of(x) / ty.ulp();
            let (least, most) = (0..=10_000)
                .map(|i| exact(ty.lo as f64 * ty.ulp() + f64::from(i) * (ty.hi - ty.lo) as f64 * ty.ulp() / 1e4))
                .fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
            assert!(derived.lo as f64 <= least && most <= derived.hi as f64, "{}", function.name());
            let width = (most - least) * 0.01 + 64.0;
            assert!(derived.lo as f64 > least - width && (derived.hi as f64) < most + width, "{}", function.name());
        }
    }

    #[test]
    fn the_normal_law() {
        for (x, expected) in [(0.0, 0.5), (1.0, 0.841344746068543), (-3.0, 0.001349898031630), (6.0, 0.999999999013412)]
        {
            assert!((normal(x) - expected).abs() < 1e-12, "{x}: {}", normal(x));
        }
        assert!((normal(5.0001) - normal(4.9999)).abs() < 1e-9);
    }
}

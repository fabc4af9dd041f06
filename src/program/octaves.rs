//! Functions on ranges of many octaves: a table serves one octave, and powers
//! of two bring every value there and its result back.
//!
//! x = m·2^e with 1 ≤ m < 2. Which octave x lies in is one comparison with
//! several thresholds; 2^−e and what goes back are sums over its one-hot rows,
//! so nothing but linear combinations depends on e. Then 1/x = (1/m)·2^−e,
//! √x = √m·2^(e/2), 1/√x = (1/√m)·2^(−e/2), ln x = ln m + e·ln 2.

use super::builder::Tensor;
use super::graph::{Op, Type};
use super::table::{self, Function, Table};

/// Fractional bits of m and of what it becomes, if they have room: a result
/// that is moved up by 8 octaves still has the 16 of an ordinary type.
const MANTISSA_BITS: u8 = 24;
/// Fewest fractional bits of m and of factors that go back.
const LEAST_BITS: i32 = 16;
/// Bits of what is multiplied at most, one less than is allowed.
const ROOM: i32 = 57;
/// Fractional bits in which a claim states its error, and the slope.
pub(super) const ERROR_BITS: i32 = 40;
pub(super) const SLOPE_BITS: i32 = 20;

/// How a function of a type is made from one octave.
pub(super) struct Octaves {
    function: Function,
    ty: Type,
    /// exponents of the lowest and the highest octave
    first: i32,
    last: i32,
    /// fractional bits of 2^−e
    down: u8,
    /// fractional bits of 2^±(e/2)
    factor_bits: u8,
    mantissa: Type,
    table: Table,
}

impl Octaves {
    /// `None` if the function or the range is none for it: one octave alone, not
    /// above 0, or so many octaves that products leave no room for 16 bits.
    pub(super) fn of(function: Function, ty: Type) -> Option<Self> {
        let scales = matches!(function, Function::Log | Function::Reciprocal | Function::Sqrt | Function::Rsqrt);
        if !scales || !ty.fixed || ty.lo <= 0 || ty.hi < ty.lo {
            return None;
        }
        let frac = i32::from(ty.frac);
        let (first, last) = (ty.lo.ilog2() as i32 - frac, ty.hi.ilog2() as i32 - frac);
        if first == last {
            return None;
        }
        let down = last.max(0);
        // x·2^−e before its truncation, and 1/m·2^−e.
        let to_octave = ROOM - (last - first) - down;
        let back = if function == Function::Reciprocal { ROOM - down + first.min(0) } else { ROOM };
        let bits = i32::from(MANTISSA_BITS.max(ty.frac)).min(to_octave).min(back);
        // The greatest factor that goes back has so many bits before its point.
        let top = if function == Function::Sqrt { last } else { -first }.max(0) / 2 + 1;
        let factor_bits = i32::from(MANTISSA_BITS).min(ROOM - bits - top);
        if bits < LEAST_BITS.max(frac) || factor_bits < LEAST_BITS {
            return None;
        }
        let mantissa = Type::fixed_bits(bits as u8, 1.0..=2.0);
        let table = table::fit(function, mantissa).ok()?;
        Some(Self { function, ty, first, last, down: down as u8, factor_bits: factor_bits as u8, mantissa, table })
    }

    /// The greatest distance from the function, for an operand that is exact.
    pub(super) fn error(&self) -> f64 {
        let ulp = self.mantissa.ulp();
        let moved = if self.down > 0 { ulp * self.table.slope(self.mantissa) * 1.01 } else { 0.0 };
        let octave = self.table.claimed_error() + self.table.rounding(self.mantissa) + moved;
        let truncated = ulp + self.ty.ulp();
        let factor = |e: i32| 2f64.powf(f64::from(e) / 2.0);
        // A factor that is no power of two is rounded; √m and 1/√m are below 3/2.
        let rounded = 2f64.powi(-i32::from(self.factor_bits) - 1) * 1.5;
        truncated
            + match self.function {
                Function::Reciprocal => octave * factor(-2 * self.first),
                Function::Sqrt => octave * factor(self.last) * 1.0001 + rounded,
                Function::Rsqrt => octave * factor(-self.first) * 1.0001 + rounded,
                _ => octave + ulp / 2.0,
            }
    }

    /// The greatest slope within half a unit of the range.
    fn slope(&self) -> f64 {
        let least = (self.ty.lo as f64 - 0.5) * self.ty.ulp();
        match self.function {
            Function::Reciprocal => least.powi(-2),
            Function::Sqrt => 0.5 * least.powf(-0.5),
            Function::Rsqrt => 0.5 * least.powf(-1.5),
            _ => 1.0 / least,
        }
    }

    pub(super) fn apply(self, x: &Tensor) -> Tensor {
        let frac = self.ty.frac;
        let thresholds = (self.first + 1..=self.last).map(|e| 1 << (e + i32::from(frac))).collect();
        let one_hot = x.one(|x| Op::Between { x, thresholds });
        let rows = (self.last - self.first + 1) as usize;
        let one_hot = one_hot.reshape([rows, x.shape().len()]);
        // What belongs to the octave of each value. Only one row counts, which
        // the range of a sum does not show.
        let chosen = |bits: u8, of: &dyn Fn(i32) -> f64| {
            let values: Vec<f64> = (self.first..=self.last).map(of).collect();
            let ends = values.iter().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
            let values = x.builder().constant(&values, Type::fixed_bits(bits, ends.0..=ends.1), [1, rows]);
            values.matmul(&one_hot).declare("octave", ends.0..=ends.1).reshape(x.shape().dims())
        };
        let down = chosen(self.down, &|e| 2f64.powi(-e));
        let (function, table, bits) = (self.function, self.table.clone(), self.mantissa.frac);
        let mantissa = (x.rescale(bits) * &down).declare("mantissa", 1.0..=2.0);
        let octave = mantissa.one(|x| Op::Approximate { x, function, table });
        let back = |sign: f64| chosen(self.factor_bits, &|e| 2f64.powf(sign * f64::from(e) / 2.0));
        let result = match function {
            Function::Reciprocal => octave * down,
            Function::Sqrt => octave * back(1.0),
            Function::Rsqrt => octave * back(-1.0),
            _ => octave + chosen(bits, &|e| f64::from(e) * std::f64::consts::LN_2),
        };
        let scaled = |value: f64, bits: i32| (value * 2f64.powi(bits)).ceil() as u64;
        let (error, slope) = (scaled(self.error(), ERROR_BITS), scaled(self.slope(), SLOPE_BITS));
        result.rescale(frac).both(function.name(), x, |x, of| Op::Claim { x, of, error, slope })
    }
}

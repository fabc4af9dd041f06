//! Numbers of the outside world as field elements, on the owner's side.
//!
//! A signed integer v in [−2^59, 2^59) is v mod p; a fixed-point number with f
//! fractional bits is the integer nearest to v·2^f. What does not fit is an
//! error that names it, never a wrap: a wrapped input gives a plausible and
//! wrong output. These functions branch on the numbers, so they belong to the
//! machine that owns them.

use super::Fp61;

/// Integers are in [−LIMIT, LIMIT), LIMIT = 2^59.
const LIMIT: i64 = 1 << 59;

/// A number cannot be encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// NaN or an infinity.
    #[error("value {index} is {value}: expected a finite number")]
    NotFinite {
        /// which value
        index: usize,
        /// the value found
        value: f64,
    },
    /// A fixed-point number out of range.
    #[error("value {index} is {value}, out of range: {bits} fractional bits hold [{low}, {high})")]
    Range {
        /// which value
        index: usize,
        /// the value found
        value: f64,
        /// fractional bits
        bits: u8,
        /// least value
        low: f64,
        /// first value past the range
        high: f64,
    },
    /// An integer out of range.
    #[error("integer {index} is {value}, out of range: expected [-2^59, 2^59)")]
    IntegerRange {
        /// which value
        index: usize,
        /// the value found
        value: i64,
    },
}

/// An element encodes no number: a computation left the range that it declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("element {index} stands for {value}, which encodes no number: expected [-2^59, 2^59)")]
pub struct DecodeError {
    /// which element
    pub index: usize,
    /// the integer it stands for
    pub value: i64,
}

/// Signed integers in [−2^59, 2^59).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integers;

impl Integers {
    /// Encodes; the error names the first integer out of range.
    pub fn encode(self, values: &[i64]) -> Result<Vec<Fp61>, EncodeError> {
        let one = |(index, value): (usize, &i64)| {
            in_range(*value).map(Fp61::from_i64).ok_or(EncodeError::IntegerRange { index, value: *value })
        };
        values.iter().enumerate().map(one).collect()
    }
    /// Decodes; the error names the first element out of range.
    pub fn decode(self, words: &[Fp61]) -> Result<Vec<i64>, DecodeError> {
        let one = |(index, word): (usize, &Fp61)| {
            let value = word.to_i64();
            in_range(value).ok_or(DecodeError { index, value })
        };
        words.iter().enumerate().map(one).collect()
    }
}

/// Fixed-point numbers with some fractional bits, 16 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedPoint {
    bits: u8,
}

impl Default for FixedPoint {
    fn default() -> Self {
        Self { bits: 16 }
    }
}

impl FixedPoint {
    /// Fixed point with `bits` ≤ 58 fractional bits; `None` past that.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= 58 { Some(Self { bits }) } else { None }
    }
    /// The number of fractional bits.
    pub const fn bits(self) -> u8 {
        self.bits
    }
    /// Encodes each value as the nearest multiple of 2^−bits; the error names
    /// the first that is not finite or out of range.
    pub fn encode(self, values: &[f64]) -> Result<Vec<Fp61>, EncodeError> {
        let one = |(index, value): (usize, &f64)| self.encode_one(index, *value);
        values.iter().enumerate().map(one).collect()
    }
    /// Decodes; exact where the integer has at most 53 bits, else the nearest
    /// `f64`. The error names the first element out of range.
    pub fn decode(self, words: &[Fp61]) -> Result<Vec<f64>, DecodeError> {
        let integers = Integers.decode(words)?;
        Ok(integers.into_iter().map(|v| v as f64 / self.scale()).collect())
    }

    fn encode_one(self, index: usize, value: f64) -> Result<Fp61, EncodeError> {
        if !value.is_finite() {
            return Err(EncodeError::NotFinite { index, value });
        }
        // The scale is a power of two: the product is exact, or infinite and refused.
        let scaled = (value * self.scale()).round();
        let limit = LIMIT as f64;
        if !(-limit..limit).contains(&scaled) {
            let high = limit / self.scale();
            return Err(EncodeError::Range { index, value, bits: self.bits, low: -high, high });
        }
        Ok(Fp61::from_i64(scaled as i64))
    }
    fn scale(self) -> f64 {
        (1u64 << self.bits) as f64
    }
}

fn in_range(value: i64) -> Option<i64> {
    (-LIMIT..LIMIT).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_go_round(v in -LIMIT..LIMIT) {
            prop_assert_eq!(Integers.decode(&Integers.encode(&[v]).unwrap()), Ok(vec![v]));
        }

        #[test]
        fn fixed_point_is_within_half_an_ulp(v in -1e6..1e6f64, bits in 0u8..=30) {
            let fixed = FixedPoint::new(bits).unwrap();
            let back = fixed.decode(&fixed.encode(&[v]).unwrap()).unwrap()[0];
            prop_assert!((back - v).abs() <= 0.5 / fixed.scale(), "{v} became {back}");
        }

        #[test]
        fn any_float_is_encoded_or_refused(bits: u64, f in 0u8..=58) {
            let (value, fixed) = (f64::from_bits(bits), FixedPoint::new(f).unwrap());
            match fixed.encode(&[0.0, value]) {
                Ok(words) => prop_assert!((fixed.decode(&words).unwrap()[1] - value).abs() <= 0.5 / fixed.scale()),
                Err(EncodeError::NotFinite { index, .. }) => prop_assert!(index == 1 && !value.is_finite()),
                Err(EncodeError::Range { index, high, .. }) => {
                    prop_assert!(index == 1 && value.abs() > high - 1.0 / fixed.scale());
                }
                Err(e) => prop_assert!(false, "{e}"),
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(
            Integers.encode(&[0, LIMIT]).unwrap_err().to_string(),
            "integer 1 is 576460752303423488, out of range: expected [-2^59, 2^59)"
        );
        assert!(Integers.encode(&[-LIMIT - 1]).is_err());
        assert!(Integers.encode(&[i64::MIN]).is_err());

        let fixed = FixedPoint::default();
        let edge = (1u64 << 43) as f64;
        assert!(fixed.encode(&[-edge, edge - 0.001]).is_ok());
        assert_eq!(
            fixed.encode(&[1.0, edge]).unwrap_err().to_string(),
            "value 1 is 8796093022208, out of range: 16 fractional bits hold [-8796093022208, 8796093022208)"
        );
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(fixed.encode(&[0.0, value]), Err(EncodeError::NotFinite { index: 1, .. })));
        }
        assert!(fixed.encode(&[f64::MAX]).is_err());
        assert_eq!(FixedPoint::new(59), None);
    }

    #[test]
    fn decoding_refuses_elements_between_the_ranges() {
        for value in [LIMIT, -LIMIT - 1] {
            let words = [Fp61::ONE, Fp61::from_i64(value)];
            assert_eq!(Integers.decode(&words), Err(DecodeError { index: 1, value }));
            assert!(FixedPoint::default().decode(&words).is_err());
        }
    }
}

//! Weights in the `safetensors` format.

use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};

use super::{ImportError, MAX_NAME, MAX_NUMBERS, SHAPE, Values, bfloat, elements, half, read, refuse_large};

/// Reads the tensors of a file by name; as [`from_bytes`].
pub fn load(path: impl AsRef<Path>) -> Result<BTreeMap<String, Values>, ImportError> {
    read(path.as_ref(), from_bytes)
}

/// Tensors by name, of f64, f32, f16, bf16 or i64; integers beyond 2^53 are
/// refused. At most [`MAX_NUMBERS`] numbers in all, each finite.
pub fn from_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Values>, ImportError> {
    refuse_large(bytes)?;
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| ImportError::Bytes { expected: "a safetensors file", found: e.to_string() })?;
    let mut room = MAX_NUMBERS;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let refused = |found: String, expected: &str| ImportError::Tensor {
            name: name.chars().take(80).collect(),
            found,
            expected: expected.to_owned(),
        };
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(refused("an unusable name".into(), "1 to 256 bytes without control characters"));
        }
        let Some((shape, count)) = elements(view.shape().iter().map(|d| *d as u64)) else {
            return Err(refused(format!("the shape {:.200}", format!("{:?}", view.shape())), SHAPE));
        };
        room = room.checked_sub(count).ok_or(ImportError::Limit {
            what: "numbers",
            found: (MAX_NUMBERS - room + count) as u64,
            max: MAX_NUMBERS as u64,
        })?;
        let data = view.data();
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => words(data, f64::from_le_bytes),
            Dtype::F32 => words(data, |b| f32::from_le_bytes(b).into()),
            Dtype::F16 => words(data, |b| half(u16::from_le_bytes(b))),
            Dtype::BF16 => words(data, |b| bfloat(u16::from_le_bytes(b))),
            Dtype::I64 => words(data, |b| exact(i64::from_le_bytes(b))),
            other => return Err(refused(format!("the type {other:?}"), "F64, F32, F16, BF16 or I64: convert it")),
        };
        if values.len() != count {
            return Err(refused(format!("{} numbers", values.len()), &format!("{count}, as its shape says")));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(refused(format!("no usable number at index {i}"), "finite ones, integers within 2^53"));
        }
        tensors.insert(name.to_owned(), Values { shape, values });
    }
    Ok(tensors)
}

/// Little-endian words of N bytes.
fn words<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|word| read(*word)).collect()
}

/// An integer as a number, NaN if it is none.
fn exact(v: i64) -> f64 {
    if v.unsigned_abs() <= 1 << 53 { v as f64 } else { f64::NAN }
}

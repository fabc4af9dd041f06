//! The owner's data: read, shuffled, split and standardised in the clear, on
//! the owner's machine.

use std::path::Path;

use beaverdam::cli::table::{Table, TableError};

use crate::Fault;

/// Standardised features lie within ±this.
pub const BOUND: f64 = 16.0;
/// Of all samples, so many parts in ten are trained on.
const TRAINED: usize = 8;
/// The split is the same for everybody.
const SHUFFLE: u64 = 2026;

/// Samples with their labels.
pub struct Samples {
    /// row-major
    pub features: Vec<f64>,
    /// 0 or 1
    pub labels: Vec<f64>,
}

/// A data set, split into 80 % for training and the rest.
pub struct Data {
    /// number of features
    pub features: usize,
    /// what is trained on
    pub train: Samples,
    /// what is predicted
    pub test: Samples,
}

impl Data {
    /// Reads a CSV with a header row and the label in its last column.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let table = Table::read(path)?;
        table.require_header()?;
        let features = table.columns() - 1;
        let rows: Vec<&[f64]> = table.rows().collect();
        let show = path.display();
        if features == 0 {
            return Err(
                format!("{show}: found one column, expected features and, in the last column, the label").into()
            );
        }
        if let Some(row) = rows.iter().position(|row| row[features] != 0.0 && row[features] != 1.0) {
            return Err(table.refuse(row, features, "a label, 0 or 1, in the last column").into());
        }
        if rows.len() < 10 {
            return Err(
                format!("{show}: found {} rows, expected at least 10 to train and to test on", rows.len()).into()
            );
        }
        let order = shuffled(rows.len());
        let (train, test) = order.split_at(rows.len() * TRAINED / 10);
        let positive = train.iter().filter(|i| rows[**i][features] == 1.0).count();
        if positive == 0 || positive == train.len() {
            return Err(format!("{show}: all training labels are alike, expected both 0 and 1").into());
        }
        let scales: Vec<_> = (0..features).map(|j| Scale::of(train.iter().map(|i| rows[*i][j]))).collect();
        let samples = |part: &[usize]| -> Result<Samples, TableError> {
            let mut samples = Samples { features: Vec::new(), labels: Vec::new() };
            for &i in part {
                for (j, scale) in scales.iter().enumerate() {
                    let z = scale.standardise(rows[i][j]);
                    if z.is_nan() || z.abs() > BOUND {
                        let expected = format!(
                            "a value within {BOUND} standard deviations of the column's mean, {:.6}: remove the outlier",
                            scale.mean
                        );
                        return Err(table.refuse(i, j, expected));
                    }
                    samples.features.push(z);
                }
                samples.labels.push(rows[i][features]);
            }
            Ok(samples)
        };
        Ok(Self { features, train: samples(train)?, test: samples(test)? })
    }
}

/// Mean and standard deviation of a column over the training samples.
struct Scale {
    mean: f64,
    deviation: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        // A column without variation says nothing; it becomes zeros.
        Self { mean, deviation: if variance > 0.0 { variance.sqrt() } else { 1.0 } }
    }

    fn standardise(&self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }
}

/// 0..n in an order that mixes the classes and never changes: Fisher–Yates
/// with splitmix64.
fn shuffled(n: usize) -> Vec<usize> {
    let mut state = SHUFFLE;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (draw() % (i as u64 + 1)) as usize);
    }
    order
}

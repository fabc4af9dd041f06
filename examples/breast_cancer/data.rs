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

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty rows of two features and a label, with one line exchanged.
    fn fault(line: usize, text: &str) -> String {
        let mut lines: Vec<String> = (0..20).map(|i| format!("{},{},{}", i * i % 17, i % 5, i % 2)).collect();
        lines.insert(0, "a,b,label".into());
        lines[line] = text.into();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        Data::read(file.path()).err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn faults_are_one_line_with_their_place() {
        assert_eq!(fault(3, "1,1,0"), "");
        for (line, text, words) in [
            (3, "1,,0", "line 4, column 2 (b): found an empty cell"),
            (3, "1,one,0", "line 4, column 2 (b): found \"one\", expected a number"),
            (3, "1,2,3", "line 4, column 3 (label): found 3, expected a label, 0 or 1"),
            (3, "1,2", "line 4: found 2 cells, expected 3"),
            (0, "1,2,0", "line 1: found numbers, expected a header row"),
        ] {
            let message = fault(line, text);
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
        // The split is fixed, so some lines are predicted and not standardised on.
        assert!((1..=20).any(|line| fault(line, "1e9,2,0").contains("within 16 standard deviations")));
    }

    #[test]
    fn the_built_in_data_is_split_and_standardised() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/breast_cancer.csv");
        let data = Data::read(&path).unwrap();
        assert_eq!((data.features, data.train.labels.len(), data.test.labels.len()), (30, 455, 114));
        let positive = data.test.labels.iter().sum::<f64>() / 114.0;
        assert!((0.5..0.75).contains(&positive), "the classes are mixed: {positive}");
        for column in 0..30 {
            let values = data.train.features.iter().skip(column).step_by(30);
            assert!((values.sum::<f64>() / 455.0).abs() < 1e-9);
        }
    }
}

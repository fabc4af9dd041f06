//! Images of digits: a CSV with a header row, 64 pixels of 0 to 16 in each row
//! and the label in the last column.

use std::path::Path;

use beaverdam::cli::table::Table;

use crate::Fault;

/// Rows, columns and classes.
pub const SIDE: usize = 8;
pub const PIXELS: usize = SIDE * SIDE;
pub const CLASSES: usize = 10;
/// The value of a full pixel.
const FULL: f64 = 16.0;

/// Images with their labels.
pub struct Digits {
    /// row-major, each pixel in 0 to 1
    pub pixels: Vec<f64>,
    /// 0 to 9
    pub labels: Vec<usize>,
}

impl Digits {
    /// The last `count` images of a file, which no model was trained on.
    pub fn last(path: &Path, count: usize) -> Result<Self, Fault> {
        let table = Table::read(path)?;
        table.require_header()?;
        let rows: Vec<&[f64]> = table.rows().collect();
        if table.columns() != PIXELS + 1 || rows.len() < count {
            let (found, columns) = (rows.len(), table.columns());
            let expected = format!("at least {count} rows of {PIXELS} pixels and a label");
            return Err(
                format!("{}: found {found} rows of {columns} columns, expected {expected}", path.display()).into()
            );
        }
        let mut digits = Self { pixels: Vec::new(), labels: Vec::new() };
        for (i, row) in rows.iter().enumerate().skip(rows.len() - count) {
            let (label, pixels) = (row[PIXELS], &row[..PIXELS]);
            if let Some(column) = pixels.iter().position(|p| !(0.0..=FULL).contains(p)) {
                return Err(table.refuse(i, column, "a pixel of 0 to 16").into());
            }
            if label.fract() != 0.0 || !(0.0..CLASSES as f64).contains(&label) {
                return Err(table.refuse(i, PIXELS, "a label, 0 to 9, in the last column").into());
            }
            digits.pixels.extend(pixels.iter().map(|p| p / FULL));
            digits.labels.push(label as usize);
        }
        Ok(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_data_has_all_classes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv");
        let all = Digits::last(&path, 1797).unwrap();
        assert!((0..CLASSES).all(|digit| all.labels.iter().filter(|l| **l == digit).count() > 170));
        assert!(all.pixels.iter().all(|p| (0.0..=1.0).contains(p)));
        assert!(Digits::last(&path, 1798).err().unwrap().to_string().contains("found 1797 rows of 65 columns"));
    }

    #[test]
    fn faults_are_one_line_with_their_place() {
        let header: Vec<String> = (0..PIXELS).map(|i| format!("p{i}")).chain(["label".into()]).collect();
        for (pixel, label, words) in [("17", "3", "(p0): found 17, expected a pixel"), ("1", "10", "expected a label")]
        {
            let row: Vec<&str> = std::iter::once(pixel).chain(["0"; PIXELS - 1]).chain([label]).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), format!("{}\n{}\n", header.join(","), row.join(","))).unwrap();
            let message = Digits::last(file.path(), 1).err().unwrap().to_string();
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }
}

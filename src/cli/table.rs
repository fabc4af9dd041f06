//! Numbers from and to CSV files, with errors that name line and column.

use std::fmt;
use std::path::Path;

use crate::program::{Signature, Type};

/// The numbers of a CSV file: rows of equal length, all finite.
pub struct Table {
    path: String,
    header: Option<Vec<String>>,
    columns: usize,
    cells: Vec<f64>,
    /// line of each row in the file
    lines: Vec<u64>,
}

/// Why a CSV file was refused, in one line.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read, or is not text.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// the file
        path: String,
        /// why
        reason: String,
    },
    /// No rows.
    #[error("{path} holds no rows of numbers")]
    Empty {
        /// the file
        path: String,
    },
    /// The first line is no header.
    #[error("{path}, line 1: found numbers, expected a header row: put the names of the columns into the first line")]
    NoHeader {
        /// the file
        path: String,
    },
    /// A row of another length.
    #[error("{path}, line {line}: found {found} cells, expected {expected} as in the rows before")]
    Width {
        /// the file
        path: String,
        /// counted from 1
        line: u64,
        /// cells found
        found: usize,
        /// cells expected
        expected: usize,
    },
    /// A cell that does not fit.
    #[error("{place}: found {found}, expected {expected}")]
    Cell {
        /// file, line and column
        place: String,
        /// the cell
        found: String,
        /// what would fit, and what to do
        expected: String,
    },
    /// The number of rows or columns is not the input's.
    #[error("{path}: found {found}, expected {expected}")]
    Shape {
        /// the file
        path: String,
        /// rows and columns found
        found: String,
        /// what the program wants
        expected: String,
    },
}

impl Table {
    /// Reads a CSV file: commas, one row a line, finite numbers. A first line
    /// without any number is the header.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, TableError> {
        let path = path.as_ref().display().to_string();
        let refused = |reason: String| TableError::Read { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|e| refused(e.to_string()))?;
        let newlines = |part: &[u8]| part.iter().filter(|b| **b == b'\n').count() as u64;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| refused(format!("line {} is not UTF-8 text", 1 + newlines(&bytes[..e.valid_up_to()]))))?;
        let mut table = Self { path: path.clone(), header: None, columns: 0, cells: Vec::new(), lines: Vec::new() };
        let mut reader = csv::ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let (mut line, mut at) = (1, 0);
        for record in reader.into_records() {
            let record = record.map_err(|e| refused(e.to_string()))?;
            // A record's position is before the ends of lines that it skips.
            let mut start = record.position().map_or(at, |p| p.byte() as usize);
            start += bytes[start..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            line += newlines(&bytes[at..start]);
            at = start;
            table.push(&record, line)?;
        }
        if table.lines.is_empty() { Err(TableError::Empty { path }) } else { Ok(table) }
    }

    fn push(&mut self, record: &csv::StringRecord, line: u64) -> Result<(), TableError> {
        let first = self.columns == 0;
        if first {
            self.columns = record.len();
            if record.iter().all(|cell| !cell.is_empty() && cell.parse::<f64>().is_err()) {
                self.header = Some(record.iter().map(str::to_owned).collect());
                return Ok(());
            }
        }
        if record.len() != self.columns {
            let (path, found, expected) = (self.path.clone(), record.len(), self.columns);
            return Err(TableError::Width { path, line, found, expected });
        }
        for (column, cell) in record.iter().enumerate() {
            match cell.parse::<f64>() {
                Ok(value) if value.is_finite() => self.cells.push(value),
                _ => {
                    let found = if cell.is_empty() { "an empty cell".into() } else { format!("{:?}", begin(cell)) };
                    let expected = "a number: fill it in or remove the row".into();
                    return Err(TableError::Cell { place: self.place(line, column), found, expected });
                }
            }
        }
        self.lines.push(line);
        Ok(())
    }

    fn place(&self, line: u64, column: usize) -> String {
        let name = self.header.as_ref().and_then(|h| h.get(column));
        let name = name.map_or(String::new(), |name| format!(" ({})", begin(name)));
        format!("{}, line {line}, column {}{name}", self.path, column + 1)
    }

    /// The names of the columns, if the first line has them.
    pub fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }
    /// Refuses a file without a header row.
    pub fn require_header(&self) -> Result<&[String], TableError> {
        self.header().ok_or_else(|| TableError::NoHeader { path: self.path.clone() })
    }
    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.cells.chunks_exact(self.columns)
    }
    /// An error at a cell, row and column counted from 0.
    pub fn refuse(&self, row: usize, column: usize, expected: impl Into<String>) -> TableError {
        let found = self.cells[row * self.columns + column].to_string();
        TableError::Cell { place: self.place(self.lines[row], column), found, expected: expected.into() }
    }

    /// The values as an input of this shape and range: `[n]` as one column or
    /// one row, otherwise the last axis along the columns and all others along
    /// the rows.
    pub fn values(&self, signature: &Signature) -> Result<Vec<f64>, TableError> {
        let dims = signature.shape.dims();
        let (rows, found) = (self.lines.len(), (self.lines.len(), self.columns));
        let last = dims.last().copied().unwrap_or(1);
        let flat = dims.len() <= 1 && (found == (last, 1) || found == (1, last));
        if !flat && found != (signature.shape.len() / last, last) {
            let expected = match dims {
                [] => "one number".to_owned(),
                [n] => format!("{n} numbers in one column or one row"),
                _ => {
                    format!("{} rows of {last} numbers for the shape {}", signature.shape.len() / last, signature.shape)
                }
            };
            let found = format!("{rows} rows of {}", self.columns);
            return Err(TableError::Shape { path: self.path.clone(), found, expected });
        }
        for (i, value) in self.cells.iter().enumerate() {
            if signature.ty.scaled(*value).is_none() {
                let expected =
                    format!("{}: scale the data, or declare a wider range in the program", Words(signature.ty));
                return Err(self.refuse(i / self.columns, i % self.columns, expected));
            }
        }
        Ok(self.cells.clone())
    }
}

/// Writes values as a CSV that [`Table::read`] and [`Table::values`] read
/// back: no header, the last axis along the columns, `[n]` as one column.
pub fn to_csv(signature: &Signature, values: &[f64]) -> String {
    let columns = match signature.shape.dims() {
        [] | [_] => 1,
        [.., last] => *last,
    };
    let line = |row: &[f64]| row.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    values.chunks(columns).map(|row| line(row) + "\n").collect()
}

/// A type as people say it.
struct Words(Type);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, range) = (if self.0.fixed { "a number" } else { "an integer" }, self.0.range());
        write!(f, "{kind} from {} to {}", range.start(), range.end())
    }
}

/// The beginning of a text that may be long or hostile, on one line.
fn begin(text: &str) -> String {
    let short: String = text.chars().take(32).flat_map(char::escape_debug).collect();
    if text.chars().nth(32).is_some() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Table, TableError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Table::read(file.path())
    }

    fn signature(shape: &[usize]) -> Signature {
        Signature { ty: Type::fixed(-5.0..=5.0), shape: Shape::new(shape).unwrap() }
    }

    #[test]
    fn a_header_is_a_line_without_numbers() {
        let with = read("a,b\n1,2\n3,4.5\n").unwrap();
        assert_eq!((with.header().unwrap().len(), with.rows().len(), with.columns()), (2, 2, 2));
        let without = read("1,2\n3,4.5\n").unwrap();
        assert_eq!((without.header(), without.rows().len()), (None, 2));
        assert!(without.require_header().unwrap_err().to_string().contains("line 1"));
        assert_eq!(without.values(&signature(&[2, 2])).unwrap(), [1.0, 2.0, 3.0, 4.5]);
        assert_eq!(read("1\n2\n").unwrap().values(&signature(&[2])).unwrap(), [1.0, 2.0]);
        assert_eq!(read("1,2\n").unwrap().values(&signature(&[2])).unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn faults_are_one_line_with_their_place() {
        let fault = |text: &str| read(text).and_then(|t| t.values(&signature(&[2, 2]))).unwrap_err().to_string();
        for (text, words) in [
            ("a,b\n1,\n3,4\n", "line 2, column 2 (b): found an empty cell"),
            ("a,b\n1,2\n3,four\n", "line 3, column 2 (b): found \"four\", expected a number"),
            ("1,x\n3,4\n", "line 1, column 2: found \"x\""),
            ("1,nan\n3,4\n", "found \"nan\""),
            ("1,2\n3\n", "line 2: found 1 cells, expected 2"),
            ("a,b\r\n1,2\r\n3,9\r\n", "line 3, column 2 (b): found 9"),
            ("1,2\n\n3,9\n", "line 3, column 2: found 9, expected a number from -5 to 5"),
            ("1,2\n", "found 1 rows of 2, expected 2 rows of 2"),
            ("a,b\n", "no rows"),
            ("", "no rows"),
        ] {
            let message = fault(text);
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
        assert!(Table::read("/nonexistent.csv").err().unwrap().to_string().contains("/nonexistent.csv"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"1,2\n\xff,4\n").unwrap();
        assert!(Table::read(file.path()).err().unwrap().to_string().contains("line 2 is not UTF-8"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec(-5.0f64..5.0, 6)) {
            for shape in [&[6][..], &[2, 3], &[1, 2, 3]] {
                let table = read(&to_csv(&signature(shape), &values)).unwrap();
                prop_assert_eq!(&table.values(&signature(shape)).unwrap(), &values);
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9a,.\n\"\u{e9} ]{0,60}") {
            drop(read(&text).and_then(|t| t.values(&signature(&[2, 2]))));
        }
    }
}

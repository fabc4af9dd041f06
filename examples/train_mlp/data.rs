//! The digits: read, split and one-hot encoded in the clear, on the owner's
//! machine.

use std::path::Path;

use beaverdam::cli::table::Table;

use crate::Fault;

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Digits.
pub const CLASSES: usize = 10;
/// The first so many rows are trained on, the others predicted.
pub const TRAINED: usize = 1437;
/// The mix is the same for everybody.
const SHUFFLE: u64 = 2026;

/// Images with their labels.
pub struct Samples {
    /// `[n, 64]`, in 0..=1
    pub images: Vec<f64>,
    /// the digits
    pub labels: Vec<usize>,
}

impl Samples {
    /// `[n, 10]`, a 1 in each row.
    pub fn one_hot(&self) -> Vec<f64> {
        self.labels.iter().flat_map(|&label| (0..CLASSES).map(move |k| f64::from(k == label))).collect()
    }
}

/// The digits, split.
pub struct Data {
    /// what is trained on
    pub train: Samples,
    /// what is predicted
    pub test: Samples,
}

impl Data {
    /// Reads scikit-learn's digits: a header row, 64 columns in 0..=16, the
    /// label. The last 360 rows are predicted; other hands wrote them than those
    /// before. `mix` mixes all rows before they are split. So many `copies`, at
    /// most four, of each image are trained on as well, moved by half a pixel.
    pub fn read(path: &Path, mix: bool, copies: usize) -> Result<Self, Fault> {
        let table = Table::read(path)?;
        table.require_header()?;
        let rows: Vec<&[f64]> = table.rows().collect();
        let (found, expected) = ((rows.len(), table.columns()), (TRAINED, PIXELS + 1));
        if found.0 <= expected.0 || found.1 != expected.1 {
            let show = path.display();
            return Err(format!(
                "{show}: found {} rows of {}, expected more than {TRAINED} of {}",
                found.0, found.1, expected.1
            )
            .into());
        }
        for (i, row) in rows.iter().enumerate() {
            if let Some(j) = row[..PIXELS].iter().position(|v| !(0.0..=16.0).contains(v)) {
                return Err(table.refuse(i, j, "a pixel in 0..=16").into());
            }
            if !(0..CLASSES).any(|k| row[PIXELS] == k as f64) {
                return Err(table.refuse(i, PIXELS, "a digit in 0..=9").into());
            }
        }
        let order = if mix { shuffled(rows.len()) } else { (0..rows.len()).collect() };
        let (train, test) = order.split_at(TRAINED);
        let image = |i: usize| rows[i][..PIXELS].iter().map(|v| v / 16.0).collect::<Vec<_>>();
        let label = |i: usize| rows[i][PIXELS] as usize;
        let mut samples = Samples { images: Vec::new(), labels: Vec::new() };
        // The classes and the copies of an image come to lie apart.
        for k in shuffled(TRAINED * (1 + copies)) {
            let (i, copy) = (train[k % TRAINED], k / TRAINED);
            samples.images.extend(moved(&image(i), copy));
            samples.labels.push(label(i));
        }
        let images = test.iter().flat_map(|i| image(*i)).collect();
        let test = Samples { images, labels: test.iter().map(|i| label(*i)).collect() };
        Ok(Self { train: samples, test })
    }
}

/// An image moved by half a pixel: not at all, right, left, down, up.
fn moved(image: &[f64], copy: usize) -> Vec<f64> {
    let side = PIXELS.isqrt() as isize;
    let (dy, dx) = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)][copy];
    let at = |y: isize, x: isize| {
        let inside = (0..side).contains(&y) && (0..side).contains(&x);
        if inside { image[(y * side + x) as usize] } else { 0.0 }
    };
    let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (y, x)));
    pixels.map(|(y, x)| (at(y, x) + at(y - dy, x - dx)) / 2.0).collect()
}

/// 0..n in an order that never changes: Fisher–Yates with splitmix64.
fn shuffled(n: usize) -> Vec<usize> {
    let mut choices = beaverdam::program::random::Choices(SHUFFLE);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, choices.below(i + 1));
    }
    order
}

//! Index maps: words are moved, or summed over an axis.

use super::{Words, build, checked};
use crate::field::{Fp61, slice};
use crate::tensor::{Patches, View};

/// Columns of a transposition that are read together: one cache line.
const LINE: usize = 8;

/// The view of its inputs. A map that moves nothing shares its input.
pub fn apply(view: &View, inputs: &[&Words]) -> Words {
    let lens = view.input_lens();
    assert_eq!(inputs.len(), lens.len(), "a view has another number of inputs than its plan says");
    let slices: Vec<&[Fp61]> = inputs.iter().zip(&lens).map(|(x, len)| checked(x, *len)).collect();
    let n = view.output_len();
    if n == 0 || view.moves_nothing() {
        return inputs.first().filter(|_| n > 0).map_or_else(|| Vec::new().into(), |x| (*x).clone());
    }
    match *view {
        View::Transpose { rows, cols, .. } => {
            build(n, rows, |first, out| transpose(out, slices[0], rows, cols, first / rows))
        }
        View::Slice { axis, inner, start, end, .. } => {
            let block = (end - start) * inner;
            build(n, block, |first, out| {
                for (outer, out) in (first / block..).zip(out.chunks_exact_mut(block)) {
                    out.copy_from_slice(&slices[0][(outer * axis + start) * inner..][..block]);
                }
            })
        }
        View::Repeat { times, inner, .. } => build(n, inner, |first, out| {
            for (block, out) in (first / inner..).zip(out.chunks_exact_mut(inner)) {
                out.copy_from_slice(&slices[0][block / times * inner..][..inner]);
            }
        }),
        View::Sum { axis, inner, .. } => build(n, inner, |first, out| {
            let block = axis * inner;
            for (outer, out) in (first / inner..).zip(out.chunks_exact_mut(inner)) {
                sum(out, &slices[0][outer * block..][..block]);
            }
        }),
        View::Patches(ref patches) => {
            let [_, places, block] = patches.dims();
            build(n, block, |first, out| {
                for (i, out) in (first / block..).zip(out.chunks_exact_mut(block)) {
                    patch(out, slices[0], patches, i / places, i % places);
                }
            })
        }
        View::Concat { ref axes, inner, .. } => {
            let block = axes.iter().sum::<usize>() * inner;
            build(n, block, |first, out| {
                for (outer, mut out) in (first / block..).zip(out.chunks_exact_mut(block)) {
                    for (axis, x) in axes.iter().zip(&slices) {
                        let (head, rest) = out.split_at_mut(axis * inner);
                        head.copy_from_slice(&x[outer * axis * inner..][..axis * inner]);
                        out = rest;
                    }
                }
            })
        }
    }
}

/// Writes output rows from number `first` on (counted over the whole batch);
/// output row o·cols + c is column c of matrix o.
fn transpose(out: &mut [Fp61], x: &[Fp61], rows: usize, cols: usize, first: usize) {
    let (mut row, mut out) = (first, out);
    while !out.is_empty() {
        let (outer, col) = (row / cols, row % cols);
        let count = LINE.min(cols - col).min(out.len() / rows);
        let (group, rest) = out.split_at_mut(count * rows);
        for (r, line) in x[outer * rows * cols..][..rows * cols].chunks_exact(cols).enumerate() {
            for (c, word) in line[col..col + count].iter().enumerate() {
                group[c * rows + r] = *word;
            }
        }
        (row, out) = (row + count, rest);
    }
}

/// The words under the window at one place of one image; `out` holds zeros.
fn patch(out: &mut [Fp61], x: &[Fp61], patches: &Patches, image: usize, place: usize) {
    let Patches { channels, rows, columns, window, .. } = *patches;
    let [height, width] = window.size;
    let [_, across] = window.places(rows, columns);
    // The part of each row that lies on the image, counted from the window's left.
    let left = place % across * window.stride[1];
    let from = window.padding[1].saturating_sub(left).min(width);
    let until = (columns + window.padding[1]).saturating_sub(left).min(width).max(from);
    let start = left + from - window.padding[1].min(left + from);
    let top = place / across * window.stride[0];
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let (channel, y) = (i / height, top + i % height);
        if (window.padding[0]..rows + window.padding[0]).contains(&y) && from < until {
            let row = (image * channels + channel) * rows + y - window.padding[0];
            out[from..until].copy_from_slice(&x[row * columns + start..][..until - from]);
        }
    }
}

/// The sum over the axis of one `[axis, inner]` block.
fn sum(out: &mut [Fp61], block: &[Fp61]) {
    if let [out] = out {
        *out = slice::sum(block);
        return;
    }
    for x in block.chunks_exact(out.len()) {
        slice::add(out, x);
    }
}

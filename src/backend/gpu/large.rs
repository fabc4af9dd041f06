//! Operands that no kernel can bind whole (128 MiB on some drivers, 2 GiB on
//! most cards), and products that would take too long in one go: cut into
//! pieces by moving words, which works at any size.

use super::kernels::Kernel;
use super::queue::{Held, Window};
use super::{ALIGN, Gpu, Words, held};
use crate::backend::{Backend, BackendError};
use crate::field::Fp61;
use crate::tensor::{Dims, Patches, View};

/// One side of a strided move: where it begins and what a step of each level adds.
#[derive(Clone, Copy)]
struct Side<'a> {
    held: &'a Held,
    base: usize,
    strides: [usize; 3],
}

impl Side<'_> {
    /// Words from the first to the last that a nest touches.
    fn span(&self, counts: [usize; 3]) -> usize {
        1 + counts.iter().zip(self.strides).map(|(count, stride)| (count - 1) * stride).sum::<usize>()
    }
    fn skip(self, level: usize, steps: usize) -> Self {
        Self { base: self.base + steps * self.strides[level], ..self }
    }
}

impl Gpu {
    /// A view that only moves words.
    pub(super) fn moved(&self, view: &View, inputs: &[&Words]) -> Words {
        self.build(view.output_len(), |out| {
            let row = |counts: [usize; 3]| [counts[1] * counts[2], counts[2], 1];
            match *view {
                View::Transpose { outer, rows, cols } => {
                    let counts = [outer, cols, rows];
                    self.strided(counts, [rows * cols, 1, cols], 0, inputs[0], row(counts), 0, out)
                }
                View::Slice { outer, axis, inner, start, end } => {
                    let counts = [outer, end - start, inner];
                    self.strided(counts, [axis * inner, inner, 1], start * inner, inputs[0], row(counts), 0, out)
                }
                View::Repeat { outer, times, inner } => {
                    let counts = [outer, times, inner];
                    self.strided(counts, [inner, 0, 1], 0, inputs[0], row(counts), 0, out)
                }
                View::Concat { outer, ref axes, inner } => {
                    let total = axes.iter().sum::<usize>() * inner;
                    let mut base = 0;
                    for (axis, x) in axes.iter().zip(inputs) {
                        let counts = [outer, *axis, inner];
                        self.strided(counts, row(counts), 0, x, [total, inner, 1], base, out)?;
                        base += axis * inner;
                    }
                    Ok(())
                }
                View::Sum { .. } | View::Patches(_) => unreachable!("they have kernels of their own"),
            }
        })
    }

    #[allow(clippy::too_many_arguments)] // two sides of three numbers each
    fn strided(
        &self,
        counts: [usize; 3],
        from: [usize; 3],
        from_base: usize,
        x: &Words,
        to: [usize; 3],
        to_base: usize,
        out: &Held,
    ) -> Result<(), super::Lost> {
        let [x] = held([x])?;
        let from = Side { held: x, base: from_base, strides: from };
        self.copy(counts, from, Side { held: out, base: to_base, strides: to });
        Ok(())
    }

    /// Cuts the level that spans most in half until both sides can be bound.
    fn copy(&self, counts: [usize; 3], from: Side<'_>, to: Side<'_>) {
        if counts.contains(&0) {
            return;
        }
        let (read, written) = (from.span(counts), to.span(counts));
        if read.max(written) > self.limits.binding - ALIGN {
            let side = if read > written { from } else { to };
            let widest = (0..3).max_by_key(|level| (counts[*level] - 1) * side.strides[*level]).unwrap_or(0);
            let mut half = counts;
            half[widest] = counts[widest] / 2;
            let mut rest = counts;
            rest[widest] -= half[widest];
            self.copy(half, from, to);
            return self.copy(rest, from.skip(widest, half[widest]), to.skip(widest, half[widest]));
        }
        let window = |side: &Side<'_>, span: usize| side.base / ALIGN * ALIGN..side.base + span;
        let (source, target) = (window(&from, read), window(&to, written));
        let words = counts.iter().product::<usize>();
        let mut params = vec![words as u32, counts[1] as u32, counts[2] as u32, (from.base - source.start) as u32];
        params.extend(from.strides.map(|stride| stride as u32));
        params.push((to.base - target.start) as u32);
        params.extend(to.strides.map(|stride| stride as u32));
        let bound = [
            Window { held: to.held, first: target.start, words: target.len() },
            Window { held: from.held, first: source.start, words: source.len() },
        ];
        self.queue.dispatch(Kernel::Copy, &params, &bound, self.groups(Kernel::Copy, words));
    }

    /// The words under a window, from images that are cut until they can be
    /// bound: by images, planes, then rows.
    pub(super) fn patches(&self, whole: &Patches, x: &Words) -> Words {
        let Patches { batch, channels, rows, columns, window } = *whole;
        let [_, places, block] = whole.dims();
        let [down, across] = window.places(rows, columns);
        let cut = |outer: usize, axis: usize, inner: usize, start: usize, end: usize| {
            self.view(&View::Slice { outer, axis, inner, start, end }, &[x])
        };
        if x.len <= self.limits.binding {
            return self.build(batch * places * block, |out| {
                let [x] = held([x])?;
                let whole = Window { held: x, first: 0, words: batch * channels * rows * columns };
                let [top, left, ..] = window.padding;
                let numbers = [channels, rows, columns].into_iter().chain(window.size).chain(window.stride);
                let numbers: Vec<_> = numbers.chain([top, left, down, across]).map(|v| v as u32).collect();
                for first in (0..batch * places * block).step_by(self.limits.binding) {
                    let words = self.limits.binding.min(batch * places * block - first);
                    let params = [&[words as u32, first as u32], &numbers[..]].concat();
                    let bound = [Window { held: out, first, words }, whole];
                    self.queue.dispatch(Kernel::Patches, &params, &bound, self.groups(Kernel::Patches, words));
                }
                Ok(())
            });
        }
        if batch > 1 || channels > 1 {
            let by_image = batch > 1;
            let all = if by_image { batch } else { channels };
            let halves = [(0, all / 2), (all / 2, all)].map(|(start, end)| {
                let count = end - start;
                let part =
                    if by_image { Patches { batch: count, ..*whole } } else { Patches { channels: count, ..*whole } };
                let inner = x.len / all;
                (count, self.patches(&part, &cut(1, all, inner, start, end)))
            });
            let axes = halves.iter().map(|(count, _)| count * window.size[0] * window.size[1]).collect();
            let join = match by_image {
                true => View::Concat {
                    outer: 1,
                    axes: halves.iter().map(|(count, _)| *count).collect(),
                    inner: places * block,
                },
                false => View::Concat { outer: places, axes, inner: 1 },
            };
            return self.view(&join, &[&halves[0].1, &halves[1].1]);
        }
        // Some places down, and the rows that they touch.
        let some = |first: usize, end: usize| {
            let (from, to) = (first * window.stride[0], (end - 1) * window.stride[0] + window.size[0]);
            let top = window.padding[0];
            let start = from.saturating_sub(top).min(rows);
            let stop = to.saturating_sub(top).min(rows).max(start);
            if start == stop {
                return self.linear((end - first) * across * block, &[], Fp61::ZERO);
            }
            if down == 1 && (start, stop) == (0, rows) {
                return Words {
                    len: block * across,
                    held: Err("the rows under a window are too long".into()),
                    host: None,
                };
            }
            let above = top.saturating_sub(from);
            let mut window = window;
            window.padding[0] = above;
            window.padding[2] = to - from - above - (stop - start);
            self.patches(&Patches { rows: stop - start, window, ..*whole }, &cut(1, rows, columns, start, stop))
        };
        if down == 1 {
            return some(0, 1);
        }
        let join = View::Concat { outer: 1, axes: vec![down / 2, down - down / 2], inner: across * block };
        self.view(&join, &[&some(0, down / 2), &some(down / 2, down)])
    }

    /// Decodes from more nodes than a kernel can bind: row by row.
    pub(super) fn decode_from_many(
        &self,
        at_zero: &[Fp61],
        parity: &[Vec<Fp61>],
        shares: &[&Words],
    ) -> Result<(Words, Option<usize>), BackendError> {
        let n = shares[0].len;
        let row = |row: &[Fp61]| {
            let terms: Vec<_> = row.iter().copied().zip(shares.iter().copied()).collect();
            self.linear(n, &terms, Fp61::ZERO)
        };
        let mut wrong = None;
        for (coefficients, share) in parity.iter().zip(&shares[at_zero.len()..]) {
            let expected = row(coefficients);
            let (_, at) = self.decode(&[Fp61::ONE], &[vec![Fp61::ONE]], &[&expected, share])?;
            wrong = [wrong, at].into_iter().flatten().min();
        }
        let (opened, _) = self.decode(&[Fp61::ONE], &[], &[&row(at_zero)])?;
        Ok((opened, wrong))
    }

    /// Halves the largest dimension until [`Backend::product`] takes the halves.
    pub(super) fn large_product(
        &self,
        (m, k, n): (usize, usize, usize),
        x: &Words,
        y: &Words,
        add: Option<&Words>,
    ) -> Words {
        let cut = |axis: usize, words: &Words, outer: usize, inner: usize| {
            let half = axis / 2;
            let part = |start, end| self.view(&View::Slice { outer, axis, inner, start, end }, &[words]);
            [part(0, half), part(half, axis)]
        };
        let dims = |m, k, n| Dims::Matmul { m, k, n };
        if k >= m.max(n) {
            let ([x0, x1], [y0, y1]) = (cut(k, x, m, 1), cut(k, y, 1, n));
            let first = self.product(dims(m, k / 2, n), &x0, &y0, add);
            return self.product(dims(m, k - k / 2, n), &x1, &y1, Some(&first));
        }
        let (by_rows, axis) = (m >= n, m.max(n));
        let (outer, inner) = if by_rows { (1, n) } else { (m, 1) };
        let added = add.map(|add| cut(axis, add, outer, inner));
        let half = |i: usize, lens: [usize; 2], x: &Words, y: &Words| {
            let dims = if by_rows { dims(lens[i], k, n) } else { dims(m, k, lens[i]) };
            self.product(dims, x, y, added.as_ref().map(|added| &added[i]))
        };
        let lens = [axis / 2, axis - axis / 2];
        let halves = if by_rows {
            let parts = cut(m, x, 1, k);
            [half(0, lens, &parts[0], y), half(1, lens, &parts[1], y)]
        } else {
            let parts = cut(n, y, k, 1);
            [half(0, lens, x, &parts[0]), half(1, lens, x, &parts[1])]
        };
        self.view(&View::Concat { outer, axes: lens.into(), inner }, &[&halves[0], &halves[1]])
    }

    /// Halves the axis, or if it is 1 the batch, until the operand can be bound.
    pub(super) fn large_sum(&self, (outer, axis, inner): (usize, usize, usize), x: &Words) -> Words {
        if axis == 1 {
            return x.clone();
        }
        let half = axis / 2;
        let part = |start, end| {
            let part = self.view(&View::Slice { outer, axis, inner, start, end }, &[x]);
            self.view(&View::Sum { outer, axis: end - start, inner }, &[&part])
        };
        self.linear(outer * inner, &[(Fp61::ONE, &part(0, half)), (Fp61::ONE, &part(half, axis))], Fp61::ZERO)
    }

    /// Halves the batch until the rows of the digit can be bound.
    pub(super) fn large_leaf(
        &self,
        c: &Words,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Words,
        carry: Option<&Words>,
    ) -> (Words, Words) {
        let (n, rows) = (c.len, 1 << bits);
        let lens = [n / 2, n - n / 2];
        let part = |i: usize| {
            let (start, end) = if i == 0 { (0, lens[0]) } else { (lens[0], n) };
            let cut = |outer, words: &Words| self.view(&View::Slice { outer, axis: n, inner: 1, start, end }, &[words]);
            let carry = carry.map(|carry| cut(rows, carry));
            self.leaf(&cut(1, c), thresholds, from, bits, &cut(rows, one_hot), carry.as_ref())
        };
        let ((greater0, equal0), (greater1, equal1)) = (part(0), part(1));
        let join = View::Concat { outer: thresholds.len(), axes: lens.into(), inner: 1 };
        (self.view(&join, &[&greater0, &greater1]), self.view(&join, &[&equal0, &equal1]))
    }
}

//! The GPU: kernels in WGSL, through Vulkan, Metal or Direct3D 12.
//!
//! Words stay on the device from their expansion or upload until a share of
//! them is read for a message. Every kernel equals the CPU's bit for bit (one
//! battery runs on both). How the kernels compute, and what they cost, stands in
//! docs/gpu.md.
//!
//! | file | holds |
//! |---|---|
//! | `adapter` | which devices there are, and opening one |
//! | `kernels` | the sources in `shaders/`, unrolled, and their pipelines |
//! | `queue` | batches, staging, resident buffers, faults |
//! | `large` | operands that no kernel can bind whole, cut into pieces |
//!
//! Errors travel with the words: what cannot be computed (too large, no memory)
//! gives words that are lost, so is everything computed from them, and reading
//! them says why. A device that fails loses all words at once.

pub mod adapter;
mod kernels;
mod large;
mod queue;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::{device as test_device, open as open_test_device, wrong_device};

use std::sync::Arc;

use zeroize::Zeroizing;

pub use self::adapter::{Adapter, Options};
use self::kernels::Kernel;
pub use self::queue::Traffic;
use self::queue::{Held, Queue, Window};
use super::{Backend, BackendError, Host};
use crate::field::Fp61;
use crate::prg::Stream;
use crate::tensor::{Dims, View};

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    queue: Queue,
    adapter: Arc<Adapter>,
    limits: Limits,
    /// 64-bit integers are there and right: see `matmul_wide.wgsl`
    wide: bool,
    /// what the expansion draws again: p, but for tests
    reject: Fp61Mask,
}

/// The low bits that, all set, make a drawn word be drawn again.
#[derive(Clone, Copy)]
struct Fp61Mask(u64);

/// What the device sets, in the units that kernels count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// words of one binding; a multiple of [`ALIGN`]
    binding: usize,
    /// workgroups of one dimension
    groups: u32,
    /// buffers that a kernel may bind
    buffers: u32,
}

/// Where a binding may begin, in words.
const ALIGN: usize = 32;
/// Threads at which a kernel that sums along an axis stops to cut it further.
const BUSY: usize = 1 << 14;
/// Steps along a summed axis that one thread takes: Mesa's llvmpipe leaves all
/// loops of a thread, silently, after 65,535 turns together.
const STEPS: usize = 1 << 15;
/// Multiply-adds of one product, and about those of one batch: some systems
/// take a device away that does not answer for two seconds.
const WORK: usize = 1 << 35;

/// A vector on the device.
#[derive(Clone)]
pub struct Words {
    len: usize,
    /// none if `len` is 0; why there is nothing, if it is lost
    held: Result<Option<Arc<Held>>, Arc<str>>,
    /// the same words on the host, if they are public and were read already
    host: Option<Arc<[Fp61]>>,
}

type Lost = Arc<str>;

impl Gpu {
    /// What the device is.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }
    /// Words that have crossed the bus since the device was opened.
    pub fn traffic(&self) -> Traffic {
        self.queue.traffic()
    }
    /// Whether the matrix product computes with 64-bit integers.
    pub fn is_wide(&self) -> bool {
        self.wide
    }
    /// Why the device is of no use any more, if it failed.
    pub fn fault(&self) -> Option<String> {
        self.queue.fault()
    }
    /// Waits until all work is done and all that was released is wiped.
    pub fn settle(&self) {
        self.queue.settle();
    }
    /// Gives the device up, as a driver may at any time: every later read
    /// fails. For tests of what happens then.
    pub fn destroy(&self) {
        self.queue.destroy();
    }

    fn failed(&self, reason: impl std::fmt::Display) -> BackendError {
        BackendError { backend: "gpu", reason: reason.to_string() }
    }

    /// A vector of n words and what fills it.
    fn build(&self, n: usize, fill: impl FnOnce(&Held) -> Result<(), Lost>) -> Words {
        let made = if n == 0 {
            Ok(None)
        } else {
            self.queue.allocate(n).map_err(Lost::from).and_then(|held| fill(&held).map(|()| Some(Arc::new(held))))
        };
        Words { len: n, held: made, host: None }
    }

    /// Runs a kernel over n words in pieces that can be bound: `params` gets
    /// the first word and the number of words of a piece, `operands` are bound
    /// after `out`, the same piece of each.
    fn piecewise(
        &self,
        kernel: Kernel,
        n: usize,
        out: &Held,
        operands: &[&Held],
        params: impl Fn(usize, usize) -> Vec<u32>,
    ) {
        for first in (0..n).step_by(self.limits.binding) {
            let words = self.limits.binding.min(n - first);
            let mut bound = vec![Window { held: out, first, words }];
            bound.extend(operands.iter().map(|held| Window { held, first, words }));
            let params = Zeroizing::new(params(first, words));
            self.queue.dispatch(kernel, &params, &bound, self.groups(kernel, words));
        }
    }

    /// Enough workgroups for so many words of results, as far as the device
    /// lets; kernels stride over the rest.
    fn groups(&self, kernel: Kernel, words: usize) -> [u32; 2] {
        let each = if matches!(kernel, Kernel::Expand { .. }) { 8 * 64 } else { 256 };
        [u32::try_from(words.div_ceil(each)).unwrap_or(u32::MAX).min(self.limits.groups), 1]
    }

    /// out = constant + Σ k·x, cut where a kernel cannot bind all terms.
    fn combine(&self, n: usize, terms: &[(Fp61, &Held)], constant: Fp61, out: &Held) -> Result<(), Lost> {
        let most = (self.limits.buffers as usize - 2).min(MOST_TERMS);
        if terms.len() > most {
            let (now, later) = terms.split_at(most);
            let part = self.queue.allocate(n)?;
            self.combine(n, now, constant, &part)?;
            let rest: Vec<_> = [(Fp61::ONE, &part)].into_iter().chain(later.iter().copied()).collect();
            return self.combine(n, &rest, Fp61::ZERO, out);
        }
        let kernel = Kernel::Linear { terms: terms.len() as u32 };
        let operands: Vec<_> = terms.iter().map(|(_, x)| *x).collect();
        self.piecewise(kernel, n, out, &operands, |_, words| {
            let mut params = room(4 + 2 * terms.len(), &[words as u32, 0]);
            push(&mut params, constant);
            terms.iter().for_each(|(k, _)| push(&mut params, *k));
            params
        });
        Ok(())
    }

    /// A matrix product whose operands can be bound whole.
    fn matmul(&self, (m, k, n): (usize, usize, usize), x: &Held, y: &Held, add: Option<&Held>, out: &Held) {
        let whole = |held, words| Window { held, first: 0, words };
        let (kernel, tile) = if self.wide {
            (Kernel::MatmulWide { add: add.is_some() }, 64)
        } else {
            (Kernel::MatmulNarrow { add: add.is_some() }, 32)
        };
        let mut bound = vec![whole(out, m * n), whole(x, m * k), whole(y, k * n)];
        bound.extend(add.map(|held| whole(held, m * n)));
        let groups = [n.div_ceil(tile) as u32, m.div_ceil(tile) as u32];
        self.queue.dispatch(kernel, &[m as u32, k as u32, n as u32], &bound, groups);
    }

    /// A product with a row on the left or a column on the right, of which a
    /// tile would waste nearly all.
    fn matvec(
        &self,
        (m, k, n): (usize, usize, usize),
        x: &Held,
        y: &Held,
        add: Option<&Held>,
        out: &Held,
    ) -> Result<(), Lost> {
        // The vector is x for a row, y for a column; words of out are columns.
        let (vector, matrix, columns, by_k, by_j) = if m == 1 { (x, y, n, n, 1) } else { (y, x, m, 1, k) };
        let parts = (BUSY / columns).clamp(1, k.div_ceil(32)).max(k.div_ceil(STEPS));
        let step = k.div_ceil(parts);
        let parts = k.div_ceil(step);
        let partial = if parts == 1 && add.is_none() { None } else { Some(self.queue.allocate(parts * columns)?) };
        let params = [parts * columns, k, columns, step, by_k, by_j].map(|v| v as u32);
        let bound = [
            Window { held: partial.as_ref().unwrap_or(out), first: 0, words: parts * columns },
            Window { held: vector, first: 0, words: k },
            Window { held: matrix, first: 0, words: k * columns },
        ];
        self.queue.dispatch(Kernel::Matvec, &params, &bound, self.groups(Kernel::Matvec, parts * columns));
        match (partial, add) {
            (None, _) => Ok(()),
            (Some(partial), None) => self.sum_parts(1, parts, columns, &partial, out),
            (Some(partial), Some(add)) => {
                let sum = self.queue.allocate(columns)?;
                self.sum_parts(1, parts, columns, &partial, &sum)?;
                self.combine(columns, &[(Fp61::ONE, &sum), (Fp61::ONE, add)], Fp61::ZERO, out)
            }
        }
    }

    /// Sums over the middle axis, in as many steps as keep the device busy;
    /// the operand can be bound whole.
    fn sum_parts(&self, outer: usize, axis: usize, inner: usize, x: &Held, out: &Held) -> Result<(), Lost> {
        let parts = (BUSY / (outer * inner)).clamp(1, axis.div_ceil(32)).max(axis.div_ceil(STEPS));
        let step = axis.div_ceil(parts);
        let parts = axis.div_ceil(step);
        let partial = if parts > 1 { Some(self.queue.allocate(outer * parts * inner)?) } else { None };
        let words = outer * parts * inner;
        let params = [words, axis, inner, parts, step].map(|v| v as u32);
        let bound = [
            Window { held: partial.as_ref().unwrap_or(out), first: 0, words },
            Window { held: x, first: 0, words: outer * axis * inner },
        ];
        self.queue.dispatch(Kernel::Sum, &params, &bound, self.groups(Kernel::Sum, words));
        partial.map_or(Ok(()), |partial| self.sum_parts(outer, parts, inner, &partial, out))
    }
}

/// Terms of one pass of a linear combination: registers for their coefficients.
const MOST_TERMS: usize = 16;

/// Parameters of a known length, and the first of them. Some are keys, and a
/// vector that grows leaves what it held behind.
fn room(len: usize, first: &[u32]) -> Vec<u32> {
    let mut params = Vec::with_capacity(len);
    params.extend(first);
    params
}

fn push(params: &mut Vec<u32>, word: Fp61) {
    assert!(params.capacity() - params.len() >= 2, "room was made for fewer parameters");
    params.extend([word.word() as u32, (word.word() >> 32) as u32]);
}

/// The buffers of operands, none of which may be empty or lost.
fn held<const N: usize>(words: [&Words; N]) -> Result<[&Held; N], Lost> {
    let mut found = Vec::with_capacity(N);
    for words in words {
        match &words.held {
            Ok(Some(held)) => found.push(&**held),
            Ok(None) => return Err("an operand is empty".into()),
            Err(lost) => return Err(Arc::clone(lost)),
        }
    }
    Ok(found.try_into().unwrap_or_else(|_| unreachable!("one for each")))
}

fn check(words: &Words, len: usize) {
    assert_eq!(words.len, len, "an operand has another length than its plan says");
}

impl Backend for Gpu {
    type Words = Words;

    fn name(&self) -> &'static str {
        "gpu"
    }
    fn load(&self, words: Vec<Fp61>) -> Words {
        let words = Zeroizing::new(words);
        self.build(words.len(), |out| {
            self.queue.upload(out, &words);
            Ok(())
        })
    }
    fn read<'a>(&self, words: &'a Words) -> Result<Host<'a>, BackendError> {
        if let (Some(host), None) = (&words.host, self.fault()) {
            return Ok(Host::Lent(host));
        }
        self.read_all(std::slice::from_ref(words)).map(|words| Host::Copied(Zeroizing::new(words)))
    }
    fn read_all(&self, parts: &[Words]) -> Result<Vec<Fp61>, BackendError> {
        let mut windows = Vec::with_capacity(parts.len());
        for part in parts {
            if let Some(held) = part.held.as_ref().map_err(|lost| self.failed(lost))? {
                windows.push(Window { held, first: 0, words: part.len });
            }
        }
        let mut words = self.queue.download(&windows).map_err(|reason| self.failed(reason))?;
        Ok(std::mem::take(&mut *words))
    }
    fn len(&self, words: &Words) -> usize {
        words.len
    }

    fn linear(&self, n: usize, terms: &[(Fp61, &Words)], constant: Fp61) -> Words {
        terms.iter().for_each(|(_, x)| check(x, n));
        self.build(n, |out| {
            let terms: Result<Vec<_>, Lost> = terms.iter().map(|(k, x)| held([x]).map(|[x]| (*k, x))).collect();
            self.combine(n, &terms?, constant, out)
        })
    }
    fn product(&self, dims: Dims, x: &Words, y: &Words, add: Option<&Words>) -> Words {
        let (left, right, len) = dims.lens();
        check(x, left);
        check(y, right);
        add.into_iter().for_each(|add| check(add, len));
        if let Dims::Matmul { m, k, n } = dims
            && ([left, right, len].iter().any(|words| *words > self.limits.binding)
                || (m > 1 && n > 1 && (k > STEPS || m * k * n > WORK)))
        {
            return self.large_product((m, k, n), x, y, add);
        }
        self.build(len, |out| {
            let [x, y] = held([x, y])?;
            let add = add.map(|add| held([add])).transpose()?.map(|[add]| add);
            match dims {
                Dims::Elementwise(n) => {
                    let operands: Vec<_> = [x, y].into_iter().chain(add).collect();
                    let kernel = Kernel::Product { add: add.is_some() };
                    self.piecewise(kernel, n, out, &operands, |_, words| vec![words as u32]);
                }
                Dims::Matmul { m, k, n } if m == 1 || n == 1 => self.matvec((m, k, n), x, y, add, out)?,
                Dims::Matmul { m, k, n } => self.matmul((m, k, n), x, y, add, out),
            }
            Ok(())
        })
    }
    fn view(&self, view: &View, inputs: &[&Words]) -> Words {
        let lens = view.input_lens();
        assert_eq!(inputs.len(), lens.len(), "a view has another number of inputs than its plan says");
        inputs.iter().zip(&lens).for_each(|(x, len)| check(x, *len));
        if view.moves_nothing() {
            return inputs[0].clone();
        }
        match *view {
            View::Sum { outer, axis, inner } if outer * axis * inner > self.limits.binding => {
                self.large_sum((outer, axis, inner), inputs[0])
            }
            View::Sum { outer, axis, inner } => self.build(outer * inner, |out| {
                let [x] = held([inputs[0]])?;
                self.sum_parts(outer, axis, inner, x, out)
            }),
            View::Patches(ref patches) => self.patches(patches, inputs[0]),
            _ => self.moved(view, inputs),
        }
    }
    fn expand(&self, n: usize, streams: &[(Fp61, Stream)], add: Option<&Words>) -> Words {
        add.into_iter().for_each(|add| check(add, n));
        self.build(n, |out| {
            let add = add.map(|add| held([add])).transpose()?.map(|[add]| add);
            let kernel = Kernel::Expand { add: add.is_some() };
            let operands: Vec<_> = add.into_iter().collect();
            self.piecewise(kernel, n, out, &operands, |first, words| {
                let Fp61Mask(reject) = self.reject;
                // A piece begins with a block: pieces are multiples of eight words.
                let first = [words as u32, streams.len() as u32, (first / 8) as u32];
                let mut params = room(6 + 10 * streams.len(), &first);
                params.extend([reject as u32, (reject >> 32) as u32, 0]);
                for (k, stream) in streams {
                    stream.key_words(|word| params.push(word));
                    push(&mut params, *k);
                }
                params
            });
            Ok(())
        })
    }
    fn beaver(&self, dims: Dims, c: &Words, d: &Words, e: &Words, a: &Words, b: &Words, k: Fp61) -> Words {
        let (left, right, len) = dims.lens();
        [(c, len), (d, left), (a, left), (e, right), (b, right)].iter().for_each(|(words, len)| check(words, *len));
        match dims {
            Dims::Elementwise(n) => self.build(n, |out| {
                let operands = held([c, d, e, a, b])?;
                self.piecewise(Kernel::Beaver, n, out, &operands, |_, words| {
                    let mut params = room(4, &[words as u32, 0]);
                    push(&mut params, k);
                    params
                });
                Ok(())
            }),
            // D·b + (a + k·D)·E + c, the sums in the products' epilogues.
            Dims::Matmul { .. } => {
                let shifted = self.linear(left, &[(Fp61::ONE, a), (k, d)], Fp61::ZERO);
                let sum = self.product(dims, d, b, Some(c));
                self.product(dims, &shifted, e, Some(&sum))
            }
        }
    }
    fn shift(
        &self,
        c: &Words,
        thresholds: &[i64],
        by: u8,
        high: &Words,
        msb: &Words,
        public: Fp61,
        constant: Fp61,
    ) -> Words {
        assert!(by <= 61, "a shift by {by} leaves nothing of 61 bits");
        check(high, c.len);
        check(msb, c.len);
        self.build(thresholds.len() * c.len, |out| {
            let operands = held([c, high, msb])?;
            for (row, threshold) in thresholds.iter().enumerate() {
                self.rows(Kernel::Shift, c.len, row, &[out], &operands, |words, base| {
                    let first = [words as u32, by.into(), *threshold as u32, (*threshold >> 32) as u32];
                    let mut params = room(11, &first);
                    push(&mut params, public);
                    push(&mut params, constant);
                    push(&mut params, Fp61::reduce(1 << (61 - by)));
                    params.push(base as u32);
                    params
                });
            }
            Ok(())
        })
    }
    fn leaf(
        &self,
        c: &Words,
        thresholds: &[i64],
        from: u8,
        bits: u8,
        one_hot: &Words,
        carry: Option<&Words>,
    ) -> (Words, Words) {
        let rows = c.len << bits;
        check(one_hot, rows);
        carry.into_iter().for_each(|carry| check(carry, rows));
        if rows > self.limits.binding {
            return self.large_leaf(c, thresholds, from, bits, one_hot, carry);
        }
        let n = thresholds.len() * c.len;
        let mut second = Ok(None);
        let greater = self.build(n, |greater| {
            let equal = self.queue.allocate(n)?;
            let [c_held, one_hot] = held([c, one_hot])?;
            let carry = carry.map(|carry| held([carry])).transpose()?.map(|[carry]| carry);
            let kernel = Kernel::Leaf { carry: carry.is_some() };
            let tables: Vec<_> = [one_hot].into_iter().chain(carry).collect();
            for (row, threshold) in thresholds.iter().enumerate() {
                // The rows of a digit lie c.len apart, so c is one piece here.
                let start = row * c.len / ALIGN * ALIGN;
                let base = row * c.len - start;
                let result = |held| Window { held, first: start, words: base + c.len };
                let mut bound = vec![result(greater), result(&equal), Window { held: c_held, first: 0, words: c.len }];
                bound.extend(tables.iter().map(|held| Window { held, first: 0, words: rows }));
                let params =
                    [c.len as u32, from.into(), *threshold as u32, (*threshold >> 32) as u32, 1 << bits, base as u32];
                self.queue.dispatch(kernel, &params, &bound, self.groups(kernel, c.len));
            }
            second = Ok(Some(Arc::new(equal)));
            Ok(())
        });
        let second = if let Err(lost) = &greater.held { Err(Arc::clone(lost)) } else { second };
        (greater, Words { len: n, held: second, host: None })
    }
    fn decode(
        &self,
        at_zero: &[Fp61],
        parity: &[Vec<Fp61>],
        shares: &[&Words],
    ) -> Result<(Words, Option<usize>), BackendError> {
        let n = shares[0].len;
        shares.iter().for_each(|share| check(share, n));
        if shares.len() as u32 + 3 > self.limits.buffers {
            return self.decode_from_many(at_zero, parity, shares);
        }
        let flag = self.queue.allocate(1).map_err(|reason| self.failed(reason))?;
        let opened = self.build(n, |out| {
            let shares: Result<Vec<_>, Lost> = shares.iter().map(|share| held([share]).map(|[held]| held)).collect();
            let shares = shares?;
            let kernel = Kernel::Decode { base: at_zero.len() as u32, shares: shares.len() as u32 };
            for first in (0..n).step_by(self.limits.binding) {
                let words = self.limits.binding.min(n - first);
                let mut bound = vec![Window { held: out, first, words }, Window { held: &flag, first: 0, words: 1 }];
                bound.extend(shares.iter().map(|held| Window { held, first, words }));
                let coefficients = at_zero.len() * (1 + parity.len());
                let mut params = room(4 + 2 * coefficients, &[words as u32, first as u32, n as u32, 0]);
                at_zero.iter().chain(parity.iter().flatten()).for_each(|k| push(&mut params, *k));
                self.queue.dispatch(kernel, &params, &bound, self.groups(kernel, words));
            }
            Ok(())
        });
        // Both in one trip: the words are public and the transcript wants them.
        let Some(held) = opened.held.as_ref().map_err(|lost| self.failed(lost))? else { return Ok((opened, None)) };
        let parts = [Window { held, first: 0, words: n }, Window { held: &flag, first: 0, words: 1 }];
        let words = self.queue.download(&parts).map_err(|reason| self.failed(reason))?;
        let wrong = words[n].word() as usize;
        let host = Some(words[..n].into());
        Ok((Words { host, ..opened }, (wrong > 0).then(|| n - wrong)))
    }
}

impl Gpu {
    /// Runs a kernel that writes row number `row` of n words: the row may begin
    /// anywhere, a binding may not, so `params` gets the row's base in it.
    fn rows(
        &self,
        kernel: Kernel,
        n: usize,
        row: usize,
        outs: &[&Held],
        operands: &[&Held],
        params: impl Fn(usize, usize) -> Vec<u32>,
    ) {
        let piece = self.limits.binding - ALIGN;
        for first in (0..n).step_by(piece) {
            let words = piece.min(n - first);
            let at = row * n + first;
            let start = at / ALIGN * ALIGN;
            let mut bound: Vec<_> =
                outs.iter().map(|held| Window { held, first: start, words: at - start + words }).collect();
            bound.extend(operands.iter().map(|held| Window { held, first, words }));
            let params = Zeroizing::new(params(words, at - start));
            self.queue.dispatch(kernel, &params, &bound, self.groups(kernel, words));
        }
    }
}

//! The tests that every backend passes: each kernel against a reference that
//! is written here, on integers, as plainly as possible.

use super::Backend;
use crate::field::{Fp61, P, Parts};
use crate::prg::{Address, Domain, PrgKey, Stream};
use crate::tensor::{Dims, Patches, View, Window};

/// Lengths around the sizes of lanes, strips and tasks.
const LENGTHS: [usize; 9] = [0, 1, 2, 63, 64, 65, 257, 513, 100_003];

/// Runs every test. Random words have the fixed seeds written beside them, so
/// a failure names its case and can be run again.
pub fn run<B: Backend>(backend: B) {
    let b = &backend;
    resident(b);
    parts(b);
    linear(b);
    products(b);
    all_pairs(b);
    matrix_products(b);
    beaver(b);
    views(b);
    expand(b);
    expand_ahead(b);
    shift(b);
    leaf(b);
    decode(b);
}

fn resident<B: Backend>(b: &B) {
    let (mut parts, mut all) = (Vec::new(), Vec::new());
    for n in LENGTHS {
        let words = random(n, 1);
        let held = b.load(words.clone());
        assert_eq!(b.len(&held), n);
        equal("load and read", b, &held.clone(), &words);
        parts.push(held);
        all.extend(words);
    }
    assert!(b.read_all(&parts).unwrap() == all);
    assert_eq!(b.read_all(&parts[..1]).unwrap(), []);
    assert_eq!(b.read_all(&[]).unwrap(), []);
    // Of vectors that somebody else has too, and of vectors that nobody has.
    assert!(b.take_all(parts.clone()).unwrap() == all);
    for part in parts {
        let words = b.read(&part).unwrap().to_vec();
        assert!(b.take_all(vec![part.clone()]).unwrap() == words);
        assert!(b.read(&part).unwrap()[..] == words);
        assert!(b.take_all(vec![part]).unwrap() == words);
    }
}

fn parts<B: Backend>(b: &B) {
    for n in LENGTHS {
        let (words, more) = (random(n, 4), random(n, 5));
        let sum = reference(n, |i| wide(words[i]) + wide(more[i]));
        let (third, half) = (n / 3, n / 2);
        let lying: Parts<'_> =
            [&more[..third], &more[third..third], &more[third..half], &more[half..]].into_iter().collect();
        equal("words from several places", b, &b.load_parts(&lying), &more);
        equal("a sum with them", b, &b.add_parts(b.load(words.clone()), &lying), &sum);
        let held = b.load(words.clone());
        equal("a sum of what others have", b, &b.add_parts(held.clone(), &lying), &sum);
        equal("what others have", b, &held, &words);
        for range in [0..n, third..half, half..n, n..n] {
            let part = b.part(&held, range.clone());
            assert_eq!(b.len(&part), range.len());
            equal("a part", b, &part, &words[range.clone()]);
            equal("a part of a part", b, &b.part(&part, 0..range.len() / 2), &words[range.clone()][..range.len() / 2]);
            assert!(b.take_all(vec![part.clone()]).unwrap() == words[range.clone()]);
            // In place only where nobody has any of the whole.
            let add = b.load(more[range.clone()].to_vec());
            equal("a sum with a part", b, &b.add(part, &add), &sum[range.clone()]);
            equal("the whole", b, &held, &words);
            let alone = b.part(&b.load(words.clone()), range.clone());
            equal("a sum with a part alone", b, &b.add(alone, &add), &sum[range.clone()]);
        }
    }
}

fn linear<B: Backend>(b: &B) {
    let coefficients = [0, 1, P - 1, 2, P / 2, 0x0123_4567_89ab_cdef].map(|w| Fp61::new(w).unwrap());
    for n in LENGTHS {
        for count in 0..=coefficients.len() {
            for constant in [Fp61::ZERO, Fp61::ONE, top()] {
                let words: Vec<_> = (0..count).map(|i| random(n, 10 + i as u64)).collect();
                let held: Vec<_> = words.iter().map(|w| b.load(w.clone())).collect();
                // Another coefficient comes first each time.
                let terms: Vec<_> = (0..count).map(|i| (coefficients[(i + count) % 6], &held[i])).collect();
                let expected = reference(n, |i| {
                    let sum = (0..count).map(|t| mul(coefficients[(t + count) % 6], words[t][i])).sum::<u128>();
                    sum + wide(constant)
                });
                equal(&format!("linear, {count} terms"), b, &b.linear(n, &terms, constant), &expected);
            }
        }
    }
}

fn products<B: Backend>(b: &B) {
    for n in LENGTHS {
        for (x, y) in [(random(n, 2), random(n, 3)), (vec![top(); n], vec![top(); n]), (edges(n, 0), edges(n, 1))] {
            let (held_x, held_y, dims) = (b.load(x.clone()), b.load(y.clone()), Dims::Elementwise(n));
            equal(
                "elementwise product",
                b,
                &b.product(dims, &held_x, &held_y, None),
                &reference(n, |i| mul(x[i], y[i])),
            );
            let sum = b.product(dims, &held_x, &held_y, Some(&held_x));
            equal("elementwise product and sum", b, &sum, &reference(n, |i| mul(x[i], y[i]) + wide(x[i])));
        }
    }
}

/// Every word at a border of limbs, digits or the field with every other.
fn all_pairs<B: Backend>(b: &B) {
    let borders = [13, 26, 30, 31, 32, 39, 48, 52, 59, 60].map(|bit| 1u64 << bit);
    let words: Vec<_> = [0, 1, 2, 3, P / 2, P / 2 + 1, P - 3, P - 2, P - 1]
        .into_iter()
        .chain(borders.into_iter().flat_map(|border| [border - 1, border, border + 1, P - border]))
        .map(|word| Fp61::new(word).unwrap())
        .collect();
    let n = words.len();
    let pair = |i: usize| (words[i / n], words[i % n]);
    let side = |side: fn((Fp61, Fp61)) -> Fp61| (0..n * n).map(|i| side(pair(i))).collect::<Vec<_>>();
    let (x, y) = (b.load(side(|pair| pair.0)), b.load(side(|pair| pair.1)));
    let products = reference(n * n, |i| mul(pair(i).0, pair(i).1));
    equal("all products", b, &b.product(Dims::Elementwise(n * n), &x, &y, None), &products);
    let (column, row) = (b.load(words.clone()), b.load(words.clone()));
    equal("an outer product", b, &b.product(Dims::Matmul { m: n, k: 1, n }, &column, &row, None), &products);
    for k in [Fp61::ONE, top(), Fp61::reduce(1 << 59)] {
        let sums = reference(n * n, |i| wide(pair(i).0) + mul(k, pair(i).1));
        equal("all sums", b, &b.linear(n * n, &[(Fp61::ONE, &x), (k, &y)], Fp61::ZERO), &sums);
    }
    // c = a = b = y, d = e = x: y + 2xy + x².
    let combined = reference(n * n, |i| wide(pair(i).1) + 2 * wide(products[i]) + mul(pair(i).0, pair(i).0));
    let beaver = b.beaver(Dims::Elementwise(n * n), &y, &x, &x, &y, &y, Fp61::ONE);
    equal("all combinations", b, &beaver, &combined);
}

/// Awkward shapes: vectors on either side, remainders of every tile, more than
/// one fold of 64, more rows than one task takes.
const SHAPES: [(usize, usize, usize); 24] = [
    (1, 1, 1),
    (1, 5, 1),
    (1, 1, 7),
    (7, 1, 1),
    (2, 3, 4),
    (3, 2, 5),
    (4, 4, 4),
    (5, 63, 6),
    (6, 64, 7),
    (7, 65, 9),
    (8, 128, 3),
    (9, 129, 2),
    (1, 300, 33),
    (2, 300, 33),
    (3, 300, 33),
    (33, 300, 1),
    (5, 1000, 1),
    (31, 513, 17),
    (257, 3, 5),
    (3, 5, 257),
    (130, 70, 50),
    (1030, 64, 30),
    (2, 70_001, 2),
    (300, 257, 1),
];

fn matrix_products<B: Backend>(b: &B) {
    for (m, k, n) in SHAPES {
        let dims = Dims::Matmul { m, k, n };
        for (x, y) in [
            (random(m * k, 4), random(k * n, 5)),
            (vec![top(); m * k], vec![top(); k * n]),
            (edges(m * k, 0), edges(k * n, 1)),
        ] {
            let (held_x, held_y) = (b.load(x.clone()), b.load(y.clone()));
            let expected = matrix_reference(m, k, n, &x, &y);
            equal(&format!("{dims:?}"), b, &b.product(dims, &held_x, &held_y, None), &expected);
            let add = edges(m * n, 3);
            let expected = reference(m * n, |i| wide(expected[i]) + wide(add[i]));
            let sum = b.product(dims, &held_x, &held_y, Some(&b.load(add)));
            equal(&format!("{dims:?} and sum"), b, &sum, &expected);
        }
    }
}

fn beaver<B: Backend>(b: &B) {
    let shapes = SHAPES.into_iter().map(|(m, k, n)| Dims::Matmul { m, k, n });
    for dims in LENGTHS.into_iter().map(Dims::Elementwise).chain(shapes) {
        let (left, right, len) = dims.lens();
        for (seed, k) in [(20, Fp61::ZERO), (30, Fp61::ONE), (40, -Fp61::ONE), (50, random(1, 6)[0]), (0, top())] {
            // Seed 0: every word is p − 1.
            let fill = |n, i: u64| if seed == 0 { vec![top(); n] } else { random(n, seed + i) };
            let (c, d, e, a, bb) = (fill(len, 0), fill(left, 1), fill(right, 2), fill(left, 3), fill(right, 4));
            let held = [&c, &d, &e, &a, &bb].map(|w| b.load(w.clone()));
            let product = |x: &[Fp61], y: &[Fp61]| match dims {
                Dims::Elementwise(n) => reference(n, |i| mul(x[i], y[i])),
                Dims::Matmul { m, k, n } => matrix_reference(m, k, n, x, y),
            };
            let (db, ae, de) = (product(&d, &bb), product(&a, &e), product(&d, &e));
            let expected = reference(len, |i| wide(c[i]) + wide(db[i]) + wide(ae[i]) + mul(k, de[i]));
            let result = b.beaver(dims, &held[0], &held[1], &held[2], &held[3], &held[4], k);
            equal(&format!("beaver, {dims:?}, k = {k:?}"), b, &result, &expected);
        }
    }
}

fn views<B: Backend>(b: &B) {
    let sizes =
        [(1, 1, 1), (2, 3, 5), (1, 1, 9), (1, 9, 1), (3, 17, 8), (7, 9, 1), (1, 300, 70), (40, 64, 33), (2, 1, 9)];
    for (outer, axis, inner) in sizes {
        let x = random(outer * axis * inner, 7);
        let at = |o: usize, a: usize, i: usize| x[(o * axis + a) * inner + i];
        let check = |view: View, expected: Vec<Fp61>| {
            equal(&format!("{view:?}"), b, &b.view(&view, &[&b.load(x.clone())]), &expected);
        };

        let transposed = nest(outer, inner, axis, |o, i, a| at(o, a, i));
        check(View::Transpose { outer, rows: axis, cols: inner }, transposed);
        for (start, end) in [(0, axis), (0, 1), (axis - 1, axis), (axis / 3, axis / 2 + 1)] {
            let sliced = nest(outer, end - start, inner, |o, a, i| at(o, start + a, i));
            check(View::Slice { outer, axis, inner, start, end }, sliced);
        }
        for times in [1, 2, 5] {
            let repeated = nest(outer, times, axis * inner, |o, _, i| x[o * axis * inner + i]);
            check(View::Repeat { outer, times, inner: axis * inner }, repeated);
            let stretched = nest(outer * axis * inner, times, 1, |o, _, _| x[o]);
            check(View::Repeat { outer: outer * axis * inner, times, inner: 1 }, stretched);
        }
        let summed = nest(outer, 1, inner, |o, _, i| (0..axis).map(|a| at(o, a, i)).sum());
        check(View::Sum { outer, axis, inner }, summed);

        let (short, long) = (random(outer * inner, 8), random(outer * (axis + 2) * inner, 9));
        let axes = vec![axis, 1, axis + 2];
        let joined = nest(outer, 2 * axis + 3, inner, |o, a, i| match a {
            a if a < axis => at(o, a, i),
            a if a == axis => short[o * inner + i],
            a => long[(o * (axis + 2) + a - axis - 1) * inner + i],
        });
        let parts = [x.clone(), short, long].map(|w| b.load(w));
        let view = View::Concat { outer, axes, inner };
        equal(&format!("{view:?}"), b, &b.view(&view, &[&parts[0], &parts[1], &parts[2]]), &joined);
        check(View::Concat { outer, axes: vec![axis], inner }, x.clone());
    }
    patches(b);
    let most = vec![top(); 100_003];
    let sum = b.view(&View::Sum { outer: 1, axis: most.len(), inner: 1 }, &[&b.load(most)]);
    equal("a sum of words p − 1", b, &sum, &[Fp61::from_i64(-100_003)]);
}

fn patches<B: Backend>(b: &B) {
    let tall = Window { size: [4, 1], stride: [3, 2], padding: [3, 0, 1, 0] };
    let wide = Window { size: [1, 5], stride: [2, 7], padding: [0, 4, 2, 9] };
    let far = Window { size: [2, 2], stride: [1, 1], padding: [3, 2, 2, 3] };
    let cases = [
        (1, 1, 1, 1, Window::tiles(1)),
        (3, 1, 4, 5, Window::tiles(1)),
        (2, 3, 4, 5, Window::tiles(1)),
        (2, 3, 4, 5, Window { size: [4, 5], ..Window::tiles(1) }),
        (2, 3, 5, 6, Window::sliding(3, 1)),
        (2, 3, 5, 6, Window::sliding(3, 0)),
        (2, 3, 5, 6, Window::tiles(2)),
        (1, 2, 9, 4, tall),
        (3, 2, 4, 9, wide),
        (2, 2, 3, 1, far),
        (2, 1, 28, 28, Window::sliding(5, 2)),
        (1, 1, 130, 70, Window { stride: [2, 1], ..Window::sliding(3, 1) }),
        (4, 20, 12, 12, Window::sliding(3, 1)),
    ];
    for (batch, channels, rows, columns, window) in cases {
        let x = random(batch * channels * rows * columns, 14);
        let [down, across] = window.places(rows, columns);
        let mut expected = Vec::new();
        for (image, row, column) in
            (0..batch * down * across).map(|i| (i / (down * across), i / across % down, i % across))
        {
            for (channel, dy) in (0..channels * window.size[0]).map(|i| (i / window.size[0], i % window.size[0])) {
                for dx in 0..window.size[1] {
                    let y = (row * window.stride[0] + dy) as isize - window.padding[0] as isize;
                    let at = (column * window.stride[1] + dx) as isize - window.padding[1] as isize;
                    let inside = (0..rows as isize).contains(&y) && (0..columns as isize).contains(&at);
                    let plane = (image * channels + channel) * rows * columns;
                    let word = if inside { x[plane + y as usize * columns + at as usize] } else { Fp61::ZERO };
                    expected.push(word);
                }
            }
        }
        let view = View::Patches(Patches { batch, channels, rows, columns, window });
        equal(&format!("{view:?}"), b, &b.view(&view, &[&b.load(x)]), &expected);
    }
}

fn expand<B: Backend>(b: &B) {
    let coefficients = [Fp61::ONE, top(), random(1, 11)[0], Fp61::ZERO];
    for n in LENGTHS {
        for count in 0..=4 {
            let streams: Vec<_> = (0..count).map(|i| (coefficients[i], stream(90 + i as u64))).collect();
            let words: Vec<_> = (0..count).map(|i| random(n, 90 + i as u64)).collect();
            let expected = reference(n, |i| (0..count).map(|s| mul(coefficients[s], words[s][i])).sum());
            equal(&format!("expand, {count} streams"), b, &b.expand(n, &streams, None), &expected);
            let add = edges(n, 2);
            let sum = reference(n, |i| wide(expected[i]) + wide(add[i]));
            equal(&format!("expand, {count} streams and sum"), b, &b.expand(n, &streams, Some(&b.load(add))), &sum);
            if count > 1 {
                let last = [(coefficients[count - 1], stream(90))];
                let expected = reference(n, |i| mul(coefficients[count - 1], words[0][i]));
                equal("expand, one stream scaled", b, &b.expand(n, &last, None), &expected);
            }
        }
    }
}

const THRESHOLDS: [i64; 6] = [0, 1, -1, 1 << 59, -(1 << 59), 12345 << 16];

/// The digit of c − T over the integers.
/// In pieces, and then corrected, it is the same.
fn expand_ahead<B: Backend>(b: &B) {
    for n in [0, 1, 513, 1 << 18] {
        let streams = [(top(), stream(7)), (Fp61::ONE, stream(8)), (Fp61::reduce(5), stream(9))];
        let add = b.load(random(n, 4));
        let (mut made, mut pieces) = (b.expand_more(n, &streams, None), 1);
        while made.1 < n {
            let before = made.1;
            made = b.expand_more(n, &streams, Some(made));
            assert!(made.1 > before);
            pieces += 1;
        }
        assert!(pieces < 10);
        let (expected, kept) = (b.expand(n, &streams, None), made.0.clone());
        equal("expand in pieces", b, &made.0, &b.read(&expected).unwrap());
        let sum = b.expand(n, &streams, Some(&add));
        let sum = b.read(&sum).unwrap();
        equal("words that another has, and a sum", b, &b.add(made.0, &add), &sum);
        equal("what another has", b, &kept, &b.read(&expected).unwrap());
        equal("words in their place, and a sum", b, &b.add(kept, &add), &sum);
    }
}

fn shifted_down(c: Fp61, threshold: i64, by: u8) -> i128 {
    (i128::from(c.word()) - i128::from(threshold)).div_euclid(1 << by)
}

fn shift<B: Backend>(b: &B) {
    for n in LENGTHS {
        for by in [0, 1, 16, 31, 59, 60, 61] {
            for thresholds in [&THRESHOLDS[..1], &THRESHOLDS, &[]] {
                let c = edges(n, u64::from(by));
                let (high, msb) = (edges(n, 77), edges(n, 78));
                let held = [&c, &high, &msb].map(|w| b.load(w.clone()));
                for (public, constant) in
                    [(Fp61::ZERO, Fp61::ZERO), (Fp61::ONE, -Fp61::ONE), (random(1, 6)[0], random(1, 7)[0])]
                {
                    let word = |t: i64, i: usize| {
                        let quotient = shifted_down(c[i], t, by).rem_euclid(i128::from(P)) as u128;
                        let wrap = if c[i].word() >> 60 == 1 { 0 } else { wide(Fp61::reduce(1 << (61 - by))) };
                        let minus_high = u128::from(P) - wide(high[i]);
                        quotient * wide(public) % u128::from(P) + minus_high + wrap * wide(msb[i]) + wide(constant)
                    };
                    let expected: Vec<_> = thresholds.iter().flat_map(|t| reference(n, |i| word(*t, i))).collect();
                    let shifted = b.shift(&held[0], thresholds, by, &held[1], &held[2], public, constant);
                    equal(&format!("shift by {by}"), b, &shifted, &expected);
                }
            }
        }
    }
}

fn leaf<B: Backend>(b: &B) {
    for (n, bits, from) in
        [(1, 1, 0), (63, 4, 0), (64, 4, 27), (65, 2, 59), (257, 4, 57), (513, 3, 60), (10_007, 4, 16)]
    {
        let rows = 1usize << bits;
        let (one_hot, carry) = (random(rows * n, 12), random(rows * n, 13));
        let (held, held_carry) = (b.load(one_hot.clone()), b.load(carry.clone()));
        for thresholds in [&THRESHOLDS[..1], &THRESHOLDS, &[]] {
            let c = edges(n, u64::from(from));
            for with_carry in [false, true] {
                let (mut greater, mut equals) = (Vec::new(), Vec::new());
                for t in thresholds {
                    for (i, c) in c.iter().enumerate() {
                        let u = shifted_down(*c, *t, from).rem_euclid(rows as i128) as usize;
                        let sum: Fp61 = (u + 1..rows).map(|v| one_hot[v * n + i]).sum();
                        let carried = if with_carry && c.word() >> 60 == 0 { carry[u * n + i] } else { Fp61::ZERO };
                        greater.push(sum + carried);
                        equals.push(one_hot[u * n + i]);
                    }
                }
                let carry = with_carry.then_some(&held_carry);
                let (g, p) = b.leaf(&b.load(c.clone()), thresholds, from, bits, &held, carry);
                let case = format!("leaf of {bits} bits from {from}, carry {with_carry}");
                equal(&case, b, &g, &greater);
                equal(&case, b, &p, &equals);
            }
        }
    }
}

/// Shares of words 1, 2, …: random polynomials of a degree at the points 1..=k.
fn decode<B: Backend>(b: &B) {
    let power = |x: usize, e: usize| (0..e).fold(1, |p, _| p * x as u128 % u128::from(P));
    for (degree, k) in [(0, 1), (0, 3), (1, 3), (1, 4), (2, 4), (2, 5), (3, 7), (4, 9), (10, 32)] {
        let base: Vec<u64> = (1..=degree as u64 + 1).collect();
        let lagrange = |x: u64| -> Vec<Fp61> {
            let weight = |i: &u64| {
                let others = base.iter().filter(|j| *j != i);
                let point = |v: u64| Fp61::new(v).unwrap();
                others.map(|j| (point(x) - point(*j)) * (point(*i) - point(*j)).invert()).fold(Fp61::ONE, |a, f| a * f)
            };
            base.iter().map(weight).collect()
        };
        let (at_zero, parity): (_, Vec<_>) = (lagrange(0), (degree as u64 + 2..=k as u64).map(lagrange).collect());
        for n in LENGTHS.into_iter().filter(|n| *n < 1000 || k < 5) {
            let terms: Vec<_> = (0..=degree).map(|e| edges(n, 30 + e as u64)).collect();
            let share = |x: usize| {
                reference(n, |i| (0..=degree).map(|e| wide(terms[e][i]) * power(x, e) % u128::from(P)).sum())
            };
            let shares: Vec<_> = (1..=k).map(share).collect();
            let open = |shares: &[Vec<Fp61>]| {
                let held: Vec<_> = shares.iter().map(|s| b.load(s.clone())).collect();
                b.decode(&at_zero, &parity, &held.iter().collect::<Vec<_>>()).unwrap()
            };
            let (words, wrong) = open(&shares);
            equal(&format!("decode, degree {degree} from {k}"), b, &words, &terms[0]);
            assert_eq!(wrong, None);
            if n == 0 {
                continue;
            }
            for (of, at) in
                (0..k).flat_map(|of| [(of, 0), (of, n / 2), (of, n - 1)]).step_by(if n > 1000 { 5 } else { 1 })
            {
                for lie in [Fp61::ONE, top()] {
                    let mut shares = shares.clone();
                    // Two wrong words: the first is told.
                    shares[of][n - 1] += lie;
                    shares[of][at] += lie + lie;
                    let wrong = open(&shares).1;
                    assert_eq!(wrong, (k > degree + 1).then_some(at), "share {of} of {k}, word {at} of {n}");
                }
            }
        }
    }
}

fn equal<B: Backend>(what: &str, backend: &B, found: &B::Words, expected: &[Fp61]) {
    let found = backend.read(found).unwrap();
    assert_eq!(found.len(), expected.len(), "{what} on {}: length", backend.name());
    if let Some(i) = (0..found.len()).find(|i| found[*i] != expected[*i]) {
        let (found, expected) = (found[i], expected[i]);
        panic!("{what} on {}: word {i} is {found:?}, expected {expected:?}", backend.name());
    }
}

fn reference(n: usize, word: impl Fn(usize) -> u128) -> Vec<Fp61> {
    (0..n).map(|i| Fp61::new((word(i) % u128::from(P)) as u64).unwrap()).collect()
}

fn matrix_reference(m: usize, k: usize, n: usize, x: &[Fp61], y: &[Fp61]) -> Vec<Fp61> {
    let entry = |r: usize, c: usize| (0..k).fold(0, |sum, i| (sum + mul(x[r * k + i], y[i * n + c])) % u128::from(P));
    reference(m * n, |i| entry(i / n, i % n))
}

/// The product as an integer modulo p, so that a few of them can be added.
fn mul(x: Fp61, y: Fp61) -> u128 {
    wide(x) * wide(y) % u128::from(P)
}

fn wide(x: Fp61) -> u128 {
    u128::from(x.word())
}

fn nest(outer: usize, axis: usize, inner: usize, word: impl Fn(usize, usize, usize) -> Fp61) -> Vec<Fp61> {
    let index = |i: usize| word(i / (axis * inner), i / inner % axis, i % inner);
    (0..outer * axis * inner).map(index).collect()
}

fn top() -> Fp61 {
    Fp61::new(P - 1).unwrap()
}

fn stream(seed: u64) -> Stream {
    let key = PrgKey([7; 32]).derive("beaverdam test words", &seed.to_le_bytes());
    key.stream(Address { domain: Domain::Value, input: false, op: 0, part: 0, attempt: 0 })
}

fn random(n: usize, seed: u64) -> Vec<Fp61> {
    let mut words = vec![Fp61::ZERO; n];
    stream(seed).fill(0, &mut words);
    words
}

/// Random words with the edges of the field strewn among them.
fn edges(n: usize, seed: u64) -> Vec<Fp61> {
    let edges = [0, 1, P - 1, P / 2, P / 2 + 1, 1 << 60, (1 << 60) - 1].map(|w| Fp61::new(w).unwrap());
    let mut words = random(n, 1000 + seed);
    for (i, word) in words.iter_mut().enumerate().filter(|(i, _)| i % 3 != 2) {
        *word = edges[(i + seed as usize) % edges.len()];
    }
    words
}

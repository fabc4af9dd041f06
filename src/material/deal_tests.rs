use proptest::prelude::*;

use super::super::{delta_range, zero_address};
use super::*;
use crate::field::slice::encode_words;
use crate::program::graph::Type;
use crate::program::plan::{Demand, InputPlan};
use crate::roster::{Degree, Roster};
use crate::sharing::{Shamir, Sharing, SlotKeys, Spdz, job_keys};
use crate::tensor::{Patches, Shape, Window};

fn owner() -> Arc<SecretKey> {
    Arc::new(SecretKey::insecure_from_seed(5, "owner"))
}
fn dealer(roster: Roster) -> Arc<dyn Dealer> {
    Arc::from(job_keys(&owner().dealing(), &[3; 32], roster))
}
fn place(plan: &Plan) -> StreamPlace {
    StreamPlace { manifest: [1; 32], stream: 0, attempts: 2, words: plan.stream_words }
}

/// A plan that asks for this material and has one input of `input` words.
fn plan(roster: Roster, material: Vec<Material>, input: usize) -> Plan {
    let mut stream_words = 0;
    let place = |material: Material| {
        let words = material.parts().iter().map(|(_, n, dealt)| delta_words(roster, *n, *dealt)).sum();
        let offset = stream_words;
        stream_words += words;
        Demand { material, offset, words }
    };
    let material = material.into_iter().map(place).collect();
    let ty = Type { frac: 0, fixed: false, lo: 0, hi: 1 };
    let shape = Shape::new([input]).unwrap();
    let words = delta_words(roster, input, true);
    Plan {
        roster,
        prims: Vec::new(),
        rounds: Vec::new(),
        sec_lens: Vec::new(),
        pub_lens: Vec::new(),
        bit_lens: Vec::new(),
        constants: Vec::new(),
        material,
        inputs: vec![InputPlan { name: "x".into(), owner: "owner".into(), ty, shape, words }],
        outputs: Vec::new(),
        stream_words,
        declarations: vec![],
    }
}
fn mask(mask: u32) -> MaskRef {
    MaskRef { mask: MaterialId(mask), views: Vec::new() }
}
/// One of each kind, some under views.
fn every_kind(n: usize) -> Vec<Material> {
    let (rows, cols) = (3, 2);
    let transposed = |m| MaskRef { mask: MaterialId(m), views: vec![View::Transpose { outer: 1, rows, cols }] };
    // Two places: zeros above the one, below the other, a row in both.
    let window = Window { size: [3, 2], stride: [2, 1], padding: [1, 0, 1, 0] };
    let windows = Patches { batch: 1, channels: 1, rows, columns: cols, window };
    let windows = MaskRef { mask: MaterialId(4), views: vec![View::Patches(windows)] };
    vec![
        Material::Mask { n },
        Material::Mask { n },
        Material::Triple { dims: Dims::Elementwise(n), a: mask(0), b: mask(1) },
        Material::Zero { n },
        Material::Mask { n: rows * cols },
        Material::Triple { dims: Dims::Matmul { m: cols, k: rows, n: cols }, a: transposed(4), b: mask(4) },
        Material::Triple { dims: Dims::Elementwise(rows * cols), a: transposed(4), b: mask(4) },
        Material::Bits { n, from: 0, shift: 16, digits: Vec::new() },
        Material::Bits { n, from: 0, shift: 31, digits: vec![4, 4, 4, 4, 4, 4, 4, 3] },
        Material::Bits { n, from: 0, shift: 5, digits: vec![2, 3] },
        Material::Bits { n, from: 16, shift: 26, digits: vec![4, 4, 2] },
        Material::Uniform { n, size: 6 },
        Material::Uniform { n, size: 1 << 60 },
        Material::Triple { dims: Dims::Matmul { m: 2, k: 6, n: 1 }, a: windows, b: mask(4) },
    ]
}

fn words(stream: SegmentStream, plan: &Plan) -> Vec<Fp61> {
    let (key, place) = (owner().public(), place(plan));
    let checked = stream.map(|(header, bytes)| header.verify(&key, &place).unwrap().accept(&bytes).unwrap());
    checked.collect::<Vec<_>>().concat()
}
fn dealt(plan: &Plan, attempt: u32) -> Vec<Fp61> {
    let stream =
        SegmentStream::new(Arc::new(plan.clone()), dealer(plan.roster), owner(), place(plan), attempt).unwrap();
    words(stream, plan)
}

/// ⌊size·(r·p + s)/p²⌋ for pairs (r, s) of the stream at an op's own address.
fn uniform_integers(dealer: &dyn Dealer, op: u32, n: usize, size: u64) -> Vec<Fp61> {
    let words = dealer.uniform(address(MaterialId(op), Part::Value, 0), 2 * n);
    let p = u128::from(P);
    let wide = |x: Fp61| u128::from(size) * u128::from(x.word());
    words.chunks(2).map(|pair| Fp61::reduce(((wide(pair[0]) + wide(pair[1]) / p) / p) as u64)).collect()
}

/// What every node draws, opened by all of them.
fn open<S: Sharing<Backend = Cpu>>(nodes: &[S], draw: impl Fn(&S) -> S::Secret) -> Vec<Fp61> {
    let shares: Vec<_> = nodes.iter().map(|node| node.opening(&draw(node))).collect();
    let opened: Vec<_> = nodes
        .iter()
        .map(|n| {
            Cpu.read(&n.decode(Degree::T, &n.roster().slots().collect::<Vec<_>>(), &shares).unwrap().words)
                .unwrap()
                .to_vec()
        })
        .collect();
    assert!(opened.windows(2).all(|pair| pair[0] == pair[1]));
    opened.into_iter().next().unwrap()
}
fn open_part<S: Sharing<Backend = Cpu>>(nodes: &[S], plan: &Plan, delta: &[Fp61], op: u32, part: Part) -> Vec<Fp61> {
    let demand = &plan.material[op as usize];
    let (_, n, dealt) = demand.material.parts().into_iter().find(|(p, ..)| *p == part).unwrap();
    let range = delta_range(plan.roster, demand, part).unwrap();
    let delta = &delta[range.start as usize..range.end as usize];
    assert_eq!(delta.len(), S::delta_words(plan.roster, n, dealt));
    open(nodes, |node| node.draw(address(MaterialId(op), part, 0), n, dealt, delta))
}

/// The battery: all kinds of material open to what they promise.
fn material_opens_right<S: Sharing<Backend = Cpu>>(nodes: &[S], n: usize) {
    let roster = nodes[0].roster();
    let plan = plan(roster, every_kind(n), 1);
    let delta = dealt(&plan, 0);
    assert_eq!(delta.len() as u64, plan.stream_words);
    let part = |op, part| open_part(nodes, &plan, &delta, op, part);
    let value = |op| part(op, Part::Value);

    let (a, b) = (value(0), value(1));
    assert!(a.iter().zip(&b).all(|(a, b)| a != b));
    assert_eq!(value(2), a.iter().zip(&b).map(|(a, b)| *a * *b).collect::<Vec<_>>());

    let m = value(4);
    let transposed: Vec<Fp61> = (0..2).flat_map(|c| (0..3).map(move |r| (r, c))).map(|(r, c)| m[r * 2 + c]).collect();
    let product = |i: usize, j: usize| (0..3).map(|k| transposed[i * 3 + k] * m[k * 2 + j]).sum::<Fp61>();
    assert_eq!(value(5), [product(0, 0), product(0, 1), product(1, 0), product(1, 1)]);
    assert_eq!(value(6), m.iter().zip(&transposed).map(|(x, y)| *x * *y).collect::<Vec<_>>());

    let shown = |from: usize, to: usize, at: usize| (from..to).map(|i| m[i] * m[at + i - from]).sum::<Fp61>();
    assert_eq!(value(13), [shown(0, 4, 2), shown(2, 6, 0)]);

    for (op, lowest, shift, digits) in
        [(7, 0, 16, &[][..]), (8, 0, 31, &[4, 4, 4, 4, 4, 4, 4, 3]), (9, 0, 5, &[2, 3]), (10, 16, 26, &[4, 4, 2])]
    {
        let r: Vec<u64> = value(op).iter().map(|x| x.word()).collect();
        let plain = |f: &dyn Fn(u64) -> u64| r.iter().map(|r| Fp61::new(f(*r)).unwrap()).collect::<Vec<_>>();
        assert_eq!(part(op, Part::High), plain(&|r| r >> shift));
        assert_eq!(part(op, Part::Msb), plain(&|r| r >> 60));
        let mut from = lowest;
        for (i, bits) in digits.iter().enumerate() {
            let digit = |r: u64| (r >> from) % (1 << bits);
            let rows: Vec<_> = (0..1 << bits).flat_map(|v| plain(&|r| u64::from(digit(r) == v))).collect();
            assert_eq!(part(op, Part::Digit(i as u8)), rows);
            if from == 0 {
                let carry: Vec<_> =
                    (0..1 << bits).flat_map(|v| plain(&|r| u64::from(digit(r) == v) * (r >> 60))).collect();
                assert_eq!(part(op, Part::Carry), carry);
            }
            from += bits;
        }
    }

    for (op, size) in [(11, 6), (12, 1 << 60)] {
        let drawn = part(op, Part::High);
        assert_eq!(drawn, uniform_integers(&*dealer(roster), op, n, size));
        assert!(drawn.iter().all(|x| x.word() < size));
    }

    // Inputs, and the other attempt's material, stand at addresses of their own.
    let input = [Fp61::reduce(12_345)];
    let delta = input_corrections(&*dealer(roster), &plan, 0, &input).unwrap();
    assert_eq!(delta.len() as u64, plan.inputs[0].words);
    assert_eq!(open(nodes, |node| node.draw(input_address(0), 1, true, &delta)), input);
}

fn shamir(n: u8, t: u8) -> Vec<Shamir<Cpu>> {
    let roster = Roster::shamir(n, t).unwrap();
    let node = |slot| match dealer(roster).slot_keys(slot) {
        SlotKeys::Shamir(keys) => Shamir::new(roster, slot, keys, Cpu).unwrap(),
        SlotKeys::Spdz(_) => unreachable!(),
    };
    roster.slots().map(node).collect()
}
fn spdz(n: u8) -> Vec<Spdz<Cpu>> {
    let roster = Roster::spdz(n).unwrap();
    let node = |slot| match dealer(roster).slot_keys(slot) {
        SlotKeys::Spdz(key) => Spdz::new(roster, slot, key, Cpu).unwrap(),
        SlotKeys::Shamir(_) => unreachable!(),
    };
    roster.slots().map(node).collect()
}

#[test]
fn shamir_material_opens_to_what_it_promises() {
    material_opens_right(&shamir(4, 1), 70);
    material_opens_right(&shamir(3, 1), 1);
    material_opens_right(&shamir(5, 2), 9);
}

#[test]
fn spdz_material_opens_to_what_it_promises() {
    material_opens_right(&spdz(2), 70);
    material_opens_right(&spdz(3), 1);
}

/// Packed rows are the bits of the words that are dealt beside them, however the
/// stream is cut.
#[test]
fn packed_rows_are_the_bits_of_their_words() {
    let roster = Roster::shamir(4, 1).unwrap();
    let nodes = shamir(4, 1);
    for n in [1, 70, 3 * PIECE + 77] {
        let leaves = vec![(60, Some(0)), (1, Some(2)), (3, None)];
        let kinds = vec![
            Material::Mask { n: 3 },
            Material::Packed { n, quotient: None, leaves: leaves.clone(), sign: 4 },
            Material::Packed { n, quotient: Some(16), leaves: vec![(16, Some(17)), (18, None)], sign: 19 },
            Material::Bit { rows: 3, n },
            Material::Layer { words: 4 },
        ];
        let plan = plan(roster, kinds, 1);
        let delta = dealt(&plan, 0);
        let part = |op: u32, part: Part| {
            let demand = &plan.material[op as usize];
            let (_, len, dealt) = *demand.material.parts().iter().find(|p| p.0 == part).unwrap();
            let range = delta_range(roster, demand, part).unwrap();
            (len, dealt, &delta[range.start as usize..range.end as usize])
        };
        let words = |op: u32, of: Part| {
            let (len, dealt, delta) = part(op, of);
            open(&nodes, |node| node.draw(address(MaterialId(op), of, 0), len, dealt, delta))
        };
        let rows = |op: u32| {
            let total = plan.material[op as usize].material.packed_words();
            let mut rows = match op {
                3 => vec![0; total],
                _ => packed::from_stream(part(op, Part::Rows).2, total),
            };
            dealer(roster).uniform_bits_range(address(MaterialId(op), Part::Rows, 0), 0, &mut rows);
            rows
        };
        let bit = |rows: &[u64], row: usize, i: usize| rows[row * packed::lane(n) + i / 64] >> (i % 64) & 1;
        let (first, second, known) = (rows(1), rows(2), rows(3));
        let (r, s, known_words) = (words(1, Part::Value), words(2, Part::Value), words(3, Part::Value));
        let (high, msb) = (words(2, Part::High), words(2, Part::Msb));
        for i in 0..n {
            let of = |r: Fp61, bit: u8| r.word() >> bit & 1;
            let expected = [of(r[i], 60), of(r[i], 0), of(r[i], 60) & of(r[i], 0), of(r[i], 1), of(r[i], 2)];
            let expected = expected.into_iter().chain([of(r[i], 1) & of(r[i], 2), of(r[i], 3), of(r[i], 4)]);
            expected.enumerate().for_each(|(row, expected)| assert_eq!(bit(&first, row, i), expected, "{row}, {i}"));
            let expected = [of(s[i], 16), of(s[i], 17), of(s[i], 16) & of(s[i], 17), of(s[i], 18), of(s[i], 19)];
            expected.into_iter().enumerate().for_each(|(row, e)| assert_eq!(bit(&second, row, i), e, "{row}, {i}"));
            assert_eq!((high[i].word(), msb[i].word()), (s[i].word() >> 16, s[i].word() >> 60));
            (0..3).for_each(|row| assert_eq!(known_words[row * n + i].word(), bit(&known, row, i)));
        }
    }
    let spdz = plan(Roster::spdz(2).unwrap(), vec![Material::Bit { rows: 1, n: 1 }], 1);
    let stream = SegmentStream::new(Arc::new(spdz.clone()), dealer(spdz.roster), owner(), place(&spdz), 0);
    assert!(stream.err().unwrap().to_string().contains("has no packed bits"));
}

#[test]
fn spdz_material_carries_its_macs() {
    // A draw whose MACs are wrong opens all the same; only the dealer's check
    // of outputs (Σm = α·x) tells.
    let nodes = spdz(3);
    let plan = plan(nodes[0].roster(), every_kind(20), 1);
    let delta = dealt(&plan, 0);
    for (op, demand) in (0u32..).zip(&plan.material) {
        for (part, n, dealt) in demand.material.parts() {
            let range = delta_range(plan.roster, demand, part).unwrap();
            let delta = &delta[range.start as usize..range.end as usize];
            let verify = |delta: &[Fp61]| {
                let shares = nodes.iter().map(|node| {
                    let x = node.draw(address(MaterialId(op), part, 0), n, dealt, delta);
                    (node.slot(), node.output(&x).iter().flat_map(|w| w.as_ref().to_vec()).collect())
                });
                dealer(plan.roster).verify_output(n, &shares.collect::<Vec<_>>()).is_ok()
            };
            assert!(verify(delta), "op {op}, {part:?}");
            let mut bad = delta.to_vec();
            bad[n - 1] += Fp61::ONE;
            assert!(!verify(&bad), "op {op}, {part:?}");
        }
    }
}

#[test]
fn a_zero_sharing_takes_no_delta_and_another_domain() {
    let roster = Roster::shamir(4, 1).unwrap();
    let plan = plan(roster, every_kind(4), 1);
    assert_eq!(plan.material[3].words, 0);
    assert_eq!(delta_range(roster, &plan.material[3], Part::Value), None);
    assert_ne!(zero_address(MaterialId(3), 0), address(MaterialId(3), Part::Value, 0));
}

#[test]
fn every_part_has_an_address_of_its_own() {
    let plan = plan(Roster::spdz(2).unwrap(), every_kind(4), 1);
    let mut seen = std::collections::HashSet::from([input_address(0), input_address(1)]);
    for (op, demand) in (0u32..).zip(&plan.material) {
        for (part, ..) in demand.material.parts() {
            for attempt in 0..2 {
                assert!(seen.insert(address(MaterialId(op), part, attempt)));
            }
        }
    }
}

#[test]
fn attempts_are_dealt_apart() {
    let plan = plan(Roster::shamir(4, 1).unwrap(), every_kind(10), 1);
    let (first, second) = (dealt(&plan, 0), dealt(&plan, 1));
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    assert_eq!(first, dealt(&plan, 0));
}

/// The stream in one piece, op by op, from whole parts: what the pieces must equal.
fn one_shot(plan: &Plan) -> Vec<Fp61> {
    let dealer = dealer(plan.roster);
    let at = |op: usize, part| address(MaterialId(op as u32), part, 0);
    let masks = |op: usize, n| dealer.uniform(at(op, Part::Value), n);
    let mut out = Vec::new();
    for (op, demand) in plan.material.iter().enumerate() {
        for (part, n, dealt) in demand.material.parts() {
            let values = match (&demand.material, part) {
                (Material::Triple { dims, a, b }, _) => {
                    let side = |m: &MaskRef| {
                        let Material::Mask { n } = plan.material[m.mask.0 as usize].material else { panic!() };
                        let whole = Cpu.load(masks(m.mask.0 as usize, n).to_vec());
                        m.views.iter().fold(whole, |w, v| Cpu.view(v, &[&w]))
                    };
                    Cpu.product(*dims, &side(a), &side(b), None).as_ref().to_vec()
                }
                (Material::Bits { n: count, from: lowest, shift, digits }, part) => {
                    let r = masks(op, *count);
                    let digit = |i: u8, v: usize, r: &Fp61| {
                        let from = lowest + digits[..usize::from(i)].iter().sum::<u8>();
                        u64::from((r.word() >> from) % (1 << digits[usize::from(i)]) == v as u64)
                    };
                    let rows = n / count;
                    let words = (0..rows).flat_map(|v| r.iter().map(move |r| (v, r)));
                    words
                        .map(|(v, r)| match part {
                            Part::Value => *r,
                            Part::High => Fp61::reduce(r.word() >> shift),
                            Part::Msb => Fp61::reduce(r.word() >> 60),
                            Part::Digit(i) => Fp61::reduce(digit(i, v, r)),
                            Part::Carry => Fp61::reduce(digit(0, v, r) * (r.word() >> 60)),
                            Part::Rows => unreachable!("these bits are digits"),
                        })
                        .collect()
                }
                (Material::Uniform { size, .. }, _) => uniform_integers(&*dealer, op as u32, n, *size),
                _ => Vec::new(),
            };
            out.extend(dealer.corrections(at(op, part), n, dealt.then_some(&values)));
        }
    }
    out
}

#[test]
fn segments_windows_and_pieces_leave_no_seam() {
    // Ops that straddle pieces, segments and (the last) a window.
    let n = PIECE + 77;
    let mut kinds = every_kind(n);
    kinds.push(Material::Bits { n: 20_001, from: 0, shift: 8, digits: vec![4, 4] });
    let window = WINDOW_SEGMENTS as usize * SEGMENT_WORDS as usize;
    kinds.push(Material::Bits { n: window / 2, from: 0, shift: 16, digits: Vec::new() });
    kinds.push(Material::Triple { dims: Dims::Elementwise(n), a: mask(0), b: mask(1) });
    let plan = plan(Roster::shamir(3, 1).unwrap(), kinds, 1);
    assert!(plan.stream_words > window as u64);
    assert!(dealt(&plan, 0) == one_shot(&plan));
}

#[test]
fn headers_come_in_order_and_fit_their_bytes() {
    let plan = plan(Roster::spdz(2).unwrap(), every_kind(2000), 1);
    let stream = SegmentStream::new(Arc::new(plan.clone()), dealer(plan.roster), owner(), place(&plan), 1).unwrap();
    let mut next = 0;
    for (index, (header, bytes)) in (0u32..).zip(stream) {
        let h = header.claimed();
        assert_eq!((h.index, h.attempt, h.first_word, bytes.len()), (index, 1, next, h.words as usize * 8));
        next += u64::from(h.words);
    }
    assert_eq!(next, plan.stream_words);
}

#[test]
fn the_stream_is_frozen() {
    let plan = plan(Roster::spdz(2).unwrap(), every_kind(3), 1);
    let digest = |bytes: &[u8]| crate::keys::hex(blake3::hash(bytes).as_bytes());
    insta::assert_snapshot!(digest(&encode_words(&dealt(&plan, 0))), @"2820515b122124416fc0f60ca36895ee3d3fdcc9cf675dc449a68ab731f0135f");
    let input = input_corrections(&*dealer(plan.roster), &plan, 0, &[Fp61::ONE]).unwrap();
    insta::assert_snapshot!(digest(&encode_words(&input)), @"15dd2c49cf02e8589bbfb2c8afbbccbb75bdd3ed3633ff1648eed6791181dac1");
}

#[test]
fn an_empty_stream_has_no_segments() {
    let plan = plan(Roster::shamir(4, 1).unwrap(), vec![Material::Mask { n: 5 }, Material::Zero { n: 5 }], 1);
    assert_eq!(plan.stream_words, 0);
    assert!(dealt(&plan, 0).is_empty());
}

#[test]
fn what_cannot_be_dealt_is_refused() {
    let roster = Roster::shamir(4, 1).unwrap();
    let good = plan(roster, every_kind(4), 2);
    let refused = |change: &dyn Fn(&mut Plan, &mut StreamPlace)| {
        let (mut plan, mut place) = (good.clone(), place(&good));
        change(&mut plan, &mut place);
        SegmentStream::new(Arc::new(plan), dealer(roster), owner(), place, 0).err().unwrap().to_string()
    };
    assert!(refused(&|_, place| place.words += 1).contains("the plan needs"));
    assert!(refused(&|_, place| place.attempts = 0).contains("in 0 attempts"));
    assert!(refused(&|plan, _| plan.roster = Roster::spdz(2).unwrap()).contains("SPDZ (2)"));
    assert!(refused(&|plan, _| plan.material[2].offset += 1).contains("op 2 "));
    assert!(refused(&|plan, _| plan.material[9].words += 1).contains("op 9 "));
    let triple = |a| Material::Triple { dims: Dims::Elementwise(4), a, b: mask(1) };
    for bad in [mask(2), mask(99), mask(4)] {
        assert!(refused(&|plan, _| plan.material[2].material = triple(bad.clone())).contains("op 2 "));
    }
    let lossy = View::Slice { outer: 1, axis: 4, inner: 1, start: 0, end: 3 };
    let viewed = MaskRef { mask: MaterialId(0), views: vec![lossy] };
    assert!(refused(&|plan, _| plan.material[2].material = triple(viewed.clone())).contains("does not permute"));

    let input = |number, values: &[Fp61]| input_corrections(&*dealer(roster), &good, number, values).unwrap_err();
    assert_eq!(input(1, &[]), MaterialError::NoInput { number: 1, inputs: 1 });
    assert_eq!(input(0, &[Fp61::ONE]), MaterialError::Input { name: "x".into(), found: 1, expected: 2 });
}

#[test]
fn integers_below_a_size_are_floors_and_uniform() {
    for size in [1u64, 2, 3, 6, 1000, (1 << 59) - 1, 1 << 60] {
        let ends = [0, 1, 2, P / 2, P / 2 + 1, P - 2, P - 1];
        // The pairs beside each border between two integers too.
        let borders =
            [1, 2, size / 2, size - 1].map(|v| (u128::from(v) * u128::from(P)).div_ceil(u128::from(size)) as u64);
        let words: Vec<u64> =
            borders.iter().flat_map(|b| [b.saturating_sub(1), *b]).chain(ends).filter(|w| *w < P).collect();
        for (r, s) in words.iter().flat_map(|r| words.iter().map(move |s| (*r, *s))) {
            let p = u128::from(P);
            let low = u128::from(size) * u128::from(s);
            let expected = (u128::from(size) * u128::from(r) + low / p) / p;
            assert_eq!(u128::from(below(size, r, s)), expected, "{size}, {r}, {s}");
        }
        assert_eq!((below(size, 0, 0), below(size, P - 1, P - 1)), (0, size - 1));
    }
    let plan = plan(Roster::shamir(4, 1).unwrap(), vec![Material::Uniform { n: 1, size: 0 }], 1);
    assert!(check(&plan).unwrap_err().to_string().contains("integers below 0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However the ops lie, the stream equals the one made in one piece.
    #[test]
    fn random_plans_equal_one_shot(
        lens in proptest::collection::vec(1usize..3000, 1..6),
        digits in proptest::collection::vec(1u8..6, 0..5),
        spdz in any::<bool>(),
    ) {
        let mut kinds = Vec::new();
        for n in lens {
            let first = kinds.len() as u32;
            kinds.extend([Material::Mask { n }, Material::Mask { n }]);
            kinds.push(Material::Triple { dims: Dims::Elementwise(n), a: mask(first), b: mask(first + 1) });
            kinds.push(Material::Triple { dims: Dims::Matmul { m: 1, k: n, n: 1 }, a: mask(first), b: mask(first + 1) });
            kinds.push(Material::Bits { n, from: 0, shift: 20, digits: digits.clone() });
            kinds.push(Material::Uniform { n, size: 1 + 3 * n as u64 });
        }
        let roster = if spdz { Roster::spdz(2).unwrap() } else { Roster::shamir(4, 1).unwrap() };
        let plan = plan(roster, kinds, 1);
        prop_assert!(dealt(&plan, 0) == one_shot(&plan));
    }
}

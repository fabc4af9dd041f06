//! Four ends in one place: what they hold together, and what each is told.

use super::*;
use crate::roster::Roster;
use crate::sharing::{Dealer, SlotKeys, job_keys};

fn dealer() -> Box<dyn Dealer> {
    job_keys(&PrgKey([7; 32]), &[1; 32], Roster::shamir(4, 1).unwrap())
}

fn ends() -> Vec<Replicated> {
    let roster = Roster::shamir(4, 1).unwrap();
    let end = |slot| match dealer().slot_keys(slot) {
        SlotKeys::Shamir(keys) => Replicated::new(roster, slot, &keys).unwrap(),
        SlotKeys::Spdz(_) => unreachable!(),
    };
    roster.slots().map(end).collect()
}

fn address(op: u32) -> Address {
    Address { domain: Domain::Bits, input: false, op, part: 255, attempt: 0 }
}

/// What the four hold: each component must be the same at its three holders.
fn value(shares: &[Bits]) -> Vec<u64> {
    let mut sum = vec![0; shares[0].len()];
    for lacking in 1..=4u8 {
        let holders = (1..=4u8).filter(|slot| *slot != lacking);
        let components: Vec<_> =
            holders.map(|slot| &shares[usize::from(slot) - 1].0[usize::from((lacking + 3 - slot) % 4)]).collect();
        assert!(components.windows(2).all(|pair| pair[0] == pair[1]), "component {lacking}");
        kernels::add(&mut sum, components[0]);
    }
    sum
}

fn draw(ends: &[Replicated], op: u32, words: usize, corrections: Option<&[u64]>) -> Vec<Bits> {
    ends.iter().map(|end| end.draw(address(op), words, corrections)).collect()
}

#[test]
fn a_draw_is_what_the_dealer_knows_and_corrections_move_it() {
    let ends = ends();
    let mut known = vec![0; 6];
    dealer().uniform_bits_range(address(3), 0, &mut known);
    assert_eq!(value(&draw(&ends, 3, 6, None)), known);
    let corrections = [1, 2, 4, 8, u64::MAX, 0];
    let corrected: Vec<u64> = known.iter().zip(corrections).map(|(k, c)| k ^ c).collect();
    assert_eq!(value(&draw(&ends, 3, 6, Some(&corrections))), corrected);
    // From any word on.
    let mut later = vec![0; 3];
    dealer().uniform_bits_range(address(3), 2, &mut later);
    assert_eq!(later, known[2..5]);
}

/// Every layer of every width, with and without the lowest P, and with what lies below.
#[test]
fn a_merge_joins_neighbours() {
    let (ends, lane, width) = (ends(), 2, 6);
    for leaves in 1..=9usize {
        for (lowest, below) in [(true, false), (false, false), (true, true)] {
            if below != (leaves == 1) {
                continue;
            }
            let without = usize::from(!lowest);
            let (g, p) = (draw(&ends, 0, leaves * width, None), draw(&ends, 1, (leaves - without) * width, None));
            let under = draw(&ends, 2, lane, None);
            let (merging, said): (Vec<_>, Vec<_>) = ends
                .iter()
                .enumerate()
                .map(|(i, end)| end.merge((&g[i], &p[i]), leaves, lowest, below.then_some(&under[i]), address(9)))
                .unzip();
            let words = layer_words(leaves, lowest, below, width);
            for (i, own) in said.iter().enumerate() {
                assert_eq!((own.words.len(), own.opposite.len(), own.next.len()), (words * 3 / 2, words, words / 2));
                // What is told to the node before is vouched for by the two others.
                let before = (i + 3) % 4;
                let (whole, halves) = own.words.split_at(words);
                assert_eq!(whole, said[(before + 2) % 4].opposite);
                assert_eq!(halves, said[(before + 3) % 4].next);
            }
            let joined: Vec<_> = merging
                .into_iter()
                .enumerate()
                .map(|(i, merging)| ends[i].merged(merging, &said[(i + 1) % 4].words))
                .collect();
            let (found_g, found_p): (Vec<_>, Vec<_>) = joined.into_iter().unzip();
            // Filled without growing: what grows leaves unwiped copies behind.
            let room = (leaves.div_ceil(2) + 1) * width;
            let all = found_g.iter().chain(&found_p).flat_map(|bits| bits.0.iter());
            assert!(all.clone().all(|component| component.capacity() <= room));
            let (g, p, under) = (value(&g), value(&p), value(&under).repeat(width / lane));
            let row = |x: &[u64], i: usize| x[i * width..(i + 1) * width].to_vec();
            let and = |x: &[u64], y: &[u64]| x.iter().zip(y).map(|(x, y)| x & y).collect::<Vec<_>>();
            let xor = |x: &[u64], y: &[u64]| x.iter().zip(y).map(|(x, y)| x ^ y).collect::<Vec<_>>();
            let (mut expected_g, mut expected_p) = (Vec::new(), Vec::new());
            if below {
                expected_g.extend(xor(&row(&g, 0), &and(&row(&p, 0), &under)));
            } else {
                for i in 0..leaves / 2 {
                    let high = row(&p, 2 * i + 1 - without);
                    expected_g.extend(xor(&row(&g, 2 * i + 1), &and(&high, &row(&g, 2 * i))));
                    if i >= without {
                        expected_p.extend(and(&high, &row(&p, 2 * i - without)));
                    }
                }
                if leaves % 2 == 1 {
                    expected_g.extend(row(&g, leaves - 1));
                    if leaves > without {
                        expected_p.extend(row(&p, leaves - 1 - without));
                    }
                }
            }
            assert_eq!(value(&found_g), expected_g, "{leaves} leaves");
            assert_eq!(value(&found_p), expected_p, "{leaves} leaves");
        }
    }
}

#[test]
fn an_opening_is_the_sum_of_all_components() {
    let ends = ends();
    let (rows, n) = (3, 130);
    let x = draw(&ends, 4, rows * lane(n), None);
    let said: Vec<_> = ends.iter().zip(&x).map(|(end, x)| end.opening(x)).collect();
    let all = value(&x);
    for (i, end) in ends.iter().enumerate() {
        let told = &said[(i + 1) % 4];
        assert_eq!(told.words, said[(i + 2) % 4].opposite);
        let opened = end.opened(&x[i], &told.words, rows, n);
        let bit = |row: usize, j: usize| all[row * lane(n) + j / 64] >> (j % 64) & 1;
        let expected: Vec<_> =
            (0..rows).flat_map(|row| (0..n).map(move |j| (row, j))).map(|(r, j)| bit(r, j)).collect();
        assert_eq!(opened.iter().map(|w| w.word()).collect::<Vec<_>>(), expected);
    }
}

/// What a node is told of a product is masked by words of the key that it lacks:
/// each other use of the key, and each other layer, masks with other words.
#[test]
fn what_is_told_is_masked_by_a_key_that_the_receiver_lacks() {
    let ends = ends();
    let zero = Bits::new([0, 1, 2].map(|_| vec![0; 4]));
    // Of zeros, what is told is the mask alone.
    let told = |op| ends[1].merge((&zero, &zero), 2, true, None, address(op)).1.words;
    let (first, second) = (told(1), told(2));
    let mut seen = std::collections::HashSet::new();
    assert!(first.iter().chain(&second).all(|word| seen.insert(*word)), "a mask is used twice");
    // Node 1, the receiver, holds none of the streams that give it.
    for key in &ends[0].keys {
        for part in [0, 1, 255] {
            let mut words = vec![0; 12];
            key.stream(Address { part, ..address(1) }).fill_raw(0, &mut words);
            assert!(words.iter().all(|word| !first.contains(word)));
        }
    }
}

#[test]
fn packed_words_travel_as_field_elements() {
    for packed in [1usize, 2, 15, 16, 31, 64, 150] {
        let words: Vec<u64> = (0..packed as u64).map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let count = stream_words(packed);
        let mut all = vec![Fp61::ZERO; count];
        to_stream(0, &words, &mut all);
        assert_eq!(from_stream(&all, packed), words);
        // In pieces too.
        for first in 0..count {
            let mut piece = vec![Fp61::ZERO; (count - first).min(7)];
            let range = packed_range(first, piece.len(), packed);
            to_stream(first, &words[range], &mut piece);
            assert_eq!(piece, all[first..first + piece.len()], "{packed} words from {first}");
        }
    }
}

#[test]
fn only_four_nodes_with_one_corrupt_pack_bits() {
    for (n, t, packs) in [(4, 1, true), (5, 1, false), (3, 1, false), (7, 2, false)] {
        assert_eq!(Roster::shamir(n, t).unwrap().packs_bits(), packs);
    }
    assert!(!Roster::spdz(4).unwrap().packs_bits());
}

//! Slices of field elements: their sums, and the canonical form of words on the
//! wire. What a backend does elementwise is its own.
//!
//! All slices of one call have one length; another length is a bug and panics.
//! Elements may be secret, lengths are public.

use super::{Fp61, P};

/// out += x
pub fn add(out: &mut [Fp61], x: &[Fp61]) {
    assert_eq!(out.len(), x.len());
    out.iter_mut().zip(x).for_each(|(o, x)| *o += *x);
}

/// Σ x·y, reduced once in [`Fp61::LAZY`] products.
pub fn dot(x: &[Fp61], y: &[Fp61]) -> Fp61 {
    assert_eq!(x.len(), y.len());
    x.chunks(Fp61::LAZY).zip(y.chunks(Fp61::LAZY)).fold(Fp61::ZERO, |acc, (x, y)| {
        // One canonical word and at most 64 products: below 2^128.
        let start = u128::from(acc.word());
        Fp61::reduce_wide(x.iter().zip(y).fold(start, |sum, (x, y)| sum + x.wide_mul(*y)))
    })
}

/// Σ x
pub fn sum(x: &[Fp61]) -> Fp61 {
    // 8·(p − 1) = 2^64 − 16: eight words fit; 2^64 of such sums would fit u128.
    let wide = x.chunks(8).map(|x| u128::from(x.iter().map(|x| x.word()).sum::<u64>())).sum();
    Fp61::reduce_wide(wide)
}

/// Why bytes are no vector of field elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Not a whole number of words.
    #[error("found {found} bytes of field elements: expected a multiple of 8")]
    Length {
        /// bytes found
        found: usize,
    },
    /// A word ≥ p: never reduced, because its sender would have two names for one element.
    #[error("word {index} is {word:#x}, no canonical field element: expected a value below 2^61 - 1")]
    NotCanonical {
        /// which word
        index: usize,
        /// the word found
        word: u64,
    },
}

/// Bytes of [`encode_words`] back to elements: little-endian words, each below p.
pub fn decode_words(bytes: &[u8]) -> Result<Vec<Fp61>, WordsError> {
    let (words, []) = bytes.as_chunks() else {
        return Err(WordsError::Length { found: bytes.len() });
    };
    // One pass without a way out, which is several times as fast; the first
    // wrong word is looked for only if there is one.
    let mut bits = 0;
    let elements = words.iter().map(|word| {
        let word = u64::from_le_bytes(*word);
        // A word below p and its successor both have their upper three bits clear, and no other.
        bits |= word | word.wrapping_add(1);
        Fp61::low(word)
    });
    let elements = elements.collect();
    if bits >> 61 == 0 {
        return Ok(elements);
    }
    let mut found = words.iter().map(|word| u64::from_le_bytes(*word)).enumerate();
    let (index, word) = found.find(|(_, word)| *word >= P).expect("one is not canonical");
    Err(WordsError::NotCanonical { index, word })
}

/// Eight little-endian bytes for each element.
pub fn encode_words(words: &[Fp61]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * words.len());
    append_words(&mut bytes, words);
    bytes
}

/// [`encode_words`] behind what is there, at the speed of a copy.
pub fn append_words(bytes: &mut Vec<u8>, words: &[Fp61]) {
    match as_bytes(words) {
        Some(encoded) => bytes.extend_from_slice(encoded),
        None => bytes.extend(words.iter().flat_map(|word| word.word().to_le_bytes())),
    }
}

/// [`encode_words`] without a copy, where the machine itself is little-endian.
pub fn as_bytes(words: &[Fp61]) -> Option<&[u8]> {
    cfg!(target_endian = "little").then(|| bytemuck::cast_slice(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = Fp61> {
        prop_oneof![4 => 0..P, 1 => Just(0), 1 => Just(1), 1 => Just(P - 1)].prop_map(|w| Fp61::new(w).unwrap())
    }

    fn pairs() -> impl Strategy<Value = Vec<(Fp61, Fp61)>> {
        vec((element(), element()), 0..200)
    }

    proptest! {
        #[test]
        fn steps_equal_the_elements(pairs in pairs()) {
            let (x, y): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let run = |step: &dyn Fn(&mut [Fp61])| { let mut out = x.clone(); step(&mut out); out };
            let naive = |op: &dyn Fn(Fp61, Fp61) -> Fp61| -> Vec<_> { x.iter().zip(&y).map(|(x, y)| op(*x, *y)).collect() };
            prop_assert_eq!(run(&|o| add(o, &y)), naive(&|x, y| x + y));
            prop_assert_eq!(dot(&x, &y), naive(&|x, y| x * y).into_iter().sum());
            prop_assert_eq!(sum(&x), x.iter().copied().sum());
        }

        #[test]
        fn words_go_round(words in vec(element(), 0..50)) {
            prop_assert_eq!(decode_words(&encode_words(&words)), Ok(words));
        }
    }

    #[test]
    fn lazy_sums_do_not_overflow() {
        let top = Fp61::new(P - 1).unwrap();
        for n in [63, 64, 65, 128, 129, 1000] {
            // (p − 1)² = 1 and p − 1 = −1
            assert_eq!(dot(&vec![top; n], &vec![top; n]).word(), n as u64);
            assert_eq!(sum(&vec![top; n]).to_i64(), -(n as i64));
        }
    }

    #[test]
    fn refuses_words_that_are_not_canonical_and_names_the_first() {
        for word in [P, P + 1, 1 << 61, u64::MAX] {
            let bytes: Vec<u8> = [0, P - 1, word, word].iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(decode_words(&bytes), Err(WordsError::NotCanonical { index: 2, word }));
        }
        for found in [1, 7, 9, 15] {
            assert_eq!(decode_words(&vec![0; found]), Err(WordsError::Length { found }));
        }
        assert_eq!(decode_words(&[]), Ok(vec![]));
    }
}

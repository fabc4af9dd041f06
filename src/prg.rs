//! Pseudorandom field elements, addressed by what they are for.
//!
//! A 32-byte key, shared by the holders of a PRSS subset (or owned by one SPDZ
//! slot), and an [`Address`] give a [`Stream`]; word i of a stream is a fixed
//! function of both. Owner and nodes therefore derive the same material
//! without talking, in any order, on any backend. Nothing is ever drawn twice:
//! an address names one use, and material is addressed by the plan.
//!
//! Word i is the low 61 bits of the little-endian u64 at byte 8·i of the
//! ChaCha20 key stream (RFC 8439, zero nonce, counter from 0). The one value
//! that is no field element, p itself (probability 2^−61), is replaced by the
//! word at the same index of a second stream, and so on: redraw number r of an
//! index reads the key stream of the same key under the nonce r (little-endian).
//!
//! Keys are derived by BLAKE3 in keyed mode. Words are as secret as what they
//! mask: this room never prints them, and never branches on a word that it
//! keeps (only on a rejected p, which nobody ever uses).

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::field::{Fp61, P};

/// A 32-byte key from which streams are derived. Wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct PrgKey(pub [u8; 32]);

impl PrgKey {
    /// The stream of one address.
    pub fn stream(&self, address: Address) -> Stream {
        Stream { key: self.derive("beaverdam prg stream v1", &address.encode()) }
    }
    /// A key for another use: BLAKE3 keyed with this key over the length of
    /// the context, the context and the data, so that no two uses collide.
    pub fn derive(&self, context: &'static str, data: &[u8]) -> PrgKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(context.len() as u64).to_le_bytes()).update(context.as_bytes()).update(data);
        let key = PrgKey(*hasher.finalize().as_bytes());
        hasher.zeroize();
        key
    }
}

/// What a stream is for; each kind is a domain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Domain {
    /// value shares of material and inputs (PRSS words, SPDZ value shares)
    Value = 1,
    /// SPDZ MAC shares
    Mac = 2,
    /// PRSS zero sharings of degree 2t
    Zero = 3,
    /// raw 64-bit words: shares and masks of packed bits
    Bits = 4,
}

/// One use of pseudorandom words inside one job (the job's nonce is in the key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// what for
    pub domain: Domain,
    /// inputs and material ops are numbered apart
    pub input: bool,
    /// number of the material op in the plan (it includes the iteration), or of the input
    pub op: u32,
    /// part of the material op
    pub part: u8,
    /// which dealt copy
    pub attempt: u32,
}

impl Address {
    /// Every field at its own place, in a fixed length.
    fn encode(self) -> [u8; 11] {
        let mut bytes = [0; 11];
        bytes[0] = self.domain as u8;
        bytes[1] = u8::from(self.input);
        bytes[2..6].copy_from_slice(&self.op.to_le_bytes());
        bytes[6] = self.part;
        bytes[7..].copy_from_slice(&self.attempt.to_le_bytes());
        bytes
    }
}

/// The ChaCha20 key of one address: words are drawn from it by index.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Stream {
    key: PrgKey,
}

impl Stream {
    /// How many words a stream has: 2^34, eight times the elements of the
    /// largest tensor and half of what ChaCha20's counter reaches.
    pub const WORDS: u64 = 1 << 34;

    /// Writes the words `first..first + out.len()`; the same words however a
    /// range is cut. Panics past [`Stream::WORDS`], which no checked plan reaches.
    pub fn fill(&self, first: u64, out: &mut [Fp61]) {
        self.reader(first).fill(out);
    }
    /// Writes raw words of the key stream, 64 random bits each: for packed bits,
    /// in the domain [`Domain::Bits`], whose streams are never read as elements.
    pub fn fill_raw(&self, first: u64, out: &mut [u64]) {
        let end = first + out.len() as u64;
        assert!(end <= Stream::WORDS, "word {end} is past the end of a stream");
        let mut cipher = self.cipher(0, first);
        let mut block = Zeroizing::new([0; BLOCK]);
        for out in out.chunks_mut(BLOCK / 8) {
            let raw = &mut block[..8 * out.len()];
            cipher.write_keystream(raw);
            let (raw, _) = raw.as_chunks();
            out.iter_mut().zip(raw).for_each(|(out, raw)| *out = u64::from_le_bytes(*raw));
        }
    }
    /// Reads on from an index, without setting the cipher up for each piece.
    pub fn reader(&self, first: u64) -> Reader<'_> {
        Reader { stream: self, cipher: self.cipher(0, first), next: first, block: [0; BLOCK] }
    }

    /// The ChaCha20 key as its eight little-endian words, for a kernel that
    /// expands the stream elsewhere. As secret as all words of the stream.
    #[cfg(feature = "gpu")]
    pub(crate) fn key_words(&self, each: impl FnMut(u32)) {
        let (words, _) = self.key.0.as_chunks();
        words.iter().map(|word| u32::from_le_bytes(*word)).for_each(each);
    }

    /// The stream of a ChaCha20 key that a test knows.
    #[cfg(all(test, feature = "gpu"))]
    pub(crate) fn of_key(key: PrgKey) -> Self {
        Self { key }
    }

    /// The raw word at an index, of a redraw or (0) of the first draw.
    #[cfg(all(test, feature = "gpu"))]
    pub(crate) fn raw(&self, redraw: u32, index: u64) -> u64 {
        let mut raw = [0; 8];
        self.cipher(redraw, index).write_keystream(&mut raw);
        u64::from_le_bytes(raw)
    }

    /// The key stream of a redraw, at a word.
    fn cipher(&self, redraw: u32, first: u64) -> ChaCha20 {
        assert!(first <= Self::WORDS, "word {first} is past the end of a stream");
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&redraw.to_le_bytes());
        let mut cipher = ChaCha20::new(&self.key.0.into(), &nonce.into());
        cipher.seek(8 * first);
        cipher
    }
    /// The word at an index whose first draw was p.
    fn redraw(&self, index: u64) -> Fp61 {
        let mut raw = [0; 8];
        let word = (1..)
            .find_map(|redraw| {
                self.cipher(redraw, index).write_keystream(&mut raw);
                Fp61::new(u64::from_le_bytes(raw) & P)
            })
            .expect("p is not drawn 2^32 times in a row");
        raw.zeroize();
        word
    }
}

/// Bytes of key stream expanded at once: whole ChaCha20 blocks, few enough
/// that they never leave the first cache.
const BLOCK: usize = 4096;

/// A place in a [`Stream`]. Wiped on drop.
pub struct Reader<'a> {
    stream: &'a Stream,
    cipher: ChaCha20,
    next: u64,
    block: [u8; BLOCK],
}

impl Reader<'_> {
    /// Writes the next `out.len()` words.
    pub fn fill(&mut self, out: &mut [Fp61]) {
        let end = self.next + out.len() as u64;
        assert!(end <= Stream::WORDS, "word {end} is past the end of a stream");
        for out in out.chunks_mut(BLOCK / 8) {
            let raw = &mut self.block[..8 * out.len()];
            self.cipher.write_keystream(raw);
            let first = self.next;
            draw(raw, out, |i| self.stream.redraw(first + i as u64));
            self.next += out.len() as u64;
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.block.zeroize();
    }
}

/// Turns raw words into elements, and asks for another word where one is p.
fn draw(raw: &[u8], out: &mut [Fp61], mut redraw: impl FnMut(usize) -> Fp61) {
    let (raw, _) = raw.as_chunks();
    let mut rejected = false;
    for (out, raw) in out.iter_mut().zip(raw) {
        let word = u64::from_le_bytes(*raw) & P;
        rejected |= word == P;
        *out = Fp61::reduce(word);
    }
    if rejected {
        for (i, (out, raw)) in out.iter_mut().zip(raw).enumerate() {
            if u64::from_le_bytes(*raw) & P == P {
                *out = redraw(i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const ADDRESS: Address = Address { domain: Domain::Value, input: false, op: 7, part: 0, attempt: 0 };

    fn stream() -> Stream {
        PrgKey([0x5a; 32]).stream(ADDRESS)
    }

    fn words(stream: &Stream, first: u64, n: usize) -> Vec<Fp61> {
        let mut out = vec![Fp61::ONE; n];
        stream.fill(first, &mut out);
        out
    }

    /// RFC 8439, appendix A.1, test vectors 1 and 2: key and nonce zero, blocks 0 and 1.
    #[test]
    fn words_are_those_of_the_rfc() {
        let zero = Stream { key: PrgKey([0; 32]) };
        let block_0 = u64::from_le_bytes([0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        let block_1 = u64::from_le_bytes([0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a]);
        assert_eq!(words(&zero, 0, 1)[0].word(), block_0 & P);
        assert_eq!(words(&zero, 8, 1)[0].word(), block_1 & P);
    }

    /// Every word of every job hangs on this: after a change, material and
    /// inputs that were dealt before it are unreadable.
    #[test]
    fn known_words() {
        let found: Vec<u64> = words(&stream(), 0, 4).into_iter().map(Fp61::word).collect();
        assert_eq!(found, KNOWN);
        let far: Vec<u64> = words(&stream(), (1 << 31) + 5, 2).into_iter().map(Fp61::word).collect();
        assert_eq!(far, KNOWN_FAR);
        let other = Address { domain: Domain::Zero, input: true, op: 0x0102_0304, part: 9, attempt: 0x0506_0708 };
        assert_eq!(other.encode(), [3, 1, 4, 3, 2, 1, 9, 8, 7, 6, 5]);
        assert_eq!(words(&PrgKey([0x5a; 32]).stream(other), 0, 1)[0].word(), KNOWN_OTHER);
    }

    /// The same words by hand: BLAKE3 for the key, one long key stream for the words.
    #[test]
    fn words_are_those_of_the_parts() {
        let context = b"beaverdam prg stream v1";
        let mut input = (context.len() as u64).to_le_bytes().to_vec();
        input.extend(context);
        input.extend([1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        let key = *blake3::keyed_hash(&[0x5a; 32], &input).as_bytes();
        let mut raw = vec![0; 8 * 1000];
        ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(&mut raw);
        let by_hand: Vec<u64> = raw.as_chunks().0.iter().map(|w| u64::from_le_bytes(*w) & P).collect();
        let found: Vec<u64> = words(&stream(), 0, 1000).into_iter().map(Fp61::word).collect();
        assert_eq!(found, by_hand);
    }

    #[test]
    fn domains_differ() {
        let mut seen = HashSet::new();
        let key = PrgKey([1; 32]);
        for domain in [Domain::Value, Domain::Mac, Domain::Zero, Domain::Bits] {
            for input in [false, true] {
                for (op, part, attempt) in [(0, 0, 0), (1, 0, 0), (256, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 256)] {
                    let address = Address { domain, input, op, part, attempt };
                    assert!(seen.insert(words(&key.stream(address), 0, 2)), "{address:?} repeats another address");
                }
            }
        }
        assert!(seen.insert(words(&PrgKey([2; 32]).stream(ADDRESS), 0, 2)), "another key");
        let derived = [key.derive("a", b"bc"), key.derive("ab", b"c"), key.derive("a", b"bd"), key.derive("a", b"")];
        for key in &derived {
            assert!(seen.insert(words(&key.stream(ADDRESS), 0, 2)), "derived keys repeat");
        }
    }

    #[test]
    fn a_drawn_p_is_replaced_by_the_next_stream() {
        let stream = stream();
        // Bits above the 61 are dropped first, so all ones is p as well.
        let raw: Vec<u8> = [5, P, P - 1, u64::MAX, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut out = [Fp61::ONE; 5];
        let mut asked = Vec::new();
        draw(&raw, &mut out, |i| {
            asked.push(i);
            stream.redraw(100 + i as u64)
        });
        assert_eq!(asked, [1, 3]);

        let mut nonce = [0; 12];
        nonce[0] = 1;
        let mut second = vec![0; 8 * 104];
        ChaCha20::new(&stream.key.0.into(), &nonce.into()).apply_keystream(&mut second);
        let second = |i: usize| u64::from_le_bytes(second[8 * i..][..8].try_into().unwrap()) & P;
        assert_eq!(out.map(Fp61::word), [5, second(101), P - 1, second(103), 0]);
    }

    /// Raw words are the key stream, from any index on.
    #[test]
    fn raw_words_are_the_key_stream() {
        let mut raw = vec![0; 600];
        stream().fill_raw(0, &mut raw);
        let elements = words(&stream(), 0, 600);
        assert!(raw.iter().zip(&elements).all(|(raw, element)| raw & P == element.word()));
        assert!(raw.iter().any(|raw| *raw > P), "the upper bits are there too");
        let mut later = vec![0; 77];
        stream().fill_raw(301, &mut later);
        assert_eq!(later, raw[301..378]);
    }

    #[test]
    #[should_panic(expected = "past the end of a stream")]
    fn a_stream_ends() {
        words(&stream(), Stream::WORDS - 1, 2);
    }

    #[test]
    fn the_last_word_can_be_read() {
        words(&stream(), Stream::WORDS - 1, 1);
    }

    /// χ² over 256 cells has mean 255 and deviation √510 = 22.6; the words are
    /// fixed, so this passes always or never.
    #[test]
    fn low_and_high_bits_are_uniform() {
        let words = words(&stream(), 0, 1 << 18);
        for shift in [0, 24, 53] {
            let mut cells = [0u32; 256];
            words.iter().for_each(|w| cells[(w.word() >> shift) as usize & 255] += 1);
            let mean = words.len() as f64 / 256.0;
            let chi: f64 = cells.iter().map(|c| (f64::from(*c) - mean).powi(2) / mean).sum();
            assert!((155.0..355.0).contains(&chi), "bits from {shift}: {chi}");
        }
    }

    proptest! {
        #[test]
        fn random_access_equals_sequential(first in 0u64..1500, n in 0usize..700, cut in 0usize..700) {
            let all = words(&stream(), 0, 2200);
            let expected = &all[first as usize..first as usize + n];
            prop_assert_eq!(&words(&stream(), first, n), expected);

            let (stream, mut pieces) = (stream(), vec![Fp61::ONE; n]);
            let mut reader = stream.reader(first);
            let (head, tail) = pieces.split_at_mut(cut.min(n));
            reader.fill(head);
            reader.fill(tail);
            prop_assert_eq!(&pieces, expected);
        }
    }

    const KNOWN: [u64; 4] = [464169367000072534, 490419876630005519, 860527102248054058, 2177846209184135693];
    const KNOWN_FAR: [u64; 2] = [664853704066417195, 2274167598207546455];
    const KNOWN_OTHER: u64 = 1144560726516351803;
}

//! Products out of 32-bit halves: what vector units multiply. The words are
//! those of [`Fp61`]'s own operators; a loop over these is fast where it is
//! compiled for vectors of four words or more, and slow elsewhere.

use super::{Fp61, P};

impl Fp61 {
    /// self·o
    #[inline(always)]
    pub(crate) fn mul_halves(self, o: Self) -> Self {
        Self::fold_sum(self.congruent_product(o))
    }
    /// self·k + c
    #[inline(always)]
    pub(crate) fn mul_add_halves(self, k: Self, c: Self) -> Self {
        // At most 4·2^61 + 2^34.
        Self::fold_sum(self.congruent_product(k) + c.word())
    }
    /// self·k + x·y + c
    #[inline(always)]
    pub(crate) fn mul_twice_add_halves(self, k: Self, x: Self, y: Self, c: Self) -> Self {
        // At most 7·2^61 + 2^35 < 2^64.
        Self::fold_sum(self.congruent_product(k) + x.congruent_product(y) + c.word())
    }

    /// A word congruent to the product, at most 3·2^61 + 2^34.
    #[inline(always)]
    fn congruent_product(self, o: Self) -> u64 {
        const LOW: u64 = 0xffff_ffff;
        // High halves are below 2^29.
        let ((x0, x1), (y0, y1)) = ((self.word() & LOW, self.word() >> 32), (o.word() & LOW, o.word() >> 32));
        // Below 2^64, 2·2^61 and 2^58.
        let (low, middle, high) = (x0 * y0, x0 * y1 + x1 * y0, x1 * y1);
        // 2^32·middle = 2^61·u + 2^32·v ≡ u + 2^32·v with u < 2^33, v < 2^29; 2^64 ≡ 8.
        let middle = (middle >> 29) + ((middle & ((1 << 29) - 1)) << 32);
        (low & P) + (low >> 61) + middle + (high << 3)
    }
    /// Any word: its three highest bits weigh 1.
    #[inline(always)]
    fn fold_sum(s: u64) -> Self {
        // At most p + 7.
        Self::fold((s & P) + (s >> 61))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agree(x: Fp61, y: Fp61, c: Fp61) {
        assert_eq!(x.mul_halves(y), x * y);
        assert_eq!(x.mul_add_halves(y, c), x * y + c);
        assert_eq!(x.mul_twice_add_halves(y, y, c, x), x * y + y * c + x);
    }

    #[test]
    fn edges_agree_with_whole_words() {
        let borders = [1, 29, 31, 32, 33, 59, 60].map(|bit| 1u64 << bit);
        let words: Vec<_> = [0, 1, P / 2, P / 2 + 1, P - 2, P - 1, 0xffff_ffff, P ^ 0xffff_ffff]
            .into_iter()
            .chain(borders.into_iter().flat_map(|b| [b - 1, b, b + 1, P - b]))
            .map(|word| Fp61::new(word).unwrap())
            .collect();
        for x in &words {
            for y in &words {
                words.iter().for_each(|c| agree(*x, *y, *c));
            }
        }
    }

    proptest! {
        #[test]
        fn agree_with_whole_words(x in 0..P, y in 0..P, c in 0..P) {
            let [x, y, c] = [x, y, c].map(|word| Fp61::new(word).unwrap());
            agree(x, y, c);
        }
    }
}

//! Words that lie in several places and are read as one vector.

use super::Fp61;

/// A vector of borrowed parts, none of which is copied.
#[derive(Clone, Default)]
pub struct Parts<'a>(Vec<&'a [Fp61]>);

impl<'a> Parts<'a> {
    /// How many words all parts have.
    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }
    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The parts in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [Fp61]> + '_ {
        self.0.iter().copied()
    }
    /// `len` words from the word `start` on, all of which must be there.
    pub fn cut(&self, start: usize, len: usize) -> Self {
        let (mut skip, mut left) = (start, len);
        let mut parts = Vec::new();
        for part in self.iter() {
            let (from, until) = (skip.min(part.len()), part.len().min(skip.saturating_add(left)));
            skip -= from;
            left -= until - from;
            parts.extend((from < until).then(|| &part[from..until]));
        }
        assert_eq!(left, 0, "words past the end are asked for");
        Self(parts)
    }
    /// A copy in one piece.
    pub fn to_vec(&self) -> Vec<Fp61> {
        self.0.concat()
    }
}

impl<'a> FromIterator<&'a [Fp61]> for Parts<'a> {
    fn from_iter<I: IntoIterator<Item = &'a [Fp61]>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl<'a> From<&'a [Fp61]> for Parts<'a> {
    fn from(words: &'a [Fp61]) -> Self {
        Self(vec![words])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cut_of_parts_is_a_cut_of_the_whole(
            lens in proptest::collection::vec(0usize..5, 0..6), start in 0usize..30, len in 0usize..30,
        ) {
            let words: Vec<Fp61> = (0..lens.iter().sum::<usize>() as u64).map(Fp61::reduce).collect();
            let mut rest = &words[..];
            let parts: Parts<'_> = lens.iter().map(|len| rest.split_off(..*len).expect("so many are left")).collect();
            prop_assert_eq!(parts.len(), words.len());
            prop_assert_eq!(parts.to_vec(), words.clone());
            let start = start.min(words.len());
            let len = len.min(words.len() - start);
            prop_assert_eq!(parts.cut(start, len).to_vec(), &words[start..][..len]);
        }
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn words_past_the_end_are_not_made_up() {
        Parts::from(&[Fp61::ONE][..]).cut(0, 2);
    }
}

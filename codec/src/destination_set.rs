//! A set of destinations: which messages a run of bytes belongs to.
//!
//! Inline, no allocation, room for every destination that a frame can have. Single bits go through a `bitvec` view;
//! loops over whole sets work on the words below it, which is several times as fast as comparing bit slices.

use bitvec::order::Lsb0;
use bitvec::view::BitView;

use crate::limits::DESTINATIONS_MAX;

const WORD_BITS: usize = 64;
/// Words of a set that has room for every destination.
pub(crate) const WORDS_MAX: usize = DESTINATIONS_MAX / WORD_BITS;

/// Most destinations of a frame whose sets have one word.
pub(crate) const NARROW_MAX: usize = WORD_BITS;

/// A set of up to `64 * W` destinations. Most frames have at most 64, and sets of one word cost next to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DestinationSet<const W: usize = WORDS_MAX> {
    words: [u64; W],
}

impl<const W: usize> DestinationSet<W> {
    /// The set without members.
    pub(crate) const EMPTY: Self = Self { words: [0; W] };

    /// The destinations `0..count`.
    pub(crate) fn all(count: usize) -> Self {
        let mut set = Self::EMPTY;
        for (index, word) in set.words.iter_mut().enumerate() {
            let below = count.saturating_sub(index * WORD_BITS);
            *word = if below >= WORD_BITS { u64::MAX } else { (1u64 << below) - 1 };
        }
        set
    }

    /// The destinations `from..to`.
    pub(crate) fn range(from: usize, to: usize) -> Self {
        Self::all(to).xor(&Self::all(from))
    }

    /// The set of one destination.
    pub(crate) fn one(index: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert(index);
        set
    }

    /// The set whose words are `words`; missing ones are zero.
    pub(crate) fn from_words(words: &[u64]) -> Self {
        let mut set = Self::EMPTY;
        set.words[..words.len()].copy_from_slice(words);
        set
    }

    /// All words, lowest destinations first.
    pub(crate) fn words(&self) -> &[u64; W] {
        &self.words
    }

    /// Adds one destination.
    pub(crate) fn insert(&mut self, index: usize) {
        self.words.view_bits_mut::<Lsb0>().set(index, true);
    }

    /// Takes one destination away.
    pub(crate) fn remove(&mut self, index: usize) {
        self.words.view_bits_mut::<Lsb0>().set(index, false);
    }

    /// Whether `index` is a member.
    pub(crate) fn contains(&self, index: usize) -> bool {
        self.words.view_bits::<Lsb0>()[index]
    }

    /// Number of members.
    pub(crate) fn count(&self) -> usize {
        // Most words of most sets are zero, and counting bits is slow where the processor may not have it.
        self.words.iter().filter(|word| **word != 0).map(|word| word.count_ones() as usize).sum()
    }

    /// The member, if there is exactly one.
    pub(crate) fn sole(&self) -> Option<usize> {
        sole(self.words.iter().copied())
    }

    /// Members in rising order.
    pub(crate) fn iter(&self) -> Members<'_> {
        Members { words: &self.words, index: 0, rest: self.words[0] }
    }

    /// What is in exactly one of the two.
    pub(crate) fn xor(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, with) in out.words.iter_mut().zip(&other.words) {
            *word ^= with;
        }
        out
    }

    /// What is in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut out = *self;
        for (word, with) in out.words.iter_mut().zip(&other.words) {
            *word &= with;
        }
        out
    }

    /// Adds the members of `other`.
    pub(crate) fn unite(&mut self, other: &Self) {
        for (word, with) in self.words.iter_mut().zip(&other.words) {
            *word |= with;
        }
    }

    /// Whether the two have a member in common.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(word, with)| word & with != 0)
    }

    /// Removes the members of `other`.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (word, with) in self.words.iter_mut().zip(&other.words) {
            *word &= !with;
        }
    }
}

/// The member of the set with these words, if there is exactly one.
pub(crate) fn sole(words: impl Iterator<Item = u64>) -> Option<usize> {
    let mut found = None;
    for (index, word) in words.enumerate() {
        if word != 0 {
            if found.is_some() || !word.is_power_of_two() {
                return None;
            }
            found = Some(index * WORD_BITS + word.trailing_zeros() as usize);
        }
    }
    found
}

/// Members of a set in rising order.
#[derive(Clone, Debug)]
pub(crate) struct Members<'a> {
    words: &'a [u64],
    index: usize,
    rest: u64,
}

impl Iterator for Members<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.rest == 0 {
            self.index += 1;
            self.rest = *self.words.get(self.index)?;
        }
        let bit = self.rest.trailing_zeros() as usize;
        self.rest &= self.rest - 1;
        Some(self.index * WORD_BITS + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Set = DestinationSet;

    #[test]
    fn words_and_bits_agree_at_every_border() {
        for count in [1, 2, 63, 64, 65, 127, 128, 1023, 1024] {
            let all = Set::all(count);
            assert_eq!(all.count(), count);
            assert_eq!(all.iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            assert!(all.contains(count - 1));
            let last = Set::one(count - 1);
            let but = all.xor(&last);
            assert_eq!(but.count(), count - 1);
            let mut back = but;
            back.unite(&last);
            assert_eq!(back, all);
            back.remove_all(&last);
            assert_eq!(back, but);
            assert_eq!(Set::from_words(&all.words()[..count.div_ceil(64)]), all);
        }
        assert_eq!(Set::EMPTY.sole(), None);
        assert_eq!(Set::one(700).sole(), Some(700));
        assert_eq!(Set::all(2).sole(), None);
        assert_eq!(Set::one(3).xor(&Set::one(900)).sole(), None);
    }
}

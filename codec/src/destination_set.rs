//! A set of destinations: which messages a run of bytes belongs to.
//!
//! Inline, no allocation, room for every destination that a frame can have. Single bits go through a `bitvec` view;
//! loops over whole sets work on the words below it, which is several times as fast as comparing bit slices.

use bitvec::order::Lsb0;
use bitvec::view::BitView;

use crate::limits::DESTINATIONS_MAX;

const WORD_BITS: usize = 64;
/// Words of one set.
pub(crate) const WORDS: usize = DESTINATIONS_MAX / WORD_BITS;

/// A set of up to 1,024 destinations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DestinationSet {
    words: [u64; WORDS],
    /// Words from here on are zero: most frames have few destinations, and no loop need look further.
    used: usize,
}

impl DestinationSet {
    /// The set without members.
    pub(crate) const EMPTY: Self = Self { words: [0; WORDS], used: 0 };

    /// The destinations `0..count`.
    pub(crate) fn all(count: usize) -> Self {
        let mut set = Self { used: count.div_ceil(WORD_BITS), ..Self::EMPTY };
        for (index, word) in set.words[..set.used].iter_mut().enumerate() {
            let below = count - index * WORD_BITS;
            *word = if below >= WORD_BITS { u64::MAX } else { (1u64 << below) - 1 };
        }
        set
    }

    /// The set of one destination.
    pub(crate) fn one(index: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert(index);
        set
    }

    /// The set whose words are `words`; missing ones are zero.
    pub(crate) fn from_words(words: &[u64]) -> Self {
        let mut set = Self { used: words.len(), ..Self::EMPTY };
        set.words[..words.len()].copy_from_slice(words);
        set
    }

    /// All words, lowest destinations first.
    pub(crate) fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// Words that may have members.
    fn used(&self) -> &[u64] {
        &self.words[..self.used]
    }

    /// Adds one destination.
    pub(crate) fn insert(&mut self, index: usize) {
        self.words.view_bits_mut::<Lsb0>().set(index, true);
        self.used = self.used.max(index / WORD_BITS + 1);
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
        self.used().iter().filter(|word| **word != 0).map(|word| word.count_ones() as usize).sum()
    }

    /// The member, if there is exactly one.
    pub(crate) fn sole(&self) -> Option<usize> {
        sole(self.used().iter().copied())
    }

    /// Members in rising order.
    pub(crate) fn iter(&self) -> Members<'_> {
        Members { words: self.used(), index: 0, rest: self.words[0] }
    }

    /// What is in exactly one of the two.
    pub(crate) fn xor(&self, other: &Self) -> Self {
        let mut out = *self;
        out.used = self.used.max(other.used);
        for (word, with) in out.words.iter_mut().zip(other.used()) {
            *word ^= with;
        }
        out
    }

    /// Adds the members of `other`.
    pub(crate) fn unite(&mut self, other: &Self) {
        self.used = self.used.max(other.used);
        for (word, with) in self.words.iter_mut().zip(other.used()) {
            *word |= with;
        }
    }

    /// Whether the two have a member in common.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.used().iter().zip(other.used()).any(|(word, with)| word & with != 0)
    }

    /// Removes the members of `other`.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (word, with) in self.words.iter_mut().zip(other.used()) {
            *word &= !with;
        }
    }
}

impl PartialEq for DestinationSet {
    fn eq(&self, other: &Self) -> bool {
        let used = self.used.max(other.used);
        self.words[..used].iter().zip(&other.words[..used]).all(|(word, with)| word == with)
    }
}

impl Eq for DestinationSet {}

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

    #[test]
    fn words_and_bits_agree_at_every_border() {
        for count in [1, 2, 63, 64, 65, 127, 128, 1023, 1024] {
            let all = DestinationSet::all(count);
            assert_eq!(all.count(), count);
            assert_eq!(all.iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            assert!(all.contains(count - 1));
            let last = DestinationSet::one(count - 1);
            let but = all.xor(&last);
            assert_eq!(but.count(), count - 1);
            let mut back = but;
            back.unite(&last);
            assert_eq!(back, all);
            back.remove_all(&last);
            assert_eq!(back, but);
            assert_eq!(DestinationSet::from_words(&all.words()[..count.div_ceil(64)]), all);
        }
        assert_eq!(DestinationSet::EMPTY.sole(), None);
        assert_eq!(DestinationSet::one(700).sole(), Some(700));
        assert_eq!(DestinationSet::all(2).sole(), None);
        assert_eq!(DestinationSet::one(3).xor(&DestinationSet::one(900)).sole(), None);
    }
}

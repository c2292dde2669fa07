//! A set of flows. Those of one datacenter were made one after the other, most often, so that a bit for each of them takes less
//! room than a tree, and no search.

use super::flow::FlowIx;

const WORD_BITS: usize = 64;

/// Flows, in the order of their places.
#[derive(Debug, Default)]
pub struct FlowSet {
    /// The place of the first bit, in words.
    base: usize,
    words: Vec<u64>,
    len: usize,
}

impl FlowSet {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes one in.
    pub fn insert(&mut self, ix: FlowIx) {
        let (word, bit) = (ix.0 / WORD_BITS, 1 << (ix.0 % WORD_BITS));
        if self.words.is_empty() {
            self.base = word;
        }
        if word < self.base {
            self.words.splice(0..0, std::iter::repeat_n(0, self.base - word));
            self.base = word;
        }
        let at = word - self.base;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.len += usize::from(self.words[at] & bit == 0);
        self.words[at] |= bit;
    }

    /// Takes one out.
    pub fn remove(&mut self, ix: FlowIx) {
        let (word, bit) = (ix.0 / WORD_BITS, 1 << (ix.0 % WORD_BITS));
        let at = word.checked_sub(self.base);
        if let Some(word) = at.and_then(|at| self.words.get_mut(at)) {
            self.len -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = FlowIx> {
        let places = (self.base..).zip(&self.words);
        places.flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = usize::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
                left &= left - 1;
                Some(FlowIx(place * WORD_BITS + bit))
            })
        })
    }

    /// All of them, those from one place on first.
    pub fn iter_from(&self, first: FlowIx) -> impl Iterator<Item = FlowIx> {
        let (behind, before) = (self.iter().filter(move |ix| *ix >= first), self.iter());
        behind.chain(before.take_while(move |ix| *ix < first))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_holds_what_an_ordinary_set_holds() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut set, mut tree) = (FlowSet::default(), BTreeSet::new());
        for step in 0..20_000 {
            // The first ones are not the lowest.
            let low = 700_usize.saturating_sub(step / 4);
            let ix = FlowIx(rng.usize(low..900));
            if rng.u8(..) < if step / 2_000 % 2 == 0 { 200 } else { 60 } {
                set.insert(ix);
                tree.insert(ix);
            } else {
                set.remove(ix);
                tree.remove(&ix);
            }
            assert_eq!((set.len(), set.is_empty()), (tree.len(), tree.is_empty()));
            if step % 50 == 0 {
                let turn = FlowIx(rng.usize(0..1_000));
                assert!(set.iter().eq(tree.iter().copied()));
                assert!(set.iter_from(turn).eq(tree.range(turn..).chain(tree.range(..turn)).copied()));
            }
        }
    }
}

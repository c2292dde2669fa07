//! What is kept by seq while seqs are given out in their order and end in about the same order: places in a row, a few of them
//! together, so that none is looked for. A stretch of which nothing is left takes a word.

use std::collections::VecDeque;
use std::ops::Range;

/// Places that are made and given up together, a bit of `taken` each. What stands alone among many that ended keeps so many places.
const PLACES: usize = 8;
const TOGETHER: u64 = PLACES as u64;

/// Words that an empty list keeps at most.
const KEPT_MAX: usize = 64;

#[derive(Debug)]
struct Chunk<T> {
    places: [Option<T>; PLACES],
    /// A bit per place that holds something: which ones do is known without a look at each of them.
    taken: u8,
}

impl<T> Chunk<T> {
    fn empty() -> Box<Self> {
        Box::new(Self { places: std::array::from_fn(|_| None), taken: 0 })
    }

    /// The places from one on that hold something, and what.
    fn from(&self, place: u64) -> impl Iterator<Item = (u64, &T)> {
        let mut left = u64::from(self.taken)
            & u64::MAX.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0);
        std::iter::from_fn(move || {
            let place = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            let value = self.places.get(usize::try_from(place).ok()?)?.as_ref()?;
            Some((u64::from(place), value))
        })
    }
}

/// Values by seq, in the order of seqs.
#[derive(Debug)]
pub struct Seqs<T> {
    /// The seq of the first place of the first chunk.
    base: u64,
    /// The first and the last one hold something.
    chunks: VecDeque<Option<Box<Chunk<T>>>>,
    /// The one that was given up last: where little is under way, the next one is made of it.
    spare: Option<Box<Chunk<T>>>,
    len: usize,
}

impl<T> Default for Seqs<T> {
    fn default() -> Self {
        Self { base: 0, chunks: VecDeque::new(), spare: None, len: 0 }
    }
}

impl<T> Seqs<T> {
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

    /// Takes a value in; its seq is above all that are there.
    ///
    /// # Errors
    /// The value, if its seq is not: nothing is lost, and whoever gave out the seq was wrong.
    pub fn push(&mut self, seq: u64, value: T) -> Result<(), T> {
        if self.chunks.is_empty() {
            self.base = seq - seq % TOGETHER;
        }
        let Some((chunk, place)) = self.place(seq) else { return Err(value) };
        if chunk + 1 < self.chunks.len() {
            return Err(value);
        }
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let spare = &mut self.spare;
        let chunk = self.chunks[chunk].get_or_insert_with(|| spare.take().unwrap_or_else(Chunk::empty));
        if chunk.taken >> place != 0 {
            return Err(value);
        }
        chunk.places[place] = Some(value);
        chunk.taken |= 1 << place;
        self.len += 1;
        Ok(())
    }

    /// The value of a seq.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<&T> {
        let (chunk, place) = self.place(seq)?;
        self.chunks.get(chunk)?.as_ref()?.places[place].as_ref()
    }

    /// See [`Seqs::get`].
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let (chunk, place) = self.place(seq)?;
        self.chunks.get_mut(chunk)?.as_mut()?.places[place].as_mut()
    }

    /// Takes a value out.
    pub fn remove(&mut self, seq: u64) -> Option<T> {
        let (chunk, place) = self.place(seq)?;
        let holder = self.chunks.get_mut(chunk)?;
        let of = holder.as_mut()?;
        let value = of.places[place].take()?;
        of.taken &= !(1 << place);
        self.len -= 1;
        if of.taken == 0 {
            self.spare = holder.take();
            self.trim();
        }
        Some(value)
    }

    /// The lowest seq, and its value.
    #[must_use]
    pub fn first(&self) -> Option<(u64, &T)> {
        let chunk = self.chunks.front()?.as_ref()?;
        chunk.from(0).next().map(|(place, value)| (self.base + place, value))
    }

    /// Those from one seq on and below another one.
    pub fn range(&self, from: u64, end: u64) -> impl Iterator<Item = (u64, &T)> {
        let within = self.chunks_within(from, end);
        let firsts = (self.base / TOGETHER + as_seq(within.start)..).map(|chunk| chunk * TOGETHER);
        let chunks = self.chunks.range(within).zip(firsts);
        let chunks = chunks.filter_map(|(chunk, first)| Some((chunk.as_ref()?, first)));
        let seqs = chunks.flat_map(move |(chunk, first)| {
            let within = chunk.from(from.saturating_sub(first).min(TOGETHER));
            within.map(move |(place, value)| (first + place, value))
        });
        seqs.take_while(move |(seq, _)| *seq < end)
    }

    /// The chunks that may hold something of such a range: no other one is looked at, for a chunk may be followed by any number
    /// of which nothing is left.
    fn chunks_within(&self, from: u64, end: u64) -> Range<usize> {
        let index = |chunk: u64| usize::try_from(chunk).unwrap_or(usize::MAX).min(self.chunks.len());
        let first = index(from.saturating_sub(self.base) / TOGETHER);
        first..index(end.saturating_sub(self.base).div_ceil(TOGETHER)).max(first)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.range(0, u64::MAX)
    }

    /// All of them, the highest seq first.
    pub fn iter_back_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let chunks = self.chunks.iter_mut().rev().flatten();
        chunks.flat_map(|chunk| chunk.places.iter_mut().rev().flatten())
    }

    /// Where a seq has its place: in which chunk, and where in it. Below all there is none.
    fn place(&self, seq: u64) -> Option<(usize, usize)> {
        let offset = seq.checked_sub(self.base)?;
        Some((usize::try_from(offset / TOGETHER).ok()?, usize::try_from(offset % TOGETHER).ok()?))
    }

    /// Gives up what nothing is left of at either end.
    fn trim(&mut self) {
        while let Some(None) = self.chunks.front() {
            self.chunks.pop_front();
            self.base += TOGETHER;
        }
        while let Some(None) = self.chunks.back() {
            self.chunks.pop_back();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > KEPT_MAX {
            self.chunks = VecDeque::new();
        }
    }
}

fn as_seq(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_holds_what_an_ordinary_map_holds() {
        let mut rng = fastrand::Rng::with_seed(11);
        let (mut seqs, mut map) = (Seqs::default(), BTreeMap::new());
        let mut next = 1;
        for step in 0..20_000_u64 {
            // Often empty, sometimes long.
            let grows = if step / 2_000 % 2 == 0 { 70 } else { 30 };
            if rng.u64(0..100) < grows {
                next += if rng.u8(..) == 0 { rng.u64(1..100) } else { 1 };
                assert_eq!(seqs.push(next, step), Ok(()));
                map.insert(next, step);
            } else if let Some((first, last)) = map.first_key_value().zip(map.last_key_value()) {
                let seq = if rng.bool() { *first.0 } else { rng.u64(*first.0..=*last.0 + 1) };
                assert_eq!(seqs.remove(seq), map.remove(&seq));
            }
            let seq = rng.u64(0..next + 20);
            assert_eq!(seqs.get(seq), map.get(&seq));
            assert_eq!((seqs.len(), seqs.is_empty()), (map.len(), map.is_empty()));
            assert_eq!(seqs.first(), map.first_key_value().map(|(seq, value)| (*seq, value)));
            if step % 100 == 0 {
                let (from, end) = (rng.u64(0..next + 20), rng.u64(0..next + 20));
                let expected = map.range(from..end.max(from)).map(|(seq, value)| (*seq, value));
                assert!(seqs.range(from, end).eq(expected), "{from} to {end}");
                assert!(seqs.iter_back_mut().map(|value| *value).eq(map.values().rev().copied()));
            }
        }
    }

    #[test]
    fn what_is_out_of_order_comes_back() {
        let mut seqs = Seqs::default();
        for (seq, taken) in [
            (20, true),
            (19, false),
            (20, false),
            (3, false),
            (23, true),
            (22, false),
            (40, true),
            (24, false),
        ] {
            assert_eq!(seqs.push(seq, seq), if taken { Ok(()) } else { Err(seq) }, "{seq}");
        }
        assert!(seqs.iter().map(|(seq, _)| seq).eq([20, 23, 40]));
        assert_eq!(seqs.len(), 3);
    }

    #[test]
    fn no_more_than_the_range_is_looked_at() {
        let mut seqs = Seqs::default();
        assert!([10, 90_000].into_iter().all(|seq| seqs.push(seq, seq).is_ok()));
        assert!(seqs.chunks.len() > 10_000);
        for (from, end, looked_at) in [
            (0, 11, 0..1),
            (0, 16, 0..1),
            (10, 17, 0..2),
            (16, 16, 1..1),
            (90_000, u64::MAX, 11_249..11_250),
            (0, 0, 0..0),
        ] {
            assert_eq!(seqs.chunks_within(from, end), looked_at, "{from} to {end}");
        }
        assert_eq!(seqs.range(0, 90_001).count(), 2);
        assert_eq!((seqs.range(0, 11).count(), seqs.range(11, 90_000).count()), (1, 0));
    }

    #[test]
    fn one_that_stays_keeps_a_word_for_those_that_ended_behind_it() {
        let mut seqs = Seqs::default();
        for seq in 5..10_005 {
            assert_eq!(seqs.push(seq, seq), Ok(()));
            if seq > 5 {
                assert_eq!(seqs.remove(seq), Some(seq));
            }
        }
        assert_eq!((seqs.len(), seqs.chunks.len()), (1, 1));
        assert!((10_005..20_000).all(|seq| seqs.push(seq, seq).is_ok()));
        assert!((10_005..19_999).all(|seq| seqs.remove(seq) == Some(seq)));
        assert_eq!(seqs.chunks.iter().flatten().count(), 2, "the first and the last");
        assert_eq!((seqs.remove(5), seqs.remove(19_999)), (Some(5), Some(19_999)));
        assert_eq!((seqs.chunks.len(), seqs.chunks.capacity()), (0, 0), "what was long is given back");
    }
}

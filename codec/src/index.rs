//! Where the reference has which block: a hash table over its aligned 32-byte blocks.
//!
//! Any run of 63 bytes contains one whole aligned block, so looking up every window of a message finds every common
//! run of that length. A filter over the first and last eight bytes of the blocks answers most lookups with two
//! multiplications and three bits of one word. The hash is keyed: without the seed nobody can prepare blocks that collide.

use std::ops::Range;

use crate::words::{load, mix};
use crate::work::Work;

/// Bytes per block.
pub(crate) const BLOCK: usize = 32;
/// Blocks kept per bucket; further ones with the same bucket are dropped.
const BUCKET: usize = 4;
/// Words of the filter: small enough for the first-level cache, or large enough for a long reference.
const FILTER_SMALL: usize = 1 << 8;
const FILTER_LARGE: usize = 1 << 12;
/// References with more blocks than this get the large filter.
const SMALL_BLOCKS_MAX: usize = 1 << 10;
/// So often a window is compared with every block of a reference before its blocks are sorted into slots, which takes ten
/// times as long.
const SCANS: usize = 8;
/// Windows looked at in one go.
const GO: usize = 8;
/// Bytes that looking up one window compares at most.
pub(crate) const CANDIDATE_BYTES: usize = BUCKET * BLOCK;
const TAG_SHIFT: u32 = 48;
const POSITION_MASK: u64 = (1 << TAG_SHIFT) - 1;

/// The blocks of one reference.
#[derive(Debug)]
pub(crate) struct BlockIndex {
    keys: [u64; 4],
    /// `BUCKET` slots per bucket: 16 bits of the hash, then block number + 1; 0 is free.
    slots: Vec<u64>,
    filter: Vec<u64>,
    bucket_mask: usize,
    /// The slots are not those of the last reference yet: where the filter answers every lookup nobody needs them.
    unsorted: bool,
    /// Lookups since then that were answered without.
    scans: usize,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where in the reference the block begins.
    pub(crate) at: usize,
    /// No other block of the bucket looked the same.
    pub(crate) unique: bool,
}

impl BlockIndex {
    /// An empty index whose hash depends on `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = mix(state ^ 0xBF58_476D_1CE4_E5B9, state.rotate_left(32) ^ 0x94D0_49BB_1331_11EB);
            // Odd keys never turn a factor into zero for every input.
            mixed | 1
        });
        Self {
            keys,
            slots: Vec::new(),
            filter: vec![0; FILTER_SMALL],
            bucket_mask: 0,
            unsorted: false,
            scans: 0,
        }
    }

    /// Forgets the last reference and takes in `reference`: the first and the last eight bytes of its blocks.
    pub(crate) fn build(&mut self, reference: &[u8]) {
        let blocks = reference.len() / BLOCK;
        let filter_words = if blocks > SMALL_BLOCKS_MAX { FILTER_LARGE } else { FILTER_SMALL };
        self.filter.clear();
        self.filter.resize(filter_words, 0);
        // A fixed length lets the compiler see that no place in the filter is out of bounds.
        if let Some(filter) = self.filter.first_chunk_mut::<FILTER_LARGE>() {
            fill(filter, &self.keys, reference);
        } else if let Some(filter) = self.filter.first_chunk_mut::<FILTER_SMALL>() {
            fill(filter, &self.keys, reference);
        }
        (self.unsorted, self.scans) = (true, 0);
    }

    /// As [`build`](Self::build), from the first of every `apart` bytes of each of `parts`; only for
    /// [`next_candidate`](Self::next_candidate).
    pub(crate) fn build_samples<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone, apart: usize) {
        let samples: usize = parts.clone().map(|part| part.len().div_ceil(apart)).sum();
        self.filter.clear();
        self.filter.resize(if samples > SMALL_BLOCKS_MAX { FILTER_LARGE } else { FILTER_SMALL }, 0);
        let words = self.filter.len();
        for block in parts.flat_map(|part| part.chunks(apart)).filter_map(|chunk| chunk.first_chunk()) {
            let (word, bits) = filter_place(ends(block, &self.keys), words);
            self.filter[word] |= 1 << bits[0] | 1 << bits[1] | 1 << bits[2];
        }
    }

    /// Takes in the whole blocks of what was built from last.
    fn sort(&mut self, reference: &[u8]) {
        let blocks = reference.len() / BLOCK;
        let buckets = (blocks / 2).max(1).next_power_of_two();
        self.unsorted = false;
        self.bucket_mask = buckets - 1;
        self.slots.clear();
        self.slots.resize(buckets * BUCKET, 0);
        for (number, block) in (1u64..).zip(reference.as_chunks::<BLOCK>().0) {
            let hash = self.hash(block);
            let bucket = self.bucket(hash);
            if let Some(slot) = self.slots[bucket..bucket + BUCKET].iter_mut().find(|slot| **slot == 0) {
                *slot = (hash >> TAG_SHIFT << TAG_SHIFT) | number;
            }
        }
    }

    /// The first place `from`, `from + step`, ... in `text` whose window may be a block; places beyond `end` and those
    /// without a whole window do not count. With it the number of places that were looked at.
    #[inline]
    pub(crate) fn next_candidate(
        &self,
        text: &[u8],
        from: usize,
        step: usize,
        end: usize,
    ) -> (Option<usize>, usize) {
        let end = end.min((text.len() + 1).saturating_sub(BLOCK));
        // A fixed length lets the compiler see that no place in the filter is out of bounds.
        if let Some(filter) = self.filter.first_chunk::<FILTER_LARGE>() {
            next_candidate(filter, &self.keys, text, from, step, end)
        } else if let Some(filter) = self.filter.first_chunk::<FILTER_SMALL>() {
            next_candidate(filter, &self.keys, text, from, step, end)
        } else {
            (None, 0)
        }
    }

    /// The first block that equals `window` and lies in the part `within` of `reference`, which is what was built from.
    pub(crate) fn find(
        &mut self,
        reference: &[u8],
        window: &[u8; BLOCK],
        within: Range<usize>,
        work: &mut Work,
    ) -> Option<Found> {
        if self.unsorted {
            work.hashed_positions += reference.len() / BLOCK;
            if self.scans < SCANS {
                self.scans += 1;
                return scan(reference, window, within);
            }
            self.sort(reference);
        }
        let hash = self.hash(window);
        let bucket = self.bucket(hash);
        let mut alike = 0;
        let mut found = None;
        for &slot in &self.slots[bucket..bucket + BUCKET] {
            if slot == 0 {
                break;
            }
            if slot >> TAG_SHIFT != hash >> TAG_SHIFT {
                continue;
            }
            alike += 1;
            let number = usize::try_from(slot & POSITION_MASK).unwrap_or(usize::MAX);
            let at = (number - 1) * BLOCK;
            // Blocks were entered in rising order, so the first that fits is the nearest.
            let inside = at >= within.start && at + BLOCK <= within.end;
            if found.is_none() && inside && reference.get(at..at + BLOCK) == Some(window.as_slice()) {
                found = Some(at);
            }
        }
        found.map(|at| Found { at, unique: alike == 1 })
    }

    fn hash(&self, block: &[u8; BLOCK]) -> u64 {
        let (words, _) = block.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]) ^ self.keys[index];
        let left = mix(word(0), word(1));
        let right = mix(word(2), word(3));
        mix(left ^ self.keys[1], right ^ self.keys[3])
    }

    fn bucket(&self, hash: u64) -> usize {
        let [a, b, c, d, ..] = hash.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]) as usize & self.bucket_mask) * BUCKET
    }
}

/// As [`BlockIndex::find`], by looking at all blocks.
#[inline(never)]
fn scan(reference: &[u8], window: &[u8; BLOCK], within: Range<usize>) -> Option<Found> {
    let mut alike = 0;
    let mut found = None;
    for (number, block) in reference.as_chunks::<BLOCK>().0.iter().enumerate() {
        if load(block) == load(window) && block == window {
            alike += 1;
            let at = number * BLOCK;
            if found.is_none() && at >= within.start && at + BLOCK <= within.end {
                found = Some(at);
            }
        }
    }
    found.map(|at| Found { at, unique: alike == 1 })
}

/// What the filter knows of a block: its first and its last eight bytes. In texts the first alone are too often those of
/// some other block.
#[inline]
fn ends(block: &[u8; BLOCK], keys: &[u64; 4]) -> u64 {
    let last = block.last_chunk::<8>().map_or(0, |last| u64::from_le_bytes(*last));
    load(block).wrapping_mul(keys[0]).wrapping_add(last.wrapping_mul(keys[1]))
}

/// Word and numbers of the bits that a hash stands for in a filter of `words` words, a power of two.
#[inline]
fn filter_place(hash: u64, words: usize) -> (usize, [u64; 3]) {
    let word = usize::try_from(hash >> 34).unwrap_or(0) & (words - 1);
    (word, [hash >> 58, hash >> 52 & 0x3F, hash >> 46 & 0x3F])
}

/// Sets the bits of all whole blocks of `reference`.
#[inline(never)]
fn fill<const WORDS: usize>(filter: &mut [u64; WORDS], keys: &[u64; 4], reference: &[u8]) {
    for block in reference.as_chunks::<BLOCK>().0 {
        let (word, bits) = filter_place(ends(block, keys), WORDS);
        filter[word] |= 1 << bits[0] | 1 << bits[1] | 1 << bits[2];
    }
}

#[inline]
fn next_candidate<const WORDS: usize>(
    filter: &[u64; WORDS],
    keys: &[u64; 4],
    text: &[u8],
    from: usize,
    step: usize,
    end: usize,
) -> (Option<usize>, usize) {
    let place = |window: &[u8; BLOCK]| {
        let (word, bits) = filter_place(ends(window, keys), WORDS);
        (filter[word], bits)
    };
    let (mut at, mut looked_at) = (from, 0);
    if step == 1 {
        while at + GO <= end {
            // Every place before `end` has a whole window.
            let Some(ahead) = text[at..].first_chunk::<{ GO + BLOCK }>() else { break };
            // The first bit of each place, without a branch for any of them. The lowest bit of the sum says whether.
            let mut any = 0;
            for offset in 0..GO {
                if let Some(window) = ahead[offset..].first_chunk::<BLOCK>() {
                    let (word, bits) = place(window);
                    any |= word >> bits[0];
                }
            }
            if any & 1 != 0 {
                break;
            }
            at += GO;
            looked_at += GO;
        }
    }
    let (found, more) = one_by_one(filter, keys, text, at, step, end);
    (found, looked_at + more)
}

/// The first place `from`, `from + step`, ... before `end` whose window may be a block, and how many were looked at.
#[inline(never)]
fn one_by_one<const WORDS: usize>(
    filter: &[u64; WORDS],
    keys: &[u64; 4],
    text: &[u8],
    from: usize,
    step: usize,
    end: usize,
) -> (Option<usize>, usize) {
    let (mut at, mut looked_at) = (from, 0);
    while at < end
        && let Some(window) = text.get(at..at + BLOCK)
    {
        looked_at += 1;
        if let Some(window) = window.first_chunk() {
            let hash = ends(window, keys);
            let word = filter[usize::try_from(hash >> 34).unwrap_or(0) & (WORDS - 1)];
            // One after the other: nearly always the first is not set.
            if word >> (hash >> 58) & 1 != 0
                && word >> (hash >> 52 & 0x3F) & 1 != 0
                && word >> (hash >> 46 & 0x3F) & 1 != 0
            {
                return (Some(at), looked_at);
            }
        }
        at += step;
    }
    (None, looked_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distinct_block_is_found_and_repeats_are_marked() {
        let mut reference = Vec::new();
        for block in 0..500u64 {
            for word in 0..4 {
                reference.extend_from_slice(
                    &(block * 977 + word).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes(),
                );
            }
        }
        reference.extend_from_slice(&[7; 3 * BLOCK]);
        let (mut index, mut work) = (BlockIndex::new(5), Work::default());
        index.build(&reference);
        let mut found = 0;
        for (number, block) in reference.as_chunks::<BLOCK>().0.iter().take(500).enumerate() {
            assert_eq!(index.next_candidate(block, 0, 1, usize::MAX), (Some(0), 1));
            if let Some(hit) = index.find(&reference, block, 0..reference.len(), &mut work) {
                assert_eq!(hit, Found { at: number * BLOCK, unique: true });
                found += 1;
            }
        }
        assert!(found > 450, "{found}");
        let end = reference.len();
        let repeat = index.find(&reference, &[7; BLOCK], 501 * BLOCK..end, &mut work).unwrap();
        assert_eq!(repeat, Found { at: 501 * BLOCK, unique: false });
        assert_eq!(index.find(&reference, &[7; BLOCK], 503 * BLOCK..end, &mut work), None);
        index.build(&[]);
        assert_eq!(index.find(&[], &[7; BLOCK], 0..0, &mut work), None);
    }
}

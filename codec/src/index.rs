//! Where the reference has which block: a hash table over its aligned 32-byte blocks.
//!
//! Any run of 63 bytes contains one whole aligned block, so looking up every window of a message finds every common
//! run of that length. A filter over the first eight bytes of the blocks answers most lookups with one multiplication
//! and one bit. The hash is keyed: without the seed nobody can prepare blocks that collide.

use crate::bytes_equal::{load, mix};

/// Bytes per block.
pub(crate) const BLOCK: usize = 32;
/// Blocks kept per bucket; further ones with the same bucket are dropped.
const BUCKET: usize = 4;
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
    filter_shift: u32,
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
        Self { keys, slots: Vec::new(), filter: Vec::new(), bucket_mask: 0, filter_shift: 0 }
    }

    /// Forgets the last reference and takes in `reference`. Costs one hash per 32 bytes.
    pub(crate) fn build(&mut self, reference: &[u8]) {
        let blocks = reference.len() / BLOCK;
        let buckets = (blocks / 2).max(1).next_power_of_two();
        let filter_bits = (blocks * 16).max(64).next_power_of_two();
        self.bucket_mask = buckets - 1;
        self.filter_shift = 64 - filter_bits.trailing_zeros();
        self.slots.clear();
        self.slots.resize(buckets * BUCKET, 0);
        self.filter.clear();
        self.filter.resize(filter_bits / 64, 0);
        for (number, block) in (1u64..).zip(reference.as_chunks::<BLOCK>().0) {
            let bit = self.filter_bit(load(block));
            self.filter[bit / 64] |= 1 << (bit % 64);
            let hash = self.hash(block);
            let bucket = self.bucket(hash);
            if let Some(slot) = self.slots[bucket..bucket + BUCKET].iter_mut().find(|slot| **slot == 0) {
                *slot = (hash >> TAG_SHIFT << TAG_SHIFT) | number;
            }
        }
    }

    /// Whether a window that begins with the eight bytes `first` may be a block.
    #[inline]
    pub(crate) fn may_hold(&self, first: u64) -> bool {
        let bit = self.filter_bit(first);
        self.filter[bit / 64] >> (bit % 64) & 1 != 0
    }

    /// The first block of `reference` at or after `from` that equals `window`. `reference` may be shorter than what was
    /// built from: blocks beyond its end do not count.
    pub(crate) fn find(&self, reference: &[u8], window: &[u8; BLOCK], from: usize) -> Option<Found> {
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
            if found.is_none() && at >= from && reference.get(at..at + BLOCK) == Some(window.as_slice()) {
                found = Some(at);
            }
        }
        found.map(|at| Found { at, unique: alike == 1 })
    }

    #[inline]
    fn filter_bit(&self, first: u64) -> usize {
        let hash = first.wrapping_mul(self.keys[0]) >> self.filter_shift;
        usize::try_from(hash).unwrap_or(0)
    }

    fn hash(&self, block: &[u8; BLOCK]) -> u64 {
        let (words, _) = block.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]) ^ self.keys[index];
        let left = mix(word(0), word(1));
        let right = mix(word(2), word(3));
        mix(left ^ self.keys[1], right ^ self.keys[3])
    }

    fn bucket(&self, hash: u64) -> usize {
        let low = usize::try_from(hash & POSITION_MASK).unwrap_or(0);
        (low & self.bucket_mask) * BUCKET
    }
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
        let mut index = BlockIndex::new(5);
        index.build(&reference);
        let mut found = 0;
        for (number, block) in reference.as_chunks::<BLOCK>().0.iter().take(500).enumerate() {
            assert!(index.may_hold(load(block)));
            if let Some(hit) = index.find(&reference, block, 0) {
                assert_eq!(hit, Found { at: number * BLOCK, unique: true });
                found += 1;
            }
        }
        assert!(found > 450, "{found}");
        let repeat = index.find(&reference, &[7; BLOCK], 501 * BLOCK).unwrap();
        assert_eq!(repeat, Found { at: 501 * BLOCK, unique: false });
        assert_eq!(index.find(&reference, &[7; BLOCK], 503 * BLOCK), None);
        index.build(&[]);
        assert_eq!(index.find(&[], &[7; BLOCK], 0), None);
    }
}

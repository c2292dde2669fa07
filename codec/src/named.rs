//! The checksum of the numbers that a frame's streams have: they are not in the frame, and under its checksum.
//!
//! Frames of one connection mostly name the same streams in the same order. To compare the numbers with the last ones takes
//! 2 ns for five, to take their checksum 14, of the 200 that a frame of heartbeats takes.

use crate::checksum;
use crate::limits::DESTINATIONS_MAX;

/// Numbers that are put into bytes at once.
const AT_ONCE: usize = 64;

/// The numbers of the last frame's streams, and their checksum.
#[derive(Debug, Default)]
pub(crate) struct Named {
    numbers: Vec<u32>,
    checksum: u32,
}

impl Named {
    /// What the checksum of a frame of these streams goes on from, where that of the frame before is `before`.
    #[inline]
    pub(crate) fn begin(&mut self, before: u32, numbers: &[u32]) -> u32 {
        if self.numbers != numbers {
            self.take_in(numbers);
        }
        before ^ self.checksum
    }

    #[inline(never)]
    fn take_in(&mut self, numbers: &[u32]) {
        self.checksum = checksum_of(numbers);
        self.numbers.clear();
        // More are in no frame, and refused soon; those before them are compared in vain.
        self.numbers.extend_from_slice(&numbers[..numbers.len().min(DESTINATIONS_MAX + 1)]);
    }
}

/// The checksum of numbers as four bytes each, little-endian.
pub(crate) fn checksum_of(numbers: &[u32]) -> u32 {
    let mut checksum = 0;
    for part in numbers.chunks(AT_ONCE) {
        let mut bytes = [0; 4 * AT_ONCE];
        for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(part) {
            *bytes = number.to_le_bytes();
        }
        checksum = checksum::append_own(checksum, &mut bytes[..4 * part.len()]);
    }
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_their_bytes() {
        let mut named = Named::default();
        for count in [0, 1, 2, 5, 63, 64, 65, 128, 129, 1024, 5000, 1] {
            for factor in [1, 2_654_435_761] {
                let numbers: Vec<u32> = (1..=count).map(|k: u32| k.wrapping_mul(factor)).collect();
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                for before in [0, 0x8A91_36AA, u32::MAX] {
                    assert_eq!(named.begin(before, &numbers), before ^ checksum::crc32c(&bytes), "{count}");
                }
                assert!(named.numbers.len() <= DESTINATIONS_MAX + 1);
            }
        }
    }
}

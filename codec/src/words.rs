//! Operations on words of eight bytes.

/// The first eight bytes as a word.
#[inline]
pub(crate) fn load<const N: usize>(bytes: &[u8; N]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(first) => u64::from_le_bytes(*first),
        None => 0,
    }
}

/// The eight bytes at `at`, if there are so many.
#[inline]
pub(crate) fn load_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|first| u64::from_le_bytes(*first))
}

/// At most eight bytes as a word, the first one lowest; the others are zero.
#[inline]
pub(crate) fn word(bytes: &[u8]) -> u64 {
    // Two halves that overlap, if there are neither eight bytes nor one.
    if let Some(whole) = bytes.first_chunk::<8>() {
        u64::from_le_bytes(*whole)
    } else if let (Some(front), Some(back)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let shift = 8 * (bytes.len() - 4);
        u64::from(u32::from_le_bytes(*front)) | u64::from(u32::from_le_bytes(*back)) << shift
    } else if let (Some(front), Some(back)) = (bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
        let shift = 8 * (bytes.len() - 2);
        u64::from(u16::from_le_bytes(*front)) | u64::from(u16::from_le_bytes(*back)) << shift
    } else {
        bytes.first().copied().map_or(0, u64::from)
    }
}

/// Folds the product of two words.
#[inline]
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = (u128::from(a) * u128::from(b)).to_le_bytes();
    let (halves, _) = product.as_chunks::<8>();
    u64::from_le_bytes(halves[0]) ^ u64::from_le_bytes(halves[1])
}

/// Bit `j` says whether byte `j` of up to eight words is zero.
#[inline]
pub(crate) fn zero_bits<const N: usize>(words: [u64; N]) -> u64 {
    words.iter().zip(0..).fold(0, |bits, (word, index)| bits | zero_mask(*word) << (8 * index))
}

/// Bit `j` says whether byte `j` of the word is zero.
#[inline]
pub(crate) fn zero_mask(word: u64) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    // 0x80 in every byte that is zero, then those eight bits side by side.
    let zeros = !(((word & LOW) + LOW) | word | LOW);
    (zeros >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_bytes_that_there_are() {
        let text = [1, 2, 3, 0, 5, 0xFF, 7, 8, 9];
        for len in 0..=text.len() {
            let mut bytes = [0; 8];
            bytes[..len.min(8)].copy_from_slice(&text[..len.min(8)]);
            assert_eq!(word(&text[..len]), u64::from_le_bytes(bytes), "{len}");
        }
        assert_eq!(zero_bits([u64::from_le_bytes([1, 0, 0x80, 0, 0, 0xFF, 7, 0]), 0]), 0xFF9A);
    }
}

//! How far two byte strings agree.

use crate::words::{word, zero_mask};

pub(crate) const WIDE: usize = 64;
/// Equality of so many bytes is left to `memcmp`, which knows the processor; where it says no, they are looked at again.
const LONG: usize = 1024;

/// Whether all words are equal, without a branch or a call for any of them.
#[inline]
fn equal_wide(a: &[u8; WIDE], b: &[u8; WIDE]) -> bool {
    let (words_a, _) = a.as_chunks::<8>();
    let (words_b, _) = b.as_chunks::<8>();
    let differing = |(x, y): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
    words_a.iter().zip(words_b).map(differing).fold(0, |all, some| all | some) == 0
}

/// Length of the longest common prefix.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    // Texts that have nothing in common are many, and need none of what follows.
    if let (Some(x), Some(y)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return differing.trailing_zeros() as usize / 8;
        }
    }
    long_prefix(a, b)
}

#[inline(never)]
fn long_prefix(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (long_a, _) = a.as_chunks::<LONG>();
    let (long_b, _) = b.as_chunks::<LONG>();
    let long = long_a.iter().zip(long_b).take_while(|(x, y)| x == y).count() * LONG;
    let (wide_a, _) = a[long..].as_chunks::<WIDE>();
    let (wide_b, _) = b[long..].as_chunks::<WIDE>();
    let wide = long + wide_a.iter().zip(wide_b).take_while(|(x, y)| equal_wide(x, y)).count() * WIDE;
    let (words_a, _) = a[wide..].as_chunks::<8>();
    let (words_b, _) = b[wide..].as_chunks::<8>();
    let mut at = wide;
    for (x, y) in words_a.iter().zip(words_b) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return at + differing.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(x, y)| x == y).count()
}

/// Length of the longest common suffix.
#[inline]
pub(crate) fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    if let (Some(x), Some(y)) = (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return differing.leading_zeros() as usize / 8;
        }
    }
    long_suffix(a, b)
}

#[inline(never)]
fn long_suffix(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[a.len() - len..], &b[b.len() - len..]);
    let (_, long_a) = a.as_rchunks::<LONG>();
    let (_, long_b) = b.as_rchunks::<LONG>();
    let long = long_a.iter().rev().zip(long_b.iter().rev()).take_while(|(x, y)| x == y).count() * LONG;
    let (_, wide_a) = a[..len - long].as_rchunks::<WIDE>();
    let (_, wide_b) = b[..len - long].as_rchunks::<WIDE>();
    let pairs = wide_a.iter().rev().zip(wide_b.iter().rev());
    let wide = long + pairs.take_while(|(x, y)| equal_wide(x, y)).count() * WIDE;
    let (_, words_a) = a[..len - wide].as_rchunks::<8>();
    let (_, words_b) = b[..len - wide].as_rchunks::<8>();
    let mut common = wide;
    for (x, y) in words_a.iter().rev().zip(words_b.iter().rev()) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return common + differing.leading_zeros() as usize / 8;
        }
        common += 8;
    }
    let (a, b) = (&a[..len - common], &b[..len - common]);
    common + a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count()
}

/// How many of the first 64 bytes that both have are equal at the same place.
#[inline]
pub(crate) fn equal_count(a: &[u8], b: &[u8]) -> u8 {
    let len = a.len().min(b.len()).min(WIDE);
    let (wide_a, rest_a) = a[..len].as_chunks::<16>();
    let (wide_b, rest_b) = b[..len].as_chunks::<16>();
    let (words_a, rest_a) = rest_a.as_chunks::<4>();
    let (words_b, rest_b) = rest_b.as_chunks::<4>();
    let mut counts = [0; 16];
    for (x, y) in wide_a.iter().zip(wide_b) {
        count_equal(&mut counts, x, y);
    }
    let mut few = [0; 4];
    for (x, y) in words_a.iter().zip(words_b) {
        count_equal(&mut few, x, y);
    }
    let rest = rest_a.iter().zip(rest_b).map(|(x, y)| u8::from(x == y)).sum::<u8>();
    counts.iter().sum::<u8>() + few.iter().sum::<u8>() + rest
}

/// Adds one to every place where both are equal.
#[inline]
fn count_equal<const N: usize>(counts: &mut [u8; N], a: &[u8; N], b: &[u8; N]) {
    for (count, (x, y)) in counts.iter_mut().zip(a.iter().zip(b)) {
        *count += u8::from(x == y);
    }
}

/// Bit `j` says whether `a[j] == b[j]`, for the first 64 bytes that both have.
pub(crate) fn equal_mask(a: &[u8], b: &[u8]) -> u64 {
    let len = a.len().min(b.len()).min(WIDE);
    let (a, b) = (&a[..len], &b[..len]);
    let (words_a, rest_a) = a.as_chunks::<8>();
    let (words_b, rest_b) = b.as_chunks::<8>();
    let mut mask = 0;
    for (index, (x, y)) in words_a.iter().zip(words_b).enumerate() {
        mask |= zero_mask(u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y)) << (8 * index);
    }
    if rest_a.is_empty() {
        return mask;
    }
    let rest = zero_mask(word(rest_a) ^ word(rest_b)) & ((1 << rest_a.len()) - 1);
    mask | rest << (8 * words_a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_suffix_and_mask_agree_with_the_plain_loops() {
        let base: Vec<u8> = (0..2500u32).map(|k| (k * k % 251).to_le_bytes()[0]).collect();
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 128, 200, 300, 1024, 1100, 2500] {
            for flip in 0..len {
                let mut other = base[..len].to_vec();
                other[flip] ^= 0x11;
                assert_eq!(common_prefix(&base[..len], &other), flip);
                assert_eq!(common_suffix(&base[..len], &other), len - flip - 1);
                let all = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
                let expected = if flip < 64 { all & !(1 << flip) } else { all };
                assert_eq!(equal_mask(&base[..len], &other), expected);
                assert_eq!(u32::from(equal_count(&base[..len], &other)), expected.count_ones());
            }
            assert_eq!(common_prefix(&base, &base[..len]), len);
            assert_eq!(common_suffix(&base, &base[2500 - len..]), len);
        }
    }
}

//! How far two byte strings agree, and the few word operations beneath it.

const WIDE: usize = 64;
/// Equality of so many bytes is left to `memcmp`, which knows the processor; where it says no, they are looked at again.
const LONG: usize = 1024;

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

/// Whether all words are equal, without a branch or a call for any of them.
#[inline]
fn equal_wide(a: &[u8; WIDE], b: &[u8; WIDE]) -> bool {
    let (words_a, _) = a.as_chunks::<8>();
    let (words_b, _) = b.as_chunks::<8>();
    let differing = |(x, y): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
    words_a.iter().zip(words_b).map(differing).fold(0, |all, some| all | some) == 0
}

/// Length of the longest common prefix.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    // Texts that have nothing in common are many, and need none of what follows.
    if let (Some(x), Some(y)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return differing.trailing_zeros() as usize / 8;
        }
    }
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
pub(crate) fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    if let (Some(x), Some(y)) = (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return differing.leading_zeros() as usize / 8;
        }
    }
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

/// Adds to `changes` the bits in which `a` and `b` differ, as far as all three go.
#[inline]
pub(crate) fn add_changes(changes: &mut [u8], a: &[u8], b: &[u8]) {
    let len = changes.len().min(a.len()).min(b.len());
    let (changes, a, b) = (&mut changes[..len], &a[..len], &b[..len]);
    // Whole chunks, then the last one, that overlaps with the one before: adding twice changes nothing. A loop over bytes
    // has up to fifteen left that are taken one by one, and of short messages that is all there is.
    match len {
        64.. => add_chunks::<64>(changes, a, b),
        16.. => add_chunks::<16>(changes, a, b),
        8.. => add_chunks::<8>(changes, a, b),
        4.. => add_chunks::<4>(changes, a, b),
        _ => changes.iter_mut().zip(a.iter().zip(b)).for_each(|(change, (x, y))| *change |= x ^ y),
    }
}

/// All three are equally long, and at least `N` bytes.
#[inline]
fn add_chunks<const N: usize>(changes: &mut [u8], a: &[u8], b: &[u8]) {
    let (chunks, _) = changes.as_chunks_mut::<N>();
    let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
    chunks.iter_mut().zip(pairs).for_each(|(change, (x, y))| add_change(change, x, y));
    if let (Some(change), Some(x), Some(y)) = (changes.last_chunk_mut(), a.last_chunk(), b.last_chunk()) {
        add_change::<N>(change, x, y);
    }
}

/// As [`add_changes`], for `pairs` of which both are as long as `changes`.
pub(crate) fn add_all_changes<'b>(changes: &mut [u8], pairs: impl Iterator<Item = (&'b [u8], &'b [u8])>) {
    match changes.len() {
        0 => pairs.for_each(drop),
        1 => add_ends::<1>(changes, pairs),
        2..4 => add_ends::<2>(changes, pairs),
        4..8 => add_ends::<4>(changes, pairs),
        8..16 => add_ends::<8>(changes, pairs),
        16..32 => add_ends::<16>(changes, pairs),
        32..64 => add_ends::<32>(changes, pairs),
        _ => pairs.for_each(|(a, b)| add_changes(changes, a, b)),
    }
}

/// As [`add_all_changes`], for `N` to `2 * N` bytes: the changes of the first and of the last `N` stay in registers.
#[inline]
fn add_ends<'b, const N: usize>(changes: &mut [u8], pairs: impl Iterator<Item = (&'b [u8], &'b [u8])>) {
    let (mut front, mut back) = ([0; N], [0; N]);
    for (a, b) in pairs {
        if let (Some(a_front), Some(b_front)) = (a.first_chunk(), b.first_chunk())
            && let (Some(a_back), Some(b_back)) = (a.last_chunk(), b.last_chunk())
        {
            add_change(&mut front, a_front, b_front);
            add_change(&mut back, a_back, b_back);
        }
    }
    if let Some(change) = changes.first_chunk_mut() {
        add_change(change, &front, &[0; N]);
    }
    if let Some(change) = changes.last_chunk_mut() {
        add_change(change, &back, &[0; N]);
    }
}

#[inline]
fn add_change<const N: usize>(change: &mut [u8; N], a: &[u8; N], b: &[u8; N]) {
    change.iter_mut().zip(a.iter().zip(b)).for_each(|(change, (x, y))| *change |= x ^ y);
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

/// Bit `j` says whether byte `j` of up to eight words is zero.
#[inline]
pub(crate) fn zero_bits<const N: usize>(words: [u64; N]) -> u64 {
    words.iter().zip(0..).fold(0, |bits, (word, index)| bits | zero_mask(*word) << (8 * index))
}

/// Bit `j` says whether byte `j` of the word is zero.
#[inline]
fn zero_mask(word: u64) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    // 0x80 in every byte that is zero, then those eight bits side by side.
    let zeros = !(((word & LOW) + LOW) | word | LOW);
    (zeros >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Calls `found` with every run `from..to` of at least `least` zero bytes of `bytes`, in order.
pub(crate) fn zero_runs(bytes: &[u8], least: usize, mut found: impl FnMut(usize, usize)) {
    // A run that may go on in the next chunk begins here.
    let mut open = None;
    let mut begin = 0;
    while begin < bytes.len() {
        let chunk = &bytes[begin..bytes.len().min(begin + WIDE)];
        // Where much has changed most chunks hold no zero: all bytes at once, because then that is all there is to do.
        let none = chunk
            .as_array::<WIDE>()
            .is_some_and(|chunk| !chunk.iter().fold(false, |any, byte| any | (*byte == 0)));
        let mut mask = if none { 0 } else { equal_mask(chunk, &[0; WIDE]) };
        let mut at = 0;
        if let Some(from) = open
            && mask & 1 == 0
        {
            open = None;
            if begin - from >= least {
                found(from, begin);
            }
        }
        while mask != 0 {
            let ones = mask >> mask.trailing_zeros();
            let from = open.unwrap_or(begin + at + mask.trailing_zeros() as usize);
            at += (mask.trailing_zeros() + ones.trailing_ones()) as usize;
            if at == chunk.len() {
                open = Some(from);
                break;
            }
            open = None;
            if begin + at - from >= least {
                found(from, begin + at);
            }
            mask = ones >> ones.trailing_ones();
        }
        begin += WIDE;
    }
    if let Some(from) = open
        && bytes.len() - from >= least
    {
        found(from, bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeros_are_those_of_the_plain_loop() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..2000 {
            let len = rng.usize(..400);
            let dense = rng.usize(1..40);
            let bytes: Vec<u8> = (0..len).map(|_| u8::from(rng.usize(..dense) == 0)).collect();
            let least = rng.usize(1..9);
            let mut expected = Vec::new();
            let mut at = 0;
            for places in bytes.chunk_by(|a, b| a == b) {
                if places[0] == 0 && places.len() >= least {
                    expected.push((at, at + places.len()));
                }
                at += places.len();
            }
            let mut runs = Vec::new();
            zero_runs(&bytes, least, |from, to| runs.push((from, to)));
            assert_eq!(runs, expected, "round {round}");
        }
    }

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

    #[test]
    fn changes_and_words_are_those_of_the_plain_loops() {
        let mut rng = fastrand::Rng::with_seed(2);
        for len in (0..70).chain([255, 256]) {
            let texts: Vec<Vec<u8>> = (0..3).map(|_| (0..len).map(|_| rng.u8(..)).collect()).collect();
            let before: Vec<u8> = (0..len).map(|_| rng.u8(..2)).collect();
            let plain = |of: &[&[u8]]| -> Vec<u8> {
                let at = |at: usize| of.iter().fold(before[at], |sum, text| sum | texts[0][at] ^ text[at]);
                (0..len).map(at).collect()
            };
            let mut changes = before.clone();
            add_changes(&mut changes, &texts[0], &texts[1]);
            assert_eq!(changes, plain(&[&texts[1]]), "{len}");
            changes.clone_from(&before);
            add_all_changes(&mut changes, texts[1..].iter().map(|text| (&texts[0][..], &text[..])));
            assert_eq!(changes, plain(&[&texts[1], &texts[2]]), "{len}");
            if len <= 8 {
                let mut bytes = [0; 8];
                bytes[..len].copy_from_slice(&texts[0]);
                assert_eq!(word(&texts[0]), u64::from_le_bytes(bytes));
            }
        }
        // As far as all three go.
        let mut changes = [0; 5];
        add_changes(&mut changes, &[1; 3], &[2; 9]);
        assert_eq!(changes, [3, 3, 3, 0, 0]);
    }
}

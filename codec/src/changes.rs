//! In which places of a text anything has changed: a byte for each, zero where nothing has.

use crate::bytes_equal::{WIDE, equal_mask};

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
    fn changes_are_those_of_the_plain_loops() {
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
        }
        // As far as all three go.
        let mut changes = [0; 5];
        add_changes(&mut changes, &[1; 3], &[2; 9]);
        assert_eq!(changes, [3, 3, 3, 0, 0]);
    }
}

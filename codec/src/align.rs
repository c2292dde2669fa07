//! What a message has in common with the reference: runs in rising order in both.
//!
//! First the common prefix and suffix. Between them the position never moves back: matched bytes earn credit, credit
//! pays for probes close to the place where the two parted, and where no probe succeeds the blocks of the reference
//! are looked up. Whoever finds nothing for as long as the credit lasts looks at fewer and fewer positions, so that
//! messages that share nothing are passed over quickly.

use std::ops::Range;

use crate::bytes_equal::{common_prefix, common_suffix, equal_mask};
use crate::index::{BLOCK, BlockIndex, CANDIDATE_BYTES};
use crate::texts::Starts;
use crate::words::load_at;
use crate::work::Work;

/// Shorter runs are left to the columns of the gaps.
const RUN_BYTES_MIN: usize = 4;
/// Credit that every message begins with, so that short headers can be probed at all.
const CREDIT_START: usize = 512;
/// What one probe costs. Dearer probes lose repeats with glue of varying length: 82 % instead of 30 % of the input.
const PROBE_COST: usize = 32;
/// How far a probe tolerates that a field grew or shrank.
const SHIFT_MAX: usize = 16;
/// Places that such a shift can lead to, and a few more that make whole vectors.
const SHIFTS: usize = 48;
/// How far ahead a probe looks for the next NUL.
const NUL_REACH: usize = 64;
/// Where the words lie that a probe looks for in the other text.
const ANCHORS: [usize; 3] = [4, 12, 28];
/// The index is used when at least this much of a message is left.
const SEARCH_BYTES_MIN: usize = 64;
/// ... and at least this part of what is left of the reference.
const SEARCH_PART: usize = 64;
/// Steps of a search, each taken `LOOKUPS` times and the last one to the end. They are odd, so that this meets every
/// alignment of the reference's blocks: a run is found at the latest with the step after the one that it begins under,
/// if it is so long that `LOOKUPS` of those lie in it.
const STEPS: [usize; 7] = [1, 3, 7, 15, 33, 65, 129];
const LOOKUPS: usize = BLOCK;
/// With which of them the search of a message begins that shares nothing so far. Of short messages the search is half of
/// all the work: in three that have 128 bytes of 1 KiB in common, and nothing else, these are found in one of 12 instead of
/// one of 5, and 512 bytes in every second instead of five of 6.
const FIRST_STEP: usize = 1;
const FIRST_STEP_OF_SHORT: usize = 3;
/// Where the reference has at most so many bytes.
const SHORT_BYTES_MAX: usize = 2 << 10;
/// A message that shares something is searched at every position for so many bytes and for the credit that it has earned.
const PATIENCE_BYTES: usize = 256;
/// A block that is not unique is taken only if it lies this close ahead.
const NEAR_BYTES: usize = 4 << 10;

/// A common run: `reference[at..at + len] == message[from..from + len]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) at: usize,
    pub(crate) from: usize,
    pub(crate) len: usize,
}

/// The index of one reference, built when the first message needs it.
#[derive(Debug)]
pub(crate) struct Reference<'a> {
    bytes: &'a [u8],
    index: &'a mut BlockIndex,
    work: &'a mut Work,
    built: bool,
    /// The step with which the search of a message begins that shares nothing so far; none if such are not searched.
    /// Each that turns out to share nothing makes the next one's larger.
    first_step: Option<usize>,
}

impl<'a> Reference<'a> {
    /// `hopeful` says that blocks are looked up from the first message on, not only after one has shared something.
    pub(crate) fn new(bytes: &'a [u8], index: &'a mut BlockIndex, work: &'a mut Work, hopeful: bool) -> Self {
        Self { bytes, index, work, built: false, first_step: hopeful.then_some(first_step(bytes)) }
    }

    /// Appends the common runs of the reference and `message`, in order. The borders are those of the two.
    pub(crate) fn align(&mut self, message: &[u8], borders: [Starts<'_>; 2], out: &mut Vec<Run>) {
        self.align_between(0..self.bytes.len(), message, borders, out);
    }

    /// The same for the part `within` of the reference.
    pub(crate) fn align_within(&mut self, within: Range<usize>, message: &[u8], out: &mut Vec<Run>) {
        self.align_between(within, message, [Starts::NONE; 2], out);
    }

    fn align_between(
        &mut self,
        within: Range<usize>,
        message: &[u8],
        borders: [Starts<'_>; 2],
        out: &mut Vec<Run>,
    ) {
        let known = out.len();
        let part = &self.bytes[within.clone()];
        let prefix = common_prefix(part, message);
        push(out, Run { at: within.start, from: 0, len: prefix });
        let suffix = common_suffix(&part[prefix..], &message[prefix..]);
        self.work.compared_bytes += prefix + suffix + 2;
        let (at_end, from_end) = (within.end - suffix, message.len() - suffix);
        let (mut at, mut from) = (within.start + prefix, prefix);
        let mut credit = CREDIT_START + prefix + suffix;
        while at < at_end && from < from_end {
            let (rest, wanted) = (&self.bytes[at..at_end], &message[from..from_end]);
            let mut hit = None;
            if credit >= PROBE_COST {
                credit -= PROBE_COST;
                self.work.probes += 1;
                hit = probe(rest, wanted).or_else(|| after_border(rest, wanted, [at, from], borders));
            }
            let pace = if out.len() > known || suffix >= RUN_BYTES_MIN {
                Some(Pace { patience: PATIENCE_BYTES + credit.saturating_sub(CREDIT_START), first_step: 1 })
            } else {
                self.first_step.map(|first_step| Pace { patience: 0, first_step })
            };
            if hit.is_none()
                && wanted.len() >= SEARCH_BYTES_MIN.max(rest.len() / SEARCH_PART)
                && let Some(pace) = pace
            {
                hit = self.search(at..at_end, wanted, pace);
            }
            let Some((skip_at, skip_from)) = hit else { break };
            let len = common_prefix(&rest[skip_at..], &wanted[skip_from..]);
            self.work.compared_bytes += len + 1;
            push(out, Run { at: at + skip_at, from: from + skip_from, len });
            credit += len;
            at += skip_at + len;
            from += skip_from + len;
        }
        push(out, Run { at: at_end, from: from_end, len: suffix });
        if out.len() > known {
            self.first_step = Some(first_step(self.bytes));
        } else if let Some(first) = &mut self.first_step {
            *first = (*first + 1).min(STEPS.len() - 1);
        }
    }

    /// Looks up the windows of `wanted` among the blocks in the part `within` of the reference.
    fn search(&mut self, within: Range<usize>, wanted: &[u8], pace: Pace) -> Option<(usize, usize)> {
        if !self.built {
            self.index.build(self.bytes);
            self.work.hashed_positions += self.bytes.len() / BLOCK;
            self.built = true;
        }
        let mut from = 0;
        let mut end = pace.patience;
        let mut steps = STEPS[pace.first_step..].iter();
        let mut step = STEPS[0];
        loop {
            while from < end {
                let (candidate, hashed) = self.index.next_candidate(wanted, from, step, end);
                self.work.hashed_positions += hashed;
                let Some(place) = candidate else { break };
                self.work.compared_bytes += CANDIDATE_BYTES;
                let window = wanted[place..].first_chunk::<BLOCK>()?;
                if let Some(found) = self.index.find(self.bytes, window, within.clone(), self.work)
                    && (found.unique || found.at - within.start <= NEAR_BYTES)
                {
                    let back = common_suffix(&self.bytes[within.start..found.at], &wanted[..place]);
                    self.work.compared_bytes += back + 1;
                    return Some((found.at - within.start - back, place - back));
                }
                from = place + step;
            }
            if end >= wanted.len() {
                return None;
            }
            from = from.max(end);
            match steps.next() {
                Some(&next) => {
                    step = next;
                    end += LOOKUPS * step;
                }
                None => end = wanted.len(),
            }
        }
    }
}

fn first_step(reference: &[u8]) -> usize {
    if reference.len() <= SHORT_BYTES_MAX { FIRST_STEP_OF_SHORT } else { FIRST_STEP }
}

/// How fast a search goes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// So many bytes at every position,
    patience: usize,
    /// and then with the steps from this number on.
    first_step: usize,
}

/// Appends the common runs of two short texts that lie close together: prefix, suffix, and what probes find between them.
pub(crate) fn align_near(reference: &[u8], message: &[u8], out: &mut Vec<Run>, work: &mut Work) {
    let prefix = common_prefix(reference, message);
    push(out, Run { at: 0, from: 0, len: prefix });
    let suffix = common_suffix(&reference[prefix..], &message[prefix..]);
    work.compared_bytes += prefix + suffix + 2;
    let (at_end, from_end) = (reference.len() - suffix, message.len() - suffix);
    let (mut at, mut from) = (prefix, prefix);
    while at < at_end && from < from_end {
        let (rest, wanted) = (&reference[at..at_end], &message[from..from_end]);
        work.probes += 1;
        let Some((skip_at, skip_from)) = probe(rest, wanted) else { break };
        let len = common_prefix(&rest[skip_at..], &wanted[skip_from..]);
        work.compared_bytes += len + 1;
        push(out, Run { at: at + skip_at, from: from + skip_from, len });
        at += skip_at + len;
        from += skip_from + len;
    }
    push(out, Run { at: at_end, from: from_end, len: suffix });
}

fn push(out: &mut Vec<Run>, run: Run) {
    if run.len >= RUN_BYTES_MIN {
        out.push(run);
    }
}

/// Looks close by for a place where the two texts agree again; returns how much of each to skip.
fn probe(rest: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    same_diagonal(rest, wanted).or_else(|| shifted(rest, wanted)).or_else(|| after_nul(rest, wanted))
}

/// A field of fixed width changed: four equal bytes at the same distance within 64.
fn same_diagonal(rest: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    if !may_hold_four(rest, wanted) {
        return None;
    }
    let equal = equal_mask(rest, wanted);
    let four = equal & (equal >> 1) & (equal >> 2) & (equal >> 3);
    if four == 0 {
        return None;
    }
    let skip = four.trailing_zeros() as usize;
    Some((skip, skip))
}

/// Whether four neighbouring bytes may be equal at the same place, in the bytes that [`equal_mask`] looks at. Among them
/// are two at an even place: all of those at once, because in texts unlike each other there are none.
fn may_hold_four(rest: &[u8], wanted: &[u8]) -> bool {
    let (Some(rest), Some(wanted)) = (rest.first_chunk::<64>(), wanted.first_chunk::<64>()) else {
        return true;
    };
    let pairs = rest.as_chunks::<2>().0.iter().zip(wanted.as_chunks::<2>().0);
    pairs.fold(false, |any, (x, y)| any | (u16::from_le_bytes(*x) == u16::from_le_bytes(*y)))
}

/// A field grew or shrank: eight equal bytes at a distance that differs by up to 16.
fn shifted(rest: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    for anchor in ANCHORS {
        let Some(word) = load_at(wanted, anchor) else { break };
        if !may_hold(&rest[anchor.saturating_sub(SHIFT_MAX).min(rest.len())..], word) {
            continue;
        }
        for shift in 1..=SHIFT_MAX {
            let later = (load_at(rest, anchor + shift) == Some(word)).then_some(anchor + shift);
            let earlier = anchor.checked_sub(shift).filter(|&at| load_at(rest, at) == Some(word));
            if let Some(at) = later.or(earlier) {
                let back = common_suffix(&rest[..at], &wanted[..anchor]);
                return Some((at - back, anchor - back));
            }
        }
    }
    None
}

/// Whether the first four bytes of `word` may stand at one of the first places of `text`: two and two, at all places at
/// once, because nearly always not even the first two do.
fn may_hold(text: &[u8], word: u64) -> bool {
    let Some(window) = text.first_chunk::<{ SHIFTS + 3 }>() else { return true };
    let [a, b, c, d, ..] = word.to_le_bytes();
    let holds = |first: u8, second: u8, from: usize| {
        (from..from + SHIFTS).fold(false, |any, at| any | (window[at] == first) & (window[at + 1] == second))
    };
    holds(a, b, 0) && holds(c, d, 2)
}

/// Strings that end with NUL have other lengths: four equal bytes after the next NUL of each.
fn after_nul(rest: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    let nul = |text: &[u8]| {
        // All at once, because texts without any are many.
        let text = &text[..text.len().min(NUL_REACH)];
        let any = text.iter().fold(false, |any, byte| any | (*byte == 0));
        if any { text.iter().position(|byte| *byte == 0) } else { None }
    };
    let (at, from) = (nul(rest)?, nul(wanted)?);
    let equal =
        rest[at..].iter().zip(&wanted[from..]).take(RUN_BYTES_MIN + 1).take_while(|(x, y)| x == y).count();
    (equal > RUN_BYTES_MIN).then_some((at, from))
}

/// Where a sender cut both texts there begins something: four equal bytes behind the next border of each.
fn after_border(
    rest: &[u8],
    wanted: &[u8],
    places: [usize; 2],
    borders: [Starts<'_>; 2],
) -> Option<(usize, usize)> {
    let [at, from] =
        [0, 1].map(|text| borders[text].next_after(places[text]).map(|next| next - places[text]));
    let (at, from) = (at?, from?);
    let (rest, wanted) = (rest.get(at..)?, wanted.get(from..)?);
    let equal = rest.iter().zip(wanted).take(RUN_BYTES_MIN).take_while(|(x, y)| x == y).count();
    (equal == RUN_BYTES_MIN).then_some((at, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    #[test]
    fn behind_the_next_border_of_both_four_equal_bytes_are_enough_and_three_are_not() {
        let (rest, wanted) = (b"__abcd_____", b"_abcd______");
        let found =
            |rest: &[u8]| after_border(rest, wanted, [0, 0], [Starts::at(&[0, 2]), Starts::at(&[0, 1])]);
        assert_eq!(found(rest), Some((2, 1)));
        for unequal in 2..6 {
            let mut other = *rest;
            other[unequal] = b'X';
            assert_eq!(found(&other), None);
        }
        // The end of one of them is a difference as well; behind the last border nothing is looked at.
        assert_eq!(found(&rest[..5]), None);
        let behind = |at: usize| {
            after_border(&rest[at..], wanted, [at, 0], [Starts::at(&[0, 2]), Starts::at(&[0, 1])])
        };
        assert_eq!((behind(1), behind(2)), (Some((1, 1)), None));
    }

    fn runs(reference: &[u8], message: &[u8]) -> Vec<Run> {
        let mut index = BlockIndex::new(1);
        let (mut work, mut out) = (Work::default(), Vec::new());
        Reference::new(reference, &mut index, &mut work, true).align(message, [Starts::NONE; 2], &mut out);
        let (mut at, mut from) = (0, 0);
        for run in &out {
            assert!(run.at >= at && run.from >= from, "runs overlap or go back: {out:?}");
            (at, from) = (run.at + run.len, run.from + run.len);
            assert_eq!(reference[run.at..at], message[run.from..from]);
        }
        out
    }

    fn covered(reference: &[u8], message: &[u8]) -> usize {
        runs(reference, message).iter().map(|run| run.len).sum()
    }

    #[test]
    fn a_changed_field_costs_only_itself() {
        let reference = random(1, 200);
        let mut message = reference.clone();
        message[100] ^= 1;
        assert_eq!(covered(&reference, &message), 199);
        message[40] ^= 1;
        message[160] ^= 1;
        assert_eq!(covered(&reference, &message), 197);
    }

    #[test]
    fn a_grown_field_costs_only_itself() {
        let reference = random(2, 300);
        let mut message = reference.clone();
        message.splice(100..102, [1, 2, 3]);
        message.splice(200..203, [9]);
        assert_eq!(covered(&reference, &message), 295);
    }

    #[test]
    fn strings_of_other_lengths_are_passed() {
        let text = |name: &str| {
            [&[1, 2, 3, 4, 5, 6][..], name.as_bytes(), &[0, 5, 5, 6, 6, 7, 8, 9], &[3; 3]].concat()
        };
        let (short, long) = (text("a"), text("a much longer name than that of the other side"));
        assert!(covered(&long, &[&short[..], b"x"].concat()) >= 6 + 8);
    }

    #[test]
    fn far_runs_of_63_bytes_are_found_where_something_is_shared() {
        for shift in 0..40 {
            let (first, run) = (random(13, 4), random(3, 63));
            let reference = [first.clone(), random(4, 1000 + shift), run.clone(), random(5, 500)].concat();
            let message = [first, random(6, 200), run, random(7, 300)].concat();
            assert_eq!(covered(&reference, &message), 4 + 63, "shift {shift}");
        }
    }

    #[test]
    fn strangers_are_searched_in_steps() {
        for shift in 0..40 {
            // In steps of 3 to the 96th byte, then of 7 to the 320th, then of 15; of short ones in steps of 15 to the 480th.
            for (reference_bytes, before, len) in [
                (SHORT_BYTES_MAX, 50, BLOCK * (3 + 7) + BLOCK),
                (SHORT_BYTES_MAX, 200, BLOCK * (7 + 15) + BLOCK),
                (900, 1, BLOCK * 15 + BLOCK),
            ] {
                let run = random(3, len);
                let reference = [random(4, reference_bytes + shift), run.clone(), random(5, 500)].concat();
                assert_eq!(first_step(&reference) == FIRST_STEP, reference_bytes == SHORT_BYTES_MAX);
                let message = [random(6, before), run, random(7, 300)].concat();
                assert_eq!(covered(&reference, &message), len, "shift {shift}, {before} bytes before");
            }
        }
    }

    #[test]
    fn long_runs_are_found_after_a_long_search() {
        let run = random(8, 8 << 10);
        let reference = [random(9, 70_001), run.clone(), random(10, 5000)].concat();
        let message = [random(11, 100_000), run, random(12, 3000)].concat();
        assert!(covered(&reference, &message) > 4 << 10);
    }
}

//! What messages share with the reference although it lies in other memory, where others share it by address.
//!
//! Most messages of a leader hold an entry as the same memory. One that has a copy of its own, because it was read again or
//! came another way, shares nothing by address; what it has there would be held against the rest of the reference only, of
//! which nothing is left where all others share it. So such parts are compared by their bytes before the reference is cut
//! up. Where nobody has a copy this costs a look at every message's runs.

use std::ops::Range;

use crate::align::{Reference, Run};
use crate::index::{BLOCK, BlockIndex};
use crate::sweep::Runs;
use crate::texts::{Span, Texts};
use crate::work::Work;

/// Shorter parts are not compared. What messages have in front of their entries mostly is shorter.
const COPY_BYTES_MIN: usize = 256;
/// Of the reference one block is sampled for so many bytes of a segment,
const APART: usize = 256;
/// and of the messages as many neighbouring places that one of them must be a sampled block,
const PLACES: usize = APART + BLOCK;
/// once for so many bytes: a copy from twice this length on is found, shorter ones mostly.
const STRIDE: usize = 8 << 10;

/// Where a message shares nothing by address between two places where it does, and with what that is to be compared.
#[derive(Clone, Debug)]
struct Gap {
    item: usize,
    /// In the message and in the reference.
    own: Range<usize>,
    other: Range<usize>,
}

/// Memory to look for copies with.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    gaps: Vec<Gap>,
    /// Which parts of the reference others share by address, in rising order, apart from each other.
    shared: Vec<Range<usize>>,
    /// The reference and a part of a message in one piece.
    reference: Vec<u8>,
    own: Vec<u8>,
    runs: Vec<Run>,
    found: Vec<(usize, Run)>,
}

impl Copies {
    /// Adds to `runs`, which were found by address, what else the messages have of those parts of the reference.
    pub(crate) fn find(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        reference: usize,
        runs: &mut Runs,
        index: &mut BlockIndex,
        work: &mut Work,
    ) {
        let whole = spans[reference];
        self.gaps.clear();
        for (item, known) in runs.of_each().enumerate() {
            let len = spans[item].len();
            let all_shared = matches!(known, [run] if len - run.len < COPY_BYTES_MIN);
            if !all_shared && item != reference {
                self.take_gaps(item, len, whole.len(), known);
            }
        }
        if self.gaps.is_empty() {
            return;
        }
        self.find_in_gaps(texts, spans, whole, runs, index, work);
    }

    #[inline(never)]
    fn find_in_gaps(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        whole: Span,
        runs: &mut Runs,
        index: &mut BlockIndex,
        work: &mut Work,
    ) {
        self.unite(runs, work);
        // Where nobody shares a part of the reference by address it is left to the next round, in which all take part.
        let lost = |gap: &Gap| {
            let mut parts = shared_within(&self.shared, &gap.other);
            parts.any(|part| part.len() >= COPY_BYTES_MIN)
        };
        if !self.gaps.iter().any(lost) {
            return;
        }
        self.keep_promising(texts, spans, whole, index, work);
        if self.gaps.is_empty() {
            return;
        }
        self.compare(texts, spans, whole, index, work);
        runs.add(&self.found, &mut self.runs);
    }

    #[inline(never)]
    fn take_gaps(&mut self, item: usize, len: usize, reference_len: usize, runs: &[Run]) {
        let (mut from, mut at) = (0, 0);
        let end = Run { at: reference_len, from: len, len: 0 };
        for run in runs.iter().chain(std::iter::once(&end)) {
            if run.from - from >= COPY_BYTES_MIN && run.at - at >= COPY_BYTES_MIN {
                self.gaps.push(Gap { item, own: from..run.from, other: at..run.at });
            }
            (from, at) = (run.from + run.len, run.at + run.len);
        }
    }

    fn unite(&mut self, runs: &Runs, work: &mut Work) {
        self.shared.clear();
        self.shared.extend(runs.of_each().flatten().map(|run| run.at..run.at + run.len));
        work.visits += self.shared.len();
        self.shared.sort_unstable_by_key(|part| part.start);
        self.shared.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
        // Also, so that whether a gap holds one that is long enough is seen at its first few.
        self.shared.retain(|part| part.len() >= COPY_BYTES_MIN);
    }

    /// Drops gaps of which no sample is in the reference: joining and searching them would take longer than all the rest.
    fn keep_promising(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        whole: Span,
        index: &mut BlockIndex,
        work: &mut Work,
    ) {
        index.build_samples(texts.slices(whole), APART);
        work.hashed_positions += whole.len() / APART + texts.parts(whole).count();
        // The same memory as in the last gap looks the same.
        let mut last = None;
        self.gaps.retain(|gap| {
            let span = spans[gap.item].part(gap.own.start, gap.own.end);
            if let Some((known, verdict)) = last
                && texts.identical(&[known, span], &mut work.address_lookups)
            {
                return verdict;
            }
            let mut passed = 0;
            let verdict = texts.slices(span).any(|part| {
                let begin = passed;
                passed += part.len();
                let mut at = 0;
                while at < part.len() {
                    let inside = (begin + at) % STRIDE;
                    if inside >= PLACES {
                        at += STRIDE - inside;
                        continue;
                    }
                    let end = part.len().min(at + PLACES - inside);
                    let (candidate, hashed) = index.next_candidate(part, at, 1, end);
                    work.hashed_positions += hashed;
                    if candidate.is_some() {
                        return true;
                    }
                    at = end;
                }
                false
            });
            last = Some((span, verdict));
            verdict
        });
    }

    fn compare(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        whole: Span,
        index: &mut BlockIndex,
        work: &mut Work,
    ) {
        let mut copied = 0;
        let reference = one_piece(texts, whole, &mut self.reference, &mut copied);
        self.found.clear();
        let mut against = Reference::new(reference, index, work, true);
        for Gap { item, own, other } in &self.gaps {
            let text = one_piece(texts, spans[*item].part(own.start, own.end), &mut self.own, &mut copied);
            self.runs.clear();
            against.align_within(other.clone(), text, &mut self.runs);
            for run in &self.runs {
                let mut add = |part: Range<usize>| {
                    let from = own.start + run.from + (part.start - run.at);
                    self.found.push((*item, Run { at: part.start, from, len: part.len() }));
                };
                let whole = run.at..run.at + run.len;
                // Short ones may be in front of entries, where the next round holds all messages against each other.
                if run.len >= COPY_BYTES_MIN {
                    add(whole);
                } else {
                    shared_within(&self.shared, &whole).for_each(add);
                }
            }
        }
        work.copied_bytes += copied;
        work.visits += self.found.len();
    }
}

/// What of `within` lies in one of `shared`.
fn shared_within(shared: &[Range<usize>], within: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = *within;
    let first = shared.partition_point(|part| part.end <= start);
    let parts = shared[first..].iter().take_while(move |part| part.start < end);
    parts.map(move |part| part.start.max(start)..part.end.min(end))
}

/// The bytes of `span`, copied to `room` if they lie in several segments.
fn one_piece<'a>(texts: Texts<'a>, span: Span, room: &'a mut Vec<u8>, copied: &mut usize) -> &'a [u8] {
    texts.contiguous(span).unwrap_or_else(|| {
        room.clear();
        texts.copy_to(span, room);
        *copied += span.len();
        room
    })
}

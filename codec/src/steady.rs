//! Frames of short messages that changed in the same few places: heartbeats.
//!
//! For these the way through [`crate::in_step`] and the planner is more work than what there is to plan. One look at all
//! messages tells, in a bit per byte, where any of them changed and where they differ from each other; the records follow
//! from these bits. They are the ones that the planner would make.

use std::ops::Range;

use crate::columns::{self, shared_least};
use crate::destination_set::DestinationSet;
use crate::in_step::{Class, UNCHANGED_BYTES_MIN};
use crate::openings::{Opening, Openings};
use crate::plan::Scratch;
use crate::records::Records;
use crate::streams::{LOOK_BYTES, Stream, Streams};
use crate::texts::{Item, Span};
use crate::words::zero_bits;
use crate::work::Work;

/// Whole messages that follow each other in a frame, of one length and in one segment each, in step with earlier ones of their
/// streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady<'a, const W: usize> {
    messages: &'a [Opening<'a>],
    /// The number of the first.
    first: usize,
    set: DestinationSet<W>,
    /// Bytes of each.
    len: usize,
    /// How far before the end of what each stream remembers the earlier one begins.
    back: usize,
    /// Bit j says that byte j changed in no message, and is part of what is worth a record.
    unchanged: u64,
    /// Bit j says that byte j is the same in all messages.
    common: u64,
}

impl<'a, const W: usize> Steady<'a, W> {
    /// What the messages of a frame are, if all of them are such ones, of 8 to 64 bytes, and like the latest of their streams.
    pub(crate) fn find(
        messages: &'a [Opening<'a>],
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> Option<Self> {
        let [first, .., last] = messages else { return None };
        let len = first.bytes.len();
        // Of frames of two kinds it is known at once.
        if last.bytes.len() != len {
            return None;
        }
        let streams = streams.finder().rest().get(..messages.len())?;
        work.compared_bytes += 2 * len.min(64) * messages.len();
        let (unchanged, common) = match len {
            8..16 => look::<1>(messages, numbers, streams),
            16..32 => look::<2>(messages, numbers, streams),
            32..=64 => look::<4>(messages, numbers, streams),
            _ => None,
        }?;
        let looked_at = len.min(LOOK_BYTES);
        if (unchanged & ones(looked_at)).count_ones() as usize * 2 < looked_at {
            return None;
        }
        let unchanged = runs(unchanged, UNCHANGED_BYTES_MIN);
        let set = DestinationSet::all(messages.len());
        (unchanged != 0).then_some(Self { messages, first: 0, set, len, back: len, unchanged, common })
    }

    /// The same for those members of a class that are in `set`.
    pub(crate) fn of_class(
        class: &Class<W>,
        set: DestinationSet<W>,
        openings: &'a Openings<'a>,
        work: &mut Work,
    ) -> Option<Self> {
        let &Class { back, len, border, .. } = class;
        let (first, count) = (set.iter().next()?, set.count());
        let messages = openings.all().get(first..first + count)?;
        let whole = |message: &Opening<'_>| message.bytes.len() == len && message.border == len;
        if count < 2
            || border != Some(len)
            || set != DestinationSet::range(first, first + count)
            || !messages.iter().all(whole)
        {
            return None;
        }
        work.compared_bytes += len.min(64) * messages.len();
        let common = match len {
            8..16 => common::<1>(messages),
            16..32 => common::<2>(messages),
            32..=64 => common::<4>(messages),
            _ => None,
        }?;
        let unchanged = class.unchanged.iter().fold(0, |bits, &(from, to)| bits | ones(to) & !ones(from));
        Some(Self { messages, first, set, len, back, unchanged, common })
    }

    /// Puts out the records of all messages, where no record is held against anything else.
    pub(crate) fn put(&self, out: &mut Records<'_, W>, scratch: &mut Scratch<W>) {
        for (part, unchanged) in stretches(self.unchanged, 0..self.len) {
            if unchanged {
                out.past(&self.set, part.len(), self.back);
                continue;
            }
            let least = shared_least(self.messages.len()).min(part.len());
            let common = runs(self.common & ones(part.end) & !ones(part.start), least);
            for (columns, common) in stretches(common, part) {
                if common {
                    out.shared_item(&self.set, &self.item(0).part(columns));
                } else {
                    self.put_varying(columns, out, scratch);
                }
            }
        }
    }

    fn put_varying(&self, columns: Range<usize>, out: &mut Records<'_, W>, scratch: &mut Scratch<W>) {
        let texts = self.messages.iter().map(|message| &message.bytes[columns.clone()]);
        if columns::one_for_each(texts, columns.len(), out.table().cost(&self.set)) {
            return out.each_text(&self.set, self.messages.iter().map(|message| message.bytes), columns);
        }
        let mut items = scratch.take_items();
        items.extend((0..self.messages.len()).map(|index| self.item(index)));
        columns::put_varying(&items, &self.set, columns, out, &mut scratch.order);
        scratch.give_items(items);
    }

    fn item(&self, index: usize) -> Item<'a> {
        let span = Span { message: self.first + index, start: 0, end: self.len };
        Item { span, bytes: self.messages[index].bytes }
    }
}

/// Where no message changed, and where all are the same: a bit for each of their bytes. What is looked at of each are the
/// first and the last `N` words, which may overlap.
fn look<const N: usize>(messages: &[Opening<'_>], numbers: &[u32], streams: &[Stream]) -> Option<(u64, u64)> {
    let first = messages.first()?.bytes;
    let len = first.len();
    let first = ends::<N>(first)?;
    let (mut changes, mut differences) = ([[0; N]; 2], [[0; N]; 2]);
    for ((message, &number), stream) in messages.iter().zip(numbers).zip(streams) {
        let Opening { bytes, border } = *message;
        if bytes.len() != len || border != len {
            return None;
        }
        let (now, past) = (ends::<N>(bytes)?, ends::<N>(stream.latest_of(number, len)?)?);
        for end in 0..2 {
            for word in 0..N {
                changes[end][word] |= now[end][word] ^ past[end][word];
                differences[end][word] |= now[end][word] ^ first[end][word];
            }
        }
    }
    let bits = |[front, back]: [[u64; N]; 2]| zero_bits(front) | zero_bits(back) << (len - 8 * N);
    Some((bits(changes), bits(differences)))
}

/// Where all messages are the same, as [`look`] says it.
fn common<const N: usize>(messages: &[Opening<'_>]) -> Option<u64> {
    let first = messages.first()?.bytes;
    let len = first.len();
    let first = ends::<N>(first)?;
    let mut differences = [[0; N]; 2];
    for message in messages {
        let now = ends::<N>(message.bytes)?;
        for end in 0..2 {
            for word in 0..N {
                differences[end][word] |= now[end][word] ^ first[end][word];
            }
        }
    }
    let [front, back] = differences;
    Some(zero_bits(front) | zero_bits(back) << (len - 8 * N))
}

/// The first and the last words of a text.
#[inline]
fn ends<const N: usize>(text: &[u8]) -> Option<[[u64; N]; 2]> {
    let (front, back) = (text.as_chunks().0.first_chunk::<N>()?, text.as_rchunks().1.last_chunk::<N>()?);
    Some([front.map(u64::from_le_bytes), back.map(u64::from_le_bytes)])
}

/// The lowest bits.
fn ones(count: usize) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

/// Those of `bits` that have enough neighbours.
fn runs(bits: u64, least: usize) -> u64 {
    let mut begins = bits;
    for _ in 1..least {
        begins &= begins >> 1;
    }
    let mut all = begins;
    for _ in 1..least {
        all |= all << 1;
    }
    all
}

/// Cuts `range` where `bits` begin and end to be set; says of each part whether they are.
fn stretches(bits: u64, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at == range.end {
            return None;
        }
        let rest = bits >> at;
        let set = rest & 1 != 0;
        let len = if set { rest.trailing_ones() } else { rest.trailing_zeros() } as usize;
        let part = at..range.end.min(at + len);
        at = part.end;
        Some((part, set))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::data::DataColumn;
    use crate::draft::{Draft, Input, Memory};
    use crate::echo::Received;
    use crate::limits::Limits;
    use crate::openings::JoinedOpenings;
    use crate::past::PastRuns;
    use crate::payload::Payload;
    use crate::texts::{Borders, Texts};
    use crate::varint;

    /// Head and data column.
    type Planned = (Vec<u8>, Vec<u8>);

    /// One frame of the streams 0, 1, 2, ..., each of which heard the earlier message of its number: planned as steady if it is,
    /// planned otherwise, and planned by whoever looks for what the receiver sent and so makes no use of this module.
    fn plans(earlier: &[Vec<u8>], now: &[Vec<u8>]) -> (Option<Planned>, Planned, Planned) {
        let mut streams = Streams::default();
        for (message, number) in earlier.iter().zip(0..) {
            streams.enter(number, std::iter::once(message));
        }
        streams.next_frame();
        let payloads: Vec<Payload> = now.iter().cloned().map(Payload::from).collect();
        let numbers: Vec<u32> = (0..).take(now.len()).collect();
        let spans: Vec<Span> =
            now.iter().zip(0..).map(|(text, message)| Span { message, start: 0, end: text.len() }).collect();
        let (mut joined, borders, limits) =
            (JoinedOpenings::default(), Borders::default(), Limits::default());
        let input = Input {
            texts: Texts::new(&payloads, &borders),
            spans: &spans,
            count: now.len(),
            bytes: now.iter().map(Vec::len).sum(),
            lens_bytes: now.iter().map(|text| varint::len(text.len())).sum(),
            limits: &limits,
        };
        let (openings, mut runs) = (joined.reset(&payloads), PastRuns::default());
        let mut other = Received::new(0);
        other.enter(Bytes::from_static(b"of no message"), 13, 1);
        let mut plan = |steady: bool, received| {
            let mut memory = Memory {
                begins: 0,
                numbers: &numbers,
                streams: &streams,
                openings: &openings,
                runs: &mut runs,
                received,
                sent: None,
                remember: true,
            };
            let (mut draft, mut data, mut work) =
                (Draft::<1>::new(1), DataColumn::default(), Work::default());
            let split = if steady {
                draft.plan_steady(input, &mut data, &memory, &mut work)
            } else {
                draft.plan(input, &mut data, Some(&mut memory), work).split
            };
            split.then(|| (draft.head().to_vec(), data.iter(input.texts).flatten().copied().collect()))
        };
        let steady = plan(true, None);
        assert_eq!(plan(true, Some(&other)), None, "it does not look for what the receiver sent");
        (steady, plan(false, None).unwrap_or_default(), plan(false, Some(&other)).unwrap_or_default())
    }

    #[test]
    fn records_are_those_of_the_planner() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut steady, mut mixed) = (0, 0);
        for round in 0..4000 {
            let (count, len) = (rng.usize(2..=if round % 9 == 0 { 64 } else { 9 }), rng.usize(6..70));
            let base: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            let mut earlier = vec![base; count];
            let fields = |rng: &mut fastrand::Rng| -> Vec<Range<usize>> {
                let field = |begin: usize, most: usize| begin..len.min(begin + most);
                (0..rng.usize(..4)).map(|_| field(rng.usize(..len), rng.usize(1..13))).collect()
            };
            // Each field has few values or many, which all messages have in common or one after the other.
            let change = |rng: &mut fastrand::Rng, texts: &mut [Vec<u8>]| {
                for field in fields(rng) {
                    let (values, common) = (rng.u8(2..6), rng.bool());
                    let most = if rng.bool() { values } else { u8::MAX };
                    let value = rng.u8(..);
                    for text in &mut *texts {
                        text[field.clone()].fill_with(|| if common { value } else { rng.u8(..most) });
                    }
                }
            };
            change(&mut rng, &mut earlier);
            let mut now = earlier.clone();
            change(&mut rng, &mut now);
            let two_kinds = rng.u8(..4) == 0;
            if two_kinds {
                // Behind these some that grew by as much as those of another kind have more.
                let others = rng.usize(1..=count.min(5));
                for text in earlier.iter_mut().rev().take(others).chain(now.iter_mut().rev().take(others)) {
                    text.extend_from_slice(&[7; 30]);
                }
            }
            let (found, planned, elsewhere) = plans(&earlier, &now);
            assert_eq!(planned, elsewhere, "round {round}");
            if let Some(found) = found {
                assert_eq!(found, planned, "round {round}");
                steady += 1;
            }
            mixed += usize::from(two_kinds && !planned.0.is_empty());
        }
        assert!(steady > 1500 && mixed > 300, "{steady} {mixed}");
    }

    #[test]
    fn only_short_messages_of_one_length_that_hardly_changed_are_steady() {
        let is = |earlier: &[Vec<u8>], now: &[Vec<u8>]| plans(earlier, now).0.is_some();
        let text = |len: usize, changed: usize| -> Vec<u8> {
            (0..len).map(|at| at.to_le_bytes()[0] ^ if at < changed { 0x80 } else { 0 }).collect()
        };
        for (len, steady) in
            [(7, false), (8, true), (16, true), (31, true), (32, true), (64, true), (65, false)]
        {
            assert_eq!(is(&vec![text(len, 0); 3], &vec![text(len, 1); 3]), steady, "{len} bytes");
        }
        let old = vec![text(40, 0); 3];
        assert!(!is(&old[..1], &old[..1]), "there is nobody to be like");
        assert!(!is(&old[..2], &old), "a new stream");
        assert!(!is(&old, &[text(40, 0), text(41, 0), text(40, 0)]), "a longer one");
        assert!(!is(&[text(40, 0), text(41, 0), text(40, 0)], &old), "a longer one before");
        // Half of the first 32 bytes, however much is equal behind them.
        assert!(is(&old, &vec![text(40, 16); 3]) && !is(&old, &vec![text(40, 17); 3]));
        // At least five bytes in a row.
        let every_fifth: Vec<u8> = (0..40).map(|at| at ^ u8::from(at % 5 == 0)).collect();
        assert!(!is(&old, &vec![every_fifth; 3]));
    }

    #[test]
    fn bits_are_cut_where_they_change() {
        let parts: Vec<_> = stretches(0b0011_1001, 1..8).collect();
        assert_eq!(parts, [(1..3, false), (3..6, true), (6..8, false)]);
        assert_eq!(stretches(u64::MAX, 0..64).collect::<Vec<_>>(), [(0..64, true)]);
        assert_eq!(stretches(0, 60..64).collect::<Vec<_>>(), [(60..64, false)]);
        assert_eq!(runs(0b1101_1110_0111, 3), 0b0001_1110_0111);
        assert_eq!((runs(u64::MAX, 5), runs(0b1111, 5)), (u64::MAX, 0));
        assert_eq!((ones(0), ones(3), ones(64)), (0, 7, u64::MAX));
    }
}

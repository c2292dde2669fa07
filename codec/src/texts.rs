//! The messages of one frame as texts with positions, whatever segments they consist of.

use std::ops::Range;

use bytes::Bytes;

use crate::payload::Payload;

/// A part of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which message, and so which destination.
    pub(crate) message: usize,
    /// First byte.
    pub(crate) start: usize,
    /// One beyond the last byte.
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The part from `start` to `end`, counted from this span's start.
    pub(crate) fn part(&self, start: usize, end: usize) -> Self {
        Self { message: self.message, start: self.start + start, end: self.start + end }
    }
}

/// A part of a message together with its bytes in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) span: Span,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Item<'a> {
    /// The part that `span` names.
    pub(crate) fn at(&self, span: Span) -> Self {
        self.part(span.start - self.span.start..span.end - self.span.start)
    }

    /// A range of its bytes.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        Self { span: self.span.part(range.start, range.end), bytes: &self.bytes[range] }
    }
}

/// Where the segments of every message begin, but of those of one segment.
#[derive(Debug, Default)]
pub(crate) struct Borders {
    starts: Vec<usize>,
    /// Where in `starts` those of every message end, up to the last one of several segments.
    ends: Vec<usize>,
}

/// All messages of one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a> {
    payloads: &'a [Payload],
    borders: &'a Borders,
}

impl Borders {
    /// Takes in the messages of a new frame.
    pub(crate) fn reset(&mut self, payloads: &[Payload]) {
        self.starts.clear();
        self.ends.clear();
        for (message, payload) in payloads.iter().enumerate() {
            if let segments @ [_, _, ..] = payload.segments() {
                self.ends.resize(message, self.starts.len());
                let mut start = 0;
                for segment in segments {
                    self.starts.push(start);
                    start += segment.len();
                }
                self.ends.push(self.starts.len());
            }
        }
    }

    fn of(&self, message: usize) -> &[usize] {
        let Some(&end) = self.ends.get(message) else { return &[] };
        let begin = message.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.starts[begin..end]
    }
}

/// Where the segments of a text begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starts<'a> {
    /// In its message.
    starts: &'a [usize],
    /// Where the text begins in that.
    base: usize,
}

impl Starts<'_> {
    /// Of a text that nobody cut.
    pub(crate) const NONE: Self = Self { starts: &[], base: 0 };

    #[cfg(test)]
    pub(crate) fn at(starts: &[usize]) -> Starts<'_> {
        Starts { starts, base: 0 }
    }

    /// The first one behind a place of the text: one step of a binary search for each time that their number halves.
    pub(crate) fn next_after(&self, place: usize) -> Option<usize> {
        let next = self.starts.partition_point(|start| *start <= self.base + place);
        Some(self.starts.get(next)? - self.base)
    }
}

impl<'a> Texts<'a> {
    /// Where the segments of `span` begin.
    pub(crate) fn starts(&self, span: Span) -> Starts<'a> {
        let one = self.payloads[span.message].segments().len() <= 1;
        Starts { starts: if one { &[] } else { self.borders.of(span.message) }, base: span.start }
    }

    pub(crate) fn new(payloads: &'a [Payload], borders: &'a Borders) -> Self {
        Self { payloads, borders }
    }

    /// The parts of `span` in order, each within one segment: the segment, and the part's range in it.
    pub(crate) fn parts(&self, span: Span) -> Parts<'a> {
        let segments = self.payloads[span.message].segments();
        if let [segment] = segments {
            let segments = std::slice::from_ref(segment);
            return Parts { segments, number: 0, skip: span.start, rest: span.len() };
        }
        let starts = self.borders.of(span.message);
        // The segment that holds the span's first byte; most messages have few.
        let index = match starts {
            [_, second, ..] if span.start < *second => 0,
            [_, _, third, ..] if span.start < *third => 1,
            _ => starts.partition_point(|&start| start <= span.start).saturating_sub(1),
        };
        let skip = starts.get(index).map_or(0, |start| span.start - start);
        Parts { segments: &segments[index..], number: index, skip, rest: span.len() }
    }

    /// A segment of a message by its number.
    pub(crate) fn segment(&self, message: usize, number: usize) -> &'a Bytes {
        &self.payloads[message].segments()[number]
    }

    /// Whether all `spans` are the same memory; counts the addresses that are looked at.
    pub(crate) fn identical(&self, spans: &[Span], lookups: &mut usize) -> bool {
        let [first, others @ ..] = spans else { return true };
        let place = |(segment, start, end): (&Bytes, usize, usize)| {
            (segment.as_ptr().addr() + start, segment.as_ptr().addr() + end)
        };
        others.iter().all(|span| span.len() == first.len())
            && others.iter().all(|span| {
                self.parts(*first).zip(self.parts(*span)).all(|(a, b)| {
                    *lookups += 1;
                    place(a) == place(b)
                })
            })
    }

    /// The bytes of `span`, segment by segment.
    pub(crate) fn slices(&self, span: Span) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.parts(span).map(|(segment, start, end)| &segment[start..end])
    }

    /// The bytes of `span`, if they lie in one segment.
    pub(crate) fn contiguous(&self, span: Span) -> Option<&'a [u8]> {
        let (segment, start, end) = self.parts(span).next()?;
        (end - start == span.len()).then(|| &segment[start..end])
    }

    /// Appends the bytes of `span`.
    pub(crate) fn copy_to(&self, span: Span, out: &mut Vec<u8>) {
        for (segment, start, end) in self.parts(span) {
            out.extend_from_slice(&segment[start..end]);
        }
    }
}

/// See [`Texts::parts`].
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a> {
    segments: &'a [Bytes],
    /// That of the first of them in its message.
    number: usize,
    skip: usize,
    rest: usize,
}

impl Parts<'_> {
    /// The number of the next part's segment in its message.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = (&'a Bytes, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest == 0 {
            return None;
        }
        let (segment, others) = self.segments.split_first()?;
        let start = self.skip;
        let end = segment.len().min(start + self.rest);
        self.segments = others;
        self.number += 1;
        self.skip = 0;
        self.rest -= end - start;
        Some((segment, start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_at_segment_borders() {
        let segments = ["abc", "defgh", "ij"].map(|text| Bytes::from_static(text.as_bytes()));
        let payloads = [Payload::default(), segments.into_iter().collect(), Payload::from(b"xyz".to_vec())];
        let mut borders = Borders::default();
        borders.reset(&payloads);
        let texts = Texts::new(&payloads, &borders);
        let span = |message, start, end| Span { message, start, end };
        let parts =
            |span| texts.parts(span).map(|(segment, start, end)| &segment[start..end]).collect::<Vec<_>>();
        assert_eq!(parts(span(1, 0, 10)), [&b"abc"[..], b"defgh", b"ij"]);
        assert_eq!(parts(span(1, 2, 9)), [&b"c"[..], b"defgh", b"i"]);
        assert_eq!(parts(span(1, 3, 8)), [b"defgh"]);
        assert_eq!(parts(span(1, 4, 6)), [b"ef"]);
        assert_eq!(parts(span(2, 1, 3)), [b"yz"]);
        assert!(parts(span(1, 5, 5)).is_empty());
        assert_eq!(texts.contiguous(span(1, 3, 8)), Some(&b"defgh"[..]));
        assert_eq!(texts.contiguous(span(1, 2, 4)), None);
        let mut out = Vec::new();
        texts.copy_to(span(1, 2, 9), &mut out);
        assert_eq!(out, b"cdefghi");
    }
}

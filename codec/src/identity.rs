//! What messages share because it is the same memory: found by address, without reading a byte.
//!
//! A leader puts the same entry as the same `Bytes` into every follower's message. Two segments whose addresses
//! overlap are equal where they overlap, because neither can change while both are alive.

use crate::align::Run;
use crate::texts::{Span, Texts};

/// A message may be looked up once for each of its segments and once more for so many bytes: against a reference of tiny
/// segments, none of which is worth a record, one long segment would be looked up once for every byte.
const BYTES_PER_LOOKUP: usize = 16;

/// One segment of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: usize,
    /// Where in the reference the segment begins.
    at: usize,
    len: usize,
    /// Its number among the reference's segments.
    number: usize,
}

/// The segments of one reference by place and by address.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    in_order: Vec<Place>,
    by_address: Vec<Place>,
}

impl Addresses {
    /// Takes in the segments of `reference`.
    pub(crate) fn reset(&mut self, texts: Texts<'_>, reference: Span) {
        self.in_order.clear();
        self.by_address.clear();
        let mut at = 0;
        for (number, (segment, start, end)) in texts.parts(reference).enumerate() {
            let address = segment.as_ptr().addr() + start;
            self.in_order.push(Place { address, at, len: end - start, number });
            at += end - start;
        }
    }

    /// Appends the runs that `message` shares with the reference, in order in both; returns the number of look-ups.
    pub(crate) fn align(&mut self, texts: Texts<'_>, message: Span, out: &mut Vec<Run>) -> usize {
        let mut lookups = 0;
        let first = out.len();
        // The reference's segment and position up to which it is used.
        let (mut next, mut at_min, mut from) = (0, 0, 0);
        let mut budget = message.len() / BYTES_PER_LOOKUP;
        'parts: for (segment, start, end) in texts.parts(message) {
            budget += 1;
            let mut address = segment.as_ptr().addr() + start;
            let mut rest = end - start;
            while rest > 0 {
                if budget == 0 {
                    break 'parts;
                }
                budget -= 1;
                lookups += 1;
                let Some((place, skip)) = self.find(next, address, rest, at_min) else { break };
                address += skip;
                rest -= skip;
                from += skip;
                let inside = address - place.address;
                let len = rest.min(place.len - inside);
                let run = Run { at: place.at + inside, from, len };
                match out[first..].last_mut() {
                    Some(last) if last.at + last.len == run.at && last.from + last.len == run.from => {
                        last.len += len
                    }
                    _ => out.push(run),
                }
                address += len;
                rest -= len;
                from += len;
                at_min = run.at + len;
                next = place.number + usize::from(inside + len == place.len);
            }
            from += rest;
        }
        lookups
    }

    /// The segment that holds the byte at `address`, or else the first one that begins within `rest` bytes after it
    /// (and how many bytes to skip), at or after `at_min` in the reference.
    fn find(&mut self, next: usize, address: usize, rest: usize, at_min: usize) -> Option<(Place, usize)> {
        let holds = |place: &Place| {
            let inside = address.checked_sub(place.address)?;
            (inside < place.len && place.at + inside >= at_min).then_some((*place, 0))
        };
        if let Some(found) = self.in_order.get(next).and_then(holds) {
            return Some(found);
        }
        if self.by_address.is_empty() {
            self.by_address.extend_from_slice(&self.in_order);
            self.by_address.sort_unstable();
        }
        let after = self.by_address.partition_point(|place| (place.address, place.at) < (address, at_min));
        let (before, after) = self.by_address.split_at(after);
        if let Some(found) = after.first().and_then(holds).or_else(|| before.last().and_then(holds)) {
            return Some(found);
        }
        let place = after.first()?;
        let skip = place.address - address;
        (skip < rest && place.at >= at_min).then_some((*place, skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;
    use crate::texts::Borders;
    use bytes::Bytes;

    /// The runs of the second of two messages with the first.
    fn runs(reference: &[Bytes], message: &[Bytes]) -> Vec<Run> {
        let payloads: Vec<Payload> =
            [reference, message].map(|segments| segments.iter().cloned().collect()).into();
        let mut borders = Borders::default();
        borders.reset(&payloads);
        let texts = Texts::new(&payloads, &borders);
        let whole = |message: usize| Span { message, start: 0, end: payloads[message].len() };
        let (mut addresses, mut out) = (Addresses::default(), Vec::new());
        addresses.reset(texts, whole(0));
        addresses.align(texts, whole(1), &mut out);
        out
    }

    #[test]
    fn memory_is_recognised_however_it_is_cut() {
        let one = Bytes::from(vec![1; 100]);
        let two = Bytes::from(vec![1; 50]);
        let own = Bytes::from(vec![1; 10]);
        let run = |at, from, len| Run { at, from, len };
        let reference = [own.clone(), one.clone(), two.clone()];
        assert_eq!(
            runs(&reference, &[Bytes::from(vec![1; 10]), one.clone(), two.clone()]),
            [run(10, 10, 150)]
        );
        assert_eq!(runs(&reference, std::slice::from_ref(&two)), [run(110, 0, 50)]);
        assert_eq!(runs(&reference, &[one.slice(20..60), one.slice(60..)]), [run(30, 0, 80)]);
        assert_eq!(runs(&reference, &[one.slice(..30), one.slice(50..)]), [run(10, 0, 30), run(60, 30, 50)]);
        // Never backwards in the reference.
        assert_eq!(runs(&reference, &[two.clone(), one.clone()]), [run(110, 0, 50)]);
        // The same content elsewhere is not the same memory.
        assert_eq!(runs(&reference, &[Bytes::from(vec![1; 100])]), []);
        // The message has the bigger piece: only what the reference holds of it.
        assert_eq!(
            runs(&[one.slice(40..60), one.slice(70..80)], std::slice::from_ref(&one)),
            [run(0, 40, 20), run(20, 70, 10)]
        );
        // One segment several times.
        let twice = [own.clone(), one.clone(), own.clone(), one.clone()];
        assert_eq!(runs(&twice, &[one.clone(), one.clone()]), [run(10, 0, 100), run(120, 100, 100)]);
    }
}
